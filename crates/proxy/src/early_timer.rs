//! A timer that is always about to end while connections come in.
//!
//! Each connection sets time limits for what it waits for, and ends them long before they are due.
//! The runtime wakes its driver (a write to an eventfd, another thread's turn) for each timer that is
//! due before all others, so a connection would cost four wake-ups for nothing. Beside this timer
//! none of them is the first. Where no connection comes in it does not run either.

use std::pin::Pin;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::limits::EARLY_TIMER;

/// The timer of one accept loop.
#[derive(Default)]
pub(crate) struct EarlyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Something came in since it last fired.
    busy: bool,
}

impl EarlyTimer {
    /// Notes that a connection came in.
    pub(crate) fn touch(&mut self) {
        self.busy = true;
        if self.sleep.is_none() {
            self.sleep = Some(Box::pin(sleep_until(Instant::now() + EARLY_TIMER)));
        }
    }

    /// Waits until it fires; it does not while nothing comes in.
    pub(crate) async fn fires(&mut self) {
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
    async fn it_fires_while_connections_come_in_and_then_rests() {
        let mut timer = EarlyTimer::default();
        let long = Duration::from_secs(3600);
        assert!(timeout(long, timer.fires()).await.is_err(), "nothing yet");
        let start = Instant::now();
        timer.touch();
        for round in 1..=3 {
            timer.touch();
            timer.fires().await;
            assert!(
                start.elapsed() >= EARLY_TIMER * round
                    && start.elapsed() < EARLY_TIMER * (round + 1)
            );
        }
        timer.fires().await;
        assert!(timeout(long, timer.fires()).await.is_err(), "at rest");
    }
}
