//! Raw bytes, sent and awaited.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::world::PATIENCE;

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Orderly,
    Reset,
}

/// Raw talk on a stream; every wait is bounded.
pub trait Talk {
    async fn say(&mut self, bytes: impl AsRef<[u8]>);
    /// Each byte in a segment of its own.
    async fn spell(&mut self, bytes: impl AsRef<[u8]>);
    async fn hear(&mut self, len: usize) -> Vec<u8>;
    async fn hear_text(&mut self, expected: &str);
    /// Up to and with the empty line.
    async fn hear_head(&mut self) -> String;
    async fn hear_all(&mut self) -> (Vec<u8>, End);
    /// Nothing comes, for a while.
    async fn silence(&mut self);
}

impl Talk for TcpStream {
    async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.write_all(bytes.as_ref()))
            .await
            .expect("taken in time")
            .unwrap();
    }

    async fn spell(&mut self, bytes: impl AsRef<[u8]>) {
        self.set_nodelay(true).unwrap();
        for byte in bytes.as_ref() {
            self.say([*byte]).await;
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn hear(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        match timeout(PATIENCE, self.read_exact(&mut bytes)).await {
            Ok(read) => read.unwrap_or_else(|e| panic!("{len} bytes: {e}")),
            Err(_) => panic!("{len} bytes did not come"),
        };
        bytes
    }

    async fn hear_text(&mut self, expected: &str) {
        let heard = self.hear(expected.len()).await;
        assert_eq!(String::from_utf8_lossy(&heard), expected);
    }

    async fn hear_head(&mut self) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.extend(self.hear(1).await);
        }
        String::from_utf8(bytes).unwrap()
    }

    async fn hear_all(&mut self) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        match timeout(PATIENCE, self.read_to_end(&mut bytes)).await {
            Ok(Ok(_)) => (bytes, End::Orderly),
            Ok(Err(error)) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
                (bytes, End::Reset)
            }
            Err(_) => panic!("no end; so far {:?}", String::from_utf8_lossy(&bytes)),
        }
    }

    async fn silence(&mut self) {
        let mut byte = [0];
        let heard = timeout(Duration::from_millis(150), self.read(&mut byte)).await;
        assert!(heard.is_err(), "{heard:?} {byte:?}");
    }
}
