//! Which rule decides, on which port.

use portcullis_names::PortSet;
use portcullis_policy::{HOST_NAME, Mode, PermitTarget, Policy, Reason, Request, Verdict};

use super::*;

const AAAA: u16 = 28;

#[test]
fn an_empty_allowlist_denies_all() {
    for policy in [
        Policy::deny_all(),
        loaded("p.toml", "version = 1").policy,
        domains(""),
    ] {
        assert_eq!(asked(&policy, "example.org", 443), Reason::NotListed);
        assert_eq!(lookup(&policy, "example.org", 1), Reason::NotListed);
        assert_eq!(reached(&policy, "192.0.2.1", 443), Reason::AddressNotLeased);
        assert_eq!(policy.rule_count(), 0);
    }
}

#[test]
fn patterns_match_at_labels_only() {
    let policy = domains(
        r#"
        "exact.example" = "allow"
        "*.below.example" = "allow"
        "**.both.example" = "allow"
        "#,
    );
    for (target, reason) in [
        ("exact.example", Reason::Allowed),
        ("a.exact.example", Reason::NotListed),
        ("notexact.example", Reason::NotListed),
        ("exact.example.evil.com", Reason::NotListed),
        ("example", Reason::NotListed),
        ("below.example", Reason::NotListed),
        ("a.below.example", Reason::Allowed),
        ("a.b.c.below.example", Reason::Allowed),
        ("abelow.example", Reason::NotListed),
        ("both.example", Reason::Allowed),
        ("a.both.example", Reason::Allowed),
        ("a.b.both.example", Reason::Allowed),
        ("notboth.example", Reason::NotListed),
        ("below.example.evil.com", Reason::NotListed),
    ] {
        assert_eq!(asked(&policy, target, 443), reason, "{target}");
        assert_eq!(lookup(&policy, target, AAAA), reason, "{target}");
    }
}

#[test]
fn names_are_matched_in_canonical_form() {
    let policy = domains(r#""API.Bücher.Example." = "allow""#);
    assert_eq!(
        asked(&policy, "api.xn--bcher-kva.example", 443),
        Reason::Allowed
    );
    let as_program = written("api.XN--BCHER-KVA.example.");
    let to = Destination::name(as_program.as_ref());
    let decision = policy.decide(&Request::connect(&to, 443));
    assert!(decision.permits());
}

#[test]
fn deny_wins_wherever_it_stands() {
    let policy = domains(
        r#"
        "gist.github.com" = "deny"
        "*.github.com" = "allow"
        "raw.deep.github.com" = "allow"
        "**.deep.github.com" = "deny"
        "#,
    );
    assert_eq!(asked(&policy, "api.github.com", 443), Reason::Allowed);
    assert_eq!(asked(&policy, "gist.github.com", 443), Reason::DeniedByRule);
    assert_eq!(lookup(&policy, "gist.github.com", 1), Reason::DeniedByRule);
    // a narrower allow does not win against a wider deny
    assert_eq!(
        asked(&policy, "raw.deep.github.com", 443),
        Reason::DeniedByRule
    );
    assert_eq!(
        lookup(&policy, "raw.deep.github.com", 1),
        Reason::DeniedByRule
    );
}

#[test]
fn a_bare_name_means_the_web_ports() {
    let policy = domains(r#""a.example" = "allow""#);
    for (port, reason) in [
        (80, Reason::Allowed),
        (443, Reason::Allowed),
        (22, Reason::PortNotAllowed),
        (8080, Reason::PortNotAllowed),
        (0, Reason::PortNotAllowed),
    ] {
        assert_eq!(asked(&policy, "a.example", port), reason, "{port}");
    }
}

#[test]
fn a_name_and_a_name_with_port_mean_the_union() {
    let policy = domains("\"a.example\" = \"allow\"\n\"a.example:5432\" = \"allow\"");
    for port in [80, 443, 5432] {
        assert_eq!(asked(&policy, "a.example", port), Reason::Allowed, "{port}");
    }
    assert_eq!(asked(&policy, "a.example", 22), Reason::PortNotAllowed);
    let a = name("a.example");
    let web_and_db = PortSet::WEB.union(&PortSet::single(5432));
    assert_eq!(policy.ports_for(a.as_ref()), web_and_db);
    let permit = policy
        .decide(&Request::Lookup {
            name: a.as_ref(),
            qtype: 1.into(),
        })
        .lookup_permit()
        .unwrap();
    assert_eq!(permit.ports(), &web_and_db);
}

#[test]
fn any_port() {
    let policy = domains(r#""a.example:*" = "allow""#);
    for port in [1, 22, 65535] {
        assert_eq!(asked(&policy, "a.example", port), Reason::Allowed);
    }
    assert_eq!(asked(&policy, "a.example", 0), Reason::PortNotAllowed);
}

#[test]
fn the_most_specific_allow_supplies_the_ports() {
    let policy = domains(
        r#"
        "**.example.org:*" = "allow"
        "*.example.org:22" = "allow"
        "*.deep.example.org:23" = "allow"
        "db.example.org:5432" = "allow"
        "#,
    );
    for (target, open) in [
        ("example.org", 7),
        ("a.example.org", 22),
        ("a.b.example.org", 22),
        ("deep.example.org", 22),
        ("a.deep.example.org", 23),
        ("db.example.org", 5432),
    ] {
        assert_eq!(
            asked(&policy, target, open),
            Reason::Allowed,
            "{target}:{open}"
        );
        if open != 7 {
            assert_eq!(
                asked(&policy, target, 7),
                Reason::PortNotAllowed,
                "{target}:7"
            );
        }
    }
}

#[test]
fn a_deny_without_port_covers_every_port() {
    let policy = domains("\"*.example.org:*\" = \"allow\"\n\"a.example.org\" = \"deny\"");
    assert_eq!(asked(&policy, "a.example.org", 22), Reason::DeniedByRule);
    assert_eq!(lookup(&policy, "a.example.org", 1), Reason::DeniedByRule);
    assert_eq!(
        policy.ports_for(name("a.example.org").as_ref()),
        PortSet::EMPTY
    );
}

#[test]
fn a_deny_of_some_ports_leaves_the_others() {
    let policy = domains(
        "\"a.example.org\" = \"allow\"\n\"*.example.org:80\" = \"deny\"\n\"b.example.org:80\" = \"allow\"",
    );
    assert_eq!(asked(&policy, "a.example.org", 80), Reason::DeniedByRule);
    assert_eq!(asked(&policy, "a.example.org", 443), Reason::Allowed);
    assert_eq!(lookup(&policy, "a.example.org", 1), Reason::Allowed);
    assert_eq!(
        policy.ports_for(name("a.example.org").as_ref()),
        PortSet::HTTPS
    );
    // every port that is listed is denied: nothing could be reached, so nothing is resolved
    assert_eq!(lookup(&policy, "b.example.org", 1), Reason::DeniedByRule);
    // denied on one port and not listed at all
    assert_eq!(lookup(&policy, "c.example.org", 1), Reason::NotListed);
    assert_eq!(asked(&policy, "c.example.org", 80), Reason::DeniedByRule);
    assert_eq!(asked(&policy, "c.example.org", 443), Reason::NotListed);
}

#[test]
fn denies_of_port_after_port_close_a_name() {
    let policy = domains(
        "\"a.example.org\" = \"allow\"\n\"*.example.org:80\" = \"deny\"\n\"**.example.org:443\" = \"deny\"",
    );
    assert_eq!(lookup(&policy, "a.example.org", 1), Reason::DeniedByRule);
    assert_eq!(
        policy.ports_for(name("a.example.org").as_ref()),
        PortSet::EMPTY
    );
}

#[test]
fn record_types() {
    let policy = domains(r#""a.example" = "allow""#);
    for served in [1, 2, 5, 6, 12, 15, 16, 28, 33, 64, 65, 257] {
        assert_eq!(
            lookup(&policy, "a.example", served),
            Reason::Allowed,
            "{served}"
        );
        assert_eq!(
            lookup(&policy, "b.example", served),
            Reason::NotListed,
            "{served}"
        );
    }
    // NULL, HINFO, ANY, NAPTR, OPT, an unassigned one
    for other in [10, 13, 255, 35, 41, 4711] {
        assert_eq!(
            lookup(&policy, "a.example", other),
            Reason::TypeNotServed,
            "{other}"
        );
        assert_eq!(
            lookup(&policy, "b.example", other),
            Reason::NotListed,
            "{other}"
        );
    }
    for transfer in [251, 252] {
        assert_eq!(
            lookup(&policy, "a.example", transfer),
            Reason::TransferRefused
        );
        assert_eq!(
            lookup(&policy, "b.example", transfer),
            Reason::TransferRefused
        );
    }
}

#[test]
fn decisions_name_their_rule() {
    let loaded = loaded(
        "base.toml",
        "version = 1\n[network.domains]\n\"*.example.org\" = \"allow\"\n\"a.example.org:22\" = \"deny\"\n",
    );
    let policy = loaded.policy;
    let rule = |port| {
        let a = name("a.example.org");
        let to = Destination::name(a.as_ref());
        let decision = policy.decide(&Request::connect(&to, port));
        let info = policy.rule(decision.rule.unwrap());
        (info.text.to_owned(), info.source.to_string(), info.denies)
    };
    assert_eq!(
        rule(443),
        ("*.example.org".into(), "base.toml:3".into(), false)
    );
    assert_eq!(
        rule(22),
        ("a.example.org:22".into(), "base.toml:4".into(), true)
    );
    // the nearest rule, for a listed name on another port
    assert_eq!(
        rule(8080),
        ("*.example.org".into(), "base.toml:3".into(), false)
    );
    let unlisted = name("b.example.com");
    assert_eq!(
        policy
            .decide(&Request::connect(
                &Destination::name(unlisted.as_ref()),
                443
            ))
            .rule,
        None
    );
}

#[test]
fn only_permitting_decisions_hand_out_permits() {
    let policy = domains(r#""a.example:5432" = "allow""#);
    let (a, b) = (name("a.example"), name("b.example"));
    let to = Destination::name(b.as_ref());
    let refused = policy.decide(&Request::connect(&to, 5432));
    assert_eq!(refused.verdict, Verdict::Deny);
    assert!(!refused.permits());
    assert!(refused.connect_permit().is_none());
    assert!(refused.lookup_permit().is_none());

    let to = Destination::name(a.as_ref());
    let allowed = policy.decide(&Request::connect(&to, 5432));
    assert_eq!(allowed.verdict, Verdict::Allow);
    assert!(
        allowed.lookup_permit().is_none(),
        "a connection's permit is for connecting"
    );
    let permit = allowed.connect_permit().unwrap();
    assert_eq!(permit.target(), &PermitTarget::Name(a.clone()));
    assert_eq!((permit.port(), permit.rule()), (5432, allowed.rule));
    assert!(!permit.audit() && !permit.is_operators());
    assert_eq!(permit.lookup().unwrap().name(), &a);

    let looked_up = policy.decide(&Request::Lookup {
        name: a.as_ref(),
        qtype: 1.into(),
    });
    assert!(looked_up.connect_permit().is_none());
    assert_eq!(looked_up.lookup_permit().unwrap().listed(), &a);
    let refused = policy.decide(&Request::Lookup {
        name: a.as_ref(),
        qtype: 252.into(),
    });
    assert!(refused.lookup_permit().is_none());
}

#[test]
fn audit_lets_pass_and_says_what_it_would_have_refused() {
    let policy =
        domains("\"a.example\" = \"allow\"\n\"d.example\" = \"deny\"").with_mode(Mode::Audit);
    let decide = |target: &str, port| {
        let target = name(target);
        let to = Destination::name(target.as_ref());
        let decision = policy.decide(&Request::connect(&to, port));
        (
            decision.verdict,
            decision.reason,
            decision.connect_permit().map(|p| p.audit()),
        )
    };
    assert_eq!(
        decide("a.example", 443),
        (Verdict::Allow, Reason::Allowed, Some(false))
    );
    assert_eq!(
        decide("b.example", 443),
        (Verdict::Audit, Reason::NotListed, Some(true))
    );
    assert_eq!(
        decide("a.example", 22),
        (Verdict::Audit, Reason::PortNotAllowed, Some(true))
    );
    assert_eq!(
        decide("d.example", 443),
        (Verdict::Audit, Reason::DeniedByRule, Some(true))
    );
    assert_eq!(
        decide(HOST_NAME, 80),
        (Verdict::Deny, Reason::NotListed, None)
    );

    let b = name("b.example");
    let lookup = policy.decide(&Request::Lookup {
        name: b.as_ref(),
        qtype: 1.into(),
    });
    let permit = lookup.lookup_permit().unwrap();
    assert!(permit.audit());
    assert!(permit.ports().is_any());
    for qtype in [10, 251, 252, 255] {
        let refused = policy.decide(&Request::Lookup {
            name: b.as_ref(),
            qtype: qtype.into(),
        });
        assert_eq!(refused.verdict, Verdict::Deny, "{qtype}");
    }

    let to = |text: &str| {
        policy
            .decide(&Request::connect(&Destination::address(address(text)), 443))
            .verdict
    };
    assert_eq!(to("192.0.2.1"), Verdict::Audit);
    for private in [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "::1",
        "::ffff:192.0.2.1",
    ] {
        assert_eq!(to(private), Verdict::Deny, "{private}");
    }
}

#[test]
fn the_host_s_loopback_is_listed_by_its_own_name_only() {
    let wild = domains("\"**.internal\" = \"allow\"\n\"*.portcullis.internal:*\" = \"allow\"");
    assert_eq!(
        asked(&wild, "other.portcullis.internal", 22),
        Reason::Allowed
    );
    assert_eq!(asked(&wild, HOST_NAME, 443), Reason::NotListed);
    assert_eq!(lookup(&wild, HOST_NAME, 1), Reason::NotListed);
    assert_eq!(wild.ports_for(name(HOST_NAME).as_ref()), PortSet::EMPTY);

    let own = domains("\"host.portcullis.internal:8080\" = \"allow\"");
    assert_eq!(asked(&own, HOST_NAME, 8080), Reason::Allowed);
    assert_eq!(asked(&own, HOST_NAME, 443), Reason::PortNotAllowed);
    assert_eq!(lookup(&own, HOST_NAME, 1), Reason::Allowed);
    // the address that stands for it inside is private, and opens by this name alone
    assert_eq!(
        leased(&own, "10.0.2.2", &[HOST_NAME], 8080),
        Reason::Allowed
    );
    assert_eq!(
        leased(&own, "10.0.2.2", &[HOST_NAME], 443),
        Reason::PrivateAddress
    );
    assert_eq!(reached(&own, "10.0.2.2", 8080), Reason::PrivateAddress);
    let denied =
        domains("\"host.portcullis.internal:8080\" = \"allow\"\n\"*.internal\" = \"deny\"");
    assert_eq!(asked(&denied, HOST_NAME, 8080), Reason::DeniedByRule);
}

#[test]
fn a_decision_allocates_nothing() {
    let policy = with_addresses(
        "\"*.example.org\" = \"allow\"\n\"a.example.org:80\" = \"deny\"\n\"**.x.example:*\" = \"allow\"",
        "\"192.0.2.0/24:443\" = \"allow\"\n\"192.0.2.7\" = \"deny\"",
    );
    let owners = names(&["a.example.org", "b.example.org", "c.x.example"]);
    let (listed, deep, other) = (
        name("a.example.org"),
        name("a.b.c.d.e.f.g.x.example"),
        name("example.com"),
    );
    let mut requests = Vec::new();
    let mut connections = Vec::new();
    for target in [&listed, &deep, &other] {
        let target = target.as_ref();
        for qtype in [1, 255] {
            requests.push(Request::Lookup {
                name: target,
                qtype: qtype.into(),
            });
        }
        for port in [80, 443, 22] {
            connections.push((Destination::name(target), port));
            for to in [
                "192.0.2.1",
                "192.0.2.7",
                "198.51.100.1",
                "2001:db8::1",
                "::ffff:10.0.0.1",
            ] {
                let address = address(to);
                connections.push((Destination::address(address), port));
                for to in [
                    Destination::leased(address, &owners),
                    Destination::leased(address, &owners).showing(Shown::Hidden),
                    Destination::leased(address, &owners).showing(Shown::sni(target)),
                ] {
                    connections.push((to, port));
                }
            }
        }
    }
    requests.extend((connections.iter()).map(|(to, port)| Request::connect(to, *port)));
    let count = allocation_counter::measure(|| {
        for request in &requests {
            std::hint::black_box(policy.decide(request));
        }
    });
    assert_eq!(count.count_total, 0, "{} requests", requests.len());
    // the counter counts: a permit owns its name
    let some = allocation_counter::measure(|| {
        std::hint::black_box(policy.decide(&requests[0]).lookup_permit());
    });
    assert!(some.count_total > 0);
}

#[test]
fn exact_names_are_what_is_listed_without_a_wildcard_once_and_sorted() {
    let policy = domains(
        "\"zeta.example\" = \"allow\"\n\"*.wild.example\" = \"allow\"\n\"**.apex.example\" = \"allow\"\n\
         \"alpha.example:22\" = \"allow\"\n\"alpha.example\" = \"allow\"\n\"no.example\" = \"deny\"\n\
         \"Beta.Example.\" = \"allow\"",
    );
    let names: Vec<String> = policy
        .exact_names()
        .iter()
        .map(|name| name.as_str().to_owned())
        .collect();
    assert_eq!(names, ["alpha.example", "beta.example", "zeta.example"]);
    assert!(Policy::deny_all().exact_names().is_empty());
}
