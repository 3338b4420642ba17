//! What a rule says besides its verdict: which types are served, and where connections go.

use portcullis_policy::Mode;

use super::*;

const A: u16 = 1;
const CNAME: u16 = 5;
const PTR: u16 = 12;
const TXT: u16 = 16;
const SRV: u16 = 33;

#[test]
fn types_of_the_most_specific_rule_that_says() {
    let text = r#"version = 1
[network.dns]
types = ["A", "CNAME", "PTR"]
[network.domains]
"plain.example" = "allow"
"**.wide.example" = { verdict = "allow", types = ["A", "TXT"] }
"a.wide.example" = { verdict = "allow", types = ["SRV"] }
"a.wide.example:5060" = { verdict = "allow", types = ["A"] }
"b.wide.example" = "allow"
"#;
    let policy = loaded("p.toml", text).policy;
    for (name, served, not) in [
        ("plain.example", &[A, CNAME, PTR][..], &[TXT, SRV, 28][..]),
        ("x.wide.example", &[A, TXT], &[CNAME, SRV]),
        ("a.wide.example", &[A, SRV], &[TXT, CNAME]),
        // its own rule says nothing: the policy's types, not those of the wider rule
        ("b.wide.example", &[A, CNAME], &[TXT, SRV]),
    ] {
        for qtype in served {
            assert_eq!(
                lookup(&policy, name, *qtype),
                Reason::Allowed,
                "{name} {qtype}"
            );
        }
        for qtype in not {
            assert_eq!(
                lookup(&policy, name, *qtype),
                Reason::TypeNotServed,
                "{name} {qtype}"
            );
        }
    }
    assert_eq!(lookup(&policy, "other.example", SRV), Reason::NotListed);
    assert!(
        policy
            .types_for(name("plain.example").as_ref())
            .contains(portcullis_names::RecordType::PTR)
    );
    assert!(
        !policy
            .types_for(name("x.wide.example").as_ref())
            .contains(portcullis_names::RecordType::PTR)
    );
    // what is not served stays so where the policy only watches
    let audit = policy.with_mode(Mode::Audit);
    assert_eq!(
        lookup(&audit, "x.wide.example", CNAME),
        Reason::TypeNotServed
    );
    assert_eq!(lookup(&audit, "other.example", SRV), Reason::TypeNotServed);
}

#[test]
fn without_cname_a_permit_is_flattened() {
    let policy = domains(
        "\"plain.example\" = \"allow\"\n\"flat.example\" = { verdict = \"allow\", types = [\"A\", \"AAAA\"] }",
    );
    for (target, flattened) in [("plain.example", false), ("flat.example", true)] {
        let target = name(target);
        let request = Request::Lookup {
            name: target.as_ref(),
            qtype: A.into(),
        };
        let permit = policy.decide(&request).lookup_permit().unwrap();
        assert_eq!(permit.flattened(), flattened, "{target}");
        let follow = permit.follow(name("edge.cdn.example"));
        assert_eq!(
            follow.flattened(),
            flattened,
            "the chain's end is the same listed name's"
        );
        let to = Destination::name(target.as_ref());
        let connect = policy.decide(&Request::connect(&to, 443));
        let lookup = connect.connect_permit().unwrap().lookup().unwrap();
        assert_eq!(lookup.flattened(), flattened, "{target}");
    }
}

#[test]
fn to_is_in_the_permits_of_its_ports() {
    let policy = domains(
        "\"mock.example\" = { verdict = \"allow\", to = \"127.0.0.1:8080\" }\n\
         \"two.example:80\" = { verdict = \"allow\", to = \":8080\" }\n\
         \"two.example:443\" = { verdict = \"allow\", to = \"[2001:db8::1]:8443\" }\n\
         \"*.mock.example\" = { verdict = \"allow\", to = \"10.0.0.7:9\" }\n\
         \"real.mock.example\" = \"allow\"",
    );
    let to = |target: &str, port| {
        let target = name(target);
        let to = Destination::name(target.as_ref());
        let decision = policy.decide(&Request::connect(&to, port));
        let to = decision.connect_permit().unwrap().to();
        to.map(|to| to.to_string())
    };
    assert_eq!(to("mock.example", 80).as_deref(), Some("127.0.0.1:8080"));
    assert_eq!(to("mock.example", 443).as_deref(), Some("127.0.0.1:8080"));
    assert_eq!(to("two.example", 80).as_deref(), Some("127.0.0.1:8080"));
    assert_eq!(
        to("two.example", 443).as_deref(),
        Some("[2001:db8::1]:8443")
    );
    assert_eq!(to("a.b.mock.example", 443).as_deref(), Some("10.0.0.7:9"));
    assert_eq!(
        to("real.mock.example", 443),
        None,
        "the narrower rule has none"
    );
    assert_eq!(asked(&policy, "mock.example", 8080), Reason::PortNotAllowed);

    let looked_up = |target: &str| {
        let target = name(target);
        let request = Request::Lookup {
            name: target.as_ref(),
            qtype: A.into(),
        };
        let to = policy.decide(&request).lookup_permit().unwrap().to();
        to.map(|to| to.to_string())
    };
    assert_eq!(looked_up("mock.example").as_deref(), Some("127.0.0.1:8080"));
    assert_eq!(
        looked_up("two.example").as_deref(),
        Some("127.0.0.1:8080"),
        "the lowest port's"
    );
    assert_eq!(looked_up("real.mock.example"), None);

    // by the name that owns the address, as by the name itself
    let owners = names(&["mock.example"]);
    let to = Destination::leased(address("198.18.0.1"), &owners);
    let leased = policy.decide(&Request::connect(&to, 80));
    assert!(
        leased.connect_permit().is_none(),
        "a guarded address needs more than a lease"
    );
    let to = Destination::leased(address("192.0.2.1"), &owners);
    let leased = policy.decide(&Request::connect(&to, 80));
    let to = leased.connect_permit().unwrap().to();
    assert_eq!(to, Some("127.0.0.1:8080".parse().unwrap()));
}

/// The errors of these lines under `[network.domains]`.
fn said(lines_: &str) -> String {
    lines(&errors(
        "p.toml",
        &format!("version = 1\n[network.domains]\n{lines_}\n"),
    ))
}

#[test]
fn to_that_leads_nowhere() {
    for (to, message) in [
        (
            "0.0.0.0:80",
            "`0.0.0.0:80` is not an address that can be connected to (for this host, write \":80\")",
        ),
        (
            "[::]:80",
            "`[::]:80` is not an address that can be connected to (for this host, write \":80\")",
        ),
        (
            "224.0.0.1:80",
            "`224.0.0.1:80` is not an address that can be connected to (write \"ADDRESS:PORT\"",
        ),
        (
            "255.255.255.255:80",
            "`255.255.255.255:80` is not an address that can be connected to",
        ),
        ("127.0.0.1:0", "`127.0.0.1:0` has port 0"),
        (":0", "`:0` has port 0"),
        (
            "127.0.0.1",
            "`127.0.0.1` has no port (write \"ADDRESS:PORT\", or \":PORT\" for a port of this host)",
        ),
        (
            "localhost:8080",
            "`localhost:8080` names a host, but `to` takes an address (write \":8080\")",
        ),
        (
            "8080",
            "`8080` has no `:` in front of its port (for this host, write \":8080\")",
        ),
        (
            "mock.example:80",
            "`mock.example:80` is not an address with a port (write \"ADDRESS:PORT\"",
        ),
        ("", "`` is not an address with a port"),
    ] {
        let said = said(&format!(
            "\"a.example\" = {{ verdict = \"allow\", to = \"{to}\" }}"
        ));
        let expected = format!("p.toml:3:41: error: {message}");
        assert!(said.starts_with(&expected), "{said}");
    }
}

#[test]
fn terms_belong_to_rules_that_allow_names() {
    for (line, message) in [
        (
            "\"a.example\" = { verdict = \"deny\", to = \":8080\" }",
            "p.toml:3:40: error: `to` has no effect in a rule that denies",
        ),
        (
            "\"a.example\" = { verdict = \"deny\", types = [\"A\"] }",
            "p.toml:3:43: error: `types` has no effect in a rule that denies",
        ),
        (
            "\"a.example\" = { verdict = \"allow\", types = [\"B\"] }",
            "p.toml:3:45: error: `B` is not a record type (did you mean `A`?)",
        ),
        (
            "\"a.example\" = { verdict = \"allow\", to = 8080 }",
            "p.toml:3:41: error: `to` must be a quoted string, not a number",
        ),
        (
            "[network.addresses]\n\"10.0.0.1:80\" = { verdict = \"allow\", to = \":80\" }",
            "p.toml:4:38: error: unknown key `to` in a rule (known keys: verdict, methods, paths, rate, connections, connections_per_second, total_bytes, idle_timeout)",
        ),
    ] {
        let said = said(line);
        assert!(said.starts_with(message), "{said}");
    }
}

#[test]
fn two_rules_that_send_a_name_to_two_places() {
    let mock = "\"a.example\" = { verdict = \"allow\", to = \":1\" }";
    for (second, message) in [
        (
            "\"a.example:443\" = { verdict = \"allow\", to = \":2\" }",
            "p.toml:4:1: error: `a.example:443` is sent to two places (p.toml:3 sends it elsewhere; keep one of the two)",
        ),
        (
            "\"a.example:22\" = \"allow\"",
            "p.toml:4:1: error: `a.example:22` is sent elsewhere with `to`, but not on all of its ports (p.toml:3 has the `to`; add one to this rule, or remove it)",
        ),
    ] {
        let said = said(&format!("{mock}\n{second}"));
        assert!(said.starts_with(message), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    // a plain rule of a shared file, and a mock of its ports on top
    let files = [
        file(
            "base.toml",
            "version = 1\n[network.domains]\n\"a.example\" = \"allow\"\n",
        ),
        file(
            "mock.toml",
            &format!("version = 1\n[network.domains]\n{mock}\n"),
        ),
    ];
    let policy = load(&files).unwrap().policy;
    let a = name("a.example");
    let permit = policy
        .decide(&Request::connect(&Destination::name(a.as_ref()), 443))
        .connect_permit();
    assert_eq!(permit.unwrap().to(), Some("127.0.0.1:1".parse().unwrap()));
    // across files as well, since nothing says which should win
    let more = file(
        "more.toml",
        "version = 1\n[network.domains]\n\"a.example:80\" = { verdict = \"allow\", to = \":2\" }\n",
    );
    let said = lines(&load(&[files[1].clone(), more]).unwrap_err());
    assert!(
        said.contains("`a.example:80` is sent to two places (mock.toml:3"),
        "{said}"
    );
    let flags = [files[1].clone(), Input::Allow("a.example:22".into())];
    let said = lines(&load(&flags).unwrap_err());
    assert!(
        said.starts_with("--allow:1:1: error: `a.example:22` is sent elsewhere"),
        "{said}"
    );
}
