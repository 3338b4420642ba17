//! `[network.dns]` and `[network.limits]`: what they load to, and every error that they can have.

use portcullis_policy::{Answers, Resolve, Resolver, TypeSet};

use super::*;

const TOML: &str = r#"version = 1
[network.dns]
resolvers = ["10.0.0.53", "tls://dns.example:8853", "https://[2001:db8::53]/q"]
bootstrap = ["10.0.0.54:5353"]
types = ["A", "aaaa", "SRV"]
resolve = "startup"
answers = "synthetic"
synthetic_range = "10.64.0.0/12"
[network.dns.zones]
"corp.example" = ["10.0.1.53"]
"Lab.Corp.Example" = ["10.0.2.53", "tls://10.0.3.53"]
[network.limits]
dns_queries_per_second = 200
new_names_per_minute = 0
"#;

const YAML: &str = r#"version: 1
network:
  dns:
    resolvers: ["10.0.0.53", "tls://dns.example:8853", "https://[2001:db8::53]/q"]
    bootstrap: ["10.0.0.54:5353"]
    types: [A, aaaa, SRV]
    resolve: startup
    answers: synthetic
    synthetic_range: 10.64.0.0/12
    zones:
      corp.example: ["10.0.1.53"]
      Lab.Corp.Example:
        - 10.0.2.53
        - tls://10.0.3.53
  limits:
    dns_queries_per_second: 200
    new_names_per_minute: 0
"#;

const JSON: &str = r#"{"version": 1, "network": {"dns": {
  "resolvers": ["10.0.0.53", "tls://dns.example:8853", "https://[2001:db8::53]/q"],
  "bootstrap": ["10.0.0.54:5353"], "types": ["A", "aaaa", "SRV"],
  "resolve": "startup", "answers": "synthetic", "synthetic_range": "10.64.0.0/12",
  "zones": {"corp.example": ["10.0.1.53"],
            "Lab.Corp.Example": ["10.0.2.53", "tls://10.0.3.53"]}},
  "limits": {"dns_queries_per_second": 200, "new_names_per_minute": 0}}}"#;

fn shown(resolvers: &[Resolver]) -> Vec<String> {
    resolvers.iter().map(ToString::to_string).collect()
}

#[test]
fn every_key_in_every_format() {
    for (path, text) in [("p.toml", TOML), ("p.yaml", YAML), ("p.json", JSON)] {
        let loaded = loaded(path, text);
        assert_eq!(lines(&loaded.warnings), "", "{path}");
        let settings = loaded.policy.settings();
        assert_eq!(
            shown(&settings.resolvers),
            [
                "10.0.0.53:53",
                "tls://dns.example:8853",
                "https://[2001:db8::53]:443/q"
            ]
        );
        let dns = &settings.dns;
        assert_eq!(dns.bootstrap, [Resolver::parse("10.0.0.54:5353").unwrap()]);
        let zones: Vec<_> = dns
            .zones
            .iter()
            .map(|zone| (zone.suffix.as_str(), shown(&zone.resolvers)))
            .collect();
        assert_eq!(
            zones,
            [
                (
                    "lab.corp.example",
                    vec!["10.0.2.53:53".to_owned(), "tls://10.0.3.53:853".to_owned()]
                ),
                ("corp.example", vec!["10.0.1.53:53".to_owned()]),
            ]
        );
        assert_eq!(dns.types.to_string(), "A, AAAA, SRV");
        assert_eq!(
            (dns.resolve, dns.answers),
            (Resolve::Startup, Answers::Synthetic)
        );
        assert_eq!(dns.synthetic_range, Some("10.64.0.0/12".parse().unwrap()));
        assert_eq!(dns.queries_per_second.map(u32::from), Some(200));
        assert_eq!(dns.new_names_per_minute, 0);
    }
}

#[test]
fn without_the_keys() {
    let policy = loaded("p.toml", "version = 1\n").policy;
    let dns = &policy.settings().dns;
    assert_eq!(
        (dns.resolve, dns.answers),
        (Resolve::OnDemand, Answers::Real)
    );
    assert_eq!((dns.types, dns.new_names_per_minute), (TypeSet::PLAIN, 120));
    assert_eq!((dns.queries_per_second, dns.synthetic_range), (None, None));
    assert!(dns.bootstrap.is_empty() && dns.zones.is_empty());
    // the plain resolvers find the others
    let text = "version = 1\n[network.dns]\nresolvers = [\"tls://dns.example\", \"10.0.0.53\"]\n";
    let policy = loaded("p.toml", text).policy;
    assert_eq!(
        policy.settings().dns.bootstrap,
        [Resolver::parse("10.0.0.53").unwrap()]
    );
}

#[test]
fn later_files_and_flags_replace() {
    let first = "version = 1\n[network.dns]\ntypes = [\"A\"]\nresolve = \"startup\"\nzones = { \"a.example\" = [\"10.0.0.1\"] }\n";
    let second = "version = 1\n[network.dns]\nzones = { \"b.example\" = [\"10.0.0.2\"] }\n[network.limits]\nnew_names_per_minute = 5\n";
    let files = [file("one.toml", first), file("two.toml", second)];
    let policy = load(&files).unwrap().policy;
    let dns = &policy.settings().dns;
    assert_eq!(dns.zones.len(), 1);
    assert_eq!(dns.zones[0].suffix.as_str(), "b.example");
    assert_eq!(dns.types.to_string(), "A");
    assert_eq!(
        (dns.resolve, dns.new_names_per_minute),
        (Resolve::Startup, 5)
    );
    let flags = [
        Input::Resolve(Resolve::OnDemand),
        Input::Answers(Answers::Synthetic),
        Input::Resolver("https://dns.example/q".into()),
    ];
    let inputs: Vec<_> = flags.into_iter().chain(files).collect();
    let policy = load(&inputs).unwrap().policy;
    let dns = &policy.settings().dns;
    assert_eq!(
        (dns.resolve, dns.answers),
        (Resolve::OnDemand, Answers::Synthetic)
    );
    assert_eq!(
        shown(&policy.settings().resolvers),
        ["https://dns.example:443/q"]
    );
    let said = lines(&load(&[Input::Resolver("dns.example".into())]).unwrap_err());
    assert!(
        said.starts_with(
            "--resolver:1:1: error: invalid resolver `dns.example` (a resolver must be an address"
        ),
        "{said}"
    );
}

/// The one error of these lines under `[network.dns]`.
fn dns_error(line: &str) -> String {
    let errors = errors("p.toml", &format!("version = 1\n[network.dns]\n{line}\n"));
    assert_eq!(errors.len(), 1, "{line}: {}", lines(&errors));
    errors[0].to_string()
}

#[test]
fn resolvers_that_are_none() {
    for (line, message) in [
        (
            "resolvers = [\"http://dns.example\"]",
            "p.toml:3:14: error: invalid resolver URL (plain HTTP protects nothing",
        ),
        (
            "resolvers = [\"tls://me:secret@dns.example\"]",
            "p.toml:3:14: error: invalid resolver URL (a resolver's URL cannot hold credentials)",
        ),
        (
            "resolvers = [\"10.0.0.53\", \"tls://dns.example/x\"]",
            "p.toml:3:27: error: invalid resolver URL (a DNS over TLS server has no path",
        ),
        (
            "bootstrap = []",
            "p.toml:3:13: error: `bootstrap` is empty (to use the plain resolvers",
        ),
        (
            "bootstrap = [\"10.0.0.53\", \"tls://dns.example\"]",
            "p.toml:3:13: error: `tls://dns.example:853` cannot be used to find other resolvers (write addresses here, such as \"10.0.0.53\")",
        ),
        (
            "bootstrap = \"10.0.0.53\"",
            "p.toml:3:13: error: `bootstrap` must be a list of strings, not a string",
        ),
    ] {
        let said = dns_error(line);
        assert!(said.starts_with(message), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
    let many = format!("resolvers = [{}]", "\"10.0.0.53\",".repeat(65));
    assert!(dns_error(&many).contains("`resolvers` has more than 64 resolvers"));
}

#[test]
fn zones_that_are_none() {
    for (line, message) in [
        (
            "zones = [\"corp.example\"]",
            "p.toml:3:9: error: [network.dns.zones] must be a table, not a list",
        ),
        (
            "zones = { \"corp.example\" = [] }",
            "p.toml:3:28: error: `corp.example` is empty (name the zone's resolvers, or remove the zone)",
        ),
        (
            "zones = { \"corp.example\" = \"10.0.0.53\" }",
            "p.toml:3:28: error: `corp.example` must be a list of strings, not a string",
        ),
        (
            "zones = { \"corp.example\" = [\"dns.example\"] }",
            "p.toml:3:29: error: invalid resolver `dns.example`",
        ),
        (
            "zones = { \"*.corp.example\" = [\"10.0.0.53\"] }",
            "p.toml:3:11: error: `*.corp.example` is not a zone: a zone is a name, and covers every name below it (write \"corp.example\")",
        ),
        (
            "zones = { \".Corp.example\" = [\"10.0.0.53\"] }",
            "p.toml:3:11: error: `.Corp.example` is not a zone: a zone is a name, and covers every name below it (write \"corp.example\")",
        ),
        (
            "zones = { \".\" = [\"10.0.0.53\"] }",
            "p.toml:3:11: error: `.` is not a zone (to set the resolvers for all other names, use `resolvers`)",
        ),
        (
            "zones = { \"a b\" = [\"10.0.0.53\"] }",
            "p.toml:3:11: error: `a b` is not a zone: the name contains a space",
        ),
        (
            "zones = { \"corp.example\" = [\"10.0.0.53\"], \"CORP.example.\" = [\"10.0.0.54\"] }",
            "p.toml:3:43: error: the zone `corp.example` is listed twice (put its resolvers into one list)",
        ),
    ] {
        let said = dns_error(line);
        assert!(said.starts_with(message), "{said}");
    }
    let zones: String = (0..1025)
        .map(|n| format!("\"z{n}.example\" = [\"10.0.0.53\"]\n"))
        .collect();
    let errors = errors(
        "p.toml",
        &format!("version = 1\n[network.dns.zones]\n{zones}"),
    );
    assert!(lines(&errors).contains("p.toml:1027:1: error: the policy has more than 1024 zones"));
}

#[test]
fn types_that_are_none() {
    for (line, message) in [
        (
            "types = [\"A\", \"AAA\"]",
            "p.toml:3:15: error: `AAA` is not a record type (did you mean `AAAA`?)",
        ),
        (
            "types = [\"HTPS\"]",
            "p.toml:3:10: error: `HTPS` is not a record type (did you mean `HTTPS`?)",
        ),
        (
            "types = [\"nothing\"]",
            "p.toml:3:10: error: `nothing` is not a record type (known types: A, NS, CNAME, ",
        ),
        (
            "types = [\"axfr\"]",
            "p.toml:3:10: error: `axfr` is never served (it means a whole zone or one message, not a record of a name)",
        ),
        (
            "types = [\"ANY\"]",
            "p.toml:3:10: error: `ANY` is never served",
        ),
        (
            "types = []",
            "p.toml:3:9: error: `types` is empty (to serve the default types, leave it out; to serve none, deny the name)",
        ),
        (
            "types = [1]",
            "p.toml:3:10: error: `types` must contain only strings, not a number",
        ),
    ] {
        let said = dns_error(line);
        assert!(said.starts_with(message), "{said}");
    }
}

#[test]
fn words_ranges_and_limits_that_are_none() {
    for (line, message) in [
        (
            "resolve = \"start-up\"",
            "p.toml:3:11: error: unknown value `start-up` (did you mean `startup`?)",
        ),
        (
            "answers = \"fake\"",
            "p.toml:3:11: error: unknown value `fake` (write `real` or `synthetic`)",
        ),
        (
            "synthetic_range = \"198.18.0.0/30\"",
            "p.toml:3:19: error: `198.18.0.0/30` is too small: it has 4 addresses (each name in use needs an address of its own",
        ),
        (
            "synthetic_range = \"1.0.0.0/8\"",
            "p.toml:3:19: error: `1.0.0.0/8` contains public addresses (use a part of 198.18.0.0/15",
        ),
        (
            "synthetic_range = \"198.18.0.7/15\"",
            "p.toml:3:19: error: `198.18.0.7/15` has bits set beyond its prefix (write \"198.18.0.0/15\")",
        ),
        (
            "synthetic_range = \"fd00::/64\"",
            "p.toml:3:19: error: `fd00::/64` is not an IPv4 range (write a range that nobody uses",
        ),
        (
            "[network.limits]\ndns_queries_per_second = 0",
            "p.toml:4:26: error: `dns_queries_per_second` must be a whole number from 1 to 1000000, not 0",
        ),
        (
            "[network.limits]\nnew_names_per_minute = -1",
            "p.toml:4:24: error: `new_names_per_minute` must be a whole number from 0 to 1000000, not -1",
        ),
        (
            "[network.limits]\nnew_names_per_minute = \"10\"",
            "p.toml:4:24: error: `new_names_per_minute` must be a whole number from 0 to 1000000, not a string",
        ),
        (
            "[network.limits]\nnew_names = 1",
            "p.toml:4:1: error: unknown key `new_names` in [network.limits]",
        ),
    ] {
        let said = dns_error(line);
        assert!(said.starts_with(message), "{said}");
    }
}
