//! One direction of a relay: what is read here is written there, in order, each byte once.
//!
//! Small flows are copied through a buffer of the worker thread: that costs the kernel two calls and
//! nobody an allocation. A flow that fills a whole buffer is bulk, and from then on its bytes are
//! spliced. Either way nothing is read before everything that was read is written: what one
//! direction holds is bounded by [`MAX_READ_BYTES`] or [`MAX_SPLICE_BYTES`], and a slow receiver
//! stops the sender.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use portcullis_dial::Stream;
use portcullis_record::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::pipe::{Pipe, is_unsupported};
use crate::limits::{
    MAX_READ_BYTES, MAX_ROUNDS, MAX_SPLICE_BYTES, MAX_TURN_BYTES, MIN_READ_BYTES, MIN_SPLICE_BYTES,
};
use crate::meter::{Meter, Way};

const _: () = assert!(MIN_SPLICE_BYTES <= MIN_READ_BYTES && MAX_SPLICE_BYTES <= MAX_TURN_BYTES);

/// What can be an end of a relay.
pub(super) trait End: AsyncRead + AsyncWrite + Unpin {
    /// The socket, for its options.
    fn socket(&self) -> &TcpStream;

    /// The socket, where it carries the bytes as they are.
    fn plain(&self) -> Option<&TcpStream>;
}

impl End for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn plain(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl End for Stream {
    fn socket(&self) -> &TcpStream {
        self.tcp()
    }

    fn plain(&self) -> Option<&TcpStream> {
        self.is_plain().then(|| self.tcp())
    }
}

/// How bytes are moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum How {
    /// Copied: a small flow, or one that has not shown yet what it is.
    #[default]
    Copy,
    /// Spliced, where both ends are plain and there is a pipe.
    Splice,
    /// Copied, since the kernel does not splice these sockets.
    CopyOnly,
}

/// Reads what passes on a relay, before it is passed on.
pub(crate) trait Watcher: Send + Sync {
    /// These bytes come next in this direction.
    fn saw(&self, way: Way, bytes: &[u8]);
}

/// Who watches one direction.
pub(super) struct Watched {
    pub(super) watcher: Arc<dyn Watcher>,
    pub(super) way: Way,
}

/// What went wrong in one direction, in terms of that direction.
pub(super) enum RelayError {
    /// The side that is read broke.
    Sender,
    /// The side that is written broke.
    Receiver,
    /// Nothing is wrong: a limit ends the flow.
    Limit(CloseReason),
}

/// Who permits what is written in one direction; nobody has to where there is no limit.
pub(super) type PermitFor<'m> = Option<(&'m mut Meter, Way)>;

/// The permits of one direction of a flow.
pub(super) fn permit_for(meter: &mut Option<Box<Meter>>, way: Way) -> PermitFor<'_> {
    let meter = meter.as_deref_mut().filter(|meter| meter.counts())?;
    Some((meter, way))
}

/// One direction.
#[derive(Default)]
pub(super) struct Direction {
    /// Bytes that were read and not yet taken by the receiver, from `at` on. They come before those
    /// in the pipe.
    held: Vec<u8>,
    at: usize,
    /// Bytes that the receiver has not taken yet, still in the kernel.
    pipe: Option<Pipe>,
    how: How,
    /// What to copy next time, at least [`MIN_READ_BYTES`]; grows while the receiver takes everything.
    read_bytes: u32,
    /// The sender is done.
    pub(super) ended: bool,
    /// The receiver knows, or cannot be told.
    pub(super) done: bool,
    /// Bytes that the receiver has taken.
    pub(super) bytes: u64,
    /// The receiver's socket still waits for a full segment (Nagle). That delays nothing before the
    /// second write, and many connections have one only: it is switched off then.
    delays: bool,
    /// Nothing is spliced then.
    watched: Option<Box<Watched>>,
}

impl Direction {
    pub(super) fn to_upstream() -> Direction {
        Direction {
            delays: true,
            ..Direction::default()
        }
    }

    /// To a socket that has its options from the listener.
    pub(super) fn to_client() -> Direction {
        Direction::default()
    }

    /// Has what is read from now on watched.
    pub(super) fn watch(&mut self, watched: Watched) {
        self.how = How::CopyOnly;
        self.watched = Some(Box::new(watched));
    }

    fn saw(&self, bytes: &[u8]) {
        if let Some(Watched { watcher, way }) = self.watched.as_deref() {
            watcher.saw(*way, bytes);
        }
    }

    /// Before each write: the second one must not wait for the first one's acknowledgement.
    fn hurry(&mut self, to: &impl End) {
        if self.delays && self.bytes > 0 {
            self.delays = false;
            // Nothing is lost if it fails.
            let _ = to.socket().set_nodelay(true);
        }
    }

    /// Adds bytes that were read elsewhere; they go before what is read from now on.
    pub(super) fn push(&mut self, bytes: Vec<u8>) {
        self.saw(&bytes);
        if bytes.is_empty() {
            // Not to keep an empty buffer's memory for as long as the relay lives.
        } else if self.held.is_empty() {
            self.held = bytes;
        } else {
            self.held.extend_from_slice(&bytes);
        }
    }

    /// Whether anything was read in this direction, its end included.
    pub(super) fn began(&self) -> bool {
        self.bytes > 0 || !self.held.is_empty() || self.pipe.is_some() || self.ended
    }

    /// Whether nothing of it waits anywhere.
    #[cfg(test)]
    pub(super) fn holds_nothing(&self) -> bool {
        self.held.capacity() == 0 && self.pipe.is_none()
    }

    /// Moves what can be moved. Ready when this direction is done. A receiver that broke makes it
    /// done too: the other direction may still have bytes of that side to deliver. The receiver is
    /// told of the end unless `last` says that its socket is closed right after.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut impl End, &mut impl End),
        mut permit: PermitFor<'_>,
        scratch: &mut [u8],
        last: bool,
    ) -> Poll<Result<(), RelayError>> {
        let before = self.bytes;
        for _ in 0..MAX_ROUNDS {
            if let Err(error) = ready!(self.poll_waiting(cx, to, &mut permit)) {
                self.give_up();
                return Poll::Ready(Err(error));
            }
            if self.ended {
                self.done = true;
                if last && to.plain().is_some() {
                    return Poll::Ready(Ok(()));
                }
                let told = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                return Poll::Ready(told.map_err(|_| RelayError::Receiver));
            }
            if self.bytes - before >= MAX_TURN_BYTES as u64 {
                break;
            }
            let read = if permit.is_some() {
                // What waits for a permit is one small chunk.
                ready!(self.poll_hold(cx, from, scratch))
            } else if self.may_splice(from, to) {
                ready!(self.poll_splice(cx, from))
            } else {
                ready!(self.poll_copy(cx, from, to, scratch))
            };
            match read {
                Ok(more) => self.ended = !more,
                Err(RelayError::Receiver) => {
                    self.give_up();
                    return Poll::Ready(Err(RelayError::Receiver));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // Others are waiting; go on in the next turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what waits, once it is permitted: what is held, then what is in the pipe. Buffer and pipe are
    /// given back when they are empty.
    pub(super) fn poll_waiting(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut impl End,
        permit: &mut PermitFor<'_>,
    ) -> Poll<Result<(), RelayError>> {
        while self.at < self.held.len() {
            self.hurry(to);
            let mut bytes = &self.held[self.at..];
            if let Some((meter, way)) = permit {
                let may = ready!(meter.poll_permit(cx, *way, bytes.len()));
                bytes = &bytes[..may.map_err(RelayError::Limit)?];
            }
            let written = ready!(Pin::new(&mut *to).poll_write(cx, bytes));
            self.at += self.wrote(written, permit)?;
        }
        if self.at > 0 {
            self.held = Vec::new();
            self.at = 0;
        }
        if self.pipe.is_some() {
            self.hurry(to);
        }
        while let Some(pipe) = &mut self.pipe {
            if pipe.filled() == 0 {
                self.release_pipe();
                break;
            }
            let mut most = pipe.filled();
            if let Some((meter, way)) = permit {
                most = ready!(meter.poll_permit(cx, *way, most)).map_err(RelayError::Limit)?;
            }
            let Some(socket) = to.plain() else {
                return Poll::Ready(Err(RelayError::Receiver));
            };
            let written = ready!(pipe.poll_drain(cx, socket, most));
            self.wrote(written, permit)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Counts what the receiver took.
    fn wrote(
        &mut self,
        written: io::Result<usize>,
        permit: &mut PermitFor<'_>,
    ) -> Result<usize, RelayError> {
        let written = written.unwrap_or(0);
        if written == 0 {
            return Err(RelayError::Receiver);
        }
        if let Some((meter, way)) = permit {
            meter.passed(*way, written);
        }
        self.bytes += written as u64;
        Ok(written)
    }

    fn release_pipe(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
    }

    /// The receiver broke: nothing waits for it any more.
    fn give_up(&mut self) {
        self.done = true;
        self.held = Vec::new();
        self.at = 0;
        self.pipe = None;
    }

    /// Whether the next bytes are to be spliced; then there is a pipe.
    fn may_splice(&mut self, from: &impl End, to: &impl End) -> bool {
        if self.how != How::Splice || from.plain().is_none() || to.plain().is_none() {
            return false;
        }
        self.pipe = self.pipe.take().or_else(Pipe::take);
        self.pipe.is_some()
    }

    /// Moves what the sender has into the pipe; false at its end.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &impl End,
    ) -> Poll<Result<bool, RelayError>> {
        let (Some(pipe), Some(socket)) = (&mut self.pipe, from.plain()) else {
            return Poll::Ready(Err(RelayError::Sender));
        };
        let filled = pipe.poll_fill(cx, socket);
        if pipe.filled() == 0 {
            // Whoever waits, and whoever is at the end, holds no pipe.
            self.release_pipe();
        }
        Poll::Ready(match ready!(filled) {
            Ok(0) => Ok(false),
            Ok(filled) => {
                if filled < MIN_SPLICE_BYTES {
                    self.how = How::Copy;
                    self.read_bytes = 0;
                }
                Ok(true)
            }
            Err(error) if is_unsupported(&error) => {
                self.how = How::CopyOnly;
                Ok(true)
            }
            Err(_) => Err(RelayError::Sender),
        })
    }

    /// Reads a small chunk and holds it, so that a permit can be asked for; false at the sender's end.
    fn poll_hold(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl End,
        scratch: &mut [u8],
    ) -> Poll<Result<bool, RelayError>> {
        let mut buffer = ReadBuf::new(&mut scratch[..MIN_READ_BYTES]);
        if ready!(Pin::new(from).poll_read(cx, &mut buffer)).is_err() {
            return Poll::Ready(Err(RelayError::Sender));
        }
        self.push(buffer.filled().to_vec());
        Poll::Ready(Ok(!buffer.filled().is_empty()))
    }

    /// Reads into the scratch buffer and writes what the receiver takes at once; false at the
    /// sender's end.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl End,
        to: &mut impl End,
        scratch: &mut [u8],
    ) -> Poll<Result<bool, RelayError>> {
        let most = (self.read_bytes as usize).clamp(MIN_READ_BYTES, MAX_READ_BYTES);
        let mut buffer = ReadBuf::new(&mut scratch[..most]);
        if ready!(Pin::new(from).poll_read(cx, &mut buffer)).is_err() {
            return Poll::Ready(Err(RelayError::Sender));
        }
        let read = buffer.filled();
        if read.is_empty() {
            return Poll::Ready(Ok(false));
        }
        if read.len() == most && self.how == How::Copy {
            self.how = How::Splice;
        }
        let full = read.len() == most;
        self.saw(read);
        self.hurry(to);
        let written = match Pin::new(to).poll_write(cx, read) {
            Poll::Ready(Ok(written)) => written,
            Poll::Pending => 0,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(RelayError::Receiver)),
        };
        self.bytes += written as u64;
        if written < read.len() {
            self.held = read[written..].to_vec();
            self.at = 0;
            self.read_bytes = 0;
        } else if full {
            self.read_bytes = 2 * most as u32;
        }
        Poll::Ready(Ok(true))
    }
}
