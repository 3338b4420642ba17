//! Which DNS record types are answered.
//!
//! A listed name is answered for the types that programs need and no others: what is not served is
//! not asked for upstream, so that it carries nothing out and brings nothing in (THREATS,
//! "resolution as a way out").

use std::fmt;

/// The types that a policy may list, by number and name. IANA's registry has more; these are the
/// ones that the resolver can take apart and build anew.
const KNOWN: [(u16, &str); 21] = [
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (13, "HINFO"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (29, "LOC"),
    (33, "SRV"),
    (35, "NAPTR"),
    (43, "DS"),
    (44, "SSHFP"),
    (48, "DNSKEY"),
    (52, "TLSA"),
    (61, "OPENPGPKEY"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (256, "URI"),
    (257, "CAA"),
];

/// The types of a plain allow.
const DEFAULT: [u16; 12] = [1, 2, 5, 6, 12, 15, 16, 28, 33, 64, 65, 257];

/// Types that stand for a whole zone or for several types, or that belong to one message rather
/// than to a name. No policy can list them.
const NEVER: [&str; 10] = [
    "ANY", "*", "AXFR", "IXFR", "MAILA", "MAILB", "OPT", "TSIG", "TKEY", "RRSIG",
];

/// A set of DNS record types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeSet(u32);

const _: () = assert!(KNOWN.len() <= 32, "a bit for each type");

impl TypeSet {
    /// No type.
    pub const EMPTY: TypeSet = TypeSet(0);
    /// What a plain allow serves: A, AAAA, CNAME, HTTPS, SVCB, SRV, MX, TXT, CAA, NS, SOA, and PTR
    /// for addresses that were given out.
    pub const PLAIN: TypeSet = TypeSet::of(&DEFAULT);

    const fn of(types: &[u16]) -> TypeSet {
        let (mut bits, mut at) = (0, 0);
        while at < types.len() {
            bits |= bit(types[at]);
            at += 1;
        }
        TypeSet(bits)
    }

    /// Reads the name of one type, in any case.
    ///
    /// # Errors
    /// Why it can be in no list.
    pub(crate) fn parse(name: &str) -> Result<TypeSet, TypeError> {
        let upper = name.to_ascii_uppercase();
        if NEVER.contains(&upper.as_str()) {
            return Err(TypeError::NeverServed);
        }
        match KNOWN.iter().position(|(_, known)| *known == upper) {
            Some(at) => Ok(TypeSet(1 << at)),
            None => Err(TypeError::Unknown),
        }
    }

    /// The names that [`parse`](Self::parse) reads.
    pub(crate) fn names() -> Vec<&'static str> {
        KNOWN.iter().map(|(_, name)| *name).collect()
    }

    /// Whether the type with this number is in the set. Allocates nothing.
    pub const fn contains(self, qtype: u16) -> bool {
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

    /// The types' numbers, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        let numbers = KNOWN.iter().map(|(number, _)| *number);
        numbers.filter(move |number| self.contains(*number))
    }
}

/// The bit of a type; none for a type that no list can hold.
const fn bit(qtype: u16) -> u32 {
    let mut at = 0;
    while at < KNOWN.len() {
        if KNOWN[at].0 == qtype {
            return 1 << at;
        }
        at += 1;
    }
    0
}

impl Default for TypeSet {
    fn default() -> TypeSet {
        TypeSet::PLAIN
    }
}

/// The names, separated by commas.
impl fmt::Display for TypeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = KNOWN.iter().filter(|(number, _)| self.contains(*number));
        for (at, (_, name)) in names.enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            f.write_str(name)?;
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
    fn a_plain_allow_serves_what_the_contract_lists() {
        assert_eq!(
            TypeSet::PLAIN.to_string(),
            "A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, SVCB, HTTPS, CAA"
        );
        assert_eq!(TypeSet::PLAIN.iter().collect::<Vec<_>>(), DEFAULT);
        for other in [0, 41, 43, 251, 252, 255, 256, u16::MAX] {
            assert!(!TypeSet::PLAIN.contains(other), "{other}");
        }
    }

    #[test]
    fn names_are_read_in_any_case_and_zone_transfers_are_never_listed() {
        assert_eq!(
            TypeSet::parse("aaaa").unwrap().iter().collect::<Vec<_>>(),
            [28]
        );
        assert_eq!(TypeSet::parse("AAA"), Err(TypeError::Unknown));
        for never in NEVER {
            assert_eq!(
                TypeSet::parse(never),
                Err(TypeError::NeverServed),
                "{never}"
            );
        }
        let all = TypeSet::names()
            .into_iter()
            .map(|name| TypeSet::parse(name).unwrap());
        let all = all.fold(TypeSet::EMPTY, TypeSet::union);
        for refused in [41, 249, 250, 251, 252, 253, 254, 255] {
            assert!(!all.contains(refused), "{refused}");
        }
        assert_eq!(all.iter().count(), KNOWN.len());
    }
}
