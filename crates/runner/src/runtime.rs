//! The runtime of one sandbox's gateway, with every thread that it will ever have.
//!
//! Answers *exhaustion* (docs/threats.md). Some work would hold up the threads that serve: the
//! system's resolver, reading the host's certificates, a socket made inside. It is done on threads that
//! wait for it from before the program starts, since the program can use up its user's process ids.

use std::io;
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Threads that serve one sandbox.
const WORKER_THREADS: usize = 2;
/// Threads for work that blocks. More work than that waits for one of them.
const BLOCKING_THREADS: usize = 2;
/// All threads besides the first: the runtime's, the one that follows the policy, and the writer of
/// records.
const ALL_THREADS: usize = WORKER_THREADS + BLOCKING_THREADS + 2;
/// How long an idle thread is kept: longer than any sandbox lives.
const KEEP_ALIVE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How long a thread may take to run first.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts it.
///
/// # Errors
/// There are not enough threads or descriptors.
pub(crate) fn start() -> io::Result<Runtime> {
    try_threads()?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(KEEP_ALIVE)
        .enable_all()
        .build()?;
    // Each holds its thread until all have one.
    let all = Arc::new(Barrier::new(BLOCKING_THREADS));
    let (began, begun) = mpsc::sync_channel(BLOCKING_THREADS);
    for _ in 0..BLOCKING_THREADS {
        let (all, began) = (all.clone(), began.clone());
        runtime.spawn_blocking(move || {
            all.wait();
            let _ = began.send(());
        });
    }
    for _ in 0..BLOCKING_THREADS {
        let in_time = begun.recv_timeout(START_TIMEOUT);
        in_time.map_err(|_| io::Error::other("the user has no processes or threads left"))?;
    }
    Ok(runtime)
}

/// Starts as many threads as will be needed, and ends them: the runtime waits for ever where it gets some
/// of its own and not all.
fn try_threads() -> io::Result<()> {
    let mut started = Vec::with_capacity(ALL_THREADS);
    let mut result = Ok(());
    let (all_there, wait) = mpsc::channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    while started.len() < ALL_THREADS && result.is_ok() {
        let wait = wait.clone();
        // The first takes the lock until there is nobody left to wait for, and the others wait for it.
        let thread = std::thread::Builder::new().spawn(move || {
            let _ = wait.lock().map(|wait| wait.recv());
        });
        result = thread.map(|thread| started.push(thread));
    }
    drop(all_there);
    for thread in started {
        let _ = thread.join();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_blocks_needs_no_further_thread() {
        let count = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        let runtime = start().unwrap();
        let before = count();
        let work: Vec<_> = (0..20)
            .map(|_| runtime.spawn_blocking(|| std::thread::sleep(Duration::from_millis(5))))
            .collect();
        for work in work {
            runtime.block_on(work).unwrap();
        }
        assert_eq!(count(), before);
    }
}
