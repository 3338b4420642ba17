//! `explain` says what `decide` does.

use portcullis_names::Target;
use portcullis_policy::{Explanation, Mode, Reason, Verdict};

use super::*;

fn explain(policy: &Policy, target: &str) -> Explanation {
    policy.explain(&Target::from_policy(target).unwrap())
}

fn said(policy: &Policy, target: &str) -> (Verdict, Reason) {
    let explanation = explain(policy, target);
    (explanation.verdict, explanation.reason)
}

const ALLOW: (Verdict, Reason) = (Verdict::Allow, Reason::Allowed);

fn deny(reason: Reason) -> (Verdict, Reason) {
    (Verdict::Deny, reason)
}

#[test]
fn names() {
    let policy = domains(
        "\"a.example\" = \"allow\"\n\"tls.example:443\" = \"allow\"\n\"db.example:5432\" = \"allow\"\n\
         \"any.example:*\" = \"allow\"\n\"d.example\" = \"deny\"",
    );
    for (target, expected) in [
        ("a.example", ALLOW),
        ("a.example:443", ALLOW),
        ("a.example:22", deny(Reason::PortNotAllowed)),
        ("a.example:*", deny(Reason::PortNotAllowed)),
        ("any.example:*", ALLOW),
        ("any.example", ALLOW),
        ("tls.example", ALLOW),
        ("tls.example:80", deny(Reason::PortNotAllowed)),
        ("db.example", deny(Reason::PortNotAllowed)),
        ("db.example:5432", ALLOW),
        ("d.example", deny(Reason::DeniedByRule)),
        ("nobody.example", deny(Reason::NotListed)),
    ] {
        assert_eq!(said(&policy, target), expected, "{target}");
    }
    let tls = explain(&policy, "tls.example");
    assert!(
        tls.sentences
            .iter()
            .any(|s| s == "It is not allowed on: 80."),
        "{tls}"
    );
    let db = explain(&policy, "db.example");
    assert!(
        db.sentences.iter().any(|s| s == "It is allowed on: 5432."),
        "{db}"
    );
}

#[test]
fn the_rule_and_its_place() {
    let loaded = loaded(
        "team.toml",
        "version = 1\n\n[network.domains]\n\"*.Example.org\" = \"allow\"\n",
    );
    let explanation = explain(&loaded.policy, "api.example.org:443");
    assert_eq!(explanation.rule.as_deref(), Some("*.Example.org"));
    assert_eq!(explanation.source.as_deref(), Some("team.toml:4"));
    assert_eq!(
        explanation.to_string(),
        "allow api.example.org:443 (allowed)\n  \
         A rule of the policy allows this.\n  \
         Rule `*.Example.org` (team.toml:4) allows it."
    );
    let refused = explain(&loaded.policy, "evil.example.com:8080");
    assert_eq!(
        refused.to_string(),
        "deny evil.example.com:8080 (not-in-allowlist)\n  \
         The name is not on the allowlist.\n  \
         To allow it, add to the policy:\n    \
         [network.domains]\n    \
         \"evil.example.com:8080\" = \"allow\""
    );
}

#[test]
fn flags_are_sources_too() {
    let policy = load(&[
        Input::Allow("a.example".into()),
        Input::Deny("b.example".into()),
    ])
    .unwrap()
    .policy;
    assert_eq!(
        explain(&policy, "a.example").source.as_deref(),
        Some("--allow a.example")
    );
    assert_eq!(
        explain(&policy, "b.example").source.as_deref(),
        Some("--deny b.example")
    );
}

#[test]
fn patterns() {
    let policy = domains(
        "\"**.example.org\" = \"allow\"\n\"gist.example.org\" = \"deny\"\n\"*.below.example\" = \"allow\"",
    );
    for (target, expected) in [
        ("*.example.org", ALLOW),
        ("**.example.org", ALLOW),
        ("*.deep.example.org", ALLOW),
        ("*.below.example", ALLOW),
        ("**.below.example", deny(Reason::NotListed)),
        ("*.example.net", deny(Reason::NotListed)),
    ] {
        assert_eq!(said(&policy, target), expected, "{target}");
    }
    let wide = explain(&policy, "*.example.org");
    assert!(
        wide.to_string()
            .contains("But `gist.example.org` is denied (p.toml:4)."),
        "{wide}"
    );
    assert!(
        !explain(&policy, "*.below.example")
            .to_string()
            .contains("Except")
    );
}

#[test]
fn addresses() {
    let policy = with_addresses(
        "",
        "\"10.20.0.0/16:5432\" = \"allow\"\n\"10.20.9.0/24\" = \"deny\"",
    );
    for (target, expected) in [
        ("10.20.1.1:5432", ALLOW),
        ("10.20.1.1", ALLOW),
        ("10.20.1.1:22", deny(Reason::PortNotAllowed)),
        ("10.20.9.1:5432", deny(Reason::DeniedByRule)),
        ("10.20.0.0/16:5432", ALLOW),
        ("10.0.0.0/8:5432", deny(Reason::PrivateAddress)),
        ("10.1.1.1:22", deny(Reason::PrivateAddress)),
        ("192.0.2.1:443", deny(Reason::AddressNotLeased)),
    ] {
        assert_eq!(said(&policy, target), expected, "{target}");
    }
    let private = explain(&policy, "10.1.1.1:22");
    assert!(
        private
            .to_string()
            .contains("10.1.1.1 is a private address"),
        "{private}"
    );
    assert!(
        private.to_string().contains("\"10.1.1.1:22\" = \"allow\""),
        "{private}"
    );
    let range = explain(&policy, "10.20.0.0/16:5432");
    assert!(
        range
            .to_string()
            .contains("Another rule covers part of the range: `10.20.9.0/24`"),
        "{range}"
    );
}

#[test]
fn audit_is_said() {
    let policy = Policy::deny_all().with_mode(Mode::Audit);
    let explanation = explain(&policy, "a.example:443");
    assert!(
        explanation.to_string().starts_with("audit a.example:443"),
        "{explanation}"
    );
    assert!(explanation.suggestion.is_some());
}
