//! What the fuzz targets (`fuzz/`) reach that nobody else does; only built with `--cfg fuzzing`.
//!
//! Answers *two ways of framing one message* (docs/threats.md) for what an upstream proxy says.

use portcullis_names::Name;
use portcullis_policy::Credentials;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::stream::Stream;
use crate::upstream_proxy;

/// Asks an upstream proxy, by SOCKS5 or CONNECT, that says `reply` in these pieces and ends. Gives what
/// the program would read behind the reply, or none where no tunnel stands.
///
/// # Panics
/// Loopback does not work.
pub async fn behind_a_proxys_reply(pieces: &[&[u8]], by_socks: bool) -> Option<Vec<u8>> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    let mut stream = Stream::Tcp(ours.expect("it listens"));
    let (mut proxy, _) = theirs.expect("somebody connected");
    let credentials = Credentials::parse("user:word").ok();
    let name = Name::from_policy("a.example").expect("a name");
    let say = async {
        for piece in pieces {
            // Whoever is not understood is not read to the end.
            if proxy.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _ = proxy.shutdown().await;
    };
    let ask = upstream_proxy::ask(&mut stream, name, credentials.as_ref(), by_socks);
    let (open, ()) = tokio::join!(ask, say);
    let mut behind = Vec::new();
    let read = stream.read_to_end(&mut behind).await;
    (open && read.is_ok()).then_some(behind)
}
