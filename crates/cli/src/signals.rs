//! The signals that end a gateway of the command line, or have it read its policy again.

use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::OwnedFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// What a gateway listens to, from now on: whoever sees a listener may end it in order.
/// SIGINT and SIGTERM end it; SIGHUP asks for a reload, by a byte in the pipe. They have a thread of
/// their own, since the gateway's runtime begins later.
pub fn signals() -> io::Result<(impl Future<Output = io::Result<()>>, OwnedFd)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        )
    };
    let (asked, end) = oneshot::channel();
    let (requests, request) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    std::thread::Builder::new().spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => break,
                    _ = terminate.recv() => break,
                    _ = hangup.recv() => {
                        // Full: one that has not begun yet will see this change too.
                        let _ = rustix::io::write(&request, &[1]);
                    }
                }
            }
        });
        // Nobody listens any more: it ends already.
        let _ = asked.send(());
    })?;
    Ok((async move { end.await.map_err(io::Error::other) }, requests))
}
