//! What a policy says about names besides which of them are listed: which resolvers are asked for
//! which names, how often, and in what form the answers are given out.

use std::net::Ipv4Addr;
use std::num::NonZeroU32;

use ipnet::Ipv4Net;
use portcullis_names::{AddressClass, Name, NameRef, classify};

use crate::resolver::Resolver;
use crate::types::TypeSet;

/// New names under one wildcard a minute, where the policy says nothing.
pub const DEFAULT_NEW_NAMES_PER_MINUTE: u32 = 120;
/// Most zones with resolvers of their own.
pub const MAX_ZONES: usize = 1024;
/// Most resolvers of one list.
pub const MAX_RESOLVERS: usize = 64;
/// Longest prefix of a range for synthetic answers, in bits: 256 addresses.
pub const MAX_SYNTHETIC_PREFIX_BITS: u8 = 24;

/// When listed names are resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolve {
    /// When a program asks.
    #[default]
    OnDemand,
    /// Every exact name before the program starts, which it does not if one fails.
    Startup,
}

/// Which addresses are given out for listed names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answers {
    /// The names' own.
    #[default]
    Real,
    /// One of the gateway's own range for each name.
    Synthetic,
}

/// Names with resolvers of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// The name itself and every name below it.
    pub suffix: Name,
    /// Its resolvers in order of preference, at least one.
    pub resolvers: Vec<Resolver>,
}

/// The parts of a policy that are about DNS and are not rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// Plain resolvers for the names of `tls://` and `https://` resolvers; where the policy names
    /// none, the plain ones among its resolvers. Empty means the host's own.
    pub bootstrap: Vec<Resolver>,
    /// Names with resolvers of their own, longest suffix first.
    pub zones: Vec<Zone>,
    /// When listed names are resolved.
    pub resolve: Resolve,
    /// Which addresses are given out for listed names.
    pub answers: Answers,
    /// The range for synthetic answers; `None` means the default.
    pub synthetic_range: Option<Ipv4Net>,
    /// Record types that are served for a name whose rule says nothing of them.
    pub types: TypeSet,
    /// Most queries of one sandbox in a second; `None` means no limit but the built-in ones.
    pub queries_per_second: Option<NonZeroU32>,
    /// Most new names under any one wildcard in a minute.
    pub new_names_per_minute: u32,
}

impl Default for DnsSettings {
    fn default() -> Self {
        DnsSettings {
            bootstrap: Vec::new(),
            zones: Vec::new(),
            resolve: Resolve::default(),
            answers: Answers::default(),
            synthetic_range: None,
            types: TypeSet::PLAIN,
            queries_per_second: None,
            new_names_per_minute: DEFAULT_NEW_NAMES_PER_MINUTE,
        }
    }
}

impl DnsSettings {
    /// The zone that a name is in: the one with the longest suffix.
    pub fn zone_for(&self, name: NameRef<'_>) -> Option<&Zone> {
        let covers = |zone: &&Zone| {
            let suffix = zone.suffix.as_ref();
            name == suffix || name.is_below(suffix)
        };
        // the longest come first
        self.zones.iter().find(covers)
    }
}

/// Why a range is not one for synthetic answers.
pub(crate) struct RangeError {
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

/// Reads the range for synthetic answers.
pub(crate) fn synthetic_range(text: &str) -> Result<Ipv4Net, RangeError> {
    let wrong = |why: &str, hint: &str| RangeError {
        message: format!("`{text}` {why}"),
        hint: hint.to_owned(),
    };
    let unused = "write a range that nobody uses, such as \"198.18.0.0/15\"";
    let Ok(net) = text.parse::<Ipv4Net>() else {
        return Err(wrong("is not an IPv4 range", unused));
    };
    if net.trunc() != net {
        let hint = format!("write \"{}\"", net.trunc());
        return Err(wrong("has bits set beyond its prefix", &hint));
    }
    if net.prefix_len() > MAX_SYNTHETIC_PREFIX_BITS {
        let why = format!("is too small: it has {} addresses", net_size(net));
        let hint = "each name in use needs an address of its own; a /24 is the smallest range";
        return Err(wrong(&why, hint));
    }
    if !is_private(net) {
        let hint = "use a part of 198.18.0.0/15, 100.64.0.0/10, 10.0.0.0/8, 172.16.0.0/12 or \
                    192.168.0.0/16";
        return Err(wrong("contains public addresses", hint));
    }
    Ok(net)
}

fn net_size(net: Ipv4Net) -> u64 {
    1 << (net.max_prefix_len() - net.prefix_len())
}

/// Whether the whole range lies in one block that no public host has. The blocks are aligned, so
/// looking at both ends is enough.
fn is_private(net: Ipv4Net) -> bool {
    let class = |address: Ipv4Addr| classify(address.into());
    let private = |class| {
        matches!(
            class,
            AddressClass::Private | AddressClass::Cgnat | AddressClass::Benchmark
        )
    };
    let (first, last) = (net.network(), net.broadcast());
    private(class(first)) && class(first) == class(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(suffix: &str) -> Zone {
        Zone {
            suffix: Name::from_policy(suffix).unwrap(),
            resolvers: vec![Resolver::parse("10.0.0.53").unwrap()],
        }
    }

    #[test]
    fn a_zone_is_its_apex_and_everything_below() {
        let settings = DnsSettings {
            zones: vec![zone("lab.corp.example"), zone("corp.example")],
            ..DnsSettings::default()
        };
        let suffix = |name: &str| {
            let name = Name::from_policy(name).unwrap();
            let zone = settings.zone_for(name.as_ref());
            zone.map(|zone| zone.suffix.to_string())
        };
        assert_eq!(suffix("corp.example").as_deref(), Some("corp.example"));
        assert_eq!(suffix("a.corp.example").as_deref(), Some("corp.example"));
        assert_eq!(
            suffix("lab.corp.example").as_deref(),
            Some("lab.corp.example")
        );
        assert_eq!(
            suffix("a.b.lab.corp.example").as_deref(),
            Some("lab.corp.example")
        );
        for outside in ["notcorp.example", "example", "corp.example.org"] {
            assert_eq!(suffix(outside), None, "{outside}");
        }
    }

    #[test]
    fn synthetic_ranges_belong_to_nobody() {
        for good in [
            "198.18.0.0/15",
            "198.19.4.0/24",
            "100.64.0.0/10",
            "10.128.0.0/9",
            "172.16.0.0/12",
            "192.168.7.0/24",
        ] {
            assert!(synthetic_range(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("198.18.0.0", "not an IPv4 range"),
            ("fd00::/8", "not an IPv4 range"),
            ("198.18.0.1/15", "bits set"),
            ("198.18.0.0/25", "too small"),
            ("198.16.0.0/12", "contains public addresses"),
            ("8.8.8.0/24", "contains public addresses"),
            ("127.0.0.0/8", "contains public addresses"),
            ("169.254.0.0/16", "contains public addresses"),
            ("224.0.0.0/8", "contains public addresses"),
            ("0.0.0.0/0", "contains public addresses"),
            ("10.0.0.0/7", "contains public addresses"),
        ] {
            let RangeError { message, .. } = synthetic_range(bad).err().unwrap();
            assert!(message.contains(why), "{bad}: {message}");
        }
    }
}
