//! Methods, paths, limits and datagrams of rules: what loads, what it decides, what is proposed.

use portcullis_policy::{LIMITED_METHODS, Mode, RuleTerms};
use std::sync::Arc;
use std::time::Duration;

use super::*;

fn said(text: &str) -> String {
    lines(&errors("p.toml", &format!("version = 1\n{text}\n")))
}

fn http(policy: &Policy, target: &str, port: u16, method: &str, path: &str) -> Reason {
    let target = name(target);
    let to = Destination::name(target.as_ref());
    let request = Request::Http {
        to: &to,
        port,
        method,
        path,
    };
    policy.decide(&request).reason
}

fn terms(policy: &Policy, target: &str, port: u16) -> Option<Arc<RuleTerms>> {
    let target = name(target);
    let to = Destination::name(target.as_ref());
    let decision = policy.decide(&Request::connect(&to, port));
    decision.connect_permit().unwrap().terms().cloned()
}

fn suggestion(policy: &Policy, target: &str, (method, path): (&str, &str)) -> Option<String> {
    let target = name(target);
    policy.suggestion(&Request::Http {
        to: &Destination::name(target.as_ref()),
        port: 80,
        method,
        path,
    })
}

#[test]
fn methods_and_paths_of_the_most_specific_rule() {
    let policy = domains(
        r#""**.x.example:80" = { verdict = "allow", methods = ["GET"] }
"up.x.example:80" = { verdict = "allow", methods = ["GET", "PUT"], paths = ["/in/**"] }
"free.x.example" = "allow"
"no.x.example" = "deny""#,
    );
    for (target, method, path, reason) in [
        ("a.x.example", "GET", "/any/../thing", Reason::Allowed),
        ("a.x.example", "HEAD", "/", Reason::Allowed),
        ("a.x.example", "POST", "/", Reason::MethodNotAllowed),
        ("a.x.example", "get", "/", Reason::MethodNotAllowed),
        ("up.x.example", "PUT", "/in/a", Reason::Allowed),
        ("up.x.example", "PUT", "/out", Reason::PathNotAllowed),
        ("up.x.example", "PUT", "/in/../out", Reason::PathNotAllowed),
        ("up.x.example", "POST", "/out", Reason::MethodNotAllowed),
        ("free.x.example", "DELETE", "/", Reason::Allowed),
        ("no.x.example", "GET", "/", Reason::DeniedByRule),
        ("other.example", "GET", "/", Reason::NotListed),
    ] {
        assert_eq!(
            http(&policy, target, 80, method, path),
            reason,
            "{method} {target}{path}"
        );
    }
    assert_eq!(
        http(&policy, "up.x.example", 8080, "GET", "/in/a"),
        Reason::PortNotAllowed
    );
    // a connection is judged as ever, and says what may pass on it
    assert_eq!(asked(&policy, "up.x.example", 80), Reason::Allowed);
    let up = terms(&policy, "up.x.example", 80).unwrap();
    assert_eq!(&*up.key, "up.x.example:80");
    assert_eq!(up.methods.as_ref().unwrap().to_string(), "GET, HEAD, PUT");
    assert_eq!(up.paths.as_ref().unwrap().to_string(), "/in/**");
    assert!(up.only_http() && !up.allows_upgrade());
    assert!(terms(&policy, "free.x.example", 443).is_none());
    // where it watches, it lets pass what it would refuse
    let audit = policy.with_mode(Mode::Audit);
    let target = name("a.x.example");
    let to = Destination::name(target.as_ref());
    let request = Request::Http {
        to: &to,
        port: 80,
        method: "POST",
        path: "/",
    };
    let decision = audit.decide(&request);
    assert_eq!(decision.reason, Reason::MethodNotAllowed);
    assert!(decision.permits() && !decision.connect_permit().unwrap().only_http());
}

#[test]
fn what_rules_of_one_pattern_say_adds_up_to_the_narrowest() {
    let one = r#""a.example:80" = { verdict = "allow", methods = ["GET", "PUT"] }"#;
    let two =
        r#""A.example:80" = { verdict = "allow", methods = ["GET", "POST"], paths = ["/x/**"] }"#;
    let bare = r#""a.example" = "allow""#;
    for text in [[one, two, bare], [bare, two, one], [two, bare, one]] {
        let policy = domains(&text.join("\n"));
        for (method, path, reason) in [
            ("GET", "/x/1", Reason::Allowed),
            ("GET", "/y", Reason::PathNotAllowed),
            ("PUT", "/x/1", Reason::MethodNotAllowed),
            ("POST", "/x/1", Reason::MethodNotAllowed),
        ] {
            assert_eq!(
                http(&policy, "a.example", 80, method, path),
                reason,
                "{method} {path}"
            );
        }
        // 443 is the bare rule's alone
        assert_eq!(
            http(&policy, "a.example", 443, "PUT", "/y"),
            Reason::Allowed
        );
    }
    // a file or a flag that allows the name widens nothing
    let file = file(
        "p.toml",
        &format!("version = 1\n[network.domains]\n{one}\n"),
    );
    let loaded = load(&[file, Input::Allow("a.example".into())]).unwrap();
    assert_eq!(
        http(&loaded.policy, "a.example", 80, "POST", "/"),
        Reason::MethodNotAllowed
    );
    let apart = said(&format!(
        "[network.domains]\n{one}\n\"A.example:80\" = {{ verdict = \"allow\", methods = [\"POST\"] }}"
    ));
    assert!(
        apart.starts_with(
            "p.toml:4:1: error: `A.example:80` has no method in common with another rule"
        ),
        "{apart}"
    );
}

#[test]
fn a_rule_for_https_that_nobody_looks_into_does_not_load() {
    for (line, fix) in [
        (
            r#""a.example" = { verdict = "allow", methods = ["GET"] }"#,
            "`a.example` covers port 443, where `methods` has no effect without inspection \
             (add `inspect = true`, or limit the rule to \"a.example:80\")",
        ),
        (
            r#""*.a.example:443" = { verdict = "allow", paths = ["/x"] }"#,
            "or limit the rule to \"*.a.example:80\"",
        ),
        (
            r#""a.example:*" = { verdict = "allow", paths = ["/x"] }"#,
            "or limit the rule to \"a.example:80\"",
        ),
        (
            "[network.addresses]\n\"192.0.2.0/24\" = { verdict = \"allow\", methods = [\"GET\"] }",
            "(limit the rule to \"192.0.2.0/24:80\", or write it for a name)",
        ),
    ] {
        let said = said(&format!("[network.domains]\n{line}"));
        assert!(said.contains(fix), "{said}");
    }
    let policy = with_addresses(
        "",
        "\"192.0.2.0/24:80\" = { verdict = \"allow\", methods = [\"GET\"] }",
    );
    let to = Destination::address(address("192.0.2.9"));
    for (method, reason) in [("GET", Reason::Allowed), ("PUT", Reason::MethodNotAllowed)] {
        let request = Request::Http {
            to: &to,
            port: 80,
            method,
            path: "/",
        };
        assert_eq!(policy.decide(&request).reason, reason);
    }
    let permit = policy
        .decide(&Request::Connect { to: &to, port: 80 })
        .connect_permit()
        .unwrap();
    assert!(permit.only_http());
    assert_eq!(&*permit.terms().unwrap().key, "[192.0.2.0/24]:80");
}

#[test]
fn mistakes_in_methods_and_paths() {
    for (terms, message) in [
        (
            "methods = [\"get\"]",
            "`get` is not a method: methods are in capitals (write \"GET\")",
        ),
        ("methods = [\"GET POST\"]", "`GET POST` is not a method"),
        ("methods = [\"CONNECT\"]", "`CONNECT` opens a tunnel"),
        ("methods = []", "`methods` is empty"),
        ("methods = \"GET\"", "`methods` must be a list of strings"),
        (
            "paths = [\"public\"]",
            "`public` is not a path: paths begin with `/` (write \"/public\")",
        ),
        (
            "paths = [\"/a?b\"]",
            "`/a?b` has a query, but queries are not matched (write \"/a\")",
        ),
        (
            "paths = [\"/a/../b\"]",
            "`/a/../b` can match no request: the path has a dot segment",
        ),
        ("paths = [\"/a**\"]", "`/a**`: `**` must stand alone"),
        ("paths = [\"https://a.example/b\"]", "is a URL, not a path"),
        ("paths = []", "`paths` is empty"),
        (
            "path = [\"/a\"]",
            "unknown key `path` in a rule (did you mean `paths`?)",
        ),
    ] {
        let said = said(&format!(
            "[network.domains]\n\"a.example:80\" = {{ verdict = \"allow\", {terms} }}"
        ));
        assert!(said.contains(message), "{terms}: {said}");
    }
    let denied =
        said("[network.domains]\n\"a.example\" = { verdict = \"deny\", methods = [\"GET\"] }");
    assert!(
        denied.contains("`methods` has no effect in a rule that denies"),
        "{denied}"
    );
}

#[test]
fn limited_mode_narrows_every_rule() {
    let text = "version = 1\n[network]\nmode = \"limited\"\n[network.domains]\n\
                \"a.example\" = \"allow\"\n\
                \"b.example:80\" = { verdict = \"allow\", methods = [\"GET\", \"POST\"] }\n\
                [network.addresses]\n\"192.0.2.7:80\" = \"allow\"\n";
    let loaded = loaded("p.toml", text);
    assert_eq!(
        lines(&loaded.warnings),
        "p.toml:3:8: warning: `mode = \"limited\"` refuses HTTPS that is not inspected, but 1 rule covers \
         port 443 without `inspect = true` (add `inspect = true` to the rules for HTTPS)\n"
    );
    let policy = loaded.policy;
    for method in LIMITED_METHODS {
        assert_eq!(http(&policy, "a.example", 80, method, "/"), Reason::Allowed);
    }
    for (target, method) in [
        ("a.example", "POST"),
        ("a.example", "CONNECT"),
        ("b.example", "POST"),
        ("b.example", "OPTIONS"),
    ] {
        assert_eq!(
            http(&policy, target, 80, method, "/"),
            Reason::MethodNotAllowed,
            "{method}"
        );
    }
    assert!(terms(&policy, "a.example", 443).unwrap().only_http());
    let lines = suggestion(&policy, "a.example", ("POST", "/")).unwrap();
    assert_eq!(lines, "[network]\nmode = \"full\"");
    let to = Destination::address(address("192.0.2.7"));
    let permit = policy.decide(&Request::connect(&to, 80));
    assert!(permit.connect_permit().unwrap().only_http());
    // a file that another includes cannot be undone by it
    let full = file("q.toml", "version = 1\n[network]\nmode = \"full\"\n");
    let both = load(&[file("p.toml", text), full]).unwrap().policy;
    assert!(both.settings().limited);
}

#[test]
fn the_line_that_would_allow_a_request() {
    let policy =
        domains(r#""a.example:80" = { verdict = "allow", methods = ["GET"], paths = ["/x/**"] }"#);
    let method = suggestion(&policy, "a.example", ("PUT", "/x/1")).unwrap();
    assert_eq!(
        method,
        "[network.domains.\"a.example:80\"]\nmethods = [\"GET\", \"HEAD\", \"PUT\"]"
    );
    let path = suggestion(&policy, "a.example", ("GET", "/%79")).unwrap();
    assert_eq!(
        path,
        "[network.domains.\"a.example:80\"]\npaths = [\"/x/**\", \"/y\"]"
    );
    let wider = format!("version = 1\n{path}\nverdict = \"allow\"\n");
    assert_eq!(
        http(
            &loaded("p.toml", &wider).policy,
            "a.example",
            80,
            "GET",
            "/y"
        ),
        Reason::Allowed
    );
    for ambiguous in ["/x/../y", "/y*", "/y%2f"] {
        assert_eq!(
            suggestion(&policy, "a.example", ("GET", ambiguous)),
            None,
            "{ambiguous}"
        );
    }
    assert_eq!(suggestion(&policy, "a.example", ("GET", "/x/1")), None);
    let other = suggestion(&policy, "b.example", ("GET", "/x")).unwrap();
    assert_eq!(other, "[network.domains]\n\"b.example\" = \"allow\"");
}

#[test]
fn a_request_that_names_no_host_must_suit_every_owner_of_the_address() {
    let policy = domains(
        "\"plain.example\" = \"allow\"\n\"narrow.example:80\" = { verdict = \"allow\", methods = [\"GET\"] }",
    );
    for owners in [
        ["plain.example", "narrow.example"],
        ["narrow.example", "plain.example"],
    ] {
        let names = names(&owners);
        let leased = Destination::leased(address("192.0.2.1"), &names);
        // what is no HTTP passes by the plain one
        let permit = policy.decide(&Request::Connect {
            to: &leased,
            port: 80,
        });
        assert!(!permit.connect_permit().unwrap().only_http());
        for (method, reason) in [("GET", Reason::Allowed), ("PUT", Reason::MethodNotAllowed)] {
            let request = Request::Http {
                to: &leased,
                port: 80,
                method,
                path: "/",
            };
            assert_eq!(
                policy.decide(&request).reason,
                reason,
                "{owners:?} {method}"
            );
        }
    }
}

#[test]
fn a_request_s_decision_allocates_nothing() {
    let policy = domains(
        r#""a.example:80" = { verdict = "allow", methods = ["GET"], paths = ["/x/**", "/*/y"] }"#,
    );
    let target = name("a.example");
    let to = Destination::name(target.as_ref());
    for path in ["/x/1/2", "/nowhere"] {
        let request = Request::Http {
            to: &to,
            port: 80,
            method: "GET",
            path,
        };
        let used = allocation_counter::measure(|| drop(policy.decide(&request)));
        assert_eq!(used.count_total, 0, "{path}");
    }
}

#[test]
fn amounts_and_times_are_read_with_their_units() {
    for (text, message) in [
        ("rate = \"10MB\"", "`10MB` is not a rate (write \"10MB/s\")"),
        (
            "rate = \"10Mb/s\"",
            "does it mean bits or bytes? (for bytes write \"10MB/s\")",
        ),
        ("rate = 10", "`rate` must be a quoted string, not a number"),
        ("total_bytes = \"1\"", "`1` has no unit"),
        (
            "idle_timeout = \"10\"",
            "`10` has no unit (write \"10s\" for seconds, \"10m\" for minutes)",
        ),
        (
            "connections = 0",
            "`connections` must be a whole number from 1 to 1000000",
        ),
    ] {
        let said = said(&format!(
            "[network.domains]\n\"a.example\" = {{ verdict = \"allow\", {text} }}"
        ));
        assert!(said.contains(message), "{text}: {said}");
    }
    for (text, message) in [
        (
            "bytes_per_second = \"fast\"",
            "`fast` is not an amount of bytes",
        ),
        ("header_timeout = \"0s\"", "`0s` must be more than zero"),
        ("connection = 3", "did you mean `connections`?"),
    ] {
        let said = said(&format!("[network.limits]\n{text}"));
        assert!(said.contains(message), "{text}: {said}");
    }
    assert_eq!(
        domains("").settings().limits.flows.idle_timeout,
        None::<Duration>
    );
}

#[test]
fn a_request_is_explained_as_it_would_be_decided() {
    let policy = domains(
        r#""a.example:80" = { verdict = "allow", methods = ["GET"], paths = ["/x/**"] }
"b.example" = "allow""#,
    );
    for (asked, first, says) in [
        (
            "http://a.example/x/1?q=secret",
            "allow GET http://a.example:80/x/1 (allowed)",
            "`a.example:80` (p.toml:3) allows it",
        ),
        (
            "POST http://a.example/x/1",
            "deny POST http://a.example:80/x/1 (method-not-allowed)",
            "methods = [\"GET\", \"HEAD\", \"POST\"]",
        ),
        (
            "GET http://a.example/y",
            "deny GET http://a.example:80/y (path-not-allowed)",
            "paths = [\"/x/**\", \"/y\"]",
        ),
        (
            "https://b.example/any",
            "allow GET https://b.example:443/any (allowed)",
            "does not inspect HTTPS",
        ),
        (
            "https://c.example",
            "deny GET https://c.example:443/ (not-in-allowlist)",
            "\"c.example\" = \"allow\"",
        ),
        (
            "http://b.example:8080/",
            "deny GET http://b.example:8080/ (port-not-allowed)",
            "\"b.example:8080\" = \"allow\"",
        ),
    ] {
        let text = policy.explain_url(asked).unwrap().unwrap().to_string();
        assert!(text.starts_with(first), "{asked}: {text}");
        assert!(text.contains(says), "{asked}: {text}");
        assert!(!text.contains("secret"), "{text}");
    }
    assert!(policy.explain_url("a.example:80").is_none());
    for wrong in [
        "ftp://a.example/",
        "http://u@a.example/",
        "http:///x",
        "GET http://a b/",
    ] {
        assert!(policy.explain_url(wrong).unwrap().is_err(), "{wrong}");
    }
}

#[test]
fn datagrams_pass_by_a_rule_for_their_port_alone() {
    let datagrams = |policy: &Policy, target: &str, port: u16| {
        let target = name(target);
        let to = Destination::name(target.as_ref());
        policy.decide(&Request::Datagrams { to: &to, port }).reason
    };
    let policy = domains(
        r#""*.example.com" = "allow"
"time.example.com:123/udp" = "allow"
"no.example.org" = "deny"
"**.example.org:123/udp" = "allow"
"only.example.net:123/udp" = "allow""#,
    );
    for (target, port, reason) in [
        ("time.example.com", 123, Reason::Allowed),
        ("time.example.com", 443, Reason::ProtocolNotAllowed),
        ("api.example.com", 123, Reason::ProtocolNotAllowed),
        ("a.example.org", 123, Reason::Allowed),
        ("no.example.org", 123, Reason::DeniedByRule),
        ("other.example", 123, Reason::ProtocolNotAllowed),
    ] {
        assert_eq!(datagrams(&policy, target, port), reason, "{target}:{port}");
    }
    // a rule for datagrams takes no connection away, and gives none
    assert_eq!(asked(&policy, "time.example.com", 443), Reason::Allowed);
    assert_eq!(
        asked(&policy, "time.example.com", 123),
        Reason::PortNotAllowed
    );
    assert_eq!(
        asked(&policy, "only.example.net", 443),
        Reason::PortNotAllowed
    );
    assert_eq!(lookup(&policy, "only.example.net", 1), Reason::Allowed);
    let only = name("only.example.net");
    let request = Request::Lookup {
        name: only.as_ref(),
        qtype: 1.into(),
    };
    let permit = policy.decide(&request).lookup_permit().unwrap();
    assert_eq!((permit.ports().len(), permit.udp_ports().len()), (0, 1));
    assert_eq!(
        policy.udp_ports().iter().flatten().collect::<Vec<_>>(),
        [123]
    );
    let to = Destination::name(only.as_ref());
    let decision = policy.decide(&Request::Datagrams { to: &to, port: 123 });
    assert!(
        decision.connect_permit().is_none(),
        "a permit for datagrams dials no connection"
    );
    assert_eq!(decision.datagram_permit().unwrap().port(), 123);
    assert!(
        policy
            .decide(&Request::connect(&Destination::name(only.as_ref()), 443))
            .datagram_permit()
            .is_none()
    );
    let line = policy
        .suggestion(&Request::Datagrams { to: &to, port: 443 })
        .unwrap();
    assert_eq!(
        line,
        "[network.domains]\n\"only.example.net:443/udp\" = \"allow\""
    );
    let addresses = with_addresses(
        "",
        "\"192.0.2.0/24:123/udp\" = \"allow\"\n\"192.0.2.7\" = \"deny\"",
    );
    for (to, reason) in [
        ("192.0.2.9", Reason::Allowed),
        ("192.0.2.7", Reason::DeniedByRule),
        ("198.51.100.1", Reason::ProtocolNotAllowed),
    ] {
        let reached = Destination::address(address(to));
        assert_eq!(
            addresses
                .decide(&Request::Datagrams {
                    to: &reached,
                    port: 123
                })
                .reason,
            reason,
            "{to}"
        );
    }
    assert_eq!(
        reached(&addresses, "192.0.2.9", 123),
        Reason::AddressNotLeased
    );
    for (line, message) in [
        (
            "\"a.example:53/udp\" = \"allow\"",
            "the sandbox's own resolver receives UDP",
        ),
        (
            "\"a.example:*/udp\" = \"allow\"",
            "is too broad: a rule for UDP must name its ports",
        ),
        (
            "\"a.example:123/udp\" = { verdict = \"allow\", methods = [\"GET\"] }",
            "`methods` has no effect on UDP",
        ),
        (
            "\"a.example:123/udp\" = { verdict = \"allow\", to = \":1\" }",
            "`to` has no effect on UDP",
        ),
    ] {
        let said = said(&format!("[network.domains]\n{line}"));
        assert!(said.contains(message), "{line}: {said}");
    }
    let many: String = (1000..1033)
        .map(|port| format!("\"a.example:{port}/udp\" = \"allow\"\n"))
        .collect();
    assert!(said(&format!("[network.domains]\n{many}")).contains("UDP on more than 32 ports"));
}
