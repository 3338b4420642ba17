//! The small tasks of one connection (streams of HTTP/2, the driver of the upstream connection),
//! polled inside the connection's own task: when that is dropped, nothing of them stays behind.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::rt::Executor;

type Task<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Where new tasks are put. Their number is bounded by the streams that HTTP/2 lets be open
/// ([`super::limits::MAX_STREAMS`]), each of which has three at most.
#[derive(Clone, Default)]
pub(super) struct Spawner<'a>(Arc<Mutex<Vec<Task<'a>>>>);

impl<'a, F: Future<Output = ()> + Send + 'a> Executor<F> for Spawner<'a> {
    fn execute(&self, task: F) {
        let mut new = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        new.push(Box::pin(task));
    }
}

/// The tasks themselves.
pub(super) struct Tasks<'a> {
    spawner: Spawner<'a>,
    running: FuturesUnordered<Task<'a>>,
}

impl<'a> Tasks<'a> {
    pub(super) fn new() -> Tasks<'a> {
        Tasks {
            spawner: Spawner::default(),
            running: FuturesUnordered::new(),
        }
    }

    /// Takes new tasks; they begin when the tasks are polled next, which is in the same turn.
    pub(super) fn spawner(&self) -> Spawner<'a> {
        self.spawner.clone()
    }

    /// Lets every task go on that can.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        loop {
            let new = {
                let mut new = (self.spawner.0.lock()).unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *new)
            };
            let none = new.is_empty();
            self.running.extend(new);
            match self.running.poll_next_unpin(cx) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending if none => return,
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
    }

    /// Waits for `main`, and lets the tasks go on meanwhile.
    pub(super) async fn until<F: Future>(&mut self, main: F) -> F::Output {
        let mut main = std::pin::pin!(main);
        std::future::poll_fn(|cx| {
            let polled = main.as_mut().poll(cx);
            self.poll(cx);
            polled
        })
        .await
    }
}
