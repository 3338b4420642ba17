//! `[network.proxy]`: the upstream proxies, their credentials, and what may not be seen of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use portcullis_policy::{Environment, MAX_PROXIES, ProxyScheme, UpstreamProxies};

use super::*;

/// Loads a policy's `[network.proxy]` with these files beside it and these variables.
fn proxy(
    text: &str,
    files: &[(&str, &str)],
    variables: &[(&'static str, &'static str)],
) -> Result<Loaded, Vec<Diagnostic>> {
    let files: HashMap<PathBuf, String> = files
        .iter()
        .map(|(path, text)| (path.into(), (*text).to_owned()))
        .collect();
    let variables: HashMap<&str, &str> = variables.iter().copied().collect();
    let mut read = |path: &Path| files.get(path).cloned().map_or_else(|| no_files(path), Ok);
    let environment = Environment::new(move |name| variables.get(name).map(|&v| v.to_owned()));
    let text = format!("version = 1\n[network.proxy]\n{text}\n");
    Policy::load(
        &[file("etc/p.toml", &text), Input::Environment(environment)],
        &mut read,
    )
}

fn upstream(loaded: &Loaded) -> &UpstreamProxies {
    &loaded.policy.settings().upstream
}

/// The credentials of the preferred proxy for everything but plain HTTP.
fn credentials(loaded: &Loaded) -> Option<(String, String)> {
    let group = upstream(loaded).https.as_ref().unwrap();
    let found = group.proxies()[0].credentials()?;
    Some((found.user().to_owned(), found.password().to_owned()))
}

#[test]
fn credentials_of_a_proxy_that_another_source_replaced_stay_secret() {
    let base = "version = 1\n[network.proxy]\nhttps = \"http://u:p@old.example\"\n";
    let named = "version = 1\n[network.proxy]\ncredentials_file = \"old.secret\"\n";
    let table = "version = 1\n[network.proxy]\n\
                 http = { url = \"http://old.example\", credentials_env = \"OLD\" }\n";
    let flag = Input::UpstreamProxy("http://new.example".to_owned());
    let files = [
        ("a/base.toml", base),
        ("b/named.toml", named),
        ("c/table.toml", table),
    ];
    let mut inputs: Vec<Input> = files.map(|(path, text)| file(path, text)).into();
    inputs.push(flag);
    let mut read = |path: &Path| match path.to_str() {
        Some("b/old.secret") => Ok("alice:x\n".to_owned()),
        _ => no_files(path),
    };
    let loaded = Policy::load(&inputs, &mut read).unwrap();
    let paths = ["a/base.toml", "b/old.secret"].map(PathBuf::from);
    assert_eq!(loaded.secrets, paths);
    assert_eq!(upstream(&loaded).secret_variables, ["OLD"]);
}

#[test]
fn credentials_come_from_the_url_a_file_or_a_variable() {
    let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
    let loaded = proxy("https = \"http://u:p%40q@p.example:3128\"", &[], &[]).unwrap();
    assert_eq!(credentials(&loaded), pair("u", "p@q"));
    assert_eq!(
        loaded.secrets,
        [PathBuf::from("etc/p.toml")],
        "the policy holds them"
    );

    let file = "https = \"http://p.example\"\ncredentials_file = \"proxy.secret\"";
    let loaded = proxy(file, &[("etc/proxy.secret", "alice:s:3\n")], &[]).unwrap();
    assert_eq!(credentials(&loaded), pair("alice", "s:3"));
    assert_eq!(loaded.secrets, [PathBuf::from("etc/proxy.secret")]);
    assert!(loaded.files.contains(&PathBuf::from("etc/proxy.secret")));

    let variable = "http = \"http://p.example\"\nhttps = [\"https://p.example\", \"socks5h://q\"]\n\
                    credentials_env = \"COMPANY_PROXY\"";
    let loaded = proxy(variable, &[], &[("COMPANY_PROXY", "bob:x")]).unwrap();
    assert_eq!(credentials(&loaded), pair("bob", "x"));
    assert_eq!(upstream(&loaded).secret_variables, ["COMPANY_PROXY"]);
    let group = upstream(&loaded).https.as_ref().unwrap();
    assert_eq!(group.proxies()[1].scheme(), ProxyScheme::Socks5);
    assert!(
        group
            .proxies()
            .iter()
            .all(|proxy| proxy.credentials().is_some())
    );
    assert!(loaded.secrets.is_empty());

    let own = "https = \"http://u:p@p.example\"\ncredentials_env = \"V\"";
    let loaded = proxy(own, &[], &[("V", "bob:x")]).unwrap();
    assert_eq!(credentials(&loaded), pair("u", "p"), "the URL's own win");
}

#[test]
fn credentials_that_are_missing_or_bad_are_errors_that_do_not_repeat_them() {
    let named = "https = \"http://p.example\"\n";
    for (text, content, message) in [
        (
            "credentials_file = \"none\"",
            "",
            "4:20: error: cannot read `etc/none`",
        ),
        (
            "credentials_file = \"f\"",
            "secret",
            "4:20: error: write credentials as",
        ),
        (
            "credentials_file = \"f\"",
            "a:secret\nb",
            "4:20: error: credentials must be one line",
        ),
        (
            "credentials_file = \"f\"",
            ":secret",
            "4:20: error: the credentials have no user",
        ),
        (
            "credentials_env = \"UNSET\"",
            "",
            "4:19: error: the environment variable `UNSET`",
        ),
        (
            "credentials_env = \"A B\"",
            "",
            "4:19: error: `A B` is not the name of",
        ),
        (
            "credentials_env = \"V\"\ncredentials_file = \"f\"",
            "a:secret",
            "4:19: error: credentials come from a file or a variable, not from both",
        ),
        (
            "ca_file = \"f\"",
            "secret",
            "4:11: error: `f` contains no PEM certificate",
        ),
        (
            "connect = \"adress\"",
            "",
            "4:11: error: unknown value `adress`",
        ),
        (
            "credential_file = \"f\"",
            "",
            "4:1: error: unknown key `credential_file`",
        ),
    ] {
        let found = proxy(
            &format!("{named}{text}"),
            &[("etc/f", content)],
            &[("V", "a:secret")],
        );
        let found = found.expect_err(text);
        let said = lines(&found);
        assert!(
            said.contains(&format!("etc/p.toml:{message}")),
            "{text}: {said}"
        );
        let shown: String = found.iter().map(|error| error.render(false)).collect();
        assert!(
            !shown.contains("secret") && !said.contains("secret"),
            "{shown}"
        );
    }
    let without = format!("version = 1\n[network.proxy]\n{named}credentials_env = \"V\"\n");
    let loaded = loaded("p.toml", &without);
    assert!(
        credentials(&loaded).is_none(),
        "variables are not looked at"
    );
}

#[test]
fn a_wrong_url_shows_its_line_without_the_password() {
    for url in [
        "ftp://alice:secret@p.example",
        "http://alice:secret@p.example/path",
        "http://alice:sec@secret@p.example:0",
    ] {
        let errors = proxy(&format!("https = \"{url}\""), &[], &[]).unwrap_err();
        let shown: String = errors.iter().map(|error| error.render(false)).collect();
        assert!(shown.contains("@p.example"), "{shown}");
        assert!(
            !shown.contains("alice") && !shown.contains("secret"),
            "{shown}"
        );
    }
    let errors = load(&[Input::UpstreamProxy("ftp://alice:secret@p.example".into())]).unwrap_err();
    let shown: String = errors.iter().map(|error| error.render(false)).collect();
    assert!(
        shown.contains("--upstream-proxy") && !shown.contains("secret"),
        "{shown}"
    );
    let forbidding = file(
        "q.toml",
        "version = 1\n[network]\nallow_upstream_proxy = false\n",
    );
    let flag = Input::UpstreamProxy("http://alice:secret@p.example".into());
    let shown = lines(&load(&[forbidding, flag]).unwrap_err());
    assert!(
        shown.contains("also forbids them") && !shown.contains("secret"),
        "{shown}"
    );
}

#[test]
fn several_proxies_and_proxies_for_some_destinations() {
    let text = "http = \"http://a:3128\"\nhttps = [\"http://a:3128\", \"http://b:3128\"]\n\
                no_proxy = \"direct.example\"\n\
                [network.proxy.for]\n\"**.corp.example\" = \"socks5://s:1080\"\n\
                \"git.corp.example:22\" = \"direct\"\n\"10.0.0.0/8\" = [\"http://t:1\", \"http://t:2\"]\n\
                \"safe.example\" = { url = \"https://u:443\", ca_file = \"ca.pem\", connect = \"address\", \
                credentials_file = \"f\" }";
    let ca = "-----BEGIN CERTIFICATE-----\n";
    let loaded = proxy(text, &[("etc/ca.pem", ca), ("etc/f", "u:p")], &[]).unwrap();
    let upstream = upstream(&loaded);
    let all = |n: &str, port| {
        let group = upstream.for_name(name(n).as_ref(), port, true);
        group.map(|group| {
            group
                .proxies()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(
        all("x.example", 443).unwrap(),
        ["http://a:3128", "http://b:3128"]
    );
    assert_eq!(all("direct.example", 443), None);
    assert_eq!(all("git.corp.example", 443).unwrap(), ["socks5://s:1080"]);
    assert_eq!(all("git.corp.example", 22), None);
    let ten = upstream
        .for_address("10.1.1.1".parse().unwrap(), 1, false)
        .unwrap();
    assert_eq!(ten.proxies().len(), 2);
    let safe = upstream
        .for_name(name("safe.example").as_ref(), 80, false)
        .unwrap();
    assert!(safe.by_address());
    assert_eq!(safe.proxies()[0].ca_pem().map(|pem| &**pem), Some(ca));
    assert!(safe.proxies()[0].credentials().is_some());
    let default = upstream
        .for_name(name("x.example").as_ref(), 80, false)
        .unwrap();
    assert!(default.proxies()[0].credentials().is_none() && !default.by_address());
}

#[test]
fn what_is_wrong_with_a_list_or_a_table() {
    let many = |count| {
        let urls: Vec<_> = (0..count).map(|n| format!("\"http://p{n}\"")).collect();
        format!("https = [{}]", urls.join(", "))
    };
    assert!(proxy(&many(MAX_PROXIES), &[], &[]).is_ok());
    for (text, message) in [
        (
            many(MAX_PROXIES + 1).as_str(),
            "3:9: error: `https` must list 1 to 8 proxies",
        ),
        ("https = []", "3:9: error: `https` must list 1 to 8 proxies"),
        (
            "https = [\"http://a\", \"http://A:80\"]",
            "3:22: error: `http://a:80` is listed twice",
        ),
        (
            "https = 1",
            "3:9: error: `https` must be a proxy's URL, or a list of them, not a number",
        ),
        (
            "https = { connect = \"name\" }",
            "3:9: error: `https` has no `url`",
        ),
        ("https = \"direct\"", "3:9: error: write a proxy as"),
        (
            "[network.proxy.for]\n\"*.com\" = \"direct\"",
            "4:1: error: `*.com`",
        ),
        (
            "[network.proxy.for]\n\"a:0\" = \"direct\"",
            "4:1: error: `0` is not a port",
        ),
        (
            "[network.proxy.for]\n\"a.example\" = \"direct\"\n\"A.example\" = \"http://p\"",
            "5:1: error: `A.example` is listed twice",
        ),
    ] {
        let said = lines(&proxy(text, &[], &[]).expect_err(text));
        assert!(said.starts_with(&format!("etc/p.toml:{message}")), "{said}");
    }
}

#[test]
fn a_kerberos_ticket_in_place_of_credentials() {
    let of = |text: &str| {
        let loaded = proxy(text, &[], &[]).map_err(|errors| lines(&errors))?;
        let upstream = upstream(&loaded);
        let group = upstream.https.as_ref().unwrap();
        Ok::<_, String>(group.proxies()[0].negotiates())
    };
    let https = "https = \"http://p.example:3128\"\n";
    for (text, negotiates) in [
        (format!("{https}auth = \"negotiate\""), true),
        (format!("{https}auth = \"basic\""), false),
        (https.to_owned(), false),
        (
            "https = { url = \"https://p.example\", auth = \"negotiate\" }".to_owned(),
            true,
        ),
        // A proxy that is written as a table has its own settings.
        (
            "https = { url = \"https://p.example\" }\nauth = \"negotiate\"".to_owned(),
            false,
        ),
    ] {
        assert_eq!(of(&text), Ok(negotiates), "{text}");
    }
    for (text, why) in [
        (format!("{https}auth = \"NTLM\""), "NTLM is not spoken"),
        (format!("{https}auth = \"digest\""), "digest"),
        (
            "https = \"http://u:p@p.example\"\nauth = \"negotiate\"".to_owned(),
            "`auth = \"negotiate\"` and a user and password exclude each other",
        ),
        (
            "https = \"http://192.0.2.1:3128\"\nauth = \"negotiate\"".to_owned(),
            "needs the proxy's name",
        ),
        (
            "https = \"socks5://p.example\"\nauth = \"negotiate\"".to_owned(),
            "is for proxies of HTTP",
        ),
    ] {
        let said = of(&text).unwrap_err();
        assert!(said.contains(why), "{text}: {said}");
    }
    // The caller's own variables are looked at where no proxy is named.
    let loaded = proxy("", &[], &[("HTTPS_PROXY", "http://u:p@p.example")]).unwrap();
    assert_eq!(loaded.policy.settings().unused_proxy, Some("HTTPS_PROXY"));
    let loaded = proxy(https, &[], &[("HTTPS_PROXY", "http://u:p@p.example")]).unwrap();
    assert_eq!(loaded.policy.settings().unused_proxy, None);
}
