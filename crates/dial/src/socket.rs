//! The only place that calls connect(2): for connections, and for datagrams.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;
use tracing::trace;

use crate::error::Failure;
use crate::guard::{ChosenBy, Guard};

/// How long one address may take to answer.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Checks the address and connects to it, with nothing in between. The socket has the system's default
/// options: who writes to it in small pieces switches Nagle's delay off.
pub(crate) async fn connect(
    guard: &Guard,
    to: SocketAddr,
    chosen_by: ChosenBy,
) -> Result<TcpStream, Failure> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(Failure::Network)?;
    mark(guard, SockRef::from(&socket))?;
    let passed = guard.check(to, chosen_by).map_err(Failure::Refused)?;
    trace!(address = %to, "connecting");
    let stream = match timeout(ATTEMPT_TIMEOUT, socket.connect(to)).await {
        Ok(result) => result.map_err(Failure::Network)?,
        Err(_) => return Err(Failure::Silent),
    };
    // A local port without a listener, drawn as our own: TCP connects a socket to itself then.
    if (passed.is_own || to.ip().is_loopback()) && stream.local_addr().is_ok_and(|own| own == to) {
        return Err(Failure::Network(
            std::io::ErrorKind::ConnectionRefused.into(),
        ));
    }
    Ok(stream)
}

/// The same for datagrams: a socket with a port of its own, drawn by the kernel, that sends to the
/// address and hears from nobody else.
pub(crate) async fn connect_datagrams(
    guard: &Guard,
    to: SocketAddr,
    chosen_by: ChosenBy,
) -> Result<UdpSocket, Failure> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.map_err(Failure::Network)?;
    mark(guard, SockRef::from(&socket))?;
    guard
        .check_datagrams(to, chosen_by)
        .map_err(Failure::Refused)?;
    socket.connect(to).await.map_err(Failure::Network)?;
    Ok(socket)
}

/// Gives a socket the mark by which the namespace's rules know it, where there is one.
fn mark(guard: &Guard, socket: SockRef<'_>) -> Result<(), Failure> {
    let marked = guard.mark().map(|mark| socket.set_mark(mark));
    marked.unwrap_or(Ok(())).map_err(Failure::Network)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// What the crate's files ship.
    fn shipped(folder: &Path, found: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                shipped(&path, found);
            } else if !path
                .to_str()
                .is_some_and(|path| path.contains("test") || path.ends_with("fuzzing.rs"))
            {
                let source = fs::read_to_string(path).unwrap();
                found.push_str(source.split("#[cfg(test)]\nmod tests {").next().unwrap());
            }
        }
    }

    #[test]
    fn exactly_one_place_calls_connect() {
        let mut source = String::new();
        shipped(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut source,
        );
        let count = |needle: &str| source.matches(needle).count();
        // one for connections, one for datagrams, one for sockets that were made inside the sandbox
        assert_eq!(count("socket.connect("), 3);
        assert_eq!(count("UdpSocket::bind"), 1);
        for other in [
            "TcpStream::connect",
            "nix::sys::socket",
            "std::net::TcpStream",
        ] {
            assert_eq!(count(other), 0, "{other}");
        }
    }
}
