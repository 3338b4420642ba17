//! The program's end of an inspected connection: what was read of it before comes first, what
//! passes is counted, and when something last came is known.

use std::future::{pending, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use portcullis_record::CloseReason;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::ended::Ended;
use crate::meter::{Cut, MAX_CHUNK_BYTES, Meter, Way};
use crate::request::{self, Change, HeadError};

/// The last request that was passed on asks for no change of protocol.
const UPGRADE_NONE: u8 = 0;
/// It asks for one, and nothing was said to it yet.
const UPGRADE_ASKED: u8 = 1;
/// Yes was.
const UPGRADE_GRANTED: u8 = 2;
/// No was.
const UPGRADE_DENIED: u8 = 3;

/// What happens on one connection, seen by several parts of its task.
#[derive(Debug)]
pub(super) struct Activity {
    started: Instant,
    up: AtomicU64,
    down: AtomicU64,
    /// Requests that are being served.
    open: AtomicU32,
    /// Requests in all.
    requests: AtomicU64,
    /// Heads of HTTP/1.1 that were passed on, each to become a request.
    passed: AtomicU64,
    /// When the last request ended, in milliseconds since the start.
    idle_since: AtomicU64,
    /// When the head began that is under way, in milliseconds since the start, and one more.
    head_since: AtomicU64,
    /// What the head under way asks for, as far as it came.
    asked: Mutex<Option<Box<[u8]>>>,
    /// What is wrong with a head: the last that is read of the connection.
    head_error: OnceLock<HeadError>,
    /// What is wrong with the framing of a body: the program's bytes end there.
    bad_body: OnceLock<&'static str>,
    /// What the program is told of that.
    refusal: OnceLock<Vec<u8>>,
    /// What the last request that was passed on says of a change; see [`UPGRADE_NONE`].
    upgrade: AtomicU8,
    /// It is one to something else than WebSocket.
    not_websocket: AtomicBool,
    /// Waits for the requests that are being served, to refuse what came behind them.
    waits: AtomicWaker,
    /// The limit that ended the connection.
    cut: OnceLock<Cut>,
    /// Why the connection is taken down, where it is.
    ends: OnceLock<CloseReason>,
}

impl Activity {
    pub(super) fn new() -> Arc<Activity> {
        Arc::new(Activity {
            started: Instant::now(),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            open: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            asked: Mutex::new(None),
            head_error: OnceLock::new(),
            bad_body: OnceLock::new(),
            refusal: OnceLock::new(),
            upgrade: AtomicU8::new(UPGRADE_NONE),
            not_websocket: AtomicBool::new(false),
            waits: AtomicWaker::new(),
            cut: OnceLock::new(),
            ends: OnceLock::new(),
        })
    }

    /// Bytes from and to the program, as they passed on its connection.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (
            self.up.load(Ordering::Relaxed),
            self.down.load(Ordering::Relaxed),
        )
    }

    /// The limit of this meter ends the connection.
    fn limited(&self, meter: &Meter) {
        if let Some(cut) = meter.cut() {
            let _ = self.cut.set(cut);
        }
    }

    /// The limit that ended the connection, if one did.
    pub(super) fn cut(&self) -> Option<Cut> {
        self.cut.get().copied()
    }

    /// Waits for a reason to take the connection down, and says it to the requests that end with it.
    pub(super) async fn taken_down(&self, by: impl Future<Output = ()>, end: CloseReason) -> Ended {
        by.await;
        let _ = self.ends.set(end);
        Ended::of(end)
    }

    /// Why the connection is being taken down, if it is.
    pub(super) fn ends(&self) -> Option<CloseReason> {
        self.ends.get().copied()
    }

    /// A request begins.
    pub(super) fn begin(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests may come from now on: the handshake took its own time.
    pub(super) fn opens(&self) {
        self.idle_since.store(self.now(), Ordering::Relaxed);
    }

    /// A request is over.
    pub(super) fn end(&self) {
        self.idle_since.store(self.now(), Ordering::Relaxed);
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.waits.wake();
    }

    /// Whether any request came.
    pub(super) fn was_used(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// How long there has been no request; `None` while there is one.
    pub(super) fn idle(&self) -> Option<Duration> {
        if self.open.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let since = self.idle_since.load(Ordering::Relaxed);
        Some(Duration::from_millis(self.now().saturating_sub(since)))
    }

    /// A head is under way.
    pub(super) fn head_began(&self) {
        if self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.now() + 1, Ordering::Relaxed);
        }
    }

    /// What came so far of a head that is under way.
    pub(super) fn head_asks(&self, head: &[u8]) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = request::asked(head);
    }

    /// The head under way takes too long.
    pub(super) fn slow_head(&self) -> HeadError {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        HeadError::too_slow_asking(asked.clone())
    }

    /// What came of a head that is under way and not refused.
    pub(super) fn unfinished_head(&self) -> Option<Box<[u8]>> {
        self.head_waits()
            .filter(|_| self.head_error.get().is_none())?;
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }

    /// It came to its end.
    pub(super) fn head_ended(&self) {
        self.head_since.store(0, Ordering::Relaxed);
    }

    /// A head of HTTP/1.1 is passed on.
    pub(super) fn head_passed(&self) {
        self.head_ended();
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether all requests that were passed on are answered.
    fn all_answered(&self) -> bool {
        let begun = self.requests.load(Ordering::Relaxed);
        begun >= self.passed.load(Ordering::Relaxed) && self.open.load(Ordering::Relaxed) == 0
    }

    /// Reads nothing more: this head is refused.
    pub(super) fn refuse_head(&self, error: HeadError) {
        let _ = self.head_error.set(error);
        self.waits.wake();
    }

    /// A body is framed badly.
    pub(super) fn refuse_body(&self, why: &'static str) {
        let _ = self.bad_body.set(why);
    }

    /// What is wrong with the framing of a body, if anything is.
    pub(super) fn bad_body(&self) -> Option<&'static str> {
        self.bad_body.get().copied()
    }

    /// The head that is refused, if one is.
    pub(super) fn head_error(&self) -> Option<HeadError> {
        self.head_error.get().cloned()
    }

    /// The same, once the requests before it are answered, until [`Activity::tell`].
    pub(super) fn untold_error(&self) -> Option<HeadError> {
        let told = self.refusal.get().is_some();
        self.head_error().filter(|_| !told && self.all_answered())
    }

    /// What the program is told of it.
    pub(super) fn tell(&self, refusal: Vec<u8>) {
        let _ = self.refusal.set(refusal);
    }

    /// See [`Activity::tell`].
    pub(super) fn refusal(&self) -> Option<&[u8]> {
        self.refusal.get().map(Vec::as_slice)
    }

    /// Ready when no request is being served.
    pub(super) fn poll_answered(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waits.register(cx.waker());
        match self.all_answered() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// A change of protocol is asked for.
    pub(super) fn change_asked(&self, change: Change) {
        let not_websocket = change != Change::WebSocket;
        self.not_websocket.store(not_websocket, Ordering::Relaxed);
        self.upgrade.store(UPGRADE_ASKED, Ordering::Relaxed);
    }

    /// What the request that began last wants to change to, where it has no answer.
    pub(super) fn asked_change(&self) -> Change {
        match self.not_websocket.load(Ordering::Relaxed) {
            _ if !self.asks_upgrade() => Change::None,
            false => Change::WebSocket,
            true => Change::Other,
        }
    }

    /// Whether the request that began last is the one that asks for it, and has no answer.
    fn asks_upgrade(&self) -> bool {
        self.upgrade.load(Ordering::Relaxed) == UPGRADE_ASKED
            && self.requests.load(Ordering::Relaxed) == self.passed.load(Ordering::Relaxed)
    }

    /// The answer to that. An answer to a request before it, while it waits, says nothing of it.
    pub(super) fn upgrade_answered(&self, granted: bool) {
        if !self.asks_upgrade() {
            return;
        }
        let answer = if granted {
            UPGRADE_GRANTED
        } else {
            UPGRADE_DENIED
        };
        self.upgrade.store(answer, Ordering::Relaxed);
    }

    /// Whether the change was granted; `None` where that is still to be said.
    pub(super) fn upgraded(&self) -> Option<bool> {
        match self.upgrade.load(Ordering::Relaxed) {
            UPGRADE_ASKED => None,
            answer => Some(answer == UPGRADE_GRANTED),
        }
    }

    /// How long a head has been under way.
    pub(super) fn head_waits(&self) -> Option<Duration> {
        match self.head_since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Duration::from_millis(
                (self.now() + 1).saturating_sub(since),
            )),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn came(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// What limits a connection, for those that move its bytes and for the one that watches it.
#[derive(Clone, Debug)]
pub(super) struct SharedMeter(Arc<Mutex<Box<Meter>>>);

impl SharedMeter {
    pub(super) fn new(meter: Box<Meter>) -> SharedMeter {
        SharedMeter(Arc::new(Mutex::new(meter)))
    }

    fn lock(&self) -> MutexGuard<'_, Box<Meter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the program has reset its connection, or nothing has passed for longer than a limit
/// allows. Neither protocol reads while it waits for an answer, or for room to write one, so that
/// this cannot be left to who reads.
pub(super) async fn gone(
    stream: &TcpStream,
    activity: &Activity,
    meter: Option<&SharedMeter>,
) -> Ended {
    let reset = async {
        match stream.ready(Interest::ERROR).await {
            Ok(ready) if !ready.is_error() => pending().await,
            _ => Ended::of(CloseReason::ClientReset),
        }
    };
    let idle = async {
        let Some(meter) = meter else {
            return pending().await;
        };
        let end = poll_fn(|cx| {
            let (up, down) = activity.bytes();
            meter.lock().poll_idle(cx, up + down)
        });
        let end = end.await;
        activity.limited(&meter.lock());
        Ended::of(end)
    };
    tokio::select! {
        ended = reset => ended,
        ended = idle => ended,
    }
}

/// The program's socket. It is shared with whoever will close it: the protocols on top let go of it
/// as they end, which may be before the program has heard their last words.
#[derive(Debug)]
pub(super) struct Client {
    stream: Arc<TcpStream>,
    /// What was read already, from `at` on.
    prefix: Vec<u8>,
    at: usize,
    activity: Arc<Activity>,
    /// Who permits what passes here, TLS and all, where bytes are limited.
    meter: Option<SharedMeter>,
}

impl Client {
    pub(super) fn new(stream: Arc<TcpStream>, prefix: Vec<u8>, activity: Arc<Activity>) -> Client {
        Client {
            stream,
            prefix,
            at: 0,
            activity,
            meter: None,
        }
    }

    /// Has every byte wait for its permit, where it needs one.
    pub(super) fn metered(self, meter: Option<SharedMeter>) -> Client {
        let meter = meter.filter(|meter| meter.lock().counts());
        Client { meter, ..self }
    }

    /// How many of so many bytes may pass now.
    fn poll_permit(
        &mut self,
        cx: &mut Context<'_>,
        way: Way,
        want: usize,
    ) -> Poll<io::Result<usize>> {
        let Some(meter) = &self.meter else {
            return Poll::Ready(Ok(want));
        };
        let mut meter = meter.lock();
        let permitted = ready!(meter.poll_permit(cx, way, want));
        Poll::Ready(permitted.map_err(|_| {
            self.activity.limited(&meter);
            io::Error::other("a limit ended the connection")
        }))
    }

    fn passed(&mut self, way: Way, bytes: usize) {
        if let Some(meter) = &self.meter {
            meter.lock().passed(way, bytes);
        }
    }

    /// What was read and not yet passed on.
    fn poll_held(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.prefix.len() - self.at;
        let taken = ready!(self.poll_permit(cx, Way::Up, left))?.min(buffer.remaining());
        buffer.put_slice(&self.prefix[self.at..self.at + taken]);
        self.passed(Way::Up, taken);
        self.at += taken;
        if self.at == self.prefix.len() {
            (self.prefix, self.at) = (Vec::new(), 0);
        }
        self.activity.came(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Client {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let client = self.get_mut();
        loop {
            if client.at < client.prefix.len() {
                return client.poll_held(cx, buffer);
            }
            ready!(client.stream.poll_read_ready(cx))?;
            if client.meter.is_some() {
                // Held here until it is permitted.
                client.prefix.reserve_exact(MAX_CHUNK_BYTES);
                match client.stream.try_read_buf(&mut client.prefix) {
                    Ok(0) => return Poll::Ready(Ok(())),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
                continue;
            }
            match client.stream.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    client.activity.came(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let client = self.get_mut();
        loop {
            ready!(client.stream.poll_write_ready(cx))?;
            let may = ready!(client.poll_permit(cx, Way::Down, bytes.len()))?;
            match client.stream.try_write(&bytes[..may]) {
                Ok(written) => {
                    client.passed(Way::Down, written);
                    client
                        .activity
                        .down
                        .fetch_add(written as u64, Ordering::Relaxed);
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_was_read_before_comes_first_and_all_is_counted() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (mut program, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
        let activity = Activity::new();
        let mut client = Client::new(
            Arc::new(accepted.unwrap().0),
            b"read before, ".to_vec(),
            activity.clone(),
        );
        program
            .as_mut()
            .unwrap()
            .write_all(b"then sent")
            .await
            .unwrap();
        let mut heard = [0; 22];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"read before, then sent");
        client.write_all(b"back").await.unwrap();
        assert_eq!(activity.bytes(), (22, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_come_to_its_end_is_noticed() {
        let activity = Activity::new();
        assert!(activity.head_waits().is_none() && !activity.was_used());
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(activity.idle(), Some(Duration::from_secs(3)));
        activity.opens();
        assert_eq!(activity.idle(), Some(Duration::ZERO));
        activity.head_began();
        tokio::time::advance(Duration::from_secs(2)).await;
        activity.head_began();
        assert_eq!(activity.head_waits(), Some(Duration::from_secs(2)));
        activity.head_ended();
        activity.begin();
        assert!(activity.head_waits().is_none() && activity.idle().is_none());
        activity.end();
        assert_eq!(activity.idle(), Some(Duration::ZERO));
    }
}
