//! What one socket answered a moment ago: the same question again gets the same bytes.
//!
//! Answers "DNS floods" where they cost most, and pays for the policy and the record on the way: a
//! repeated question costs a look at this table, a copy, and the additions that count it into its
//! record. Only what was decided, answered and recorded before is repeated, under the same policy,
//! the same leases and the same canonical names, and for a second at most, which is how long the
//! TTLs in the bytes are right.
//!
//! One loop owns the table, so nobody waits for it.

use std::time::Instant;

use hashbrown::DefaultHashBuilder;
use hashbrown::hash_table::{Entry, HashTable};
use portcullis_record::Repeat;
use std::hash::BuildHasher;

use crate::service::Inner;

/// Questions remembered. Each stays for a second at most, so that more would seldom be of use.
const MAX_QUESTIONS: usize = 4_096;

/// Longest question and answer remembered, bytes together.
const MAX_BYTES: usize = 768;

/// Length of a message's id, bytes: the part of a question that is new each time.
const ID_BYTES: usize = 2;

/// Under what an answer may be repeated.
#[derive(Clone, Debug)]
pub(crate) struct Keep {
    /// When the bytes are no longer right; a refusal's stay so.
    pub until: Option<Instant>,
    /// The leases' state in which the addresses were granted, where the answer has any.
    pub leased: Option<u64>,
    /// The state of the canonical names, where the answer might be another under others.
    pub aliases: Option<u64>,
    /// Where it counts.
    pub again: Repeat,
}

/// The state of affairs that a batch is answered in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// The policy's epoch.
    pub epoch: u64,
    /// The service's clock.
    pub now: Instant,
    /// The record's clock.
    pub stamp: Instant,
}

#[derive(Debug)]
struct Known {
    /// The question and the answer without their ids, one behind the other.
    bytes: Box<[u8]>,
    question: usize,
    epoch: u64,
    keep: Keep,
}

impl Known {
    fn question(&self) -> &[u8] {
        &self.bytes[..self.question]
    }

    fn holds(&self, inner: &Inner, moment: &Moment) -> bool {
        let keep = &self.keep;
        self.epoch == moment.epoch
            && keep.until.is_none_or(|until| moment.now < until)
            && keep
                .leased
                .is_none_or(|leased| leased == inner.leases.evictions())
            && keep
                .aliases
                .is_none_or(|aliases| aliases == inner.aliases.learnt())
    }
}

/// One socket's questions.
#[derive(Default)]
pub(crate) struct Memo {
    table: HashTable<Known>,
    hasher: DefaultHashBuilder,
}

impl Memo {
    /// Answers a question that was answered before, and records it. `false`: it is a new one.
    pub(crate) fn answer(
        &self,
        inner: &Inner,
        message: &[u8],
        moment: &Moment,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some((id, question)) = message.split_first_chunk::<ID_BYTES>() else {
            return false;
        };
        let hash = self.hasher.hash_one(question);
        let Some(known) = self.table.find(hash, |known| known.question() == question) else {
            return false;
        };
        if !known.holds(inner, moment) || !inner.recorder.repeat(&known.keep.again, moment.stamp) {
            return false;
        }
        out.clear();
        out.extend_from_slice(id);
        out.extend_from_slice(&known.bytes[known.question..]);
        true
    }

    /// Remembers an answer, in place of an older one to the same question. A full table forgets
    /// everything: what is asked often is back at once.
    pub(crate) fn learn(&mut self, message: &[u8], answer: &[u8], moment: &Moment, keep: Keep) {
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
            epoch: moment.epoch,
            keep,
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
