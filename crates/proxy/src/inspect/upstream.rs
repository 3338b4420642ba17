//! TLS towards upstream: its certificate is verified before anything is said to it.
//!
//! The program cannot see the certificate any more, so nobody but this module stands between it and
//! an impostor: the name that was decided on is the name that is verified, against what the host
//! trusts and what the rule's `ca_file` adds. There is no way to switch that off.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use portcullis_dial::Stream;
use portcullis_names::NameRef;
use portcullis_policy::Reason;
use portcullis_tls::ClientConfigs;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::alpn::{Alpn, Offer};
use crate::open_error::OpenError;

/// From the connection to the end of upstream's handshake.
pub(super) const UPSTREAM_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// An upstream connection, and what is spoken on it.
pub(super) struct Secured {
    pub(super) stream: TlsStream<Stream>,
    pub(super) alpn: Alpn,
}

/// What upstream certificates are verified against.
#[derive(Default)]
pub(super) struct Upstreams {
    configs: ClientConfigs,
}

impl Upstreams {
    /// Speaks TLS on a dialled connection, as a client of `name`.
    ///
    /// # Errors
    /// What went wrong: a certificate that does not hold, an alert, no answer in time.
    pub(super) async fn secure(
        &self,
        stream: Stream,
        name: NameRef<'_>,
        ca: Option<&Arc<str>>,
        offer: Vec<Vec<u8>>,
    ) -> Result<Secured, OpenError> {
        let config = self.configs.get(ca).await;
        let config =
            config.map_err(|error| failed(Reason::CertificateInvalid, &error.to_string()))?;
        let server = ServerName::try_from(name.as_str().to_owned())
            .map_err(|_| failed(Reason::TlsFailed, "a name that no certificate can hold"))?;
        let connector = TlsConnector::from(config);
        let connecting = connector.with_alpn(offer).connect(server, stream);
        let connected = timeout(UPSTREAM_HANDSHAKE_TIMEOUT, connecting).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(why(&error)),
            Err(_) => {
                let detail = "no TLS handshake within 10 s";
                return Err(failed(Reason::ConnectionTimeout, detail));
            }
        };
        match Alpn::chosen(stream.get_ref().1.alpn_protocol()) {
            Some(alpn) => Ok(Secured { stream, alpn }),
            None => Err(failed(Reason::TlsFailed, "a protocol that was not offered")),
        }
    }
}

impl Offer {
    /// The protocols for upstream.
    pub(super) fn protocols(&self) -> Vec<Vec<u8>> {
        match self {
            Offer::Protocols(protocols) => protocols.clone(),
            Offer::Nothing => Vec::new(),
        }
    }
}

/// What a failed handshake means, by the library's own error and never by its words.
fn why(error: &io::Error) -> OpenError {
    use rustls::Error as Tls;
    let reason = match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Tls>())
    {
        Some(Tls::InvalidCertificate(_) | Tls::NoCertificatesPresented) => {
            Reason::CertificateInvalid
        }
        Some(_) => Reason::TlsFailed,
        None => Reason::ConnectionReset,
    };
    failed(reason, &error.to_string())
}

fn failed(reason: Reason, detail: &str) -> OpenError {
    OpenError::Upstream {
        reason,
        detail: format!("TLS to upstream: {detail}"),
    }
}
