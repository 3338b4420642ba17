//! Pipes for `splice(2)`: bytes go from one socket to the other inside the kernel, nobody copies
//! them through the gateway's memory.
//!
//! A pipe belongs to a direction only while it holds bytes of it; otherwise it lies in the pool of a
//! worker thread. So idle tunnels hold none, and a thousand fast flows share a handful. Answers
//! "exhaustion": there are at most [`max_pipes`] of them, and a direction that gets none copies.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use rustix::process::{Resource, getrlimit};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::limits::{
    DESCRIPTORS_PER_PIPE, MAX_PIPES, MAX_POOLED_PIPES, MAX_SPLICE_BYTES, MIN_PIPES,
};

/// Pipes that are open, over all threads.
static OPEN: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Empty pipes of this thread; borrowed for a moment, never across an await.
    static POOL: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe with the bytes that are in it.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    filled: usize,
}

impl Pipe {
    /// An empty pipe, where one is to be had.
    pub(super) fn take() -> Option<Pipe> {
        #[cfg(test)]
        if testing::NONE.get() {
            return None;
        }
        let pooled = POOL.with_borrow_mut(Vec::pop);
        pooled.or_else(Pipe::open)
    }

    fn open() -> Option<Pipe> {
        let more = |open| (open < max_pipes()).then_some(open + 1);
        OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        let Ok((read, write)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) else {
            OPEN.fetch_sub(1, Ordering::Relaxed);
            return None;
        };
        // The user may have many pipes already; a small one serves too.
        let _ = fcntl_setpipe_size(&write, MAX_SPLICE_BYTES);
        #[cfg(test)]
        testing::LIVE.set(testing::LIVE.get() + 1);
        Some(Pipe {
            read,
            write,
            filled: 0,
        })
    }

    /// Gives the pipe back for others; one with bytes in it is closed, and they are gone.
    pub(super) fn give_back(self) {
        if self.filled == 0 {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < MAX_POOLED_PIPES {
                    pool.push(self);
                }
            });
        }
    }

    /// Bytes in the pipe.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// Moves what the socket has into the empty pipe; 0 is the socket's end.
    ///
    /// # Errors
    /// What broke the socket, or what [`is_unsupported`] knows.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
    ) -> Poll<io::Result<usize>> {
        let moved = ready!(poll_io(cx, from, Interest::READABLE, || {
            moved(from, &self.write, MAX_SPLICE_BYTES)
        }));
        if let Ok(moved) = moved {
            self.filled += moved;
        }
        Poll::Ready(moved)
    }

    /// Moves at most `most` of what is in the pipe to the socket.
    ///
    /// # Errors
    /// What broke the socket.
    pub(super) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        // Never more than there is: the kernel would wait for the rest before it sends.
        let most = most.min(self.filled);
        let moved = ready!(poll_io(cx, to, Interest::WRITABLE, || {
            moved(&self.read, to, most)
        }))?;
        self.filled -= moved;
        #[cfg(test)]
        testing::SPLICED.set(testing::SPLICED.get() + moved as u64);
        Poll::Ready(Ok(moved))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
        // A thread that ends drops its pool, when its counters may be gone.
        #[cfg(test)]
        let _ = testing::LIVE.try_with(|live| live.set(live.get() - 1));
    }
}

/// Whether an error means that this kernel, or who watches over it, does not splice sockets.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
    )
}

/// Pipes that may be open at once: few enough to leave most descriptors to connections.
fn max_pipes() -> usize {
    static MAX: OnceLock<usize> = OnceLock::new();
    *MAX.get_or_init(|| {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let share = descriptors / DESCRIPTORS_PER_PIPE;
        usize::try_from(share)
            .unwrap_or(MAX_PIPES)
            .clamp(MIN_PIPES, MAX_PIPES)
    })
}

fn moved(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, most, SpliceFlags::NONBLOCK)?)
}

fn poll_io(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    interest: Interest,
    mut action: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(match interest {
            Interest::READABLE => socket.poll_read_ready(cx),
            _ => socket.poll_write_ready(cx),
        })?;
        match socket.try_io(interest, &mut action) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}

/// What tests look at; each of them has a thread of its own.
#[cfg(test)]
pub(super) mod testing {
    use std::cell::Cell;

    use super::POOL;

    thread_local! {
        pub(super) static SPLICED: Cell<u64> = const { Cell::new(0) };
        pub(super) static LIVE: Cell<usize> = const { Cell::new(0) };
        pub(super) static NONE: Cell<bool> = const { Cell::new(false) };
    }

    /// Bytes that came out of pipes on this thread.
    pub(crate) fn spliced() -> u64 {
        SPLICED.get()
    }

    /// Pipes of this thread that are open, and how many of them lie in the pool.
    pub(crate) fn live() -> usize {
        LIVE.get()
    }

    pub(crate) fn pooled() -> usize {
        POOL.with_borrow(Vec::len)
    }

    /// While it lives, no pipe is to be had on this thread.
    pub(crate) struct WithoutPipes;

    pub(crate) fn without_pipes() -> WithoutPipes {
        NONE.set(true);
        WithoutPipes
    }

    impl Drop for WithoutPipes {
        fn drop(&mut self) {
            NONE.set(false);
        }
    }
}
