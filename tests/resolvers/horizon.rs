//! Split horizon: the company's names are asked for at the company's resolver alone.

use crate::support::{require, sandbox, world};

const GENERAL: &str = "203.0.113.53";
const COMPANY: &str = "203.0.113.54";

#[test]
fn the_companys_names_are_asked_for_at_the_companys_resolver_alone() {
    require("dig");
    let world = world();
    let policy = format!(
        "version = 1\n[network.dns]\nresolvers = [\"{GENERAL}\"]\n\
         [network.dns.zones]\n\"internal.company.com\" = [\"{COMPANY}\"]\n\"corp\" = [\"127.0.0.9\"]\n\
         [network.domains]\n\"*.internal.company.com\" = \"allow\"\n\"api.example.com\" = \"allow\"\n\
         \"proxy.example.corp\" = \"allow\"\n"
    );
    let ran = sandbox(&world).policy("toml", &policy).sh(
        "dig +short registry.internal.company.com; dig +short api.internal.company.com; \
         dig +short api.example.com; dig +tries=1 +time=10 proxy.example.corp | grep -o 'status: [A-Z]*'",
    );
    ran.assert_ok();
    let expected = "203.0.113.110\n203.0.113.111\n203.0.113.10\nstatus: SERVFAIL\n";
    assert_eq!(ran.out(), expected, "{ran}");
    for query in world.dns_log() {
        let internal = query.name.to_ascii_lowercase().contains("internal");
        let expected = if internal { COMPANY } else { GENERAL };
        assert_eq!(query.server.ip().to_string(), expected, "{query:?}");
    }
    // Its only resolver is not there, and no other one hears of it.
    world.assert_never_asked("proxy.example.corp");
}
