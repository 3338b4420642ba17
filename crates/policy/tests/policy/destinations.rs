//! *Decision and destination differ* and *addresses* (docs/threats.md): what a name is worth by how
//! it is known.

use portcullis_names::PortSet;
use portcullis_policy::{Asked, Mode, PermitTarget, ShownBy, Verdict};

use super::*;

/// A public address that DNS gave out.
const LEASED: &str = "192.0.2.10";
const TLS: u16 = 443;
/// An address that stands for a name.
const MADE_UP: &str = "100.64.0.9";

fn made_up(name: &Name) -> Destination<'_> {
    let asked = Asked::Synthetic {
        address: address(MADE_UP),
        name: Some(name.as_ref().into()),
    };
    asked.unshown()
}

#[test]
fn a_direct_connection_needs_a_lease_and_its_port() {
    let policy = domains("\"a.example\" = \"allow\"\n\"db.example:5432\" = \"allow\"");
    assert_eq!(reached(&policy, LEASED, TLS), Reason::AddressNotLeased);
    assert_eq!(leased(&policy, LEASED, &[], TLS), Reason::AddressNotLeased);
    assert_eq!(
        leased(&policy, LEASED, &["a.example"], TLS),
        Reason::Allowed
    );
    assert_eq!(
        leased(&policy, LEASED, &["a.example"], 5432),
        Reason::PortNotAllowed
    );
    // two names on one CDN address: either may open its own ports
    let both = ["a.example", "db.example"];
    assert_eq!(leased(&policy, LEASED, &both, TLS), Reason::Allowed);
    assert_eq!(leased(&policy, LEASED, &both, 5432), Reason::Allowed);
    assert_eq!(leased(&policy, LEASED, &both, 22), Reason::PortNotAllowed);
    // a name that a later policy no longer lists
    assert_eq!(
        leased(&policy, LEASED, &["gone.example"], TLS),
        Reason::NotListed
    );
}

#[test]
fn a_leased_connection_goes_by_the_name_that_allows_it() {
    let policy = domains("\"a.example\" = \"allow\"\n\"db.example:5432\" = \"allow\"");
    let owners = names(&["a.example", "db.example"]);
    let to = Destination::leased(address(LEASED), &owners);
    let decision = policy.decide(&Request::connect(&to, 5432));
    assert_eq!(decision.name().unwrap().as_str(), "db.example");
    let permit = decision.connect_permit().unwrap();
    assert_eq!(
        permit.target(),
        &PermitTarget::NameAt(name("db.example"), address(LEASED))
    );
    assert_eq!(permit.lookup().unwrap().ports(), &PortSet::single(5432));
}

#[test]
fn a_lease_does_not_open_a_private_address() {
    // rebinding: the name is listed, and its address is now an internal one
    let policy = domains("\"a.example\" = \"allow\"");
    for private in [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "fe80::1",
        "::ffff:127.0.0.1",
    ] {
        assert_eq!(
            leased(&policy, private, &["a.example"], TLS),
            Reason::PrivateAddress
        );
        assert_eq!(
            hidden(&policy, private, &["a.example"], TLS),
            Reason::PrivateAddress
        );
        let at = (private, &["a.example"][..]);
        assert_eq!(shown(&policy, at, "a.example", TLS), Reason::PrivateAddress);
        assert_eq!(
            policy.guard(address(private), TLS),
            Err(Reason::PrivateAddress)
        );
        assert!(!policy.guard_lookup(address(private), &PortSet::WEB));
    }
    assert_eq!(policy.guard(address(LEASED), TLS), Ok(()));
    assert!(policy.guard_lookup(address(LEASED), &PortSet::WEB));
}

#[test]
fn an_address_rule_lifts_the_guard_for_its_range_and_ports() {
    let policy = with_addresses(
        "",
        "\"10.20.0.0/16:5432\" = \"allow\"\n\"[fd00::/8]:22\" = \"allow\"",
    );
    assert_eq!(reached(&policy, "10.20.1.2", 5432), Reason::Allowed);
    assert_eq!(reached(&policy, "10.20.1.2", 443), Reason::PortNotAllowed);
    assert_eq!(reached(&policy, "10.21.1.2", 5432), Reason::PrivateAddress);
    assert_eq!(reached(&policy, "fd00::1", 22), Reason::Allowed);
    assert_eq!(policy.guard(address("10.20.1.2"), 5432), Ok(()));
    assert_eq!(
        policy.guard(address("10.20.1.2"), 443),
        Err(Reason::PrivateAddress)
    );
    assert!(policy.guard_lookup(address("10.20.1.2"), &PortSet::single(5432)));
    assert!(policy.guard_lookup(address("10.20.1.2"), &PortSet::ANY));
    assert!(!policy.guard_lookup(address("10.20.1.2"), &PortSet::WEB));
    // an IPv6 form of the same address is not the same address
    assert_eq!(
        reached(&policy, "::ffff:10.20.1.2", 5432),
        Reason::PrivateAddress
    );
    let permit = policy
        .decide(&Request::connect(
            &Destination::address(address("10.20.1.2")),
            5432,
        ))
        .connect_permit()
        .unwrap();
    assert_eq!(
        permit.target(),
        &PermitTarget::Address(address("10.20.1.2"))
    );
    assert!(permit.lookup().is_none());
    let nets: Vec<_> = policy
        .address_rules()
        .iter()
        .map(|r| (r.net.to_string(), r.ports.to_string()))
        .collect();
    assert_eq!(
        nets,
        [
            ("10.20.0.0/16".into(), "5432".into()),
            ("fd00::/8".into(), "22".into())
        ]
    );
}

#[test]
fn an_address_rule_opens_what_no_lease_does() {
    let policy = with_addresses(
        "\"a.example\" = \"allow\"",
        "\"192.0.2.0/24:22\" = \"allow\"",
    );
    assert_eq!(leased(&policy, LEASED, &[], 22), Reason::Allowed);
    assert_eq!(leased(&policy, LEASED, &["a.example"], 22), Reason::Allowed);
    assert_eq!(hidden(&policy, LEASED, &[], 22), Reason::Allowed);
    assert_eq!(
        shown(&policy, (LEASED, &[]), "whoever.example", 22),
        Reason::Allowed
    );
    assert_eq!(
        hidden(&policy, LEASED, &["a.example"], TLS),
        Reason::SniMissing
    );
}

#[test]
fn a_deny_rule_for_an_address_wins_over_every_name() {
    let policy = with_addresses(
        "\"a.example:*\" = \"allow\"",
        "\"192.0.2.0/24\" = \"deny\"\n\"192.0.2.10:443\" = \"allow\"\n\"198.51.100.0/24:25\" = \"deny\"",
    );
    let owners = &["a.example"][..];
    assert_eq!(reached(&policy, LEASED, TLS), Reason::DeniedByRule);
    assert_eq!(leased(&policy, LEASED, owners, TLS), Reason::DeniedByRule);
    assert_eq!(hidden(&policy, LEASED, owners, TLS), Reason::DeniedByRule);
    assert_eq!(
        shown(&policy, (LEASED, owners), "a.example", TLS),
        Reason::DeniedByRule
    );
    assert_eq!(
        policy.guard(address(LEASED), TLS),
        Err(Reason::DeniedByRule)
    );
    assert!(!policy.guard_lookup(address(LEASED), &PortSet::WEB));
    assert_eq!(
        leased(&policy, "198.51.100.1", owners, 25),
        Reason::DeniedByRule
    );
    assert_eq!(
        leased(&policy, "198.51.100.1", owners, 587),
        Reason::Allowed
    );
    assert!(policy.guard_lookup(address("198.51.100.1"), &PortSet::ANY));
    assert!(!policy.guard_lookup(address("198.51.100.1"), &PortSet::single(25)));
    // mapped into IPv6 it is still that address
    assert_eq!(
        reached(&policy, "::ffff:192.0.2.10", TLS),
        Reason::DeniedByRule
    );
    let watching = policy.with_mode(Mode::Audit);
    assert_eq!(watching.guard(address(LEASED), TLS), Ok(()));
    assert_eq!(
        watching.guard(address("10.0.0.1"), TLS),
        Err(Reason::PrivateAddress)
    );
}

#[test]
fn sni_must_be_listed_and_own_the_address() {
    let policy =
        domains("\"a.example\" = \"allow\"\n\"b.example\" = \"allow\"\n\"d.example\" = \"deny\"");
    let at = (LEASED, &["a.example"][..]);
    assert_eq!(shown(&policy, at, "a.example", TLS), Reason::Allowed);
    assert_eq!(shown(&policy, at, "A.EXAMPLE.", TLS), Reason::Allowed);
    // fronting: a listed name, but another one's address
    assert_eq!(shown(&policy, at, "b.example", TLS), Reason::SniMismatch);
    assert_eq!(
        shown(&policy, at, "evil.example", TLS),
        Reason::SniNotListed
    );
    assert_eq!(shown(&policy, at, "d.example", TLS), Reason::DeniedByRule);
    assert_eq!(
        shown(&policy, at, "a.example", 8443),
        Reason::PortNotAllowed
    );
    // the attacker's address with the SNI of a listed name
    assert_eq!(
        shown(&policy, (LEASED, &[]), "a.example", TLS),
        Reason::SniMismatch
    );
    // a name that owns the address, but is not listed any more
    assert_eq!(
        shown(&policy, (LEASED, &["old.example"]), "old.example", TLS),
        Reason::SniNotListed
    );
}

#[test]
fn host_must_be_listed_and_own_the_address() {
    let policy = domains("\"a.example\" = \"allow\"\n\"b.example\" = \"allow\"");
    let owners = names(&["a.example"]);
    let decide = |host: &str| {
        let host = name(host);
        let to = Destination::leased(address(LEASED), &owners).showing(Shown::host(host.as_ref()));
        policy
            .decide(&Request::Connect { to: &to, port: 80 })
            .reason
    };
    assert_eq!(decide("a.example"), Reason::Allowed);
    assert_eq!(decide("b.example"), Reason::HostMismatch);
    assert_eq!(decide("evil.example"), Reason::NotListed);
}

#[test]
fn a_denied_name_stays_denied_behind_an_address_rule() {
    let policy = with_addresses("\"d.example\" = \"deny\"", "\"192.0.2.0/24\" = \"allow\"");
    assert_eq!(
        shown(&policy, (LEASED, &[]), "d.example", TLS),
        Reason::DeniedByRule
    );
    assert_eq!(
        shown(&policy, (LEASED, &[]), "e.example", TLS),
        Reason::Allowed
    );
}

#[test]
fn tls_without_a_name_needs_a_rule_that_says_so_on_port_443() {
    let policy = domains(
        "\"a.example\" = \"allow\"\n\"old.example:443\" = { verdict = \"allow\", allow_no_sni = true }\n\
         \"old.example:8443\" = \"allow\"",
    );
    assert_eq!(
        hidden(&policy, LEASED, &["a.example"], TLS),
        Reason::SniMissing
    );
    assert_eq!(
        hidden(&policy, LEASED, &["old.example"], TLS),
        Reason::Allowed
    );
    assert_eq!(
        hidden(&policy, LEASED, &["a.example", "old.example"], TLS),
        Reason::Allowed
    );
    // on any other port plain TCP passes by lease, and so does TLS that says no more
    assert_eq!(
        hidden(&policy, LEASED, &["old.example"], 8443),
        Reason::Allowed
    );
    assert_eq!(
        hidden(&policy, LEASED, &["a.example"], 8443),
        Reason::PortNotAllowed
    );
    assert_eq!(hidden(&policy, LEASED, &[], 8443), Reason::AddressNotLeased);
    assert_eq!(
        hidden(&policy, LEASED, &["old.example"], 22),
        Reason::PortNotAllowed
    );
    assert_eq!(hidden(&policy, LEASED, &[], TLS), Reason::AddressNotLeased);
}

#[test]
fn hidden_tls_meets_the_strictest_name_of_its_address() {
    for strict in [
        "inspect = true",
        "methods = [\"GET\"]",
        "paths = [\"/a/**\"]",
    ] {
        let policy = domains(&format!(
            "\"free.example:8443\" = \"allow\"\n\
             \"strict.example:8443\" = {{ verdict = \"allow\", {strict} }}",
        ));
        let owners = [name("free.example"), name("strict.example")];
        for owners in [owners.clone(), [owners[1].clone(), owners[0].clone()]] {
            let asked = Asked::Address {
                address: address(LEASED),
                owners: owners.to_vec().into(),
            };
            let to = asked.showing(Shown::Hidden);
            let decision = policy.decide(&Request::Connect {
                to: &to,
                port: 8443,
            });
            assert_eq!(decision.reason, Reason::Allowed);
            let named = decision.name().map(|name| name.as_str());
            assert_eq!(named, Some("strict.example"), "{strict}");
        }
    }
}

#[test]
fn under_connect_the_sni_is_the_name_asked_for() {
    let policy = domains("\"a.example\" = \"allow\"\n\"b.example\" = \"allow\"");
    let decide = |asked: &str, shown: &str, by| {
        let (asked, shown) = (name(asked), name(shown));
        let to = Destination::name(asked.as_ref()).showing(Shown::Name(shown.as_ref().into(), by));
        policy
            .decide(&Request::Connect { to: &to, port: TLS })
            .reason
    };
    assert_eq!(
        decide("a.example", "a.example", ShownBy::Sni),
        Reason::Allowed
    );
    assert_eq!(
        decide("a.example", "b.example", ShownBy::Sni),
        Reason::SniMismatch
    );
    assert_eq!(
        decide("a.example", "evil.example", ShownBy::Sni),
        Reason::SniMismatch
    );
    assert_eq!(
        decide("a.example", "b.example", ShownBy::Host),
        Reason::HostMismatch
    );
    // a refusal of the name itself comes first
    assert_eq!(
        decide("evil.example", "evil.example", ShownBy::Sni),
        Reason::NotListed
    );
    assert_eq!(
        decide("evil.example", "a.example", ShownBy::Sni),
        Reason::NotListed
    );
}

#[test]
fn among_address_rules_the_most_specific_allow_supplies_the_ports() {
    let policy = with_addresses(
        "",
        "\"10.0.0.0/8\" = \"allow\"\n\"10.1.0.0/16:5432\" = \"allow\"\n\"10.1.0.0/16:5433\" = \"allow\"",
    );
    assert_eq!(reached(&policy, "10.2.0.1", 22), Reason::Allowed);
    assert_eq!(reached(&policy, "10.1.0.1", 22), Reason::PortNotAllowed);
    for port in [5432, 5433] {
        assert_eq!(reached(&policy, "10.1.0.1", port), Reason::Allowed);
    }
}

#[test]
fn audit_keeps_the_guard_whatever_address_rules_say() {
    let policy = with_addresses("", "\"10.0.0.1:22\" = \"allow\"\n\"10.0.0.2\" = \"deny\"")
        .with_mode(Mode::Audit);
    for (to, port, verdict) in [
        ("10.0.0.1", 22, Verdict::Allow),
        ("10.0.0.1", 23, Verdict::Deny),
        ("10.0.0.2", 22, Verdict::Deny),
    ] {
        let reached = Destination::address(address(to));
        let decision = policy.decide(&Request::connect(&reached, port));
        assert_eq!(decision.verdict, verdict, "{to}:{port}");
    }
}

#[test]
fn a_synthetic_address_is_judged_and_dialled_by_its_one_name() {
    let policy = domains(
        "\"a.example\" = \"allow\"\n\"b.example\" = \"allow\"\n\"evil.example\" = \"deny\"\n\
         \"db.example:5432\" = \"allow\"\n\
         \"blind.example\" = { verdict = \"allow\", allow_no_sni = true }",
    );
    let decide = |name: &str, seen: Option<(&str, ShownBy)>, port| {
        let name = self::name(name);
        let shown = match seen {
            None => Shown::Nothing,
            Some((text, by)) => Shown::Name(self::name(text).into(), by),
        };
        let to = made_up(&name).showing(shown);
        let decision = policy.decide(&Request::Connect { to: &to, port });
        if let Some(permit) = decision.connect_permit() {
            assert_eq!(permit.target(), &PermitTarget::Name(name.clone()));
            assert_eq!(permit.lookup().unwrap().name(), &name);
        }
        decision.reason
    };
    let sni = |shown| Some((shown, ShownBy::Sni));
    assert_eq!(decide("a.example", None, TLS), Reason::Allowed);
    assert_eq!(decide("a.example", None, 22), Reason::PortNotAllowed);
    assert_eq!(decide("gone.example", None, TLS), Reason::NotListed);
    assert_eq!(decide("evil.example", None, TLS), Reason::DeniedByRule);
    assert_eq!(decide("a.example", sni("a.example"), TLS), Reason::Allowed);
    assert_eq!(
        decide("a.example", sni("b.example"), TLS),
        Reason::SniMismatch
    );
    assert_eq!(
        decide("a.example", Some(("b.example", ShownBy::Host)), 80),
        Reason::HostMismatch
    );
    assert_eq!(
        decide("a.example", sni("x.example"), TLS),
        Reason::SniNotListed
    );
    assert_eq!(
        decide("a.example", sni("evil.example"), TLS),
        Reason::DeniedByRule
    );
    // what is shown cannot save a name that is not listed
    assert_eq!(
        decide("gone.example", sni("a.example"), TLS),
        Reason::NotListed
    );
    let hidden = |text: &str| {
        let name = name(text);
        let to = made_up(&name).showing(Shown::Hidden);
        policy
            .decide(&Request::Connect { to: &to, port: TLS })
            .reason
    };
    assert_eq!(hidden("a.example"), Reason::SniMissing);
    assert_eq!(hidden("blind.example"), Reason::Allowed);
    let policy = domains("\"redis.example:6379\" = \"allow\"");
    let redis = name("redis.example");
    let to = made_up(&redis).showing(Shown::Hidden);
    let request = Request::Connect {
        to: &to,
        port: 6379,
    };
    assert_eq!(policy.decide(&request).reason, Reason::Allowed);
}

#[test]
fn a_synthetic_address_that_stands_for_nothing_leads_nowhere() {
    // not by a rule for its network, and not where the policy only watches
    let policy = with_addresses("", "\"100.64.0.0/10:443\" = \"allow\"");
    for policy in [policy.clone(), policy.with_mode(Mode::Audit)] {
        let to = Asked::Synthetic {
            address: address(MADE_UP),
            name: None,
        };
        let to = to.unshown();
        for request in [
            Request::connect(&to, TLS),
            Request::Datagrams { to: &to, port: TLS },
        ] {
            let decision = policy.decide(&request);
            assert_eq!(decision.verdict, Verdict::Deny);
            assert_eq!(decision.reason, Reason::AddressNotLeased);
            assert!(decision.rule.is_none() && decision.connect_permit().is_none());
            assert_eq!(policy.suggestion(&request), None);
        }
    }
}

#[test]
fn audit_dials_a_synthetic_address_by_its_name_whatever_is_shown() {
    let policy = domains("\"a.example\" = \"allow\"").with_mode(Mode::Audit);
    let (own, other) = (name("a.example"), name("other.example"));
    let to = made_up(&own).showing(Shown::sni(other.as_ref()));
    let decision = policy.decide(&Request::Connect { to: &to, port: TLS });
    assert_eq!(decision.verdict, Verdict::Audit);
    let permit = decision.connect_permit().unwrap();
    assert_eq!(permit.target(), &PermitTarget::Name(own.clone()));
}
