//! A timer that is always about to end while connections come in.
//!
//! Each connection sets time limits for what it waits for, and ends them long before they are due.
//! The runtime wakes its driver (a write to an eventfd, another thread's turn) for each timer that is
//! due before all others, so a connection would cost four wake-ups for nothing. Beside a pulse none
//! of them is the first. Where no connection comes in there is no pulse either.

use std::pin::Pin;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::limits::PULSE;

/// The pulse of one accept loop.
#[derive(Default)]
pub(crate) struct Pulse {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Something came in since the last beat.
    busy: bool,
}

impl Pulse {
    /// Notes that a connection came in.
    pub(crate) fn touch(&mut self) {
        self.busy = true;
        if self.sleep.is_none() {
            self.sleep = Some(Box::pin(sleep_until(Instant::now() + PULSE)));
        }
    }

    /// Waits for the next beat; there is none while nothing comes in.
    pub(crate) async fn beat(&mut self) {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().await,
            None => std::future::pending().await,
        }
        self.sleep = None;
        if std::mem::take(&mut self.busy) {
            self.touch();
            self.busy = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_beats_while_connections_come_in_and_then_rests() {
        let mut pulse = Pulse::default();
        let long = Duration::from_secs(3600);
        assert!(timeout(long, pulse.beat()).await.is_err(), "nothing yet");
        let start = Instant::now();
        pulse.touch();
        for beat in 1..=3 {
            pulse.touch();
            pulse.beat().await;
            assert!(start.elapsed() >= PULSE * beat && start.elapsed() < PULSE * (beat + 1));
        }
        pulse.beat().await;
        assert!(timeout(long, pulse.beat()).await.is_err(), "at rest");
    }
}
