//! Bodies on their way through, counted; the record of a request is closed with its answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use portcullis_record::CloseReason;
use tokio::time::{Sleep, sleep};

use super::fields;
use super::io::Activity;
use crate::limits::{LINGER_TIMEOUT, MAX_LINGER_BYTES};
use crate::records::Flow;
use crate::request::Section;

/// One request that was let through, until its answer has passed.
pub(super) struct Open {
    flow: Mutex<Option<Flow>>,
    up: AtomicU64,
    down: AtomicU64,
    /// The program's body broke off, or ended in the middle.
    program_failed: std::sync::atomic::AtomicBool,
    busy: Busy,
}

/// A request is being served.
pub(super) struct Busy(Arc<Activity>);

impl Busy {
    pub(super) fn new(activity: &Arc<Activity>) -> Busy {
        activity.begin();
        Busy(activity.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Open {
    pub(super) fn new(flow: Flow, busy: Busy) -> Arc<Open> {
        Arc::new(Open {
            flow: Mutex::new(Some(flow)),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            program_failed: false.into(),
            busy,
        })
    }

    /// Counts bytes that passed elsewhere (on a WebSocket, say).
    pub(super) fn count(&self, up: u64, down: u64) {
        self.up.fetch_add(up, Ordering::Relaxed);
        self.down.fetch_add(down, Ordering::Relaxed);
    }

    /// Whether it was the program whose body did not come to its end.
    pub(super) fn program_failed(&self) -> bool {
        self.program_failed.load(Ordering::Relaxed)
    }

    /// Records the end, once; what comes later is not counted any more.
    pub(super) fn close(&self, end: CloseReason, detail: Option<&'static str>) {
        let flow = (self.flow.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut flow) = flow {
            let limit = self.busy.0.cut().filter(|_| end != CloseReason::Finished);
            // What took the whole connection down has ended its requests.
            let taken_down = self.busy.0.ends().filter(|_| end != CloseReason::Finished);
            let end = match flow.standing.is_cut() {
                true => CloseReason::PolicyChanged,
                false => taken_down.unwrap_or_else(|| limit.map_or(end, |cut| cut.end)),
            };
            let detail = limit.map(|cut| cut.detail).or(detail);
            flow.up = self.up.load(Ordering::Relaxed);
            flow.down = self.down.load(Ordering::Relaxed);
            flow.detail = detail;
            flow.within = true;
            flow.finish(end);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Nobody waits for the answer any more.
        self.close(CloseReason::ClientReset, None);
    }
}

/// A request's body, on its way to upstream.
pub(super) struct Up {
    inner: Incoming,
    open: Arc<Open>,
}

impl Up {
    pub(super) fn new(inner: Incoming, open: Arc<Open>) -> Up {
        Up { inner, open }
    }
}

impl Body for Up {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let body = self.get_mut();
        let mut frame = ready!(Pin::new(&mut body.inner).poll_frame(cx));
        match &mut frame {
            Some(Ok(frame)) => {
                body.open.count(length(frame), 0);
                if let Some(trailers) = frame.trailers_mut() {
                    fields::retain(trailers, Section::RequestTrailers);
                }
            }
            Some(Err(_)) => body.open.program_failed.store(true, Ordering::Relaxed),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What the program is answered with.
pub(super) enum Down {
    /// The gateway's own body, if any.
    Own(Option<Bytes>),
    /// The same in answer to a request whose body is still on its way.
    Early(Early),
    /// Upstream's.
    Passed(Passed),
}

/// Upstream's answer on its way to the program.
pub(super) struct Passed {
    inner: Incoming,
    open: Arc<Open>,
    /// What is still to come, where that was said.
    left: Option<u64>,
}

/// An answer that is there before the request's body is. HTTP/2 resets a stream that ends so, and clients
/// (some versions of curl) then take the answer for a failure: the stream stays open while some of the
/// body is read and dropped.
pub(super) struct Early {
    own: Option<Bytes>,
    rest: Incoming,
    /// Bytes that may still be dropped; none when the rest is over.
    left: usize,
    until: Pin<Box<Sleep>>,
}

impl Early {
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.left > 0 && !self.rest.is_end_stream() {
            match Pin::new(&mut self.rest).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let dropped = frame.data_ref().map_or(1, Bytes::len);
                    self.left = self.left.saturating_sub(dropped);
                }
                Poll::Ready(_) => self.left = 0,
                Poll::Pending => {
                    ready!(self.until.as_mut().poll(cx));
                    self.left = 0;
                }
            }
        }
        Poll::Ready(())
    }
}

impl Down {
    /// The same answer, ended when the request's body has come or enough of it was dropped.
    pub(super) fn behind(self, rest: Incoming) -> Down {
        match self {
            Down::Own(own) if !rest.is_end_stream() => Down::Early(Early {
                own,
                rest,
                left: MAX_LINGER_BYTES,
                until: Box::pin(sleep(LINGER_TIMEOUT)),
            }),
            other => other,
        }
    }

    pub(super) fn passed(inner: Incoming, open: Arc<Open>) -> Down {
        let left = inner.size_hint().exact();
        Down::Passed(Passed { inner, open, left })
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        // Whoever knows how long it is does not ask for the end.
        let end = match self.left == Some(0) || self.inner.is_end_stream() {
            true => CloseReason::Finished,
            false => CloseReason::ClientReset,
        };
        self.open.close(end, None);
    }
}

impl Body for Down {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let passed = match self.get_mut() {
            Down::Own(own) => return Poll::Ready(own.take().map(Frame::data).map(Ok)),
            Down::Early(early) => {
                if let Some(own) = early.own.take() {
                    return Poll::Ready(Some(Ok(Frame::data(own))));
                }
                ready!(early.poll_rest(cx));
                return Poll::Ready(None);
            }
            Down::Passed(passed) => passed,
        };
        let mut frame = ready!(Pin::new(&mut passed.inner).poll_frame(cx));
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    fields::retain(trailers, Section::ResponseTrailers);
                }
                let length = length(frame);
                passed.open.count(0, length);
                passed.left = passed.left.map(|left| left.saturating_sub(length));
            }
            Some(Err(_)) => passed.open.close(CloseReason::UpstreamReset, None),
            None => passed.open.close(CloseReason::Finished, None),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Down::Own(own) => own.is_none(),
            Down::Early(early) => early.own.is_none() && early.left == 0,
            Down::Passed(passed) => passed.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Down::Own(own) | Down::Early(Early { own, .. }) => {
                SizeHint::with_exact(own.as_ref().map_or(0, |own| own.len() as u64))
            }
            Down::Passed(passed) => passed.inner.size_hint(),
        }
    }
}

fn length(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, |data| data.len() as u64)
}
