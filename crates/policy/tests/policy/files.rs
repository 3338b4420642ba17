//! Files that include files, several files, flags and variables on top.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use portcullis_policy::{CallersProxies, MAX_INCLUDE_DEPTH, ProxyGroup, Reason};

use super::*;

/// Loads `main.toml` of a folder of files.
fn load_folder(files: &[(&str, String)]) -> Result<Loaded, Vec<Diagnostic>> {
    let files: HashMap<PathBuf, String> = files
        .iter()
        .map(|(path, text)| (path.into(), text.clone()))
        .collect();
    let main = Path::new("etc/main.toml");
    let mut read = |path: &Path| files.get(path).cloned().map_or_else(|| no_files(path), Ok);
    Policy::load(
        &[Input::File {
            path: main.into(),
            text: files[main].clone(),
        }],
        &mut read,
    )
}

fn including(files: &str, domains: &str) -> String {
    format!("version = 1\ninclude = [{files}]\n[network.domains]\n{domains}\n")
}

#[test]
fn included_files_are_relative_and_merged() {
    let loaded = load_folder(&[
        (
            "etc/main.toml",
            including(
                "\"sub/a.toml\", \"../b.yaml\"",
                "\"main.example\" = \"allow\"",
            ),
        ),
        (
            "etc/sub/a.toml",
            including("\"deep.json\"", "\"a.example\" = \"allow\""),
        ),
        (
            "etc/sub/deep.json",
            r#"{"version": 1, "network": {"domains": {"deep.example": "allow"}}}"#.into(),
        ),
        (
            "b.yaml",
            "version: 1\nnetwork:\n  domains:\n    b.example: allow\n    a.example: deny\n".into(),
        ),
    ])
    .unwrap();
    let policy = &loaded.policy;
    for listed in ["main.example", "deep.example", "b.example"] {
        assert_eq!(asked(policy, listed, 443), Reason::Allowed, "{listed}");
    }
    assert_eq!(asked(policy, "a.example", 443), Reason::DeniedByRule);
    let files: Vec<_> = loaded
        .files
        .iter()
        .map(|f| f.display().to_string())
        .collect();
    assert_eq!(
        files,
        [
            "etc/main.toml",
            "etc/sub/a.toml",
            "etc/sub/deep.json",
            "b.yaml"
        ]
    );
    assert_eq!(
        lines(&loaded.warnings),
        "etc/sub/a.toml:4:1: warning: `a.example` is allowed here, but denied elsewhere (deny wins: b.yaml:5)\n"
    );
}

#[test]
fn a_cycle_is_an_error_and_a_diamond_is_none() {
    let cycle = load_folder(&[
        ("etc/main.toml", including("\"a.toml\"", "")),
        ("etc/a.toml", including("\"./../etc/main.toml\"", "")),
    ]);
    let errors = cycle.unwrap_err();
    assert_eq!(
        lines(&errors),
        "etc/a.toml:2:12: error: `./../etc/main.toml` includes itself, directly or through another file (remove this entry)\n"
    );
    let itself = load_folder(&[("etc/main.toml", including("\"main.toml\"", ""))]);
    assert!(lines(&itself.unwrap_err()).contains("includes itself"));
    let diamond = load_folder(&[
        ("etc/main.toml", including("\"a.toml\", \"b.toml\"", "")),
        ("etc/a.toml", including("\"base.toml\"", "")),
        ("etc/b.toml", including("\"base.toml\"", "")),
        (
            "etc/base.toml",
            including("", "\"base.example\" = \"allow\""),
        ),
    ])
    .unwrap();
    assert_eq!(diamond.files.len(), 4);
    assert_eq!(diamond.policy.rule_count(), 1);
}

#[test]
fn includes_are_not_endlessly_deep() {
    let files: Vec<_> = (0..20)
        .map(|n| {
            let path = if n == 0 {
                "etc/main.toml".to_owned()
            } else {
                format!("etc/{n}.toml")
            };
            (path, including(&format!("\"{}.toml\"", n + 1), ""))
        })
        .collect();
    let files: Vec<_> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.clone()))
        .collect();
    let errors = lines(&load_folder(&files).unwrap_err());
    let expected = format!(
        "etc/{}.toml:2:12: error: includes are nested more than",
        MAX_INCLUDE_DEPTH - 1
    );
    assert!(errors.starts_with(&expected), "{errors}");
}

#[test]
fn a_missing_file_is_an_error_where_it_is_included() {
    let errors = load_folder(&[("etc/main.toml", including("\"gone.toml\"", ""))]).unwrap_err();
    assert_eq!(
        lines(&errors),
        "etc/main.toml:2:12: error: cannot read `etc/gone.toml`: no etc/gone.toml\n"
    );
}

#[test]
fn errors_of_all_files_come_at_once() {
    let errors = load_folder(&[
        (
            "etc/main.toml",
            including("\"a.toml\"", "\"*.com\" = \"allow\""),
        ),
        ("etc/a.toml", including("", "\"b\" = \"alow\"")),
    ])
    .unwrap_err();
    let places: Vec<_> = errors
        .iter()
        .map(|e| (e.path.as_str(), e.line, e.column))
        .collect();
    assert_eq!(places, [("etc/main.toml", 4, 1), ("etc/a.toml", 4, 7)]);
}

#[test]
fn several_policies_merge_and_flags_come_on_top() {
    let inputs = [
        file(
            "one.toml",
            "version = 1\n[network.domains]\n\"a.example\" = \"allow\"\n[network.dns]\nresolvers = [\"10.0.0.1\"]\n",
        ),
        file(
            "two.toml",
            "version = 1\n[network.domains]\n\"b.example\" = \"allow\"\n[network.dns]\nresolvers = [\"10.0.0.2\", \"10.0.0.3:5353\"]\n",
        ),
        Input::Allow("c.example:22".into()),
        Input::Deny("b.example".into()),
    ];
    let both = load(&inputs).unwrap();
    assert_eq!(asked(&both.policy, "a.example", 443), Reason::Allowed);
    assert_eq!(asked(&both.policy, "b.example", 443), Reason::DeniedByRule);
    assert_eq!(asked(&both.policy, "c.example", 22), Reason::Allowed);
    let resolvers = |policy: &Policy| -> Vec<String> {
        policy
            .settings()
            .resolvers
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(resolvers(&both.policy), ["10.0.0.2:53", "10.0.0.3:5353"]);
    assert!(
        lines(&both.warnings).contains("(deny wins: --deny b.example)"),
        "{}",
        lines(&both.warnings)
    );
    let mut inputs = inputs.to_vec();
    inputs.insert(0, Input::Resolver("192.0.2.53".into()));
    assert_eq!(resolvers(&load(&inputs).unwrap().policy), ["192.0.2.53:53"]);
}

#[test]
fn openshell_direct_tcp_hosts() {
    let hosts = "wss-primary.slack.com,wss-backup.slack.com, api.slack.com ,";
    let inputs = [
        Input::DirectTcpHosts(hosts.into()),
        Input::Deny("api.slack.com".into()),
    ];
    let policy = load(&inputs).unwrap().policy;
    assert_eq!(
        asked(&policy, "wss-primary.slack.com", 443),
        Reason::Allowed
    );
    assert_eq!(
        asked(&policy, "wss-primary.slack.com", 80),
        Reason::PortNotAllowed
    );
    assert_eq!(asked(&policy, "wss-backup.slack.com", 443), Reason::Allowed);
    assert_eq!(
        asked(&policy, "api.slack.com", 443),
        Reason::DeniedByRule,
        "deny still wins"
    );
    assert!(load(&[Input::DirectTcpHosts(String::new())]).is_ok());
    let errors = load(&[Input::DirectTcpHosts("a.example,b c,*".into())]).unwrap_err();
    let places: Vec<_> = errors.iter().map(|e| (e.path.as_str(), e.column)).collect();
    assert_eq!(
        places,
        [
            ("OPENSHELL_DIRECT_TCP_HOSTS", 11),
            ("OPENSHELL_DIRECT_TCP_HOSTS", 15)
        ]
    );
}

#[test]
fn the_caller_s_proxies_are_read_as_programs_read_them() {
    let callers = |variables: &'static [(&'static str, &'static str)]| {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        };
        CallersProxies::read(variable)
    };
    let upstream = |callers: CallersProxies| {
        let policy = load(&[Input::CallersProxies(callers)]).unwrap().policy;
        let settings = policy.settings().upstream.clone();
        let first = |group: &Option<ProxyGroup>| {
            let group = group.as_ref()?;
            Some(group.proxies()[0].to_string())
        };
        let no_proxy = settings.no_proxy.as_str().to_owned();
        (first(&settings.http), first(&settings.https), no_proxy)
    };
    let url = |url: &str| Some(url.to_owned());
    for (variables, http, https, no_proxy) in [
        (
            &[("HTTPS_PROXY", "proxy.example:3128"), ("http_proxy", "")][..],
            None,
            url("http://proxy.example:3128"),
            "",
        ),
        (
            &[
                ("http_proxy", "http://one.example:1"),
                ("HTTP_PROXY", "http://two.example:2"),
                ("ALL_PROXY", "socks5h://all.example"),
                ("no_proxy", "localhost [::1],*,%bad,.corp.example"),
            ],
            url("http://one.example:1"),
            url("socks5://all.example:1080"),
            "localhost,[::1],.corp.example",
        ),
        (
            &[("https_proxy", "http://a:1"), ("no_proxy", "*")],
            None,
            url("http://a:1"),
            "*",
        ),
    ] {
        let expected = (http, https, no_proxy.to_owned());
        assert_eq!(upstream(callers(variables)), expected, "{variables:?}");
    }
    let secret = callers(&[("https_proxy", "http://alice:s3cret@proxy.example:3128")]);
    let shown = secret.first().unwrap().to_string();
    assert_eq!(shown, "https_proxy (http://proxy.example:3128)");
    let errors = load(&[Input::CallersProxies(callers(&[(
        "https_proxy",
        "ftp://a:s3cret@b",
    )]))]);
    let errors = format!("{:?}", errors.unwrap_err());
    assert!(
        errors.contains("https_proxy") && !errors.contains("s3cret"),
        "{errors}"
    );
}

/// They take the place of the policy's own, so that nothing at all would go through a proxy.
#[test]
fn the_caller_s_proxies_are_not_taken_where_there_are_none() {
    for variables in [&[][..], &[("no_proxy", "*"), ("https_proxy", " ")]] {
        let read = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let errors = load(&[Input::CallersProxies(CallersProxies::read(read))]).unwrap_err();
        let errors = format!("{errors:?}");
        assert!(errors.contains("no proxy variable is set"), "{errors}");
    }
}

#[test]
fn upstream_proxy_flag() {
    let policy = load(&[Input::UpstreamProxy("http://10.0.0.1:3128".into())])
        .unwrap()
        .policy;
    let upstream = &policy.settings().upstream;
    assert_eq!(upstream.http, upstream.https);
    assert_eq!(
        upstream.https.as_ref().unwrap().proxies()[0].to_string(),
        "http://10.0.0.1:3128"
    );
    let forbidding = file(
        "p.toml",
        "version = 1\n[network]\nallow_upstream_proxy = false\n",
    );
    let errors = load(&[
        forbidding,
        Input::UpstreamProxy("http://10.0.0.1:3128".into()),
    ])
    .unwrap_err();
    assert!(
        lines(&errors).contains("p.toml:3 says `allow_upstream_proxy = false`"),
        "{}",
        lines(&errors)
    );
    let secret = load(&[Input::UpstreamProxy("http://me:secret@10.0.0.1:0".into())]).unwrap_err();
    assert!(!lines(&secret).contains("secret"), "{}", lines(&secret));
}

#[test]
fn contradictions() {
    let one = |a: &str, b: &str| {
        load(&[file(
            "p.toml",
            &format!("version = 1\n[network.domains]\n{a}\n{b}\n"),
        )])
    };
    for (a, b) in [
        ("\"x.example\" = \"allow\"", "\"X.EXAMPLE.\" = \"deny\""),
        ("\"x.example:443\" = \"deny\"", "\"x.example\" = \"allow\""),
        (
            "\"*.x.example:*\" = \"allow\"",
            "\"*.x.example:22\" = \"deny\"",
        ),
        ("\"x.example:22\" = \"allow\"", "\"x.example\" = \"deny\""),
    ] {
        let errors = one(a, b).expect_err(a);
        assert_eq!(
            (errors.len(), errors[0].line),
            (1, 4),
            "{a} {b}: {}",
            lines(&errors)
        );
        assert!(lines(&errors).contains("both allowed and denied"));
    }
    for (a, b) in [
        (
            "\"x.example:80\" = \"deny\"",
            "\"x.example:443\" = \"allow\"",
        ),
        ("\"*.x.example\" = \"deny\"", "\"x.example\" = \"allow\""),
        (
            "\"*.x.example\" = \"allow\"",
            "\"**.x.example:22\" = \"deny\"",
        ),
    ] {
        assert!(one(a, b).is_ok(), "{a} {b}");
    }
    let nets = "version = 1\n[network.addresses]\n\"10.0.0.0/8\" = \"allow\"\n\"10.0.0.0/8:22\" = \"deny\"\n";
    assert!(load(&[file("p.toml", nets)]).is_err());
    let flags = load(&[
        Input::Allow("x.example".into()),
        Input::Deny("x.example".into()),
    ])
    .unwrap();
    assert_eq!(asked(&flags.policy, "x.example", 443), Reason::DeniedByRule);
    assert_eq!(flags.warnings.len(), 1);
}

#[test]
fn an_allow_that_a_wider_deny_covers_is_a_warning() {
    let loaded = loaded(
        "p.toml",
        "version = 1\n[network.domains]\n\"a.x.example\" = \"allow\"\n\"*.x.example\" = \"deny\"\n",
    );
    assert_eq!(
        lines(&loaded.warnings),
        "p.toml:3:1: warning: `a.x.example` is allowed here, but `*.x.example` denies it (deny wins: p.toml:4)\n"
    );
}
