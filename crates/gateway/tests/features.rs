//! What a build leaves out is refused when a policy needs it, and served where it is there.

use portcullis_gateway::{Gateway, Input, Policy};

/// What the gateway says to a policy with this text.
fn refusal(text: &str) -> Option<String> {
    let file = Input::File {
        path: "policy.toml".into(),
        text: format!("version = 1\n{text}"),
    };
    let loaded = Policy::load(&[file], &mut |path| std::fs::read_to_string(path));
    let policy = loaded.unwrap_or_else(|errors| panic!("{errors:?}")).policy;
    let built = Gateway::builder().policy(policy).build();
    built.err().map(|error| error.to_string())
}

#[test]
fn dns_over_https_is_served_or_refused() {
    let refused = refusal("[network.dns]\nresolvers = [\"https://192.0.2.53/dns-query\"]\n");
    match cfg!(feature = "doh") {
        true => assert_eq!(refused, None),
        false => assert!(refused.unwrap().contains("leaves out DNS over HTTPS")),
    }
    assert_eq!(
        refusal("[network.dns]\nresolvers = [\"tls://192.0.2.53\"]\n"),
        None
    );
}

#[test]
fn inspection_is_served_or_refused() {
    let rule = "\"api.example.com\" = { verdict = \"allow\", inspect = true }";
    let refused = refusal(&format!("[network.domains]\n{rule}\n"));
    match cfg!(feature = "inspect") {
        true => assert_eq!(refused, None),
        false => assert!(refused.unwrap().contains("leaves out inspection of HTTPS")),
    }
}
