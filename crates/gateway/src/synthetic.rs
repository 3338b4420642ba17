//! The range of synthetic addresses, and whether this host uses it for something else.
//!
//! Answers *addresses* (docs/threats.md): where the host routes part of the range, or a rule
//! allows addresses of it, a program could not reach those any more, and would not be told why. So
//! nothing starts then, and the operator is told the route and the key.
//!
//! The range means something inside the sandbox only: the dialler never dials an address of it.

use ipnet::Ipv4Net;
use portcullis_dns::{Leases, SYNTHETIC_RANGE};
use portcullis_policy::{Answers, Policy};
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};

/// Every IPv4 route of this network namespace, the host's own addresses included.
const ROUTES: &str = "/proc/net/fib_trie";
/// What is read of it, bytes: a full table of the internet takes about 60 MB.
const MAX_ROUTES_BYTES: u64 = 128 * 1024 * 1024;
/// Shorter prefixes, in bits, route the internet as a whole (a default route, a VPN's halves of
/// it), not this range.
const MIN_ROUTE_BITS: u8 = 8;

/// Why the range cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// The host routes a part of it, or has an address in it.
    #[error("the range of synthetic addresses, {range}, is in use: this host routes {route}")]
    Routed {
        /// The range.
        range: Ipv4Net,
        /// The route, or the host's own address.
        route: Ipv4Net,
    },
    /// A rule allows addresses of it.
    #[error(
        "the range of synthetic addresses, {range}, holds addresses that a rule allows: {rule}"
    )]
    Allowed {
        /// The range.
        range: Ipv4Net,
        /// The rule, as it is written.
        rule: String,
    },
    /// The routes cannot be read, so that nobody knows.
    #[error("cannot read this host's routes, {ROUTES}: {0}")]
    Unknown(#[source] io::Error),
}

impl RangeError {
    /// What to do about it.
    pub fn fix(&self) -> &'static str {
        "set `synthetic_range` in [network.dns] to a range that nobody uses, such as \"100.127.0.0/16\""
    }
}

/// Whether names are given synthetic addresses under this policy: all of them, or, where connections
/// come to the gateway by themselves (`transparent`), those that a rule sends elsewhere.
pub(crate) fn needs_range(policy: &Policy, transparent: bool) -> bool {
    policy.settings().dns.answers == Answers::Synthetic || (transparent && policy.has_mocks())
}

/// Names get synthetic addresses from now on, where the policy gives any some.
pub(crate) fn give_range(leases: &Leases, policy: &Policy, transparent: bool) {
    if needs_range(policy, transparent) {
        // Another range than the one in use waits for the next start: programs hold its addresses.
        leases.use_synthetic_range(range(policy));
    }
}

/// The range that a policy means.
fn range(policy: &Policy) -> Ipv4Net {
    policy
        .settings()
        .dns
        .synthetic_range
        .unwrap_or(SYNTHETIC_RANGE)
}

/// Makes sure that the range of synthetic addresses is free, where a sandbox under this policy needs
/// one. Asked before anything starts; for a configured range as for the default one.
///
/// # Errors
/// [`RangeError`]: nothing should start.
pub fn check_synthetic_range(policy: &Policy) -> Result<(), RangeError> {
    if !needs_range(policy, true) {
        return Ok(());
    }
    let range = range(policy);
    for rule in policy.address_rules() {
        let IpAddr::V4(address) = rule.net.addr() else {
            continue;
        };
        let net = Ipv4Net::new(address, rule.net.prefix_len());
        if net.is_ok_and(|net| takes_part(net, range)) {
            return Err(RangeError::Allowed {
                range,
                rule: rule.net.to_string(),
            });
        }
    }
    let mut text = String::new();
    File::open(ROUTES)
        .and_then(|file| file.take(MAX_ROUTES_BYTES).read_to_string(&mut text))
        .map_err(RangeError::Unknown)?;
    match routed(&text, range) {
        Some(route) => Err(RangeError::Routed { range, route }),
        None => Ok(()),
    }
}

/// Whether a network means a part of the range, rather than everything.
fn takes_part(net: Ipv4Net, range: Ipv4Net) -> bool {
    net.prefix_len() >= MIN_ROUTE_BITS && (net.contains(&range) || range.contains(&net))
}

/// The first route into the range, of whatever table. Each leaf is a line `|-- ADDRESS`, and behind
/// it a line `/LENGTH SCOPE TYPE` for each prefix there.
fn routed(trie: &str, range: Ipv4Net) -> Option<Ipv4Net> {
    let mut leaf = Ipv4Addr::UNSPECIFIED;
    for line in trie.lines().map(str::trim_start) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.trim_end().parse().ok()?;
            continue;
        }
        let Some(rest) = line.strip_prefix('/') else {
            continue;
        };
        let mut words = rest.split_ascii_whitespace();
        let length = words.next().and_then(|length| length.parse().ok());
        // What leads somewhere; a range that is refused on purpose is not used by anybody.
        let leads = words.any(|word| matches!(word, "UNICAST" | "LOCAL"));
        let net = length.and_then(|length| Ipv4Net::new(leaf, length).ok());
        if let Some(net) = net.filter(|net| leads && takes_part(*net, range)) {
            return Some(net);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_policy::Input;
    use std::path::PathBuf;

    fn trie(leaves: &[(&str, &str)]) -> String {
        let leaf =
            |(address, prefix): &(&str, &str)| format!("     |-- {address}\n        {prefix}\n");
        let leaves: String = leaves.iter().map(leaf).collect();
        format!("Main:\n  +-- 0.0.0.0/0 3 0 5\n{leaves}Local:\n  +-- 0.0.0.0/0 3 0 5\n{leaves}")
    }

    fn route(leaves: &[(&str, &str)]) -> Option<String> {
        routed(&trie(leaves), SYNTHETIC_RANGE).map(|net| net.to_string())
    }

    #[test]
    fn a_route_into_the_range_or_around_it_is_found() {
        let used =
            |address, prefix: &str| route(&[("10.0.0.0", "/8 link UNICAST"), (address, prefix)]);
        for (address, prefix, net) in [
            ("198.18.0.0", "/15 universe UNICAST", "198.18.0.0/15"),
            ("198.19.7.0", "/24 link UNICAST", "198.19.7.0/24"),
            ("198.18.0.1", "/32 host LOCAL", "198.18.0.1/32"),
            ("198.16.0.0", "/12 universe UNICAST", "198.16.0.0/12"),
            ("198.0.0.0", "/8 universe UNICAST", "198.0.0.0/8"),
        ] {
            assert_eq!(used(address, prefix).as_deref(), Some(net));
        }
    }

    #[test]
    fn what_routes_the_internet_or_leads_nowhere_does_not_count() {
        assert_eq!(route(&[("0.0.0.0", "/0 universe UNICAST")]), None);
        assert_eq!(route(&[("128.0.0.0", "/1 universe UNICAST")]), None);
        assert_eq!(route(&[("198.20.0.0", "/16 universe UNICAST")]), None);
        assert_eq!(route(&[("198.18.0.0", "/15 universe UNREACHABLE")]), None);
        assert_eq!(route(&[("198.18.0.0", "/15 universe BLACKHOLE")]), None);
        assert_eq!(route(&[]), None);
    }

    #[test]
    fn one_address_with_two_prefixes_is_two_routes() {
        let text = "     |-- 198.18.0.0\n        /0 universe UNICAST\n        /24 link UNICAST\n";
        let found = routed(text, SYNTHETIC_RANGE).map(|net| net.to_string());
        assert_eq!(found.as_deref(), Some("198.18.0.0/24"));
    }

    fn check(text: &str) -> Result<(), RangeError> {
        let input = Input::File {
            path: PathBuf::from("test.toml"),
            text: format!("version = 1\n{text}"),
        };
        let mut no_files = |_: &std::path::Path| Err(io::ErrorKind::NotFound.into());
        let policy = Policy::load(&[input], &mut no_files)
            .expect("a policy")
            .policy;
        check_synthetic_range(&policy)
    }

    #[test]
    fn a_rule_for_addresses_of_the_range_is_a_conflict_only_where_the_range_is_used() {
        let rule = "[network.addresses]\n\"198.18.5.0/24:80\" = \"allow\"\n";
        let synthetic = "[network.dns]\nanswers = \"synthetic\"\n";
        let mock = "[network.domains]\n\"m.example\" = { verdict = \"allow\", to = \":80\" }\n";
        // Whatever the machine routes that runs the test.
        let conflict = |text: &str| matches!(check(text), Err(RangeError::Allowed { .. }));
        assert!(!conflict(rule) && !conflict(synthetic));
        for uses in [synthetic, mock] {
            let error = check(&format!("{uses}{rule}")).unwrap_err();
            assert!(
                error.to_string().ends_with("a rule allows: 198.18.5.0/24"),
                "{error}"
            );
            assert!(error.fix().contains("synthetic_range"));
        }
        let other =
            "[network.dns]\nanswers = \"synthetic\"\nsynthetic_range = \"100.127.0.0/16\"\n";
        assert!(!conflict(&format!("{other}{rule}")));
    }

    #[test]
    fn loopback_is_a_route_of_every_host() {
        let text = std::fs::read_to_string(ROUTES).expect("the routes");
        let found = routed(&text, "127.0.0.0/9".parse().expect("a range"));
        assert!(found.is_some(), "{text}");
    }
}
