//! What is written when: takes finished lines, closes windows, retries a full disk. A thread of the
//! recorder's own does it, or one that writes for many.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::bell::Bell;
use crate::budget::Budget;
use crate::id::{Boot, IdSource};
use crate::line::{self, Origin};
use crate::origin;
use crate::queue::{MAX_BATCHES, Orders, Pause, Queue, Rest};
use crate::sink::Output;
use crate::windows::Windows;

/// How often open windows are looked at; a record is written at most this late.
pub(crate) const TICK: Duration = Duration::from_millis(200);
/// How long a recorder that nobody holds any more tries to write its last lines.
pub(crate) const FINAL_WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the recorder's handles and its writer share.
pub(crate) struct Writer {
    pub(crate) queue: Queue,
    pub(crate) windows: Windows,
    pub(crate) budget: Budget,
    pub(crate) origin: Origin,
    pub(crate) boot: Boot,
    pub(crate) ids: IdSource,
    output: Mutex<Output>,
    last_error: Mutex<Option<String>>,
    writing: AtomicBool,
    /// Told when the thread ends although nobody stopped it.
    on_death: OnceLock<OnDeath>,
    /// Its place with a thread that writes for others too.
    seat: OnceLock<Seat>,
}

/// A place with such a thread.
struct Seat {
    thread: Arc<WriterSeat>,
    number: u64,
}

/// A thread that writes for many, as they see it. It ends once nobody sees it any more.
pub(crate) struct WriterSeat(pub(crate) Arc<Bell<Writer>>);

impl Drop for WriterSeat {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Whom to tell that nothing is written any more, and why.
pub(crate) type OnDeath = Box<dyn Fn(&str) + Send + Sync>;

impl Writer {
    pub(crate) fn new(origin: &origin::Origin, output: Output) -> Writer {
        let boot = Boot::new();
        Writer {
            queue: Queue::default(),
            windows: Windows::new(),
            budget: Budget::new(),
            origin: Origin::new(origin, boot),
            boot,
            ids: IdSource::new(boot),
            output: Mutex::new(output),
            last_error: Mutex::new(None),
            writing: AtomicBool::new(false),
            on_death: OnceLock::new(),
            seat: OnceLock::new(),
        }
    }

    /// Leaves the writing to a thread that writes for others too, unless it has begun.
    pub(crate) fn take_seat(&self, thread: Arc<WriterSeat>) {
        if self.is_started() || self.seat.get().is_some() {
            return;
        }
        let (bell, number) = (thread.0.clone(), thread.0.number());
        if self.seat.set(Seat { thread, number }).is_ok() {
            self.queue.woken_by(Box::new(move || bell.ring(number)));
        }
    }

    pub(crate) fn tell_death(&self, tell: OnDeath) {
        // The first who asks is the one that ends with it.
        let _ = self.on_death.set(tell);
    }

    /// Starts the writer, once. It starts with the first decision and not with the recorder: a run
    /// that decides nothing pays for no thread.
    ///
    /// A host without a free thread keeps lines in the queue; the next decision tries again.
    pub(crate) fn ensure_started(self: &Arc<Self>) {
        if self.writing.load(Ordering::Acquire) || self.writing.swap(true, Ordering::AcqRel) {
            return;
        }
        let writer = self.clone();
        if let Some(Seat { thread, number }) = self.seat.get() {
            thread.0.enter(*number, writer);
            return;
        }
        let thread = std::thread::Builder::new().name("records".to_owned());
        if let Err(error) = thread.spawn(move || writer.write()) {
            self.set_error(Some(error.to_string()));
            self.writing.store(false, Ordering::Release);
        }
    }

    /// Writes everything, waiting at most `at_most`; whether it was done.
    pub(crate) fn flush(self: &Arc<Self>, at_most: Duration) -> bool {
        if !self.any_open() && self.queue.is_empty() && !self.is_started() {
            return true;
        }
        self.ensure_started();
        self.is_started() && self.queue.flush(Instant::now() + at_most)
    }

    /// Writes everything and ends the writer; what is not written after `at_most` is given up.
    pub(crate) fn finish(self: &Arc<Self>, at_most: Duration) {
        if self.any_open() || !self.queue.is_empty() {
            self.ensure_started();
        }
        if self.is_started() {
            self.queue.stop(Instant::now() + at_most);
        }
    }

    /// Whether a line waits for its time to be up.
    fn any_open(&self) -> bool {
        self.windows.any_open() || self.budget.any_open()
    }

    fn is_started(&self) -> bool {
        self.writing.load(Ordering::Acquire)
    }

    /// The last error of the sink, until a write succeeds.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_error(&self, error: Option<String>) {
        let mut last = self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if error.is_some() || last.is_some() {
            *last = error;
        }
    }

    /// A thread of the recorder's own: writes until it is stopped.
    fn write(&self) {
        while let Some(pause) = self.turn() {
            self.queue.sleep(pause, TICK);
        }
    }

    /// Writes what waits, and says how long there is nothing to do; `None` at the end. If it panics,
    /// nothing is written any more, and nobody waits for it in vain.
    pub(crate) fn turn(&self) -> Option<Pause> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = AssertUnwindSafe(|| self.write_until_rest(&mut output));
        let panic = match catch_unwind(turn) {
            Ok(Some(pause)) => return Some(pause),
            Ok(None) => None,
            Err(panic) => Some(panic),
        };
        drop(output);
        let died = panic.map(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("their writer panicked: {}", text.unwrap_or("no message"))
        });
        if died.is_some() {
            self.set_error(died.clone());
        }
        self.queue.ended();
        if let Some((tell, why)) = self.on_death.get().zip(died) {
            tell(&why);
        }
        None
    }

    fn write_until_rest(&self, output: &mut Output) -> Option<Pause> {
        loop {
            let Orders { flush, stop } = self.queue.orders();
            let everything = flush.is_some() || stop.is_some();
            let result = self.write_all(output, everything);
            self.set_error(result.as_ref().err().map(ToString::to_string));
            let rest = match (result, stop) {
                (Ok(wrote), stop) => {
                    if let Some(number) = flush {
                        self.queue.flushed(number);
                    }
                    match (stop, wrote) {
                        (Some(_), _) => return None,
                        (None, true) => Rest::Collect,
                        (None, false) => Rest::Wait,
                    }
                }
                (Err(_), Some(by)) if Instant::now() >= by => {
                    output.abandon();
                    return None;
                }
                (Err(_), _) => Rest::Retry,
            };
            if let Some(pause) = self.queue.lie_down(rest, || self.any_open()) {
                return Some(pause);
            }
        }
    }

    /// Writes all that waits now: first what the sink did not take last time, then the windows
    /// that are due, then the queue. Whether there was anything new.
    fn write_all(&self, output: &mut Output, all_windows: bool) -> io::Result<bool> {
        let mut items = Vec::new();
        let mut any = false;
        output.write()?;
        let now = Instant::now();
        self.windows.close(now, all_windows, &mut items);
        self.budget.close(now, all_windows, &mut items);
        for batch in 1..=MAX_BATCHES {
            let lost = self.queue.take(&mut items, batch == MAX_BATCHES);
            for item in items.drain(..) {
                any = true;
                output.add(&item.line, &self.origin);
            }
            if let Some(lost) = lost {
                let line = line::lost(&self.origin, self.ids.next(), Timestamp::now(), &lost);
                output.skip(lost.lines);
                output.add(&line, &self.origin);
            }
            output.write()?;
            if self.queue.is_empty() {
                break;
            }
        }
        Ok(any)
    }
}
