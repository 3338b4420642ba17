//! Paths of requests against the paths of a rule: what passes has one form, in which nothing leads up.
#![no_main]

use std::io;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis_names::Name;
use portcullis_policy::{Destination, Input, Policy, Request, Verdict, canonical_path};

const RULES: &str = r#"version = 1
[network.domains]
"a.example" = { verdict = "allow", inspect = true, methods = ["GET"], paths = ["/public/**", "/v1/*/read"] }
"#;

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let input = Input::File {
        path: "policy.toml".into(),
        text: RULES.to_owned(),
    };
    let mut no_files = |_: &std::path::Path| Err(io::ErrorKind::NotFound.into());
    Policy::load(&[input], &mut no_files).unwrap().policy
});

fuzz_target!(|path: &str| {
    let canonical = canonical_path(path);
    if let Ok(canonical) = &canonical {
        assert_eq!(canonical_path(canonical).as_deref(), Ok(&**canonical));
        let lower = canonical.to_ascii_lowercase();
        for odd in ["/../", "/./", "//", "\\", "%2e", "%2f", "%5c", "%00"] {
            assert!(!format!("{lower}/").contains(odd) || odd == "//" && lower.ends_with('/'), "{canonical}");
        }
    }
    let name = Name::from_policy("a.example").unwrap();
    let to = Destination::name(name.as_ref());
    for method in ["GET", "get", "POST"] {
        let request = Request::Http { to: &to, port: 443, method, path };
        if POLICY.decide(&request).verdict == Verdict::Allow {
            assert_eq!(method, "GET");
            let canonical = canonical.as_ref().expect("it has one form");
            assert!(*canonical == "/public" || canonical.starts_with("/public/") || canonical.starts_with("/v1/"), "{canonical}");
        }
    }
});
