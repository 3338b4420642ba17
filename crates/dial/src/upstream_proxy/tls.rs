//! TLS to an upstream proxy: its certificate is checked against the host's authorities, and those
//! that the policy names for it.
//!
//! Answers *credentials to the wrong proxy*: nothing is said to a proxy whose certificate does not
//! hold.

use std::io;
use std::time::Duration;

use portcullis_policy::{ProxyHost, Reason, UpstreamProxy};
use portcullis_tls::ClientConfigs;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::error::DialError;
use crate::stream::Stream;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// TLS over a connection to the proxy.
///
/// # Errors
/// How the handshake failed.
pub(crate) async fn connect(
    configs: &ClientConfigs,
    proxy: &UpstreamProxy,
    stream: TcpStream,
) -> Result<Stream, DialError> {
    let failed = |detail: String| DialError::new(Reason::UpstreamProxyFailed, detail);
    let config = configs.get(proxy.ca_pem()).await;
    let config = config.map_err(|error| failed(error.to_string()))?;
    let name = match proxy.host() {
        ProxyHost::Name(name) => ServerName::try_from(name.as_str().to_owned())
            .map_err(|error| failed(error.to_string()))?,
        ProxyHost::Address(address) => ServerName::from(*address),
    };
    // Its flights are small, and more than one.
    let _ = stream.set_nodelay(true);
    let handshake = TlsConnector::from(config).connect(name, stream);
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
        Ok(Err(error)) => Err(DialError::new(
            reason_of(&error),
            format!("TLS handshake: {error}"),
        )),
        Err(_) => Err(DialError::new(
            Reason::UpstreamProxyTimeout,
            "did not finish the TLS handshake in time",
        )),
    }
}

fn reason_of(error: &io::Error) -> Reason {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match tls {
        Some(rustls::Error::InvalidCertificate(_)) => Reason::UpstreamProxyCertificate,
        Some(_) => Reason::UpstreamProxyProtocol,
        None => Reason::UpstreamProxyClosed,
    }
}
