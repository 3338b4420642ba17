//! Single values that operators write: upstream proxies, credentials, resolvers, durations, flags.
#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use portcullis_policy::{Credentials, Input, Policy, Reason, Resolver, UpstreamProxy, parse_duration};

fuzz_target!(|text: &str| {
    if let Ok(proxy) = UpstreamProxy::parse(text) {
        // Nothing that ends a line or a word can stand in what is sent to it.
        assert!(!format!("{proxy}").contains(|c: char| c.is_control() || c == ' '));
    }
    if let Ok(credentials) = Credentials::parse(text) {
        // Neither part may end where the other begins, and nothing of them is ever printed.
        assert!(!credentials.user().contains(':'));
        assert_eq!(format!("{credentials:?}"), format!("{:?}", Credentials::parse("a:b").unwrap()));
    }
    if let Ok(resolver) = Resolver::parse(text) {
        assert_eq!(Resolver::parse(&resolver.to_string()), Ok(resolver));
    }
    let _ = parse_duration(text);
    if let Some(reason) = Reason::from_code(text) {
        assert_eq!(reason.code(), text);
    }
    let mut no_files = |_: &std::path::Path| Err(io::ErrorKind::NotFound.into());
    for input in [Input::Allow(text.to_owned()), Input::Deny(text.to_owned())] {
        let _ = Policy::load(&[input], &mut no_files);
    }
});
