//! Real, unmodified programs in a sandbox, as an ordinary user: each allowed and each refused, with
//! the proxy variables and without them.
#![forbid(unsafe_code)]

#[path = "../support/processes.rs"]
mod processes;
#[path = "../support/shared.rs"]
mod shared;
#[path = "../support/mod.rs"]
mod support;

mod cleartext_http2;
mod curl;
mod ftp;
mod hidden_tls;
mod java;
mod lookups;
mod node;
mod nss;
mod own;
mod own_servers;
mod python;
mod streams;
mod stubs;
mod variables;

use support::{Sandbox, sandbox};

/// A sandbox with the two lists most tests use: a listed name with IPv4 and IPv6 addresses, and one
/// whose canonical name is elsewhere.
fn usual(world: &portcullis_testkit::World) -> Sandbox<'_> {
    sandbox(world)
        .allow("api.example.com")
        .allow("www.example.com")
}

#[test]
fn programs_run_as_an_ordinary_user_without_capabilities() {
    let world = shared::world();
    let ran =
        usual(&world).sh("id -u; grep -E '^(CapEff|CapPrm|CapBnd|NoNewPrivs)' /proc/self/status");
    ran.assert_ok().assert_no_denial();
    let out = ran.out();
    assert!(!out.starts_with("0\n"), "{ran}");
    assert!(out.contains("CapEff:\t0000000000000000"), "{ran}");
    assert!(out.contains("NoNewPrivs:\t1"), "{ran}");
}
