//! Every limit of the entrances, and the counter that holds one sandbox to its connections.
//!
//! Answers *exhaustion* (docs/threats.md): half-open, slow and idle connections cost a bounded
//! number of descriptors, bytes and seconds, and what is refused for it is recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis_policy::Limits;

/// Connections of one sandbox at once, over all entrances, unless its policy says otherwise.
pub const MAX_CONNECTIONS: usize = 4096;
/// Connections over the limit that are told so at once; any further one is reset.
pub const MAX_REFUSALS: usize = 64;

/// From a connection's start, or a request's first byte, to the end of its head or handshake.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// From the first byte in a tunnel to the point where it is known what the bytes are.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a first word that a request may still come of is held; then it passes, watched.
pub(crate) const UNDECIDED_WAIT: Duration = Duration::from_millis(50);
/// The same of a part of a first line that has several words.
pub(crate) const LINE_WAIT: Duration = Duration::from_secs(2);
/// Between two requests on a kept-alive connection.
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(75);
/// To write a refusal, an alert or a SOCKS reply.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// To let a client read a refusal before its connection goes.
pub(crate) const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// What a client may send after a refusal before it is cut off.
pub(crate) const MAX_LINGER_BYTES: usize = 256 * 1024;
/// For flows to end after the token was cancelled.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How far away the next timer is while connections come in; shorter than what they wait for.
pub(crate) const EARLY_TIMER: Duration = Duration::from_millis(100);
/// Flows of datagrams of one sandbox at once.
pub const MAX_DATAGRAM_FLOWS: usize = 512;
/// Bytes of datagrams that wait to be sent, of all flows of one sandbox; more are dropped.
pub(crate) const MAX_QUEUED_DATAGRAM_BYTES: usize = 2 * 1024 * 1024;
/// How long a direct connection's record waits for the name that its first bytes may show.
pub(crate) const RECORD_DELAY: Duration = Duration::from_millis(500);
/// How often a half-closed tunnel is looked at for a peer that is gone.
pub(crate) const HALF_CLOSED_CHECK: Duration = Duration::from_secs(30);

/// TCP keepalive on both sides of every flow: there is no idle timeout, so dead peers are found
/// by the kernel.
pub(crate) const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
/// How long a relay is open before upstream's socket gets keepalive. Most connections end sooner and
/// are spared the calls.
pub(crate) const KEEPALIVE_DELAY: Duration = Duration::from_millis(500);
/// Between two probes.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Probes without an answer until the peer counts as gone.
pub(crate) const KEEPALIVE_RETRIES: u32 = 4;

/// What a relay reads at first, and while its reader is slow; a flow that fills it is bulk.
pub(crate) const MIN_READ_BYTES: usize = 16 * 1024;
/// What a relay copies of a fast flow; also the most that one direction ever holds in memory.
pub(crate) const MAX_READ_BYTES: usize = 128 * 1024;
/// What a relay splices at once; also the most that one direction ever holds in a pipe.
pub(crate) const MAX_SPLICE_BYTES: usize = 256 * 1024;
/// A flow that has less than this is bulk no longer.
pub(crate) const MIN_SPLICE_BYTES: usize = 4 * 1024;
/// Reads in one turn of a relay before other flows get theirs.
pub(crate) const MAX_ROUNDS: usize = 16;
/// Bytes of one direction in one turn, give or take what is moved at once.
pub(crate) const MAX_TURN_BYTES: usize = 1024 * 1024;
/// Pipes in use or in reserve, over all threads; each is two descriptors.
pub(crate) const MAX_PIPES: usize = 512;
/// The same where descriptors are few.
pub(crate) const MIN_PIPES: usize = 8;
/// Descriptors that there must be for each pipe.
pub(crate) const DESCRIPTORS_PER_PIPE: u64 = 32;
/// Empty pipes that a worker thread keeps.
pub(crate) const MAX_POOLED_PIPES: usize = 16;

/// Bytes of a body on their way through the forwarder, each direction.
pub(crate) const BODY_BUFFER_BYTES: usize = 32 * 1024;
/// First buffer for a head; it grows up to the head's limit.
pub(crate) const HEAD_BUFFER_BYTES: usize = 2048;
/// Longest response head.
pub(crate) const MAX_RESPONSE_HEAD_BYTES: usize = 64 * 1024;
/// Most fields in a response head.
pub(crate) const MAX_RESPONSE_FIELDS: usize = 200;
/// Interim (1xx) answers to one request.
pub(crate) const MAX_INTERIM: usize = 32;

/// What the task of one connection takes while it is idle, its sockets' kernel memory aside.
#[cfg(test)]
pub(crate) const MAX_CONNECTION_FUTURE_BYTES: usize = 640;

/// The same while the client has not said anything in its tunnel, the task itself aside.
#[cfg(test)]
pub(crate) const MAX_SILENT_FUTURE_BYTES: usize = 2400;

/// How long a handshake (TLS, SOCKS) may take.
pub(crate) fn handshake_timeout(limits: &Limits) -> Duration {
    limits.handshake_timeout.unwrap_or(HELLO_TIMEOUT)
}

/// How long a request's head may take.
pub(crate) fn header_timeout(limits: &Limits) -> Duration {
    limits.header_timeout.unwrap_or(HEADER_TIMEOUT)
}

/// How long a kept-alive connection may be silent between two requests.
pub(crate) fn keep_alive_timeout(limits: &Limits) -> Duration {
    let idle = limits.flows.idle_timeout.unwrap_or(KEEP_ALIVE_TIMEOUT);
    idle.min(KEEP_ALIVE_TIMEOUT)
}

/// A number of places, taken without a lock.
#[derive(Debug)]
pub(crate) struct Slots {
    taken: AtomicUsize,
    max: AtomicUsize,
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Slots>);

impl Slots {
    pub(crate) fn new(max: usize) -> Arc<Slots> {
        Arc::new(Slots {
            taken: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
        })
    }

    /// Makes room for so many from now on; those that are in stay.
    pub(crate) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Release);
    }

    /// Takes a place if there is one.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let max = self.max.load(Ordering::Acquire);
        let more = |taken| (taken < max).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, more)
            .ok()?;
        Some(Slot(self.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}
