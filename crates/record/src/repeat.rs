//! Repeats a decision that was just made: counts it into the same record without a table look-up.
//!
//! Answers *exhaustion* (docs/threats.md) where a flood costs most. A program that asks the same
//! thing a hundred thousand times a second costs two additions each time, and the record still says
//! how often.
//!
//! Invariant: a decision is counted once, into the record that is written. The number and the mark
//! that it was taken stand in one word, so that nobody can add to a number that was written already.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use portcullis_policy::{Reason, Verdict};

use crate::event::Layer;
use crate::id::DecisionId;
use crate::summary::Tally;

/// Set in a count once it was taken.
const TAKEN: u64 = 1 << 63;

/// How many decisions share a record, until it is written.
#[derive(Clone, Debug)]
pub(crate) struct Count(Arc<AtomicU64>);

impl Count {
    /// Of a record that one decision made.
    pub(crate) fn one() -> Count {
        Count(Arc::new(AtomicU64::new(1)))
    }

    /// Counts one more; `false` once the number was taken.
    pub(crate) fn add(&self) -> bool {
        self.0.fetch_add(1, Ordering::AcqRel) & TAKEN == 0
    }

    /// Takes the number for the record.
    pub(crate) fn take(&self) -> u64 {
        self.0.fetch_or(TAKEN, Ordering::AcqRel) & !TAKEN
    }
}

/// What [`Recorder::repeat`](crate::Recorder::repeat) needs to count a decision once more while its
/// record is
/// open.
#[derive(Clone, Debug)]
pub struct Repeat {
    pub(crate) layer: Layer,
    pub(crate) verdict: Verdict,
    pub(crate) reason: Reason,
    /// When the record's time is up.
    pub(crate) until: Instant,
    /// Absent where nothing is written.
    pub(crate) count: Option<Count>,
    /// The group of denials that it counts in.
    pub(crate) tally: Option<Tally>,
}

/// A decision's record, and how to add equal ones to it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The record's id, which equal decisions share.
    pub id: DecisionId,
    /// How to add equal ones. The first decision of a written record has none: most are made once.
    pub repeat: Option<Repeat>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_taken_and_nothing_is_added_to_what_was_taken() {
        let count = Count::one();
        assert!(count.add() && count.add());
        assert_eq!(count.take(), 3);
        assert!(!count.add());
    }

    #[test]
    fn threads_that_add_while_the_number_is_taken_lose_nothing() {
        const THREADS: u64 = 4;
        const TIMES: u64 = 20_000;
        let count = Count::one();
        let (added, taken) = std::thread::scope(|scope| {
            let adders: Vec<_> = (0..THREADS)
                .map(|_| scope.spawn(|| (0..TIMES).filter(|_| count.add()).count() as u64))
                .collect();
            let taken = scope.spawn(|| count.take()).join().unwrap();
            let added: u64 = adders.into_iter().map(|adder| adder.join().unwrap()).sum();
            (added, taken)
        });
        assert_eq!(taken, added + 1);
    }
}
