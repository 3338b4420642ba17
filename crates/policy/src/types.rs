//! Which DNS record types are answered.
//!
//! A listed name is answered for the types that programs need and no others: what is not served is
//! not asked for upstream, so that it carries nothing out and brings nothing in (*resolution as a
//! way out*, docs/threats.md).

use std::fmt;

use portcullis_names::{RecordType, Serving};

/// A set of DNS record types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeSet(u64);

const _: () = assert!(RecordType::ALL.len() <= 64, "a bit for each type");

impl TypeSet {
    /// No type.
    pub const EMPTY: TypeSet = TypeSet(0);
    /// What a plain allow serves: A, AAAA, CNAME, HTTPS, SVCB, SRV, MX, TXT, CAA, NS, SOA, and PTR
    /// for addresses that were given out.
    pub const PLAIN: TypeSet = TypeSet::plain();

    const fn plain() -> TypeSet {
        let (mut bits, mut at) = (0, 0);
        while at < RecordType::ALL.len() {
            if matches!(RecordType::ALL[at].serving(), Serving::Plain) {
                bits |= bit(RecordType::ALL[at]);
            }
            at += 1;
        }
        TypeSet(bits)
    }

    /// Reads the name of one type, in any case.
    ///
    /// # Errors
    /// Why it can be in no list.
    pub(crate) fn parse(name: &str) -> Result<TypeSet, TypeError> {
        let kind = RecordType::parse(name).ok_or(TypeError::Unknown)?;
        match kind.serving() {
            Serving::Plain | Serving::Listed => Ok(TypeSet(bit(kind))),
            Serving::Unsupported => Err(TypeError::Unknown),
            Serving::Meta | Serving::Transfer => Err(TypeError::NeverServed),
        }
    }

    /// The names that [`parse`](Self::parse) reads.
    pub(crate) fn names() -> Vec<&'static str> {
        let served = RecordType::ALL
            .iter()
            .filter(|kind| matches!(kind.serving(), Serving::Plain | Serving::Listed));
        served.filter_map(|kind| kind.mnemonic()).collect()
    }

    /// Whether the type is in the set. Allocates nothing.
    pub const fn contains(self, qtype: RecordType) -> bool {
        self.0 & bit(qtype) != 0
    }

    /// Whether no type is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The types of both.
    #[must_use]
    pub const fn union(self, other: TypeSet) -> TypeSet {
        TypeSet(self.0 | other.0)
    }

    /// The types, by ascending number.
    pub fn iter(self) -> impl Iterator<Item = RecordType> {
        let all = RecordType::ALL.iter().copied();
        all.filter(move |kind| self.contains(*kind))
    }
}

/// The bit of a type; none for an unknown type.
const fn bit(kind: RecordType) -> u64 {
    match kind.index() {
        Some(place) => 1 << place,
        None => 0,
    }
}

impl Default for TypeSet {
    fn default() -> TypeSet {
        TypeSet::PLAIN
    }
}

/// The names, separated by commas.
impl fmt::Display for TypeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, kind) in self.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            kind.fmt(f)?;
        }
        Ok(())
    }
}

/// Why a word is not a type that a policy can list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TypeError {
    Unknown,
    NeverServed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_allow_serves_the_documented_types() {
        assert_eq!(
            TypeSet::PLAIN.to_string(),
            "A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, SVCB, HTTPS, CAA"
        );
        for other in [0, 41, 43, 251, 252, 255, 256, u16::MAX] {
            assert!(!TypeSet::PLAIN.contains(other.into()), "{other}");
        }
    }

    #[test]
    fn names_are_read_in_any_case_and_zone_transfers_are_never_listed() {
        let read = |text| TypeSet::parse(text).map(|set| set.to_string());
        assert_eq!(read("aaaa"), Ok("AAAA".into()));
        for unknown in ["AAA", "NULL", "TYPE4711"] {
            assert_eq!(read(unknown), Err(TypeError::Unknown), "{unknown}");
        }
        for never in [
            "ANY", "*", "AXFR", "IXFR", "MAILA", "MAILB", "OPT", "TSIG", "TKEY", "RRSIG",
        ] {
            assert_eq!(read(never), Err(TypeError::NeverServed), "{never}");
        }
        let all = TypeSet::names().into_iter();
        let all = all.map(|name| TypeSet::parse(name).unwrap());
        let all = all.fold(TypeSet::EMPTY, TypeSet::union);
        for refused in [41, 249, 250, 251, 252, 253, 254, 255] {
            assert!(!all.contains(refused.into()), "{refused}");
        }
        assert_eq!(all.iter().count(), TypeSet::names().len());
    }

    #[test]
    fn the_reference_lists_every_type_that_a_policy_can_name() {
        let mut rows = include_str!("../POLICY.md").lines();
        let row = rows.find(|row| row.starts_with("| `types` | the record types"));
        let row = row.expect("a row of the reference");
        let listed: Vec<_> = row.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        for name in TypeSet::names() {
            assert!(listed.contains(&name), "{name}");
        }
    }
}
