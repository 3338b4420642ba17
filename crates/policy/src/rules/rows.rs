//! How the name rules lie in memory: so that a decision reads two or three cache lines, whether there
//! are ten rules or a million.
//!
//! All rules stand end to end in one vector of bytes, sorted by a hash of their base name into
//! buckets of about four; a second vector says where each bucket begins. A rule is eight bytes and
//! its base name, so a list of a million names costs some 30 bytes a name. In front of them stands a
//! Bloom filter, a byte for each rule, so that a name that no rule has rarely reaches them.
//! Answers *exhaustion* (docs/threats.md): the hash is keyed anew in each process, and names are
//! compared, not only their hashes.

use std::cmp::Ordering;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;

use super::rule::RuleId;

/// Bytes of a rule in front of its base name.
const HEADER_BYTES: usize = 8;
/// Rules for each bucket, on average; more make the index smaller and the search longer.
const ROWS_PER_BUCKET: usize = 4;
/// Rules for each word of the filter, on average; one name in thirty then passes it in vain.
const ROWS_PER_WORD: usize = 8;
/// Bits that a name sets in its word of the filter.
const FILTER_BITS: u32 = 4;
/// Bits that say which bit of a word is set.
const BIT_BITS: u32 = 6;
/// Most buckets: the hash keeps 32 bits, and four of them are each row's own mark.
const MAX_BUCKETS: usize = 1 << 28;

/// Which names a rule covers, from the narrowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The base itself.
    Exact = 0,
    /// Everything below it.
    Below = 1,
    /// Both.
    ApexAndBelow = 2,
}

impl Kind {
    /// What stands in front of the base in a rule.
    pub fn prefix(self) -> &'static str {
        match self {
            Kind::Exact => "",
            Kind::Below => "*.",
            Kind::ApexAndBelow => "**.",
        }
    }
}

const KIND_BITS: u8 = 0b11;
const FLAG_DENIES: u8 = 0b100;
const FLAG_NO_SNI: u8 = 0b1000;
/// Where the hash's mark begins in the flags.
const MARK_SHIFT: u32 = 4;

/// One rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// The rule's number in the whole set.
    pub id: RuleId,
    /// The number of its ports and terms.
    pub scope: u16,
    flags: u8,
}

impl Row {
    pub fn kind(self) -> Kind {
        match self.flags & KIND_BITS {
            0 => Kind::Exact,
            1 => Kind::Below,
            _ => Kind::ApexAndBelow,
        }
    }

    pub fn denies(self) -> bool {
        self.flags & FLAG_DENIES != 0
    }

    pub fn allow_no_sni(self) -> bool {
        self.flags & FLAG_NO_SNI != 0
    }

    /// Whether the row matches a name, given that the name is the row's base (`own`) or below it.
    pub fn covers(self, own: bool) -> bool {
        match self.kind() {
            Kind::Exact => own,
            Kind::Below => !own,
            Kind::ApexAndBelow => true,
        }
    }
}

/// The rules for one base name: where the first stands, and where its bucket ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    at: u32,
    end: u32,
}

/// Rules for names, found by their base.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// Bucket after bucket; rules of one base stand side by side, in an order that does not depend
    /// on where they were written.
    bytes: Vec<u8>,
    /// Where each bucket begins, and where the last ends; a power of two and one.
    starts: Vec<u32>,
    /// A power of two.
    filter: Vec<u64>,
    lengths: Lengths,
    hasher: RandomState,
}

/// Which lengths the bases have, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Lengths([u64; 4]);

impl Lengths {
    fn add(&mut self, len: u8) {
        self.0[usize::from(len >> 6)] |= 1 << (len & 63);
    }

    fn have(self, len: usize) -> bool {
        let word = self.0.get(len >> 6).copied().unwrap_or(0);
        word >> (len & 63) & 1 != 0
    }
}

/// What is looked at instead of a name.
#[derive(Clone, Copy)]
struct Hash(u64);

impl Hash {
    fn of(hasher: &RandomState, base: &str) -> Hash {
        let mut state = hasher.build_hasher();
        state.write(base.as_bytes());
        Hash(state.finish())
    }

    /// The part that says which bucket.
    fn bucket(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The part that no bucket's number has.
    fn mark(bucket: u32) -> u8 {
        (bucket >> 28) as u8
    }

    /// The bits that the name sets in its word of the filter.
    fn bits(self) -> u64 {
        let positions = self.0 >> (32 - FILTER_BITS * BIT_BITS);
        (0..FILTER_BITS).fold(0, |bits, at| {
            bits | 1 << (positions >> (at * BIT_BITS) & ((1 << BIT_BITS) - 1))
        })
    }

    /// The number of its word, of a power of two of words.
    fn word(self, words: usize) -> usize {
        (self.0 >> 40) as usize & words.wrapping_sub(1)
    }
}

impl Rows {
    /// The rules whose base is this name. Allocates nothing.
    pub fn find(&self, base: &str) -> Option<Chain> {
        if !self.lengths.have(base.len()) {
            return None;
        }
        let hash = Hash::of(&self.hasher, base);
        let bits = hash.bits();
        if self.filter.get(hash.word(self.filter.len()))? & bits != bits {
            return None;
        }
        let hash = hash.bucket();
        let bucket = hash as usize & self.starts.len().checked_sub(2)?;
        let (at, end) = (*self.starts.get(bucket)?, *self.starts.get(bucket + 1)?);
        let mut rest = self.bytes.get(at as usize..end as usize)?;
        while let Some((header, behind)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let (name, next) = behind.split_at_checked(usize::from(header[6]))?;
            let same = header[7] >> MARK_SHIFT == Hash::mark(hash) && name == base.as_bytes();
            if same {
                let at = end - u32::try_from(rest.len()).ok()?;
                return Some(Chain { at, end });
            }
            rest = next;
        }
        None
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The rows of a chain, in their order.
    pub fn chain(&self, chain: Chain) -> impl Iterator<Item = Row> + '_ {
        let mut rest = self
            .bytes
            .get(chain.at as usize..chain.end as usize)
            .unwrap_or_default();
        let mut base: Option<&[u8]> = None;
        std::iter::from_fn(move || {
            let (name, row, next) = row(rest)?;
            if *base.get_or_insert(name) != name {
                return None;
            }
            rest = next;
            Some(row)
        })
    }

    /// Every row with its base, in an order that means nothing.
    pub fn all(&self) -> impl Iterator<Item = (&str, Row)> + '_ {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (name, row, next) = row(rest)?;
            rest = next;
            Some((std::str::from_utf8(name).unwrap_or_default(), row))
        })
    }

    /// The text that stands at a place that [`RowsBuilder::build`] has told.
    pub fn text(&self, at: usize, len: usize) -> &str {
        let bytes = self.bytes.get(at..at + len).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

/// The first row of some bytes, its base, and what follows.
fn row(bytes: &[u8]) -> Option<(&[u8], Row, &[u8])> {
    let (header, behind) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let [a, b, c, d, e, f, len, flags] = *header;
    let (name, next) = behind.split_at_checked(usize::from(len))?;
    let row = Row {
        id: RuleId(u32::from_le_bytes([a, b, c, d])),
        scope: u16::from_le_bytes([e, f]),
        flags,
    };
    Some((name, row, next))
}

/// A row that waits for its bucket.
#[derive(Clone, Copy)]
pub(crate) struct PendingRow {
    /// Where its base stands among the texts.
    at: u32,
    hash: u32,
    pub id: RuleId,
    pub scope: u16,
    len: u8,
    flags: u8,
}

impl PendingRow {
    fn base<'t>(&self, texts: &'t str) -> &'t str {
        let at = self.at as usize;
        texts
            .get(at..at + usize::from(self.len))
            .unwrap_or_default()
    }
}

/// Collects rows.
#[derive(Default)]
pub(crate) struct RowsBuilder {
    loose: Vec<PendingRow>,
    hasher: RandomState,
}

/// A row to add, without its base.
#[derive(Clone, Copy)]
pub(crate) struct NewRow {
    /// Where its base stands among the texts.
    pub at: u32,
    pub id: RuleId,
    pub scope: u16,
    pub kind: Kind,
    pub denies: bool,
    pub allow_no_sni: bool,
}

impl RowsBuilder {
    /// Adds a row for `base`.
    ///
    /// # Errors
    /// The base is longer than any name.
    pub fn push(&mut self, base: &str, row: NewRow) -> Result<(), &'static str> {
        let len = u8::try_from(base.len()).map_err(|_| "a name is too long")?;
        let hash = Hash::of(&self.hasher, base).bucket();
        let flag = |set, bit| if set { bit } else { 0 };
        let flags = row.kind as u8
            | flag(row.denies, FLAG_DENIES)
            | flag(row.allow_no_sni, FLAG_NO_SNI)
            | Hash::mark(hash) << MARK_SHIFT;
        self.loose.push(PendingRow {
            at: row.at,
            hash,
            id: row.id,
            scope: row.scope,
            len,
            flags,
        });
        Ok(())
    }

    /// Sorts the rows into buckets. `order` compares two rows of one base and kind that both allow
    /// or both deny; `place` is told where each row's base lies.
    ///
    /// # Errors
    /// The bases of all rules together are too long.
    pub fn build(
        self,
        texts: &str,
        order: impl Fn(&PendingRow, &PendingRow) -> Ordering,
        mut place: impl FnMut(RuleId, u32),
    ) -> Result<Rows, &'static str> {
        const TOO_LONG: &str = "the names of all rules together are too long";
        let RowsBuilder { mut loose, hasher } = self;
        if loose.is_empty() {
            return Ok(Rows::default());
        }
        let buckets = loose.len().div_ceil(ROWS_PER_BUCKET).next_power_of_two();
        let mask = buckets.min(MAX_BUCKETS) - 1;
        let bucket_of = |row: &PendingRow| row.hash as usize & mask;
        loose.sort_unstable_by_key(bucket_of);
        let total: usize = loose
            .iter()
            .map(|row| HEADER_BYTES + usize::from(row.len))
            .sum();
        let end = u32::try_from(total).map_err(|_| TOO_LONG)?;
        let mut bytes = Vec::with_capacity(total);
        let mut starts = Vec::with_capacity(mask + 2);
        let words = loose.len().div_ceil(ROWS_PER_WORD).next_power_of_two();
        let mut filter = vec![0_u64; words];
        let mut lengths = Lengths::default();
        let said = |flags: u8| (flags & KIND_BITS, flags & FLAG_DENIES);
        for bucket in loose.chunk_by_mut(|a, b| bucket_of(a) == bucket_of(b)) {
            bucket.sort_unstable_by(|a, b| {
                a.base(texts)
                    .cmp(b.base(texts))
                    .then_with(|| said(a.flags).cmp(&said(b.flags)))
                    .then_with(|| order(a, b))
            });
            let number = bucket.first().map_or(0, bucket_of);
            let start = u32::try_from(bytes.len()).map_err(|_| TOO_LONG)?;
            starts.resize(number + 1, start);
            for row in bucket {
                bytes.extend_from_slice(&row.id.0.to_le_bytes());
                bytes.extend_from_slice(&row.scope.to_le_bytes());
                bytes.extend_from_slice(&[row.len, row.flags]);
                place(row.id, u32::try_from(bytes.len()).map_err(|_| TOO_LONG)?);
                let base = row.base(texts);
                bytes.extend_from_slice(base.as_bytes());
                let hash = Hash::of(&hasher, base);
                if let Some(word) = filter.get_mut(hash.word(words)) {
                    *word |= hash.bits();
                }
                lengths.add(row.len);
            }
        }
        starts.resize(mask + 2, end);
        Ok(Rows {
            bytes,
            starts,
            filter,
            lengths,
            hasher,
        })
    }
}
