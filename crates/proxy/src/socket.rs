//! What the entrances do to sockets: options, resets, last words.

use std::net::SocketAddr;

use portcullis_dial::Stream;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::limits::{
    ANSWER_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES, KEEPALIVE_TIME, LINGER_TIMEOUT,
    MAX_LINGER_BYTES,
};

/// Sets what every flow's sockets have: no Nagle delay, and keepalive so that a dead peer is found
/// although there is no idle timeout. A socket that refuses an option works without it.
pub(crate) fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    keep_alive(stream);
}

/// The same for every socket that the listener will accept: they inherit it (Linux), which saves
/// five calls for each.
pub(crate) fn prepare_listener(listener: &TcpListener) {
    let socket = SockRef::from(listener);
    let _ = socket.set_tcp_nodelay(true);
    set_keepalive(&socket);
}

/// Has the kernel find a peer that is gone.
pub(crate) fn keep_alive(stream: &TcpStream) {
    set_keepalive(&SockRef::from(stream));
}

fn set_keepalive(socket: &SockRef<'_>) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

/// Closes with RST, so that the peer cannot take the end for an orderly one.
pub(crate) fn reset(stream: TcpStream) {
    // If this fails the socket is gone already.
    let _ = stream.set_zero_linger();
}

/// The same for the connection to the destination.
pub(crate) fn reset_upstream(stream: Stream) {
    let _ = stream.tcp().set_zero_linger();
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
        while left > 0 && stream.readable().await.is_ok() {
            // Not held across a wait: what waits is small.
            let mut scratch = [0u8; 2048];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_sockets_have_the_listeners_options() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        prepare_listener(&listener);
        let to = listener.local_addr().unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(to), listener.accept());
        let (accepted, _) = accepted.unwrap();
        assert!(accepted.nodelay().unwrap());
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_TIME);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
    }
}
