//! Codex profiles: what a profile inherits, and that nothing which narrows is only a warning.

use portcullis_policy::Reason;

use crate::{asked, errors, lines, load, loaded};

const HEAD: &str = "default_permissions = \"child\"\n";

/// A child that allows everything below `example`, and these lines.
fn child(lines: &str) -> String {
    format!(
        "{HEAD}[permissions.child]\nextends = \"parent\"\n\
         [permissions.child.network.domains]\n\"**.example.org\" = \"allow\"\n{lines}"
    )
}

#[test]
fn denials_and_mode_of_every_ancestor_hold() {
    let text = child(
        "[permissions.parent]\nextends = \"grandparent\"\n\
         [permissions.parent.network.domains]\n\"upload.example.org\" = \"deny\"\n\
         [permissions.grandparent.network]\nenabled = true\nmode = \"limited\"\n\
         allow_upstream_proxy = false\n\
         [permissions.grandparent.network.domains]\n\"old.example.org\" = \"deny\"\n\
         \"shared.example.net\" = \"allow\"\n",
    );
    let policy = loaded("c.toml", &text).policy;
    assert!(policy.settings().limited);
    assert!(!policy.settings().allow_upstream_proxy);
    for denied in ["upload.example.org", "old.example.org"] {
        assert_eq!(
            asked(&policy, denied, 443),
            Reason::DeniedByRule,
            "{denied}"
        );
    }
    for allowed in ["www.example.org", "shared.example.net"] {
        assert_eq!(asked(&policy, allowed, 443), Reason::Allowed, "{allowed}");
    }
}

#[test]
fn the_nearest_profile_s_word_counts_as_in_codex() {
    let text = child(
        "\"Upload.example.org.\" = \"allow\"\n\"www.example.org\" = \"deny\"\n\
         [permissions.child.network]\nmode = \"full\"\nenabled = true\n\
         [permissions.parent.network]\nenabled = false\nmode = \"limited\"\n\
         [permissions.parent.network.domains]\n\"upload.example.org\" = \"deny\"\n\
         \"www.example.org\" = \"allow\"\n",
    );
    let policy = loaded("c.toml", &text).policy;
    assert!(!policy.settings().limited);
    assert_eq!(asked(&policy, "upload.example.org", 443), Reason::Allowed);
    assert_eq!(asked(&policy, "www.example.org", 443), Reason::DeniedByRule);
}

#[test]
fn a_network_that_no_profile_enables_stays_off() {
    let off = "[permissions.parent.network]\nenabled = false\n";
    let silent = "[permissions.parent.network.domains]\n\"a.example.net\" = \"allow\"\n";
    let built_in = child("").replace("\"parent\"", "\":workspace\"");
    for text in [child(off), child(silent), built_in] {
        let loaded = loaded("c.toml", &text);
        assert!(lines(&loaded.warnings).contains("not enabled"), "{text}");
        let asked = asked(&loaded.policy, "www.example.org", 443);
        assert_eq!(asked, Reason::NotListed, "{text}");
    }
    for built_in in [":workspace", ":read-only"] {
        let text = format!("default_permissions = \"{built_in}\"\n");
        assert_eq!(loaded("c.toml", &text).policy.rule_count(), 0);
    }
    let on = child("[permissions.child.network]\nenabled = true\n")
        .replace("\"parent\"", "\":read-only\"");
    let policy = loaded("c.toml", &on).policy;
    assert_eq!(asked(&policy, "www.example.org", 443), Reason::Allowed);
}

#[test]
fn a_parent_that_cannot_be_had_is_an_error() {
    let on = "[permissions.child.network]\nenabled = true\n";
    for (lines_, error) in [
        (
            String::new(),
            "`extends` names `parent`, but the file has no such profile",
        ),
        (
            "[permissions.parent]\nextends = \"child\"\n".into(),
            "child -> parent -> child",
        ),
        (
            "[permissions.parent]\nextends = \"parent\"\n".into(),
            "child -> parent -> parent",
        ),
        (
            "[permissions.parent]\nextends = \":danger-full-access\"\n".into(),
            "built-in",
        ),
        (
            "[permissions.parent]\nextends = \":unknown\"\n".into(),
            "built-in",
        ),
        (
            "[permissions.parent]\nextends = \"\"\n".into(),
            "no such profile",
        ),
        (
            "[permissions.parent]\nextends = [\"a\"]\n".into(),
            "`extends` must be a quoted string",
        ),
        (
            "[permissions]\nparent = 1\n"
                .replace("[permissions]\nparent", "[permissions.parent]\nnetwork"),
            "must be a table",
        ),
    ] {
        let found = lines(&errors("c.toml", &child(&format!("{on}{lines_}"))));
        assert!(found.contains(error), "{lines_}: {found}");
    }
    let mut long = child(on).replace("\"parent\"", "\"p0\"");
    for n in 0..40 {
        long += &format!("[permissions.p{n}]\nextends = \"p{}\"\n", n + 1);
    }
    assert!(lines(&errors("c.toml", &long)).contains("at most"));
    for built_in in [":danger-full-access", ":danger-no-sandbox"] {
        let text = format!("default_permissions = \"{built_in}\"\n");
        assert!(
            lines(&errors("c.toml", &text)).contains("built-in"),
            "{text}"
        );
    }
    let reserved = format!("{HEAD}[permissions.child]\n[permissions.\":workspace\".network]\n");
    assert!(lines(&errors("c.toml", &reserved)).contains("only built-in"));
}

/// Each key that narrows what its format allows: it narrows here, or the file does not load.
#[test]
fn no_key_that_narrows_is_only_a_warning() {
    let network = |line: &str| {
        format!(
            "{HEAD}[permissions.child.network]\nenabled = true\n{line}\n\
             [permissions.child.network.domains]\n\"a.example.org\" = \"allow\"\n"
        )
    };
    let top = |line: &str| format!("{line}\n{}", network(""));
    let profile = |line: &str| format!("{}[permissions.child]\n{line}\n", network(""));
    let gateway =
        |lines: &str| format!("network:\n  allowlist_additions: [a.example.org]\n{lines}\n");
    let mut narrowing: Vec<(&str, String)> = Vec::new();
    for line in [
        "enabled = \"no\"",
        "mode = \"read-only\"",
        "mode = true",
        "allow_local_binding = false",
        "denied_domains = [\"a.example.org\"]",
        "methods = [\"GET\"]",
        "managed_allowed_domains_only = true",
        "mitm = true",
    ] {
        narrowing.push(("c.toml", network(line)));
    }
    for line in [
        "sandbox_mode = \"read-only\"",
        "sandbox_workspace_write = { network_access = false }",
        "profile = \"other\"",
        "experimental_network = { enabled = false }",
        "allowed_permission_profiles = { \":read-only\" = true }",
        "allowed_sandbox_modes = [\"read-only\"]",
        "features = { network_proxy = { domains = { \"a.example.org\" = \"deny\" } } }",
        "denied_hosts = [\"a.example.org\"]",
    ] {
        narrowing.push(("c.toml", top(line)));
    }
    for line in [
        "inherits = \"other\"",
        "net = { enabled = false }",
        "limits = { connections = 1 }",
    ] {
        narrowing.push(("c.toml", profile(line)));
    }
    for lines in [
        "  denylist: [a.example.org]",
        "  allowlist_removals: [a.example.org]",
        "  mode: read-only",
        "  dns:\n    denylist: [a.example.org]",
        "  proxy:\n    denylist: [a.example.org]",
        "methods: [GET]",
    ] {
        narrowing.push(("g.yaml", gateway(lines)));
    }
    narrowing.push((
        "l.toml",
        "allow_net = [\"a.example.org\"]\ndeny_net = [\"a.example.org\"]\n".into(),
    ));
    narrowing.push((
        "l.json",
        r#"{"allow_net": ["a.example.org"], "methods": ["GET"]}"#.into(),
    ));
    for (path, text) in &narrowing {
        let found = load(&[crate::file(path, text)]);
        assert!(found.is_err(), "{path} loads:\n{text}");
    }
    // Without the key each loads, so it is the key that keeps them from it.
    for (path, text) in [
        ("c.toml", network("")),
        (
            "c.toml",
            top("model = \"m\"\nfeatures = { network_proxy = true }"),
        ),
        (
            "c.toml",
            profile("description = \"d\"\nfilesystem = {}\nworkspace_roots = {}"),
        ),
        ("g.yaml", gateway("")),
        ("l.toml", "allow_net = [\"a.example.org\"]\n".into()),
    ] {
        let policy = loaded(path, &text).policy;
        assert_eq!(
            asked(&policy, "a.example.org", 443),
            Reason::Allowed,
            "{text}"
        );
    }
}

/// What concerns Codex's own proxy, and what only it would let in, makes nothing narrower: a warning.
#[test]
fn keys_of_codex_s_own_proxy_load_with_a_warning() {
    for line in [
        "proxy_url = \"http://127.0.0.1:3128\"",
        "socks_url = \"http://127.0.0.1:8081\"",
        "enable_socks5 = true",
        "enable_socks5 = false",
        "enable_socks5_udp = true",
        "dangerously_allow_non_loopback_proxy = false",
        "unix_sockets = { \"/run/a.sock\" = \"allow\", \"/run/b.sock\" = \"none\" }",
        "allow_unix_sockets = [\"/run/a.sock\"]",
        "dangerously_allow_all_unix_sockets = true",
    ] {
        let text = format!(
            "default_permissions = \"own\"\n[permissions.own.network]\nenabled = true\n{line}\n\
             [permissions.own.network.domains]\n\"a.example.org\" = \"allow\"\n"
        );
        let loaded = loaded("c.toml", &text);
        let said = lines(&loaded.warnings);
        let key = line.split(' ').next().unwrap();
        assert!(
            said.starts_with(&format!(
                "c.toml:4:1: warning: Portcullis does not enforce `{key}`"
            )),
            "{said}"
        );
        assert_eq!(
            said.contains("--unix-socket PATH"),
            key.contains("unix"),
            "{said}"
        );
    }
}
