//! How decisions and flows fell, for metrics and for the end of a run. Never a number per name: the
//! table's size is fixed, whatever a sandbox asks for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_policy::{Reason, Verdict};

use crate::event::{Close, CloseReason, Layer};

const VERDICTS: [Verdict; 4] = [
    Verdict::Allow,
    Verdict::Deny,
    Verdict::Error,
    Verdict::Audit,
];

/// The numbers of one layer: a row of reasons for each verdict.
type Table<T> = Box<[T]>;

/// The live numbers.
pub(crate) struct Counters {
    /// Made when a layer is first decided on: few sandboxes use all, and a process may serve a thousand.
    layers: [OnceLock<Table<AtomicU64>>; Layer::ALL.len()],
    closes: [AtomicU64; CloseReason::ALL.len()],
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl Counters {
    pub(crate) fn new() -> Counters {
        Counters {
            layers: [const { OnceLock::new() }; Layer::ALL.len()],
            closes: [const { AtomicU64::new(0) }; CloseReason::ALL.len()],
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
        }
    }

    pub(crate) fn decision(&self, layer: Layer, verdict: Verdict, reason: Reason) {
        let table = self.layers[layer as usize].get_or_init(|| {
            let cells = VERDICTS.len() * Reason::ALL.len();
            (0..cells).map(|_| AtomicU64::new(0)).collect()
        });
        if let Some(cell) = table.get(cell(verdict, reason)) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn close(&self, close: &Close<'_>) {
        self.closes[close.close_reason as usize].fetch_add(1, Ordering::Relaxed);
        if !close.within {
            self.bytes_up.fetch_add(close.bytes_up, Ordering::Relaxed);
            self.bytes_down
                .fetch_add(close.bytes_down, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let table = |table: &OnceLock<Table<AtomicU64>>| {
            let cells = table.get().map(|cells| cells.iter().map(read).collect());
            cells.unwrap_or_default()
        };
        Snapshot {
            layers: self.layers.each_ref().map(table),
            closes: self.closes.each_ref().map(read),
            bytes_up: read(&self.bytes_up),
            bytes_down: read(&self.bytes_down),
        }
    }
}

fn cell(verdict: Verdict, reason: Reason) -> usize {
    let row = match verdict {
        Verdict::Allow => 0,
        Verdict::Deny => 1,
        Verdict::Error => 2,
        Verdict::Audit => 3,
    };
    row * Reason::ALL.len() + reason as usize
}

/// Decisions by layer, verdict and reason, and flows that have ended, at one moment. Every decision and
/// every close counts, those that share a record and those whose record was lost included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    layers: [Table<u64>; Layer::ALL.len()],
    closes: [u64; CloseReason::ALL.len()],
    bytes_up: u64,
    bytes_down: u64,
}

impl Snapshot {
    /// Decisions with this verdict and reason, on all layers.
    #[must_use]
    pub fn get(&self, verdict: Verdict, reason: Reason) -> u64 {
        let layers = Layer::ALL.iter();
        layers.map(|&layer| self.at(layer, verdict, reason)).sum()
    }

    /// Decisions with this verdict.
    #[must_use]
    pub fn verdict(&self, verdict: Verdict) -> u64 {
        let reasons = Reason::ALL.iter();
        reasons.map(|&reason| self.get(verdict, reason)).sum()
    }

    /// Every combination that occurred, with its number.
    pub fn decisions(&self) -> impl Iterator<Item = (Layer, Verdict, Reason, u64)> + '_ {
        Layer::ALL.iter().flat_map(move |&layer| {
            VERDICTS.iter().flat_map(move |&verdict| {
                Reason::ALL.iter().filter_map(move |&reason| {
                    let count = self.at(layer, verdict, reason);
                    (count > 0).then_some((layer, verdict, reason, count))
                })
            })
        })
    }

    /// Every reason that a flow ended for, with the number of flows. A request within a connection is a
    /// flow of its own.
    pub fn closes(&self) -> impl Iterator<Item = (CloseReason, u64)> + '_ {
        let all = CloseReason::ALL.iter().copied().zip(self.closes);
        all.filter(|(_, count)| *count > 0)
    }

    /// Bytes from programs to upstream, of flows that have ended. Bytes of requests count once, with the
    /// connection that they are part of.
    #[must_use]
    pub fn bytes_up(&self) -> u64 {
        self.bytes_up
    }

    /// Bytes from upstream to programs, as [`Snapshot::bytes_up`].
    #[must_use]
    pub fn bytes_down(&self) -> u64 {
        self.bytes_down
    }

    fn at(&self, layer: Layer, verdict: Verdict, reason: Reason) -> u64 {
        let table = &self.layers[layer as usize];
        table.get(cell(verdict, reason)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_combination_has_a_cell_of_its_own() {
        let counters = Counters::new();
        for &layer in Layer::ALL {
            for verdict in VERDICTS {
                for &reason in Reason::ALL {
                    counters.decision(layer, verdict, reason);
                }
            }
        }
        let snapshot = counters.snapshot();
        assert!(snapshot.decisions().all(|(_, _, _, count)| count == 1));
        let layers = Layer::ALL.len();
        let combinations = layers * VERDICTS.len() * Reason::ALL.len();
        assert_eq!(snapshot.decisions().count(), combinations);
        let denied = (layers * Reason::ALL.len()) as u64;
        assert_eq!(snapshot.verdict(Verdict::Deny), denied);
        assert_eq!(
            snapshot.get(Verdict::Deny, Reason::NotListed),
            layers as u64
        );
    }

    #[test]
    fn bytes_of_a_request_within_a_connection_count_once() {
        let counters = Counters::new();
        for &reason in CloseReason::ALL {
            counters.close(&Close::new(reason, 2, 3, Duration::ZERO));
        }
        counters.close(&Close {
            within: true,
            ..Close::new(CloseReason::Finished, 5, 7, Duration::ZERO)
        });
        let snapshot = counters.snapshot();
        let ends = CloseReason::ALL.len() as u64;
        assert_eq!(snapshot.bytes_up(), 2 * ends);
        assert_eq!(snapshot.bytes_down(), 3 * ends);
        let of = |wanted| snapshot.closes().find(|(reason, _)| *reason == wanted);
        assert_eq!(of(CloseReason::Finished), Some((CloseReason::Finished, 2)));
        assert_eq!(of(CloseReason::Shutdown), Some((CloseReason::Shutdown, 1)));
    }
}
