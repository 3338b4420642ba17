//! What is wrong, where, and what would be right.

use super::*;

/// The one error of a policy.
fn error(path: &str, text: &str) -> Diagnostic {
    let errors = errors(path, text);
    assert_eq!(errors.len(), 1, "{}", lines(&errors));
    errors.into_iter().next().unwrap()
}

fn toml(text: &str) -> String {
    error("p.toml", text).to_string()
}

fn domain(line: &str) -> String {
    toml(&format!("version = 1\n[network.domains]\n{line}\n"))
}

#[test]
fn rendering_shows_the_line() {
    let error = error(
        "policy.toml",
        "version = 1\n\n[network.domians]\n\"a.example\" = \"allow\"\n",
    );
    assert_eq!(
        error.render(false),
        "error: unknown key `domians` in [network]
 --> policy.toml:3:10
  |
3 | [network.domians]
  |          ^^^^^^^
  |
  = help: did you mean `domains`?"
    );
    assert!(error.render(true).contains("\u{1b}["));
    assert_eq!((error.line, error.column), (3, 10));
}

#[test]
fn unknown_keys() {
    assert_eq!(
        toml("version = 1\nnetwrok = {}\n"),
        "p.toml:2:1: error: unknown key `netwrok` in the policy (did you mean `network`?)"
    );
    assert_eq!(
        toml("version = 1\n[network.dns]\nresolver = [\"10.0.0.1\"]\n"),
        "p.toml:3:1: error: unknown key `resolver` in [network.dns] (did you mean `resolvers`?)"
    );
    assert_eq!(
        domain("\"a.example\" = { verdict = \"allow\", colour = \"red\" }"),
        "p.toml:3:36: error: unknown key `colour` in a rule (known keys: verdict, allow_no_sni, types, to, inspect, ca_file, ftp, methods, paths, rate, connections, connections_per_second, total_bytes, idle_timeout)"
    );
    assert_eq!(
        error(
            "p.yaml",
            "version: 1\nnetwork:\n  domians:\n    a.example: allow\n"
        )
        .to_string(),
        "p.yaml:3:3: error: unknown key `domians` in [network] (did you mean `domains`?)"
    );
    assert_eq!(
        error(
            "p.json",
            "{\"version\": 1,\n \"network\": {\"domians\": {}}}"
        )
        .to_string(),
        "p.json:2:15: error: unknown key `domians` in [network] (did you mean `domains`?)"
    );
}

#[test]
fn names_and_breadth() {
    for (target, message) in [
        ("*", "`*` is too broad: it would match every name"),
        (
            "*.com",
            "`*.com` is too broad: it would match names that anyone can register",
        ),
        (
            "**.co.uk",
            "`**.co.uk` is too broad: it would match names that anyone can register",
        ),
        (
            "a..example",
            "invalid target `a..example`: the name has an empty label",
        ),
        (
            "a b.example",
            "invalid target `a b.example`: the name contains a space",
        ),
        ("127.1", "invalid target `127.1`: the name ends in a number"),
        ("a.example:0", "`0` is not a port"),
        ("a.example:80,443", "`80,443` is not a port"),
        ("a.*.example", "`*` may stand only in front"),
        (
            "https://a.example/x",
            "invalid target `https://a.example/x`: a target is a name or an address range, not a URL (write `a.example`)",
        ),
        (
            "a.example/udp",
            "invalid target `a.example/udp`: a UDP target must name a port (write `a.example:PORT/udp`",
        ),
        ("", "invalid target ``"),
        (
            "10.0.0.1:443",
            "`10.0.0.1:443` is an address, but this table takes names (move it to [network.addresses]: \"10.0.0.1:443\" = \"allow\")",
        ),
    ] {
        let said = domain(&format!("\"{target}\" = \"allow\""));
        assert!(
            said.starts_with(&format!("p.toml:3:1: error: {message}")),
            "{said}"
        );
        let flag = load(&[Input::Allow(target.to_owned())]);
        if target != "10.0.0.1:443" {
            let said = lines(&flag.unwrap_err());
            assert!(
                said.starts_with(&format!("--allow:1:1: error: {message}")),
                "{said}"
            );
        }
    }
    let quote = domain(r#""a.example\u0000" = "allow""#);
    assert!(quote.contains("the control byte 0x00"), "{quote}");
}

#[test]
fn addresses_and_breadth() {
    for (target, message) in [
        (
            "0.0.0.0/0",
            "`0.0.0.0/0` is too broad: it would allow every address",
        ),
        (
            "0.0.0.0/1:443",
            "`0.0.0.0/1:443` is too broad: it would allow the networks of many owners",
        ),
        ("::/0", "`::/0` is too broad"),
        ("2000::/3", "`2000::/3` is too broad"),
        (
            "10.20.0.1/16",
            "`10.20.0.1/16` has bits set beyond its prefix (write `10.20.0.0/16` for the range",
        ),
        (
            "a.example",
            "`a.example` is a name, but this table takes addresses",
        ),
        ("10.0.0.0/33", "`10.0.0.0/33` is not an address range"),
    ] {
        let said = toml(&format!(
            "version = 1\n[network.addresses]\n\"{target}\" = \"allow\"\n"
        ));
        assert!(
            said.starts_with(&format!("p.toml:3:1: error: {message}")),
            "{said}"
        );
    }
    for target in [
        "10.0.0.0/8",
        "fc00::/7",
        "fe80::/10",
        "2001:db8::/32",
        "0.0.0.0/8",
    ] {
        assert!(load(&[Input::Allow(target.into())]).is_ok(), "{target}");
    }
    // to deny everything is no danger
    assert!(load(&[Input::Deny("0.0.0.0/0".into())]).is_ok());
}

#[test]
fn verdicts() {
    assert_eq!(
        domain("\"a.example\" = \"alow\""),
        "p.toml:3:15: error: unknown value `alow` (did you mean `allow`?)"
    );
    assert_eq!(
        domain("\"a.example\" = \"permit\""),
        "p.toml:3:15: error: unknown value `permit` (write `allow` or `deny`)"
    );
    assert_eq!(
        domain("\"a.example\" = true"),
        "p.toml:3:15: error: a verdict must be \"allow\", \"deny\" or a table, not a boolean"
    );
    assert!(
        domain("\"a.example\" = { allow_no_sni = true }").contains("the rule has no `verdict`")
    );
    assert!(
        domain("\"a.example\" = { verdict = \"deny\", allow_no_sni = true }")
            .contains("`allow_no_sni` has no effect in a rule that denies")
    );
    assert!(
        domain("\"a.example\" = { verdict = 1 }")
            .contains("`verdict` must be a quoted string, not a number")
    );
    // unquoted, TOML makes tables of it
    assert_eq!(
        domain("api.example.org = \"allow\""),
        "p.toml:3:1: error: `api.example.org` must be quoted (write \"api.example.org\")"
    );
}

#[test]
fn the_version() {
    assert_eq!(
        toml("[network]\n"),
        "p.toml:1:1: error: the policy has no `version` (begin the file with `version = 1`)"
    );
    assert_eq!(
        toml("version = 2\n"),
        "p.toml:1:11: error: this build reads only `version = 1`"
    );
    assert_eq!(
        toml("version = \"1\"\n"),
        "p.toml:1:11: error: this build reads only `version = 1`"
    );
}

#[test]
fn settings() {
    for (text, message) in [
        (
            "[network]\nmode = \"ful\"",
            "p.toml:3:8: error: unknown value `ful` (did you mean `full`?)",
        ),
        (
            "[network]\nmode = 1",
            "p.toml:3:8: error: `mode` must be a quoted string, not a number",
        ),
        (
            "[network]\nallow_upstream_proxy = \"yes\"",
            "p.toml:3:24: error: `allow_upstream_proxy` must be true or false, not a string",
        ),
        (
            "[network.dns]\nresolvers = [\"dns.example\"]",
            "p.toml:3:14: error: invalid resolver `dns.example` (a resolver must be an address",
        ),
        (
            "[network.dns]\nresolvers = \"10.0.0.1\"",
            "p.toml:3:13: error: `resolvers` must be a list of strings, not a string",
        ),
        (
            "[network.dns]\nresolvers = []",
            "p.toml:3:13: error: `resolvers` is empty (to use the host's own",
        ),
        (
            "[network.proxy]\nhttps = \"ftp://p.example:1\"",
            "p.toml:3:9: error: a proxy's URL must begin with `http://`, `https://`",
        ),
        (
            "[network.proxy]\nhttps = \"p.example:1\"",
            "p.toml:3:9: error: write a proxy as `http://HOST:PORT`",
        ),
        (
            "[network.proxy]\nno_proxy = \"a, b!\"",
            "p.toml:3:12: error: `b!` in no_proxy is not",
        ),
        (
            "network = 1",
            "p.toml:2:11: error: [network] must be a table, not a number",
        ),
        (
            "include = \"x.toml\"",
            "p.toml:2:11: error: `include` must be a list of files, not a string",
        ),
        (
            "include = [1]",
            "p.toml:2:12: error: expected a file's path in quotes, found a number",
        ),
    ] {
        let said = toml(&format!("version = 1\n{text}\n"));
        assert!(said.starts_with(message), "{said}");
    }
}

#[test]
fn syntax_errors_have_places() {
    for (path, text, line) in [
        ("p.toml", "version = 1\n[network.domains\n", 2),
        (
            "p.toml",
            "version = 1\n[network.domains]\n\"a.example\" = \"allow\"\n\"a.example\" = \"deny\"\n",
            4,
        ),
        ("p.yaml", "version: 1\nnetwork:\n  domains: [\n", 3),
        (
            "p.yaml",
            "version: 1\nnetwork:\n  domains:\n    a.example: allow\n    a.example: deny\n",
            5,
        ),
        ("p.json", "{\"version\": 1,\n \"network\": }", 2),
        ("p.json", "{\"version\": 1,\n \"version\": 1}", 2),
    ] {
        let errors = errors(path, text);
        assert_eq!(errors[0].line, line, "{path} {text}: {}", lines(&errors));
        assert!(errors[0].column > 0);
    }
}

#[test]
fn a_wildcard_without_quotes() {
    let said = domain("*.example.org = \"allow\"");
    assert!(
        said.starts_with("p.toml:3:1: error: a name with a `*` must be quoted"),
        "{said}"
    );
    let text = "version: 1\nnetwork:\n  domains:\n    *.example.org: allow\n";
    let said = error("p.yaml", text).to_string();
    assert!(
        said.starts_with("p.yaml:4:5: error: a name that begins with `*` must be"),
        "{said}"
    );
}

#[test]
fn many_errors_are_counted_not_listed() {
    let rules: String = (0..300)
        .map(|n| format!("\"a{n}.example\" = \"no\"\n"))
        .collect();
    let errors = errors(
        "p.toml",
        &format!("version = 1\n[network.domains]\n{rules}"),
    );
    assert_eq!(errors.len(), portcullis_policy::MAX_DIAGNOSTICS + 1);
    assert!(
        errors
            .iter()
            .any(|e| e.message == "200 more errors are not shown")
    );
}

#[test]
fn a_wildcard_over_other_peoples_names_is_a_warning() {
    let loaded = loaded(
        "p.toml",
        "version = 1\n[network.domains]\n\"*.github.io\" = \"allow\"\n",
    );
    assert_eq!(
        lines(&loaded.warnings),
        "p.toml:3:1: warning: `*.github.io` matches names that customers of `github.io` choose\n"
    );
}

#[test]
fn long_lines_are_cut_around_the_place() {
    let names: String = (0..2000)
        .map(|n| format!("\"a{n}.example\": \"allow\", "))
        .collect();
    let json = format!(
        "{{\"version\": 1, \"network\": {{\"domains\": {{{names}\"x.example\": \"alow\"}}}}}}"
    );
    let error = error("p.json", &json);
    assert!(error.render(false).contains("\"alow\""));
    assert!(error.render(false).len() < 2000);
    assert!(error.column > 10_000);
}
