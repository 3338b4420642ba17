//! The search list of the host is no way around the list of names.

use crate::support::{require, sandbox, world_from};
use portcullis_testkit::WorldSpec;

/// Whatever stands below the search domain exists, as behind a wildcard of somebody's DNS.
fn spec() -> WorldSpec {
    let mut spec = WorldSpec::standard()
        .record("*.corp.test A 203.0.113.10")
        .record("*.vault.corp.test A 203.0.113.10");
    spec.resolv_conf = Some(
        "search corp.test\noptions ndots:2\nnameserver 203.0.113.53\nnameserver 203.0.113.54\n"
            .to_owned(),
    );
    spec
}

#[test]
fn names_do_not_pass_as_names_of_the_search_domain() {
    require("curl");
    let world = world_from(spec());
    let ran = sandbox(&world).allow("**.corp.test").deny("vault.example").sh(
        "code() { curl -s -m 25 -o /dev/null -w '%{http_code} ' \"$@\"; }; proxy='--noproxy @ -x http://10.0.2.2:3128'; \
         for name in evil.example vault.example; do \
         code $proxy http://$name/; code -p $proxy http://$name/ -w '%{http_connect} '; \
         code --noproxy '*' -H \"Host: $name\" http://$name.corp.test/; \
         code $proxy -H \"Host: $name\" http://$name.corp.test/; \
         code --noproxy '*' --socks5-hostname 10.0.2.2:1080 http://$name/; done; \
         code $proxy http://www/; code --noproxy '*' http://www/",
    );
    let each = "403 403 403 400 403 ";
    assert_eq!(ran.out(), each.repeat(2) + "200 200 ", "{ran}");
    let denied = ran.records.all_denials();
    for name in ["evil.example", "vault.example"] {
        let of_it = denied.iter().filter(|record| record["name"] == name);
        let count: u64 = of_it.filter_map(|record| record["count"].as_u64()).sum();
        assert!(count >= 4, "{name}: {ran}");
    }
    assert!(
        denied
            .iter()
            .any(|record| record["reason"] == "denied-by-rule"),
        "{ran}"
    );
}

/// A denial by a rule is no completion, whatever was asked before.
#[test]
fn lookups_that_a_rule_denies_leave_their_names() {
    require("getent");
    let world = world_from(spec());
    let ran = sandbox(&world).allow("**.corp.test").deny("vault.corp.test").sh(
        "getent hosts vault; getent hosts vault.corp.test; getent hosts stolen.evil.example.net; true",
    );
    ran.assert_ok();
    let denied = ran.records.all_denials();
    for (name, reason) in [
        ("vault.corp.test", "denied-by-rule"),
        ("stolen.evil.example.net", "not-in-allowlist"),
    ] {
        let is_it =
            |record: &&&serde_json::Value| record["name"] == name && record["reason"] == reason;
        assert!(denied.iter().filter(is_it).count() >= 1, "{name}: {ran}");
    }
}
