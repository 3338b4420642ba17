//! Who the caller is, to an upstream proxy that takes Kerberos tickets (`Negotiate`, RFC 4559).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_names::Name;
use portcullis_policy::{ProxyHost, Reason, UpstreamProxy};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::connect::basic;
use super::target::ProxyFailure;
use crate::error::DialError;

/// How long a token may take: the realm's servers may be asked for a ticket.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes Kerberos tokens for HTTP proxies, with the caller's ticket.
pub trait Tickets: Send + Sync {
    /// The first token for the service `HTTP` of a host. May wait; it is called where that holds up nobody.
    ///
    /// # Errors
    /// What is missing, in words for the operator.
    fn http_token(&self, host: &str) -> Result<Vec<u8>, String>;
}

/// Makes them one after the other: the realm's servers may be silent for long, and only few threads wait for
/// what blocks.
pub(super) struct Tokens {
    tickets: Arc<dyn Tickets>,
    turn: Arc<Semaphore>,
}

impl Tokens {
    pub(super) fn new(tickets: Arc<dyn Tickets>) -> Tokens {
        Tokens {
            tickets,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    async fn http(&self, host: Name) -> Result<Vec<u8>, String> {
        const FAILED: &str = "the GSS-API library failed";
        let turn = self.turn.clone().acquire_owned().await;
        let turn = turn.map_err(|_| FAILED.to_owned())?;
        let tickets = self.tickets.clone();
        let making = tokio::task::spawn_blocking(move || {
            let token = tickets.http_token(host.as_str());
            drop(turn); // also where nobody waits for the token any more
            token
        });
        making.await.unwrap_or_else(|_| Err(FAILED.to_owned()))
    }
}

/// What a proxy is told about its user (`Proxy-Authorization`), made anew for each connection.
///
/// # Errors
/// There is no ticket for it.
pub(super) async fn authorization(
    proxy: &UpstreamProxy,
    tokens: Option<&Tokens>,
) -> Result<Option<String>, ProxyFailure> {
    if !proxy.negotiates() {
        return Ok(proxy.credentials().map(basic));
    }
    let failed = |why: &str| {
        let detail = format!("no Kerberos ticket for it: {why}");
        let error = DialError::new(Reason::UpstreamProxyRefused, detail);
        ProxyFailure::Answered(error)
    };
    let (Some(tokens), ProxyHost::Name(name)) = (tokens, proxy.host()) else {
        return Err(failed("this gateway has no GSS-API"));
    };
    match timeout(TOKEN_TIMEOUT, tokens.http(name.clone())).await {
        Ok(Ok(token)) => Ok(Some(format!("Negotiate {}", STANDARD.encode(token)))),
        Ok(Err(why)) => Err(failed(&why)),
        Err(_) => Err(failed("the realm's servers do not answer in time")),
    }
}
