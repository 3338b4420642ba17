//! Accepts connections: from whom they may come, and what happens when no descriptor is free.
//!
//! Answers *exhaustion* (docs/threats.md): when descriptors run out, a connection is taken with one that
//! is kept for this and reset at once. It neither waits in the queue until one is free, nor keeps this
//! listener or another one from being served.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use portcullis_names::AllowedClients;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

/// The pause if not even the kept descriptor helped: somebody else took it meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// What came to a listener.
#[derive(Debug)]
pub enum Accepted {
    /// A connection.
    Connection(TcpStream, SocketAddr),
    /// A client that may not come in. Its connection is reset.
    Stranger(SocketAddr),
    /// Connections for which there is no descriptor or memory. One of them is reset.
    Exhausted(io::Error),
}

/// A descriptor in reserve, for all listeners of one gateway: closed to make room for a connection that is then
/// reset.
#[derive(Debug)]
pub struct Reserve(Mutex<Option<File>>);

impl Default for Reserve {
    fn default() -> Reserve {
        Reserve(Mutex::new(Reserve::take()))
    }
}

impl Reserve {
    /// A descriptor that can be closed without loss.
    fn take() -> Option<File> {
        File::open("/dev/null").ok()
    }

    /// Does something with the reserve given up, and takes it back.
    fn without<T>(&self, act: impl FnOnce() -> T) -> T {
        let mut reserve = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(reserve.take());
        let done = act();
        *reserve = Reserve::take();
        done
    }
}

/// A listener that never stalls.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    allowed: AllowedClients,
    reserve: Arc<Reserve>,
    resumes: Option<Instant>,
}

impl Acceptor {
    /// Takes connections of these clients from `listener`.
    pub fn new(listener: TcpListener, allowed: AllowedClients, reserve: Arc<Reserve>) -> Acceptor {
        Acceptor {
            listener,
            allowed,
            reserve,
            resumes: None,
        }
    }

    /// Waits for a connection. May be dropped at any time without losing one.
    ///
    /// # Errors
    /// The listener is of no more use.
    pub async fn accept(&mut self) -> io::Result<Accepted> {
        if let Some(resumes) = self.resumes {
            sleep_until(resumes).await;
            self.resumes = None;
        }
        loop {
            let error = match self.listener.accept().await {
                Ok((stream, client)) if self.allowed.contains(client.ip()) => {
                    return Ok(Accepted::Connection(stream, client));
                }
                Ok((stream, client)) => {
                    reset(stream);
                    return Ok(Accepted::Stranger(client));
                }
                Err(error) => error,
            };
            match Failed::from(&error) {
                Failed::OneConnection => {}
                Failed::Listener => return Err(error),
                Failed::Exhausted => {
                    self.turn_away();
                    return Ok(Accepted::Exhausted(error));
                }
            }
        }
    }

    /// Resets one connection that waits.
    fn turn_away(&mut self) {
        let listener = &self.listener;
        self.reserve
            .clone()
            .without(|| match listener.accept().now_or_never() {
                Some(Ok((stream, _))) => reset(stream),
                _ => self.resumes = Some(Instant::now() + PAUSE),
            });
    }
}

/// Closes with RST, so that the client cannot take the end for an orderly one.
fn reset(stream: TcpStream) {
    // If this fails the socket is gone already.
    let _ = stream.set_zero_linger();
}

/// What a failed accept means.
#[derive(Debug, PartialEq, Eq)]
enum Failed {
    /// That connection is gone; others are not.
    OneConnection,
    /// No descriptors or memory now, or something unknown.
    Exhausted,
    /// The listener is of no more use.
    Listener,
}

impl From<&io::Error> for Failed {
    fn from(error: &io::Error) -> Failed {
        use io::ErrorKind as Kind;
        /// The descriptor is not open: no kind of its own.
        const EBADF: i32 = 9;
        if error.raw_os_error() == Some(EBADF) {
            return Failed::Listener;
        }
        match error.kind() {
            Kind::InvalidInput | Kind::NotConnected | Kind::Unsupported => Failed::Listener,
            // accept(2): errors already pending on the new socket, and a firewall's EPERM
            Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::TimedOut
            | Kind::PermissionDenied => Failed::OneConnection,
            _ => Failed::Exhausted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_free_descriptors_is_not_the_end_of_the_listener() {
        let of = |errno| Failed::from(&io::Error::from_raw_os_error(errno));
        for errno in [24, 23, 105, 12] {
            assert_eq!(of(errno), Failed::Exhausted, "{errno}");
        }
        for errno in [103, 104, 1, 113] {
            assert_eq!(of(errno), Failed::OneConnection, "{errno}");
        }
        assert_eq!([of(9), of(22)], [Failed::Listener, Failed::Listener]);
    }
}
