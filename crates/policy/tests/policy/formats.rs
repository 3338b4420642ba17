//! The files of CONTRACT.md and CASES.md load as they stand.

use portcullis_names::PortSet;
use portcullis_policy::{ProxyHost, Reason, Resolver};

use super::*;

const CASE_1: &str = r#"network:
  proxy:
    http: "http://proxy.internal:3128"
    https: "http://proxy.internal:3128"
    no_proxy: "localhost,127.0.0.1"
  dns:
    custom_resolvers:
      - "10.0.0.53"
  allowlist_additions:
    - "api.internal.company.com"
    - "registry.internal.company.com"
"#;

const CASE_3: &str = r#"default_permissions = "workspace"

[permissions.workspace.filesystem]
":root" = "read"
":tmpdir" = "write"

[permissions.workspace.filesystem.":project_roots"]
"." = "write"

[permissions.workspace.network]
enabled = true
mode = "full"
allow_local_binding = true
allow_upstream_proxy = true

[permissions.workspace.network.domains]
"internal-symbols.example.corp" = "allow"
"internal-data.example.corp" = "allow"
"#;

/// What this release enforces of the sample in CONTRACT.md.
const CONTRACT: &str = r#"version = 1
[network]
mode = "full"                 # full | limited (GET, HEAD, OPTIONS only)
allow_local_binding = true    # programs may listen on and reach the sandbox's own loopback
allow_upstream_proxy = true

[network.domains]
"api.github.com"       = "allow"
"*.githubusercontent.com" = "allow"      # any depth below, not the apex
"**.example.org"       = "allow"         # apex and below
"gist.github.com"      = "deny"          # deny always wins
"db.corp.example:5432" = "allow"

[network.addresses]
"10.20.0.0/16:5432"    = "allow"         # also lifts the private-address guard for this range

[network.dns]
resolvers = ["10.0.0.53"]                                # default: the host's own
resolve   = "on-demand"                                  # or "startup"
answers   = "real"                                       # or "synthetic"

[network.proxy]
https = "http://proxy.internal:3128"
no_proxy = "localhost,127.0.0.1,.corp.example"
"#;

#[test]
fn the_yaml_of_case_1() {
    let loaded = loaded("gateway.yaml", CASE_1);
    assert_eq!(lines(&loaded.warnings), "");
    let policy = loaded.policy;
    for listed in ["api.internal.company.com", "registry.internal.company.com"] {
        assert_eq!(policy.ports_for(name(listed).as_ref()), PortSet::WEB);
        assert_eq!(lookup(&policy, listed, 1), Reason::Allowed);
    }
    assert_eq!(asked(&policy, "company.com", 443), Reason::NotListed);
    let settings = policy.settings();
    assert_eq!(settings.resolvers, [Resolver::parse("10.0.0.53").unwrap()]);
    let proxy = &settings.upstream.https.as_ref().unwrap().proxies()[0];
    assert_eq!(
        (proxy.host(), proxy.port()),
        (&ProxyHost::Name(name("proxy.internal")), 3128)
    );
    assert_eq!(settings.upstream.http, settings.upstream.https);
    assert_eq!(settings.upstream.no_proxy.as_str(), "localhost,127.0.0.1");
    let explanation = policy
        .decide(&Request::connect(
            &Destination::name(name("api.internal.company.com").as_ref()),
            443,
        ))
        .rule;
    assert_eq!(
        policy.rule(explanation.unwrap()).source.to_string(),
        "gateway.yaml:10"
    );
}

#[test]
fn additions_under_dns_and_as_json() {
    let yaml = "network:\n  dns:\n    allowlist_additions: [\"a.company.com\"]\n";
    assert_eq!(
        asked(&loaded("p.yml", yaml).policy, "a.company.com", 80),
        Reason::Allowed
    );
    let json = r#"{"network": {"allowlist_additions": ["a.company.com"]}}"#;
    assert_eq!(
        asked(&loaded("p.json", json).policy, "a.company.com", 443),
        Reason::Allowed
    );
    // with one key of ours beside them the file is ours, and says its version
    let mixed = "network:\n  allowlist_additions: [\"a.company.com\"]\n  domains:\n    b.company.com: allow\n";
    assert!(lines(&errors("p.yaml", mixed)).contains("no `version`"));
    assert!(load(&[file("p.yaml", &format!("version: 1\n{mixed}"))]).is_ok());
}

#[test]
fn the_codex_profile_of_case_3() {
    let loaded = loaded("config.toml", CASE_3);
    assert_eq!(
        lines(&loaded.warnings),
        "config.toml:3:24: warning: Portcullis does not enforce `filesystem`\n"
    );
    let policy = loaded.policy;
    for listed in [
        "internal-symbols.example.corp",
        "internal-data.example.corp",
    ] {
        for port in [22, 80, 443, 8443] {
            assert_eq!(
                asked(&policy, listed, port),
                Reason::Allowed,
                "{listed}:{port}"
            );
        }
    }
    assert_eq!(asked(&policy, "other.example.corp", 443), Reason::NotListed);
}

#[test]
fn of_several_codex_profiles_the_default_one_counts() {
    let text = |default: &str| {
        format!(
            "default_permissions = \"{default}\"\nmodel = \"m\"\n\
             [permissions.one.network]\nenabled = true\n[permissions.one.network.domains]\n\"one.example\" = \"allow\"\n\"**.bad.example\" = \"deny\"\n\
             [permissions.two.network]\nenabled = false\n[permissions.two.network.domains]\n\"two.example\" = \"allow\"\n\
             [permissions.three.filesystem]\n\":root\" = \"read\"\n"
        )
    };
    let one = loaded("c.toml", &text("one"));
    assert!(lines(&one.warnings).contains("does not enforce `model`"));
    assert_eq!(asked(&one.policy, "one.example", 1234), Reason::Allowed);
    assert_eq!(
        asked(&one.policy, "a.bad.example", 1234),
        Reason::DeniedByRule
    );
    assert_eq!(asked(&one.policy, "two.example", 443), Reason::NotListed);
    let two = loaded("c.toml", &text("two"));
    assert!(lines(&two.warnings).contains("not enabled"));
    assert_eq!(asked(&two.policy, "two.example", 443), Reason::NotListed);
    let three = loaded("c.toml", &text("three"));
    assert_eq!(three.policy.rule_count(), 0);
    let errors = lines(&errors("c.toml", &text("tow")));
    assert_eq!(
        errors,
        "c.toml:1:23: error: `default_permissions` names `tow`, but the file has no such profile (did you mean `two`?)\n"
    );
}

#[test]
fn within_a_codex_network_nothing_unknown_is_ignored() {
    let text = CASE_3.replace(
        "enabled = true",
        "enabled = true\nmanaged_allowed_domains_only = true",
    );
    assert!(lines(&errors("c.toml", &text)).starts_with(
        "c.toml:12:1: error: unknown key `managed_allowed_domains_only` in [permissions.workspace.network]"
    ));
    let text = CASE_3.replace("\"full\"", "\"limited\"");
    assert!(loaded("c.toml", &text).policy.settings().limited);
    let text = CASE_3.replace(
        "internal-data.example.corp\"",
        "internal-data.example.corp:443\"",
    );
    assert!(lines(&errors("c.toml", &text)).contains("names here cannot have one"));
    let text = format!("{CASE_3}\n[network.domains]\n\"a.example\" = \"allow\"\n");
    assert!(lines(&errors("c.toml", &text)).contains("write two files, and give both"));
    let text = CASE_3.replace("default_permissions = \"workspace\"", "");
    assert!(lines(&errors("c.toml", &text)).contains("no `default_permissions`"));
    let text = CASE_3.replace("\"internal-data.example.corp\"", "\"*\"");
    assert!(lines(&errors("c.toml", &text)).contains("too broad"));
}

#[test]
fn a_sample_of_every_section() {
    let loaded = loaded("policy.toml", CONTRACT);
    assert_eq!(
        lines(&loaded.warnings),
        "policy.toml:9:1: warning: `*.githubusercontent.com` matches names that customers of \
         `githubusercontent.com` choose\n"
    );
    let policy = loaded.policy;
    for (target, port, reason) in [
        ("api.github.com", 443, Reason::Allowed),
        ("a.b.githubusercontent.com", 443, Reason::Allowed),
        ("githubusercontent.com", 443, Reason::NotListed),
        ("example.org", 80, Reason::Allowed),
        ("a.example.org", 80, Reason::Allowed),
        ("gist.github.com", 443, Reason::DeniedByRule),
        ("db.corp.example", 5432, Reason::Allowed),
        ("db.corp.example", 443, Reason::PortNotAllowed),
    ] {
        assert_eq!(asked(&policy, target, port), reason, "{target}:{port}");
    }
    assert_eq!(reached(&policy, "10.20.3.4", 5432), Reason::Allowed);
    let upstream = &policy.settings().upstream;
    assert!(
        upstream
            .for_name(name("a.corp.example").as_ref(), 443, true)
            .is_none()
    );
    assert!(
        upstream
            .for_name(name("a.example.org").as_ref(), 443, true)
            .is_some()
    );
    assert!(
        upstream
            .for_name(name("a.example.org").as_ref(), 80, false)
            .is_none()
    );
}

#[test]
fn the_same_policy_in_yaml_and_json() {
    let yaml = "version: 1\nnetwork:\n  mode: full\n  domains:\n    \"a.example\": allow\n    \"d.example\": deny\n    \"n.example:8443\": {verdict: allow, allow_no_sni: true}\n  addresses:\n    \"10.20.0.0/16:5432\": allow\n  dns:\n    resolvers: [\"10.0.0.53\"]\n";
    let json = "{\n\t\"version\": 1,\n\t\"network\": {\"mode\": \"full\",\n\t\t\"domains\": {\"a.example\": \"allow\", \"d.example\": \"deny\",\n\t\t\t\"n.example:8443\": {\"verdict\": \"allow\", \"allow_no_sni\": true}},\n\t\t\"addresses\": {\"10.20.0.0/16:5432\": \"allow\"},\n\t\t\"dns\": {\"resolvers\": [\"10.0.0.53\"]}}}";
    for (path, text) in [("p.yaml", yaml), ("p.json", json)] {
        let policy = loaded(path, text).policy;
        assert_eq!(asked(&policy, "a.example", 443), Reason::Allowed);
        assert_eq!(asked(&policy, "d.example", 443), Reason::DeniedByRule);
        assert_eq!(
            hidden(&policy, "192.0.2.1", &["n.example"], 8443),
            Reason::Allowed
        );
        assert_eq!(reached(&policy, "10.20.3.4", 5432), Reason::Allowed);
        assert_eq!(policy.settings().resolvers.len(), 1);
    }
}

#[test]
fn nothing_listed_is_valid_and_nothing_written_is_not() {
    for (path, text) in [
        ("p.toml", "version = 1\n"),
        ("p.yaml", "version: 1\nnetwork:\n"),
        ("p.json", "{\"version\": 1}"),
    ] {
        assert_eq!(loaded(path, text).policy.rule_count(), 0, "{path}");
    }
    // an editor that truncates before it writes must not open or close anything
    for (path, text) in [
        ("p.toml", ""),
        ("p.yaml", ""),
        ("p.yaml", "# nothing\n"),
        ("p.json", "{}"),
    ] {
        assert!(
            lines(&errors(path, text)).contains("no `version`"),
            "{path} {text:?}"
        );
    }
    assert!(!errors("p.json", "").is_empty());
}

#[test]
fn deep_nesting_is_an_error_not_a_stack_overflow() {
    let deep = 50_000;
    for (path, open, middle, close) in [
        ("p.json", "[", "", "]"),
        ("p.yaml", "[", "", "]"),
        ("p.json", "{\"a\":", "1", "}"),
    ] {
        let text = format!("{}{middle}{}", open.repeat(deep), close.repeat(deep));
        assert!(!errors(path, &text).is_empty(), "{path}");
        let nested = format!("{}{middle}{}", open.repeat(60), close.repeat(60));
        let said = lines(&errors(
            path,
            &format!("{{\"version\": 1, \"network\": {nested}}}"),
        ));
        assert!(
            said.contains("nested more than 32 levels deep"),
            "{path}: {said}"
        );
    }
    let text = format!(
        "version = 1\nnetwork = {}{}",
        "[".repeat(deep),
        "]".repeat(deep)
    );
    assert!(!errors("p.toml", &text).is_empty());
}

#[test]
fn yaml_has_one_reading() {
    for (text, message) in [
        (
            "version: 1\n---\nversion: 1\n",
            "more than one YAML document",
        ),
        (
            "version: 1\nnetwork:\n  domains: &d {a.example: allow}\n  addresses:\n    <<: *d\n",
            "merge key",
        ),
        (
            "version: 1\nnetwork:\n  allow_upstream_proxy: yes\n",
            "must be true or false",
        ),
        (
            "version: 1\nnetwork:\n  domains: {a.example: {verdict: no}}\n",
            "unknown value `no`",
        ),
        (
            "version: 1\nnetwork: {domains: {? [a] : allow}}\n",
            "p.yaml:2",
        ),
    ] {
        let said = lines(&errors("p.yaml", text));
        assert!(said.contains(message), "{text}: {said}");
    }
    let aliased = "version: 1\nnetwork:\n  domains: {a.example: &v allow, b.example: *v}\n";
    assert_eq!(
        asked(&loaded("p.yaml", aliased).policy, "b.example", 443),
        Reason::Allowed
    );
}

#[test]
fn line_ends_and_byte_order_marks_of_other_systems() {
    let text = "\u{feff}version = 1\r\n[network.domains]\r\n\"a.example\" = \"allow\"\r\n";
    assert_eq!(
        asked(&loaded("p.toml", text).policy, "a.example", 443),
        Reason::Allowed
    );
    let text = "version = 1\r\n[network.domains]\r\n\"a.example\" = \"alow\"\r\n";
    let error = &errors("p.toml", text)[0];
    assert_eq!((error.line, error.column), (3, 15));
    assert!(!error.render(false).contains('\r'));
}

#[test]
fn the_examples_of_the_reference_load() {
    let reference = include_str!("../../POLICY.md");
    let examples: Vec<_> = reference.split("```toml\n").skip(1).collect();
    assert!(examples.len() >= 2);
    for example in examples {
        let text = example.split("```").next().unwrap();
        assert_eq!(lines(&loaded("example.toml", text).warnings), "", "{text}");
    }
}
