//! What requests inside inspected connections have changed to, WebSocket above all: bytes both ways, as
//! they come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use portcullis_record::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::timeout;

use super::body::Open;
use super::limits::SOCKET_BUFFER_BYTES;
use crate::limits::HEADER_TIMEOUT;

/// Two connections, or two streams of HTTP/2, that are about to be let go by their protocol.
pub(super) struct Switched {
    pub(super) program: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    pub(super) open: Arc<Open>,
}

impl Switched {
    /// Relays once both sides have agreed on that; how it ended, which is recorded.
    pub(super) async fn relay(self) -> CloseReason {
        let Switched {
            program,
            upstream,
            open,
        } = self;
        let relayed = async {
            let agreed = async { tokio::try_join!(program, upstream) };
            let agreed = timeout(HEADER_TIMEOUT, agreed).await.ok()?.ok()?;
            let mut program = Counted {
                io: TokioIo::new(agreed.0),
                count: |written| open.count(0, written),
            };
            let mut upstream = Counted {
                io: TokioIo::new(agreed.1),
                count: |written| open.count(written, 0),
            };
            let size = SOCKET_BUFFER_BYTES;
            copy_bidirectional_with_sizes(&mut program, &mut upstream, size, size)
                .await
                .ok()
        };
        let end = match relayed.await {
            Some(_) => CloseReason::Finished,
            None => CloseReason::UpstreamReset,
        };
        open.close(end, None);
        end
    }
}

/// One side of it. What is written to it counts at once, since the record may be closed before
/// the relay has come to its end.
struct Counted<T, F> {
    io: T,
    count: F,
}

impl<T: AsyncRead + Unpin, F: Unpin> AsyncRead for Counted<T, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, room)
    }
}

impl<T: AsyncWrite + Unpin, F: Fn(u64) + Unpin> AsyncWrite for Counted<T, F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        (self.count)(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
