//! What one socket answered a moment ago: the same question again gets the same bytes.
//!
//! Answers *exhaustion* (docs/threats.md) where floods cost most, and pays for the policy and the
//! record on the way: a repeated question costs a look at this table, a copy, and the additions
//! that count it into its record. Only what was decided, answered and recorded before is repeated,
//! under the same policy, the same leases and the same canonical names, and for a second at most,
//! which is how long the TTLs in the bytes are right.
//!
//! One loop owns the table, so nobody waits for it.

use std::hash::BuildHasher;
use std::time::Instant;

use hashbrown::DefaultHashBuilder;
use hashbrown::hash_table::{Entry, HashTable};
use portcullis_record::{Recorder, Repeat};

use crate::canonical_names::CanonicalNames;
use crate::leases::Leases;

/// Questions remembered. Each stays for a second at most, so that more would seldom be of use.
const MAX_QUESTIONS: usize = 4_096;

/// Longest question and answer remembered, bytes together.
const MAX_BYTES: usize = 768;

/// Length of a message's id, bytes: the part of a question that is new each time.
const ID_BYTES: usize = 2;

/// Under what an answer stays right.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Validity {
    /// When the bytes are no longer right; a refusal's stay so.
    pub until: Option<Instant>,
    /// The leases' state in which the addresses were granted, where the answer has any.
    pub leases: Option<u64>,
    /// The state of the canonical names, where the answer might be another under others.
    pub canonical_names: Option<u64>,
}

/// How an answer may be repeated.
#[derive(Clone, Debug)]
pub(crate) struct Reusable {
    pub validity: Validity,
    /// Where it counts.
    pub repeat: Repeat,
}

/// What a batch of queries is answered under.
#[derive(Clone, Copy)]
pub(crate) struct BatchContext<'a> {
    /// The policy's epoch.
    pub epoch: u64,
    /// The service's clock.
    pub now: Instant,
    /// The record's clock.
    pub stamp: Instant,
    pub leases: &'a Leases,
    pub canonical_names: &'a CanonicalNames,
    pub recorder: &'a Recorder,
}

#[derive(Debug)]
struct Known {
    /// The question and the answer without their ids, one behind the other.
    bytes: Box<[u8]>,
    question: usize,
    epoch: u64,
    reusable: Reusable,
}

impl Known {
    fn question(&self) -> &[u8] {
        &self.bytes[..self.question]
    }

    fn is_valid(&self, batch: &BatchContext<'_>) -> bool {
        let validity = &self.reusable.validity;
        self.epoch == batch.epoch
            && validity.until.is_none_or(|until| batch.now < until)
            && validity
                .leases
                .is_none_or(|state| state == batch.leases.evictions())
            && validity
                .canonical_names
                .is_none_or(|state| state == batch.canonical_names.learnt())
    }
}

/// One socket's questions.
#[derive(Default)]
pub(crate) struct ResponseCache {
    table: HashTable<Known>,
    hasher: DefaultHashBuilder,
}

impl ResponseCache {
    /// Answers a question that was answered before, and records it. `false`: it is a new one.
    pub(crate) fn answer(
        &self,
        batch: &BatchContext<'_>,
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> bool {
        let Some((id, question)) = message.split_first_chunk::<ID_BYTES>() else {
            return false;
        };
        let hash = self.hasher.hash_one(question);
        let Some(known) = self.table.find(hash, |known| known.question() == question) else {
            return false;
        };
        if !known.is_valid(batch) || !batch.recorder.repeat(&known.reusable.repeat, batch.stamp) {
            return false;
        }
        out.clear();
        out.extend_from_slice(id);
        out.extend_from_slice(&known.bytes[known.question..]);
        true
    }

    /// Remembers an answer, in place of an older one to the same question. A full table forgets
    /// everything: what is asked often is back at once.
    pub(crate) fn learn(&mut self, message: &[u8], answer: &[u8], epoch: u64, reusable: Reusable) {
        let (Some(question), Some(answer)) = (message.get(ID_BYTES..), answer.get(ID_BYTES..))
        else {
            return;
        };
        if question.len() + answer.len() > MAX_BYTES {
            return;
        }
        if self.table.len() >= MAX_QUESTIONS {
            self.table.clear();
        }
        let known = Known {
            bytes: [question, answer].concat().into(),
            question: question.len(),
            epoch,
            reusable,
        };
        let hash = self.hasher.hash_one(question);
        let hash_of = |known: &Known| self.hasher.hash_one(known.question());
        let same = |known: &Known| known.question() == question;
        match self.table.entry(hash, same, hash_of) {
            Entry::Occupied(mut entry) => *entry.get_mut() = known,
            Entry::Vacant(entry) => {
                entry.insert(known);
            }
        }
    }
}
