//! Asking an upstream SOCKS5 proxy for a connection (RFC 1928, RFC 1929).
//!
//! Ours rather than a library's: a hundred lines, which read every reply to the very byte (behind it
//! stand the program's own), keep the reply's code for the record and bring no second socket
//! library. The proxy is not trusted to be well behaved.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use portcullis_policy::{Credentials, Reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::connect::REPLY_TIMEOUT;
use super::target::{ConnectTarget, ProxyFailure, TargetHost};
use crate::error::DialError;
use crate::stream::Stream;

const VERSION: u8 = 5;
/// Of the negotiation of RFC 1929.
const AUTH_VERSION: u8 = 1;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;
/// How long each of the first two steps may take; nothing is dialled in them.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens a connection to `target` over a fresh connection to the proxy.
///
/// # Errors
/// The proxy's answer, or how it failed.
pub(crate) async fn open(
    stream: &mut Stream,
    target: &ConnectTarget,
    credentials: Option<&Credentials>,
) -> Result<(), ProxyFailure> {
    timed(STEP_TIMEOUT, greet(stream, credentials)).await?;
    timed(REPLY_TIMEOUT, connect(stream, target)).await
}

async fn timed(
    limit: Duration,
    step: impl Future<Output = Result<(), ProxyFailure>>,
) -> Result<(), ProxyFailure> {
    timeout(limit, step).await.unwrap_or_else(|_| {
        let detail = "did not answer in time";
        Err(down(Reason::UpstreamProxyTimeout, detail))
    })
}

/// Agrees on who we are.
async fn greet(stream: &mut Stream, credentials: Option<&Credentials>) -> Result<(), ProxyFailure> {
    // Without credentials only "no authentication" is offered: whoever wants more says no.
    let offer: &[u8] = match credentials {
        Some(_) => &[VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD],
        None => &[VERSION, 1, NO_AUTHENTICATION],
    };
    send(stream, offer).await?;
    let [version, method] = read(stream).await?;
    if version != VERSION {
        return Err(not_socks5());
    }
    match (method, credentials) {
        (NO_AUTHENTICATION, _) => Ok(()),
        (USER_AND_PASSWORD, Some(credentials)) => authenticate(stream, credentials).await,
        (NO_METHOD, None) => Err(answered(
            Reason::UpstreamProxyRefused,
            "wants credentials, and the policy has none for it",
        )),
        (NO_METHOD, Some(_)) => Err(answered(
            Reason::UpstreamProxyRefused,
            "wants another way of authentication than a password",
        )),
        _ => Err(not_socks5()),
    }
}

async fn authenticate(stream: &mut Stream, credentials: &Credentials) -> Result<(), ProxyFailure> {
    let mut message = vec![AUTH_VERSION];
    for part in [credentials.user(), credentials.password()] {
        // No longer ones come out of a policy.
        let length = u8::try_from(part.len()).map_err(|_| {
            answered(
                Reason::UpstreamProxyRefused,
                "takes no credentials of this length",
            )
        })?;
        message.push(length);
        message.extend_from_slice(part.as_bytes());
    }
    send(stream, &message).await?;
    match read(stream).await? {
        [_, 0] => Ok(()),
        _ => Err(answered(
            Reason::UpstreamProxyRefused,
            "did not accept the credentials",
        )),
    }
}

async fn connect(stream: &mut Stream, target: &ConnectTarget) -> Result<(), ProxyFailure> {
    let mut message = vec![VERSION, CONNECT, 0];
    match &target.host {
        TargetHost::Address(IpAddr::V4(v4)) => {
            message.push(IPV4);
            message.extend_from_slice(&v4.octets());
        }
        TargetHost::Address(IpAddr::V6(v6)) => {
            message.push(IPV6);
            message.extend_from_slice(&v6.octets());
        }
        TargetHost::Name(name) => {
            // A canonical name has at most 253 bytes.
            let length = u8::try_from(name.as_str().len()).unwrap_or(u8::MAX);
            message.extend_from_slice(&[NAME, length]);
            message.extend_from_slice(name.as_str().as_bytes());
        }
    }
    message.extend_from_slice(&target.port.to_be_bytes());
    send(stream, &message).await?;
    let [version, reply, _, kind] = read(stream).await?;
    if version != VERSION {
        return Err(not_socks5());
    }
    if reply != 0 {
        // What follows does not matter: the connection ends.
        return Err(refused(reply, target));
    }
    // The address that the proxy bound is of no use here, but stands before the program's bytes.
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => {
            let [length] = read(stream).await?;
            usize::from(length)
        }
        _ => return Err(not_socks5()),
    };
    let mut bound = [0; u8::MAX as usize + 2];
    let bound = &mut bound[..length + 2];
    stream.read_exact(bound).await.map_err(ended)?;
    Ok(())
}

/// What a reply's code says (RFC 1928 section 6): about the destination where it tells, else about us.
fn refused(reply: u8, target: &ConnectTarget) -> ProxyFailure {
    let (reason, meaning) = match reply {
        2 => (Reason::UpstreamProxyRefused, "not allowed by its rules"),
        3 => (Reason::Unreachable, "network unreachable"),
        4 => (Reason::Unreachable, "host unreachable"),
        5 => (Reason::ConnectionRefused, "connection refused"),
        6 => (Reason::ConnectionTimeout, "the way was too long"),
        7 | 8 => (Reason::UpstreamProxyRefused, "not supported"),
        _ => (Reason::UpstreamProxyFailed, "general failure"),
    };
    answered(reason, format!("answered {reply} ({meaning}) for {target}"))
}

async fn send(stream: &mut Stream, bytes: &[u8]) -> Result<(), ProxyFailure> {
    stream.write_all(bytes).await.map_err(ended)?;
    stream.flush().await.map_err(ended)
}

async fn read<const N: usize>(stream: &mut Stream) -> Result<[u8; N], ProxyFailure> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await.map_err(ended)?;
    Ok(bytes)
}

fn ended(error: io::Error) -> ProxyFailure {
    let detail = match error.kind() {
        io::ErrorKind::UnexpectedEof => "closed the connection in its answer".to_owned(),
        _ => format!("broke off: {error}"),
    };
    down(Reason::UpstreamProxyClosed, detail)
}

fn not_socks5() -> ProxyFailure {
    let detail = "answered with something other than SOCKS5";
    down(Reason::UpstreamProxyProtocol, detail)
}

fn answered(reason: Reason, detail: impl Into<String>) -> ProxyFailure {
    ProxyFailure::Answered(DialError::new(reason, detail))
}

fn down(reason: Reason, detail: impl Into<String>) -> ProxyFailure {
    ProxyFailure::Down(DialError::new(reason, detail))
}
