//! The only place that calls connect(2): for connections, and for datagrams.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::error::Failure;
use crate::guard::{ChosenBy, Guard};

/// How long one address may take to answer.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Checks the address and connects to it, with nothing in between.
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
    // Interactive protocols must not wait for a full segment. Nothing is lost if it fails.
    let _ = socket.set_nodelay(true);
    guard.check(to, chosen_by).map_err(Failure::Refused)?;
    let stream = match timeout(ATTEMPT_TIMEOUT, socket.connect(to)).await {
        Ok(result) => result.map_err(Failure::Network)?,
        Err(_) => return Err(Failure::Silent),
    };
    // A local port without a listener, drawn as our own: TCP connects a socket to itself then.
    if stream.local_addr().is_ok_and(|own| own == to) {
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
    guard
        .check_datagrams(to, chosen_by)
        .map_err(Failure::Refused)?;
    socket.connect(to).await.map_err(Failure::Network)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    /// Every file of the crate that is shipped.
    const SOURCES: [&str; 14] = [
        include_str!("company.rs"),
        include_str!("datagrams.rs"),
        include_str!("dialer.rs"),
        include_str!("error.rs"),
        include_str!("eyeballs.rs"),
        include_str!("guard.rs"),
        include_str!("health.rs"),
        include_str!("host.rs"),
        include_str!("lib.rs"),
        include_str!("secure.rs"),
        include_str!("socket.rs"),
        include_str!("socks.rs"),
        include_str!("stream.rs"),
        include_str!("tunnel.rs"),
    ];

    #[test]
    fn exactly_one_place_calls_connect() {
        let shipped = SOURCES.map(|source| source.split("#[cfg(test)]\nmod tests").next().unwrap());
        let count = |needle: &str| -> usize {
            shipped
                .iter()
                .map(|source| source.matches(needle).count())
                .sum()
        };
        // one for connections, one for datagrams
        assert_eq!(count("socket.connect("), 2);
        assert_eq!(count("UdpSocket::bind"), 1);
        for other in [
            "TcpStream::connect",
            "nix::sys::socket",
            "std::net::TcpStream",
        ] {
            assert_eq!(count(other), 0, "{other}");
        }
        let modules = shipped[8]
            .lines()
            .filter(|line| line.starts_with("mod "))
            .count();
        // Four of them are tests.
        assert_eq!(
            modules - 4,
            SOURCES.len() - 1,
            "a module is missing from this test"
        );
    }
}
