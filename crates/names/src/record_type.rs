//! DNS record types: number, mnemonic, and which of them a resolver may serve.
//!
//! One table says all of it; policies, queries, answers and records read and print types by it. To
//! add a type is to add a line there. What a name is not served is not asked for upstream, so that
//! it carries nothing out and brings nothing in.

use std::fmt;

/// Whether a type is served, and on whose word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serving {
    /// Wherever a rule allows the name, if nothing narrower is said.
    Plain,
    /// Where the policy lists the type.
    Listed,
    /// Nowhere: the resolver cannot take its data apart and build it anew.
    Unsupported,
    /// Nowhere: it belongs to one message, or stands for several types (RFC 6895 section 3.1).
    Meta,
    /// Nowhere: it asks for a whole zone.
    Transfer,
}

macro_rules! record_types {
    ($($name:ident = $number:literal, $serving:ident, $doc:literal;)+) => {
        /// A DNS record type (the IANA registry, RFC 6895).
        #[allow(clippy::upper_case_acronyms, reason = "the mnemonics of the registry")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RecordType {
            $(#[doc = $doc] $name,)+
            /// A type that the table does not know. Only [`RecordType::from`] makes one.
            Unknown(UnknownType),
        }

        /// The table's lines, for [`RecordType::index`].
        #[allow(clippy::upper_case_acronyms, reason = "the mnemonics of the registry")]
        enum Line { $($name,)+ }

        impl RecordType {
            /// Every known type, by ascending number.
            pub const ALL: &'static [RecordType] = &[$(RecordType::$name,)+];

            /// The type's number.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self {
                    $(RecordType::$name => $number,)+
                    RecordType::Unknown(UnknownType(number)) => number,
                }
            }

            /// The mnemonic; none for an unknown type.
            #[must_use]
            pub const fn mnemonic(self) -> Option<&'static str> {
                match self {
                    $(RecordType::$name => Some(stringify!($name)),)+
                    RecordType::Unknown(_) => None,
                }
            }

            /// Whether the type is served.
            #[must_use]
            pub const fn serving(self) -> Serving {
                match self {
                    $(RecordType::$name => Serving::$serving,)+
                    RecordType::Unknown(_) => Serving::Unsupported,
                }
            }

            /// The type's place in [`RecordType::ALL`]; none for an unknown type.
            #[must_use]
            pub const fn index(self) -> Option<usize> {
                match self {
                    $(RecordType::$name => Some(Line::$name as usize),)+
                    RecordType::Unknown(_) => None,
                }
            }
        }

        impl From<u16> for RecordType {
            fn from(number: u16) -> RecordType {
                match number {
                    $($number => RecordType::$name,)+
                    other => RecordType::Unknown(UnknownType(other)),
                }
            }
        }
    };
}

record_types! {
    A = 1, Plain, "An IPv4 address.";
    NS = 2, Plain, "A zone's name server.";
    CNAME = 5, Plain, "The name that this one is an alias of.";
    SOA = 6, Plain, "The start of a zone.";
    NULL = 10, Unsupported, "Anything at all.";
    PTR = 12, Plain, "The name of an address.";
    HINFO = 13, Listed, "Hardware and system, or why ANY is not answered (RFC 8482).";
    MX = 15, Plain, "A mail server.";
    TXT = 16, Plain, "Text.";
    AAAA = 28, Plain, "An IPv6 address.";
    LOC = 29, Listed, "A place on Earth (RFC 1876).";
    SRV = 33, Plain, "A service's host and port (RFC 2782).";
    NAPTR = 35, Listed, "A rule that rewrites names (RFC 3403).";
    OPT = 41, Meta, "EDNS, in one message (RFC 6891).";
    DS = 43, Listed, "The digest of a child zone's key (RFC 4034).";
    SSHFP = 44, Listed, "The fingerprint of an SSH key (RFC 4255).";
    RRSIG = 46, Meta, "The signature of other records (RFC 4034).";
    NSEC = 47, Unsupported, "The next name of a zone (RFC 4034).";
    DNSKEY = 48, Listed, "A zone's key (RFC 4034).";
    TLSA = 52, Listed, "A TLS certificate (RFC 6698).";
    OPENPGPKEY = 61, Listed, "An OpenPGP key (RFC 7929).";
    SVCB = 64, Plain, "A service's endpoints (RFC 9460).";
    HTTPS = 65, Plain, "An HTTPS service's endpoints (RFC 9460).";
    TKEY = 249, Meta, "A shared key, in one message (RFC 2930).";
    TSIG = 250, Meta, "A message's signature (RFC 8945).";
    IXFR = 251, Transfer, "The changes of a zone (RFC 1995).";
    AXFR = 252, Transfer, "A whole zone (RFC 5936).";
    MAILB = 253, Meta, "Mailbox records of three types.";
    MAILA = 254, Meta, "Mail agents of two types.";
    ANY = 255, Meta, "All types of a name (RFC 8482).";
    URI = 256, Listed, "A service's URI (RFC 7553).";
    CAA = 257, Plain, "Who may issue certificates (RFC 8659).";
}

/// The number of a type that the table does not know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnknownType(u16);

impl RecordType {
    /// Reads a mnemonic, `*` for ANY, or `TYPE` and a number (RFC 3597 section 5), in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<RecordType> {
        if text == "*" {
            return Some(RecordType::ANY);
        }
        let is_meant = |known: &RecordType| {
            known
                .mnemonic()
                .is_some_and(|word| word.eq_ignore_ascii_case(text))
        };
        if let Some(known) = RecordType::ALL.iter().copied().find(is_meant) {
            return Some(known);
        }
        let (word, digits) = text.split_at_checked(4)?;
        let is_number = digits.bytes().all(|b| b.is_ascii_digit());
        (word.eq_ignore_ascii_case("TYPE") && is_number)
            .then(|| digits.parse().ok())?
            .map(|number: u16| number.into())
    }

    /// Whether the type asks for a whole zone.
    #[must_use]
    pub const fn is_transfer(self) -> bool {
        matches!(self.serving(), Serving::Transfer)
    }
}

/// The mnemonic, or `TYPE` and the number (RFC 3597 section 5).
impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mnemonic() {
            Some(mnemonic) => f.write_str(mnemonic),
            None => write!(f, "TYPE{}", self.number()),
        }
    }
}

impl fmt::Debug for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_mnemonics_and_rfc_3597_text_are_read_as_they_are_printed() {
        for number in 0..=u16::MAX {
            let kind = RecordType::from(number);
            assert_eq!(kind.number(), number);
            assert_eq!(RecordType::parse(&kind.to_string()), Some(kind));
            assert_eq!(RecordType::parse(&format!("type{number}")), Some(kind));
        }
        assert_eq!(RecordType::parse("aaaa"), Some(RecordType::AAAA));
        assert_eq!(RecordType::parse("*"), Some(RecordType::ANY));
        assert_eq!(RecordType::from(4711).to_string(), "TYPE4711");
        for text in ["", "AAA", "TYPE", "TYPE65536", "TYPE+1", "TYPE-1", "TYP€1"] {
            assert_eq!(RecordType::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_table_is_in_order_and_each_line_knows_its_place() {
        assert!(RecordType::ALL.is_sorted_by_key(|kind| kind.number()));
        for (at, kind) in RecordType::ALL.iter().enumerate() {
            assert_eq!(kind.index(), Some(at));
        }
        assert_eq!(RecordType::from(3).index(), None);
        let transfers = RecordType::ALL.iter().filter(|kind| kind.is_transfer());
        assert_eq!(
            transfers.collect::<Vec<_>>(),
            [&RecordType::IXFR, &RecordType::AXFR]
        );
    }
}
