//! `allow_net` and plain lists.

use portcullis_names::Target;

use super::*;

const CASE_5: &str =
    r#"allow_net = ["github.com", "api.github.com", "*.anthropic.com", "iapi.example.com"]"#;

#[test]
fn the_list_of_case_5_in_every_format() {
    let json =
        r#"{"allow_net": ["github.com", "api.github.com", "*.anthropic.com", "iapi.example.com"]}"#;
    let yaml = "allow_net:\n  - github.com\n  - api.github.com\n  - \"*.anthropic.com\"\n  - iapi.example.com\n";
    for (path, text) in [("p.toml", CASE_5), ("p.json", json), ("p.yaml", yaml)] {
        let loaded = loaded(path, text);
        assert_eq!(lines(&loaded.warnings), "");
        let policy = loaded.policy;
        assert_eq!(policy.rule_count(), 4);
        for listed in [
            "github.com",
            "api.github.com",
            "a.anthropic.com",
            "iapi.example.com",
        ] {
            assert_eq!(
                asked(&policy, listed, 443),
                Reason::Allowed,
                "{path} {listed}"
            );
            assert_eq!(asked(&policy, listed, 80), Reason::Allowed);
            assert_eq!(asked(&policy, listed, 22), Reason::PortNotAllowed);
        }
        for other in ["anthropic.com", "com", "example.com", "gist.github.com"] {
            assert_eq!(
                asked(&policy, other, 443),
                Reason::NotListed,
                "{path} {other}"
            );
        }
    }
}

#[test]
fn the_list_beside_our_own_keys() {
    let text = format!("version = 1\n{CASE_5}\n[network.domains]\n\"api.github.com\" = \"deny\"\n");
    let said = lines(&errors("p.toml", &text));
    assert!(
        said.starts_with(
            "p.toml:4:1: error: `api.github.com` is both allowed and denied (line 2 allows it"
        ),
        "{said}"
    );
    let text = "version = 1\nallow_net = [\"a.example:22\", \"10.0.0.0/8:5432\"]\n[network.domains]\n\"b.example\" = \"allow\"\n";
    let policy = loaded("p.toml", text).policy;
    assert_eq!(asked(&policy, "a.example", 22), Reason::Allowed);
    assert_eq!(asked(&policy, "b.example", 443), Reason::Allowed);
    assert_eq!(reached(&policy, "10.1.2.3", 5432), Reason::Allowed);
    // with anything else beside it the file is ours, and says its version
    let said = lines(&errors("p.toml", "allow_net = []\n[network]\n"));
    assert!(said.contains("no `version`"), "{said}");
    for (text, message) in [
        (
            "allow_net = \"a.example\"",
            "p.toml:1:13: error: `allow_net` must be a list of strings, not a string",
        ),
        (
            "allow_net = [\"*.com\"]",
            "p.toml:1:14: error: `*.com` is too broad",
        ),
        (
            "allow_net = [\"a.example\", \"b..example\"]",
            "p.toml:1:27: error: invalid target `b..example`",
        ),
    ] {
        let said = lines(&errors("p.toml", text));
        assert!(said.starts_with(message), "{said}");
    }
    let said = lines(&errors(
        "p.toml",
        "version = 1\n[network]\nallow_net = [\"a.example\"]\n",
    ));
    assert!(
        said.starts_with("p.toml:3:1: error: unknown key `allow_net` in [network] (move it to the top of the file, before [network])"),
        "{said}"
    );
}

/// Loads `main.toml`, which includes a list with this text.
fn with_list(name: &str, list: &str) -> Result<Loaded, Vec<Diagnostic>> {
    let main = format!("version = 1\ninclude = [\"lists/{name}\"]\n");
    let path = Path::new("lists").join(name);
    let mut read = |asked: &Path| {
        if asked == path {
            Ok(list.to_owned())
        } else {
            no_files(asked)
        }
    };
    Policy::load(&[file("main.toml", &main)], &mut read)
}

#[test]
fn a_plain_list() {
    let list = "\u{feff}# a comment\r\n\r\n  a.example  # why\r\ndeny *.b.example\ndeny\tc.example\n\
                D.Example.\n10.0.0.0/8:22\ne.example:8080#x\n";
    // `#` belongs to a comment only behind a space
    let said = lines(&with_list("l.txt", list).unwrap_err());
    assert!(
        said.starts_with("lists/l.txt:8:1: error: `8080#x` is not a port"),
        "{said}"
    );
    let list = list.replace("8080#x", "8080");
    for name in ["l.txt", "l.list", "L.TXT"] {
        let loaded = with_list(name, &list).unwrap();
        assert_eq!(lines(&loaded.warnings), "");
        let policy = loaded.policy;
        for (target, port, reason) in [
            ("a.example", 443, Reason::Allowed),
            ("x.b.example", 443, Reason::DeniedByRule),
            ("c.example", 22, Reason::DeniedByRule),
            ("d.example", 80, Reason::Allowed),
            ("e.example", 8080, Reason::Allowed),
            ("f.example", 443, Reason::NotListed),
        ] {
            assert_eq!(asked(&policy, target, port), reason, "{target}:{port}");
        }
        assert_eq!(reached(&policy, "10.1.1.1", 22), Reason::Allowed);
        assert_eq!(policy.rule_count(), 6);
        let explained = policy.explain(&Target::from_policy("d.example").unwrap());
        assert_eq!(explained.source.unwrap(), format!("lists/{name}:6"));
        assert_eq!(explained.rule.as_deref(), Some("D.Example."));
        let explained = policy.explain(&Target::from_policy("x.b.example").unwrap());
        assert_eq!(explained.source.unwrap(), format!("lists/{name}:4"));
    }
    assert_eq!(with_list("l.txt", "").unwrap().policy.rule_count(), 0);
}

#[test]
fn what_is_wrong_in_a_list_has_its_place() {
    for (list, message) in [
        (
            "a.example\n*.com\n",
            "lists/l.txt:2:1: error: `*.com` is too broad",
        ),
        (
            "\n  deny a..b\n",
            "lists/l.txt:2:8: error: invalid target `a..b`: the name has an empty label",
        ),
        (
            "0.0.0.0 a.example\n",
            "lists/l.txt:1:1: error: invalid target `0.0.0.0 a.example`: the name contains a space",
        ),
        (
            "allow a.example\n",
            "lists/l.txt:1:1: error: invalid target `allow a.example`: the name contains a space",
        ),
        (
            "deny\n\n",
            "lists/l.txt:1:1: error: `deny` has no target (write `deny NAME`)",
        ),
        (
            "a.example\ndeny a.example\n",
            "lists/l.txt:2:6: error: `a.example` is both allowed and denied (line 1 allows it; keep one of the two (a deny without a port covers every port))",
        ),
    ] {
        let said = lines(&with_list("l.txt", list).unwrap_err());
        assert!(said.starts_with(message), "{said}");
    }
    let warned = with_list("l.txt", "*.github.io\na.x.example\ndeny *.x.example\n").unwrap();
    assert_eq!(
        lines(&warned.warnings),
        "lists/l.txt:1:1: warning: `*.github.io` matches names that customers of `github.io` choose\n\
         lists/l.txt:2:1: warning: `a.x.example` is allowed here, but `*.x.example` denies it (deny wins: lists/l.txt:3)\n"
    );
    // a file of another kind: a hundred errors, and a count of the rest
    let errors = with_list("l.txt", &"not a list\n".repeat(5_000)).unwrap_err();
    assert_eq!(errors.len(), portcullis_policy::MAX_DIAGNOSTICS + 1);
    assert!(lines(&errors).contains("4900 more errors are not shown"));
}

#[test]
fn a_list_is_included_not_given() {
    // by itself it is no policy: it has no version, and a truncated one would go unnoticed
    assert!(load(&[file("l.txt", "a.example\n")]).is_err());
}
