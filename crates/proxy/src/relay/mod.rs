//! The relay: bytes from one socket to the other, both ways, exactly.
//!
//! Half-close, reset and error arrive on the other side as what they were. There is no idle
//! timeout. An idle relay holds neither buffer nor pipe: bytes pass through a scratch buffer of the
//! worker thread, or through the kernel alone ([`direction`]), and only what the receiving side does
//! not take at once is kept, within bounds; reading stops until it is gone.

mod direction;
mod pipe;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use portcullis_dial::Stream;
use portcullis_record::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

pub(crate) use self::direction::Watcher;
use self::direction::{Direction, RelayError, Watched, permit_for};
use crate::limits::{HALF_CLOSED_CHECK, KEEPALIVE_DELAY, MAX_READ_BYTES, MIN_READ_BYTES};
use crate::meter::{Meter, Way};
use crate::socket;
use crate::stop::Stop;

/// The head of a frame (RFC 9113 section 4.1).
const SETTINGS_HEAD_BYTES: usize = 9;
/// One setting in a SETTINGS frame (RFC 9113 section 6.5.1).
const SETTING_BYTES: u16 = 6;

thread_local! {
    /// What is read passes through here; borrowed for one turn of one relay, never across an await.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_READ_BYTES].into_boxed_slice());
}

/// What a relayed connection carried, and why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// Why it ended.
    pub end: CloseReason,
    /// Bytes from the program.
    pub up: u64,
    /// Bytes to the program.
    pub down: u64,
}

/// Relays a connection of a program that was decided on elsewhere (a published port), until both
/// sides are done, one breaks, or `token` is cancelled.
pub async fn relay_between(
    program: TcpStream,
    other: TcpStream,
    token: &CancellationToken,
) -> Relayed {
    socket::prepare(&program);
    let mut relay = Relay::new(program, Stream::Tcp(other));
    let stop = Stop::default();
    let end = tokio::select! {
        end = relay.run(&stop) => end,
        () = token.cancelled() => CloseReason::Shutdown,
    };
    let (up, down) = relay.bytes();
    if end == CloseReason::Shutdown {
        relay.reset();
    }
    Relayed { end, up, down }
}

/// Two sockets and what is on its way between them.
pub(crate) struct Relay {
    client: TcpStream,
    upstream: Stream,
    up: Direction,
    down: Direction,
    /// The side that broke while bytes from it were still to be passed on.
    broken: Option<Side>,
    /// Runs while one direction has ended and the other has not.
    check: Option<Pin<Box<Sleep>>>,
    keepalive: Keepalive,
    /// Where limits concern the flow: who permits what is written.
    meter: Option<Box<Meter>>,
}

/// Whether upstream's socket has keepalive. The client's has it from the listener.
enum Keepalive {
    /// The relay has not waited yet.
    Unset,
    /// It gets it in a moment.
    Due(Pin<Box<Sleep>>),
    Set,
}

/// One end of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The program in the sandbox.
    Client,
    /// The destination.
    Upstream,
}

impl Relay {
    pub(crate) fn new(client: TcpStream, upstream: Stream) -> Relay {
        let (up, down) = (Direction::to_upstream(), Direction::to_client());
        Relay {
            client,
            upstream,
            up,
            down,
            broken: None,
            check: None,
            keepalive: Keepalive::Unset,
            meter: None,
        }
    }

    /// Has everything that passes from now on watched.
    pub(crate) fn watch(&mut self, watcher: Arc<dyn Watcher>) {
        for (direction, way) in [(&mut self.up, Way::Up), (&mut self.down, Way::Down)] {
            let watcher = watcher.clone();
            direction.watch(Watched { watcher, way });
        }
    }

    /// Has every byte from now on wait for its permit.
    pub(crate) fn set_meter(&mut self, meter: Option<Box<Meter>>) {
        self.meter = meter;
    }

    /// The limit that ended the relay, in the words of the policy.
    pub(crate) fn limit(&self) -> Option<&'static str> {
        Some(self.meter.as_ref()?.cut()?.detail)
    }

    /// Bytes for upstream that were read before the relay began; they go first.
    pub(crate) fn push_up(&mut self, bytes: Vec<u8>) {
        self.up.push(bytes);
    }

    /// Bytes for the client that were read before the relay began; they go first.
    pub(crate) fn push_down(&mut self, bytes: Vec<u8>) {
        self.down.push(bytes);
    }

    /// Bytes passed so far: up, down.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.up.bytes, self.down.bytes)
    }

    /// Ends the relay and gives the sockets back, as they are.
    pub(crate) fn into_sockets(self) -> (TcpStream, Stream) {
        (self.client, self.upstream)
    }

    /// Whether upstream has ended, or has bytes under way to the client.
    pub(crate) fn upstream_spoke(&self) -> bool {
        self.down.began()
    }

    /// Lets the end of both sides be a reset.
    pub(crate) fn end_hard(&self) {
        let _ = self.client.set_zero_linger();
        let _ = self.upstream.tcp().set_zero_linger();
    }

    /// Resets both sides.
    pub(crate) fn reset(self) {
        socket::reset(self.client);
        socket::reset_upstream(self.upstream);
    }

    /// Passes on what upstream says and what was pushed, and adds what the client says to `pending`
    /// instead of passing it on; ready when the client said something (the number of bytes, 0 at its end) or when the
    /// flow is over.
    pub(crate) fn poll_client(
        &mut self,
        cx: &mut Context<'_>,
        pending: &mut Vec<u8>,
    ) -> Poll<Result<usize, CloseReason>> {
        match self.poll_first(cx, pending) {
            Poll::Pending => self.poll_idle(cx).map(Err),
            read => read,
        }
    }

    /// Whether upstream has begun HTTP/2, which servers may do before they have heard anything (RFC 9113
    /// section 3.4). That stays where it is until the client has spoken: if it speaks HTTP/2 too, its
    /// requests are decided on, and upstream speaks to the gateway.
    ///
    /// # Errors
    /// Upstream has reset the connection, which a socket tells once.
    fn holds_settings(&self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if self.down.began() || !self.upstream.is_plain() {
            return Ok(false);
        }
        let mut first = [0; SETTINGS_HEAD_BYTES];
        let mut first = ReadBuf::new(&mut first);
        if let Poll::Ready(peeked) = self.upstream.tcp().poll_peek(cx, &mut first) {
            peeked.map_err(|_| CloseReason::UpstreamReset)?;
        }
        let is_length =
            |high: u8, low: u8| u16::from_be_bytes([high, low]).is_multiple_of(SETTING_BYTES);
        let begins =
            matches!(first.filled(), [0, high, low, 4, 0, 0, 0, 0, 0] if is_length(*high, *low));
        Ok(begins)
    }

    fn poll_first(
        &mut self,
        cx: &mut Context<'_>,
        pending: &mut Vec<u8>,
    ) -> Poll<Result<usize, CloseReason>> {
        SCRATCH.with_borrow_mut(|scratch| {
            if !self.down.done && !self.holds_settings(cx)? {
                let (from, to) = (&mut self.upstream, &mut self.client);
                let permit = permit_for(&mut self.meter, Way::Down);
                match self.down.poll(cx, (from, to), permit, scratch, false) {
                    Poll::Ready(Err(RelayError::Limit(end))) => return Poll::Ready(Err(end)),
                    Poll::Ready(Err(RelayError::Sender)) => {
                        return Poll::Ready(Err(CloseReason::UpstreamReset));
                    }
                    Poll::Ready(Err(RelayError::Receiver)) => {
                        return Poll::Ready(Err(CloseReason::ClientReset));
                    }
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            let mut permit = permit_for(&mut self.meter, Way::Up);
            match self.up.poll_waiting(cx, &mut self.upstream, &mut permit) {
                Poll::Ready(Err(RelayError::Limit(end))) => return Poll::Ready(Err(end)),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(CloseReason::UpstreamReset)),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            self.flush(cx);
            let mut buffer = ReadBuf::new(&mut scratch[..MIN_READ_BYTES]);
            Poll::Ready(
                match ready!(Pin::new(&mut self.client).poll_read(cx, &mut buffer)) {
                    Ok(()) => {
                        pending.extend_from_slice(buffer.filled());
                        Ok(buffer.filled().len())
                    }
                    Err(_) => Err(CloseReason::ClientReset),
                },
            )
        })
    }

    /// Relays until both directions have ended, one side breaks, or `stop` says so. Anything but
    /// an orderly end resets both sides.
    pub(crate) async fn run(&mut self, stop: &Stop) -> CloseReason {
        let mut stopped = pin!(stop.wait());
        let mut registered = false;
        let end = poll_fn(|cx| {
            if !registered || stop.is_tripped() {
                registered = true;
                if stopped.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(CloseReason::Shutdown);
                }
            }
            self.poll(cx)
        })
        .await;
        if end != CloseReason::Finished {
            let _ = self.client.set_zero_linger();
            let _ = self.upstream.tcp().set_zero_linger();
        }
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        match self.poll_both(cx) {
            Poll::Pending => self.poll_idle(cx),
            end => end,
        }
    }

    /// Ready when nothing passed for as long as a limit allows.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.poll_keepalive(cx);
        let passed = self.up.bytes + self.down.bytes;
        match &mut self.meter {
            Some(meter) => meter.poll_idle(cx, passed),
            None => Poll::Pending,
        }
    }

    /// Gives upstream's socket keepalive when its time has come.
    fn poll_keepalive(&mut self, cx: &mut Context<'_>) {
        if matches!(self.keepalive, Keepalive::Unset) {
            self.keepalive = Keepalive::Due(Box::pin(sleep(KEEPALIVE_DELAY)));
        }
        if let Keepalive::Due(due) = &mut self.keepalive
            && due.as_mut().poll(cx).is_ready()
        {
            socket::keep_alive(self.upstream.tcp());
            self.keepalive = Keepalive::Set;
        }
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        SCRATCH.with_borrow_mut(|scratch| {
            if !self.up.done {
                let (from, to) = (&mut self.client, &mut self.upstream);
                let permit = permit_for(&mut self.meter, Way::Up);
                match self
                    .up
                    .poll(cx, (from, to), permit, scratch, self.down.done)
                {
                    Poll::Ready(Err(RelayError::Limit(end))) => return Poll::Ready(end),
                    Poll::Ready(Err(RelayError::Sender)) => {
                        return Poll::Ready(Side::Client.reset());
                    }
                    Poll::Ready(Err(RelayError::Receiver)) => self.broken = Some(Side::Upstream),
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            if !self.down.done {
                let (from, to) = (&mut self.upstream, &mut self.client);
                let permit = permit_for(&mut self.meter, Way::Down);
                match self
                    .down
                    .poll(cx, (from, to), permit, scratch, self.up.done)
                {
                    Poll::Ready(Err(RelayError::Limit(end))) => return Poll::Ready(end),
                    Poll::Ready(Err(RelayError::Sender)) => {
                        return Poll::Ready(Side::Upstream.reset());
                    }
                    Poll::Ready(Err(RelayError::Receiver)) => self.broken = Some(Side::Client),
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            self.flush(cx);
            if self.up.done && self.down.done {
                return Poll::Ready(self.broken.map_or(CloseReason::Finished, Side::reset));
            }
            if self.up.done || self.down.done {
                return self.poll_half_closed(cx);
            }
            Poll::Pending
        })
    }

    /// Sees off what TLS has taken and not yet written. If that fails, the next read or write does.
    fn flush(&mut self, cx: &mut Context<'_>) {
        if !self.upstream.is_plain() {
            let _ = Pin::new(&mut self.upstream).poll_flush(cx);
        }
    }

    /// A half-closed relay reads one side only, so that a reset from the other would go unseen:
    /// looks for it now and then.
    fn poll_half_closed(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let check = self
            .check
            .get_or_insert_with(|| Box::pin(sleep(HALF_CLOSED_CHECK)));
        while check.as_mut().poll(cx).is_ready() {
            // The side that is still read tells its end in order, behind its last bytes.
            let (stream, side) = match self.up.done {
                true => (&self.client, Side::Client),
                false => (self.upstream.tcp(), Side::Upstream),
            };
            if matches!(stream.take_error(), Ok(Some(_)) | Err(_)) {
                return Poll::Ready(side.reset());
            }
            check.as_mut().reset(Instant::now() + HALF_CLOSED_CHECK);
        }
        Poll::Pending
    }
}

impl Side {
    fn reset(self) -> CloseReason {
        match self {
            Side::Client => CloseReason::ClientReset,
            Side::Upstream => CloseReason::UpstreamReset,
        }
    }
}
