//! From where `diagnose` looks: this process's own network, or that of a sandbox that a daemon serves.
//!
//! Answers *around the gateway* (docs/threats.md): only the sandbox's network is joined. Its files are another's, and
//! none of them is read.

use portcullis_sandbox::{Addresses, Attachment, SandboxError, look_from};
use portcullis_tls::Authorities;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// Where a sandboxed program is told that the gateway's proxy is.
const PROXY_VARIABLE: &str = "HTTP_PROXY";
/// How long the gateway's own page may take to connect, and then for each read.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest list of authorities that the gateway shows, bytes.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// From where the layers are walked.
pub struct Place {
    /// The resolver that is asked; none for the one of `/etc/resolv.conf`, with its search list.
    pub resolver: Option<SocketAddr>,
    /// Whom programs there trust.
    pub authorities: Authorities,
    /// The gateway's HTTP proxy.
    pub proxy: Option<SocketAddr>,
}

impl Place {
    /// Where this process is.
    pub fn here() -> Place {
        let proxy = std::env::var(PROXY_VARIABLE).unwrap_or_default();
        let proxy = proxy.trim_start_matches("http://").trim_end_matches('/');
        Place {
            resolver: None,
            authorities: Authorities::Host,
            proxy: proxy.parse().ok(),
        }
    }

    /// The network of a sandbox that a gateway serves, which this process joins. Its files are another's: none of
    /// them is read.
    pub fn enter(attachment: &Attachment) -> Result<Place, SandboxError> {
        look_from(attachment)?;
        let addresses = Addresses::new();
        Ok(Place {
            resolver: Some(SocketAddr::new(addresses.resolver4.into(), 53)),
            authorities: gateways_own(addresses.gateway4.into())
                .map_or(Authorities::Host, |pem| Authorities::HostAnd(pem.into())),
            proxy: Some(addresses.http()),
        })
    }
}

/// What the gateway says that programs must trust besides, where it inspects.
fn gateways_own(gateway: IpAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&(gateway, 80).into(), TIMEOUT).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    let request = "GET /ca.pem HTTP/1.0\r\nHost: portcullis.internal\r\n\r\n";
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream
        .take(MAX_PEM_BYTES)
        .read_to_string(&mut answer)
        .ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    (head.split(' ').nth(1) == Some("200")).then(|| body.to_owned())
}
