//! A signal that cuts short a system call which takes too long.

use std::ptr::null_mut;
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use rustix::io::Errno;

/// How long a call may take, in whole and up to twice.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// The signal, which comes again and again as long as there is anything to do. Arming it for each
/// call would cost each call.
#[derive(Debug, Default)]
pub(crate) struct Tick {
    runs: bool,
    used: bool,
}

extern "C" fn cut_short(_: libc::c_int) {}

impl Tick {
    /// Blocks every other signal.
    pub(crate) fn prepare() -> Result<(), Errno> {
        let action = SigAction::new(
            SigHandler::Handler(cut_short),
            SaFlags::empty(),
            SigSet::empty(),
        );
        // SAFETY: the handler does nothing, and so is safe at any moment.
        let set = unsafe { sigaction(Signal::SIGALRM, &action) };
        let mut others = SigSet::all();
        others.remove(Signal::SIGALRM);
        let set = set.and_then(|_| others.thread_set_mask());
        set.map_err(|error| Errno::from_raw_os_error(error as i32))
    }

    /// There is something to do.
    pub(crate) fn use_it(&mut self) {
        self.used = true;
        if !self.runs {
            self.runs = set_timer(TICK);
        }
    }

    /// Nothing has been done for a while, perhaps since the last tick.
    pub(crate) fn rest(&mut self) {
        if !self.used && self.runs {
            self.runs = !set_timer(Duration::ZERO);
        }
        self.used = false;
    }
}

fn set_timer(every: Duration) -> bool {
    let time = libc::timeval {
        tv_sec: every.as_secs() as libc::time_t,
        tv_usec: every.subsec_micros().into(),
    };
    let timer = libc::itimerval {
        it_interval: time,
        it_value: time,
    };
    // SAFETY: the new value is live; the old one is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, null_mut()) == 0 }
}
