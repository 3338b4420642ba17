//! What the entrances do to sockets: options, resets, last words.

use std::net::{IpAddr, SocketAddr};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::limits::{
    ANSWER_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES, KEEPALIVE_TIME, LINGER_TIMEOUT,
    MAX_LINGER_BYTES,
};

/// Sets what every flow's sockets have: no Nagle delay, and keepalive so that a dead peer is found
/// although there is no idle timeout. A socket that refuses an option works without it.
pub(crate) fn prepare(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// Closes with RST, so that the peer cannot take the end for an orderly one.
pub(crate) fn reset(stream: TcpStream) {
    // If this fails the socket is gone already.
    let _ = stream.set_zero_linger();
}

/// Writes a short answer; false if the peer does not take it.
pub(crate) async fn answer(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    matches!(
        timeout(ANSWER_TIMEOUT, stream.write_all(bytes)).await,
        Ok(Ok(()))
    )
}

/// Writes last words and closes such that the peer gets them: closing with unread bytes in the
/// receive buffer would send an RST that overtakes them, so what comes is read for a while.
pub(crate) async fn last_words(mut stream: TcpStream, bytes: &[u8]) {
    if !answer(&mut stream, bytes).await || stream.shutdown().await.is_err() {
        return;
    }
    let drain = async {
        let mut left = MAX_LINGER_BYTES;
        let mut scratch = [0u8; 2048];
        while left > 0 && stream.readable().await.is_ok() {
            match stream.try_read(&mut scratch) {
                Ok(0) => return,
                Ok(n) => left = left.saturating_sub(n),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = timeout(LINGER_TIMEOUT, drain).await;
}

/// The same address in one spelling: an IPv4 connection on an IPv6 listener is an IPv4 connection.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether `destination` is reached by connecting to `listener`: a wildcard listener is on every
/// loopback address.
pub(crate) fn reaches(destination: (IpAddr, u16), listener: SocketAddr) -> bool {
    let listener = plain(listener);
    let address = destination.0.to_canonical();
    let own = |a: IpAddr| a.is_loopback() || a.is_unspecified();
    destination.1 == listener.port()
        && (address == listener.ip() || listener.ip().is_unspecified() && own(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_listener_is_on_loopback_and_nowhere_else() {
        let any: SocketAddr = "0.0.0.0:3128".parse().unwrap();
        let one: SocketAddr = "10.0.2.15:3128".parse().unwrap();
        let at = |text: &str| -> IpAddr { text.parse().unwrap() };
        assert!(reaches((at("127.0.0.1"), 3128), any));
        assert!(reaches((at("::ffff:127.0.0.1"), 3128), any));
        assert!(reaches((at("0.0.0.0"), 3128), any));
        assert!(
            !reaches((at("192.0.2.1"), 3128), any),
            "an outside server on the same port"
        );
        assert!(!reaches((at("127.0.0.1"), 3129), any));
        assert!(reaches((at("10.0.2.15"), 3128), one));
        assert!(!reaches((at("127.0.0.1"), 3128), one));
    }
}
