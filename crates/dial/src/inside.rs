//! Connections to servers of the sandbox's own, for programs that ask a proxy for them.
//!
//! Answers *addresses* (docs/threats.md): the socket is made inside, so that an address of the sandbox
//! never means the same address of the host.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use portcullis_policy::Reason;
use portcullis_record::Timings;
use tokio::net::{TcpSocket, TcpStream};

use crate::dialed::Dialed;
use crate::error::{DialError, reason_of};
use crate::stream::Stream;

/// Makes sockets in the sandbox.
pub trait Inside: Send + Sync {
    /// A TCP socket that is not connected and does not block, for IPv6 or IPv4. May wait; it is
    /// called where that holds up nobody.
    ///
    /// # Errors
    /// The sandbox is gone, or has no socket left.
    fn tcp_socket(&self, ipv6: bool) -> io::Result<OwnedFd>;
}

/// Opens the connection that a permit for the sandbox itself allows.
///
/// # Errors
/// [`DialError`]: there is no sandbox, or no address of it answers.
pub(crate) async fn connect(
    inside: Option<&Arc<dyn Inside>>,
    addresses: &[IpAddr],
    port: u16,
) -> Result<Dialed, DialError> {
    let inside = inside.ok_or_else(|| DialError::new(Reason::Internal, "no sandbox to dial in"))?;
    let (stream, address) = connect_inside(inside, addresses, port).await?;
    Ok(Dialed {
        stream: Stream::Tcp(stream),
        address,
        upstream_proxy: None,
        absolute: None,
        canonical: None,
        addresses: vec![address.ip()],
        inside: true,
        timings: Timings::default(),
    })
}

/// Connects to the first of these addresses of the sandbox that answers, and says which.
///
/// # Errors
/// [`DialError`] of the last one.
pub async fn connect_inside(
    inside: &Arc<dyn Inside>,
    addresses: &[IpAddr],
    port: u16,
) -> Result<(TcpStream, SocketAddr), DialError> {
    let mut last = DialError::new(Reason::NoAddress, "no address inside");
    for address in addresses {
        let to = SocketAddr::new(*address, port);
        match attempt(inside.clone(), to).await {
            Ok(stream) => return Ok((stream, to)),
            Err(error) => {
                last = DialError::new(reason_of(&error), format!("{to} inside: {error}"));
            }
        }
    }
    Err(last)
}

/// What every way out says to a permit that leads into the sandbox only.
pub(crate) fn not_outside() -> DialError {
    DialError::new(Reason::Internal, "the permit leads into the sandbox only")
}

async fn attempt(inside: Arc<dyn Inside>, to: SocketAddr) -> io::Result<TcpStream> {
    let made = tokio::task::spawn_blocking(move || inside.tcp_socket(to.is_ipv6())).await;
    let socket = made.map_err(io::Error::other)??;
    let socket = TcpSocket::from_std_stream(socket.into());
    socket.connect(to).await
}
