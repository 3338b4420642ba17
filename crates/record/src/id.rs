//! Decision ids: short enough to read out over the telephone, unique across runs.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// Digits and letters without those that are mistaken for others (Crockford's alphabet).
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of the part that is drawn once for each recorder.
const INSTANCE_CHARS: u32 = 6;

/// One start of one gateway, as it stands in records: 16 hexadecimal digits, drawn at random when the
/// recorder was made.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Boot(u64);

impl Boot {
    /// A fresh one.
    ///
    /// The standard library's hash keys are random, but a forked process may share them with its
    /// parent, so that the clock and the process id go in as well.
    pub(crate) fn new() -> Boot {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        hasher.write_i128(jiff::Timestamp::now().as_nanosecond());
        Boot(hasher.finish())
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Boot({self})")
    }
}

/// The id of one record: shown to the program in a refusal, found in the operator's record.
///
/// Reads like `7k3f9q-000012`: six characters drawn at random when the recorder was made, and the
/// record's number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DecisionId {
    instance: u32,
    number: u64,
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; INSTANCE_CHARS as usize];
        for (place, byte) in text.iter_mut().rev().enumerate() {
            *byte = ALPHABET[(self.instance >> (5 * place) & 31) as usize];
        }
        // Always ASCII: every byte comes out of the alphabet.
        let text = std::str::from_utf8(&text).map_err(|_| fmt::Error)?;
        write!(f, "{text}-{:06}", self.number)
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DecisionId({self})")
    }
}

/// Hands out ids.
pub(crate) struct IdSource {
    instance: u32,
    next: AtomicU64,
}

impl IdSource {
    /// The ids of one recorder.
    pub(crate) fn new(boot: Boot) -> IdSource {
        IdSource {
            instance: (boot.0 as u32) & ((1 << (5 * INSTANCE_CHARS)) - 1),
            next: AtomicU64::new(1),
        }
    }

    pub(crate) fn next(&self) -> DecisionId {
        DecisionId {
            instance: self.instance,
            number: self.next.fetch_add(1, Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_as_documented() {
        let id = DecisionId {
            instance: 0,
            number: 12,
        };
        assert_eq!(id.to_string(), "000000-000012");
        let id = DecisionId {
            instance: (1 << 30) - 1,
            number: 1_234_567,
        };
        assert_eq!(id.to_string(), "zzzzzz-1234567");
        let id = DecisionId {
            instance: 1,
            number: 1,
        };
        assert_eq!(id.to_string(), "000001-000001");
    }

    #[test]
    fn two_recorders_do_not_share_ids() {
        let sources: Vec<_> = (0..64)
            .map(|_| IdSource::new(Boot::new()).instance)
            .collect();
        let distinct: std::collections::HashSet<_> = sources.iter().collect();
        assert!(distinct.len() > 60, "{sources:?}");
    }

    #[test]
    fn ids_count_up() {
        let source = IdSource::new(Boot::new());
        let (a, b) = (source.next(), source.next());
        assert!(a < b && a != b);
    }
}
