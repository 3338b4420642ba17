//! How many decisions fell how, for metrics and for the end of a run. Never a number per name: the
//! table's size is fixed, whatever a sandbox asks for.

use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_policy::{Reason, Verdict};

const VERDICTS: [Verdict; 4] = [
    Verdict::Allow,
    Verdict::Deny,
    Verdict::Error,
    Verdict::Audit,
];

/// The live table.
pub(crate) struct Counters {
    cells: Box<[AtomicU64]>,
}

impl Counters {
    pub(crate) fn new() -> Counters {
        let cells = VERDICTS.len() * Reason::ALL.len();
        Counters {
            cells: (0..cells).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(crate) fn add(&self, verdict: Verdict, reason: Reason) {
        if let Some(cell) = self.cells.get(cell(verdict, reason)) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let counts = self
            .cells
            .iter()
            .map(|cell| cell.load(Ordering::Relaxed))
            .collect();
        Snapshot { counts }
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

/// Decisions by verdict and reason, at one moment. Every decision counts, those that share a
/// record and those whose record was lost included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    counts: Box<[u64]>,
}

impl Snapshot {
    /// Decisions with this verdict and reason.
    #[must_use]
    pub fn get(&self, verdict: Verdict, reason: Reason) -> u64 {
        self.counts.get(cell(verdict, reason)).copied().unwrap_or(0)
    }

    /// Decisions with this verdict.
    #[must_use]
    pub fn verdict(&self, verdict: Verdict) -> u64 {
        Reason::ALL
            .iter()
            .map(|&reason| self.get(verdict, reason))
            .sum()
    }

    /// Every pair that occurred, with its number.
    pub fn iter(&self) -> impl Iterator<Item = (Verdict, Reason, u64)> + '_ {
        VERDICTS.iter().flat_map(move |&verdict| {
            Reason::ALL.iter().filter_map(move |&reason| {
                let count = self.get(verdict, reason);
                (count > 0).then_some((verdict, reason, count))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_a_cell_of_its_own() {
        let counters = Counters::new();
        for verdict in VERDICTS {
            for &reason in Reason::ALL {
                counters.add(verdict, reason);
            }
        }
        let snapshot = counters.snapshot();
        assert!(snapshot.iter().all(|(_, _, count)| count == 1));
        assert_eq!(snapshot.iter().count(), VERDICTS.len() * Reason::ALL.len());
        assert_eq!(snapshot.verdict(Verdict::Deny), Reason::ALL.len() as u64);
    }
}
