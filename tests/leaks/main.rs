//! Nothing of what is not listed gets out: no name reaches a resolver by any path, no address is
//! reached, and nothing of what a client wrote is forwarded as it stands. Judged by the logs of the
//! servers outside, not by what the gateway says.
#![forbid(unsafe_code)]

#[path = "../support/processes.rs"]
mod processes;
#[path = "../support/shared.rs"]
mod shared;
#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod around;
mod destinations;
mod forwarded;
mod hostile;
mod names;
mod resolution;
mod upstream;

use portcullis_testkit::{GUARDED, World};

/// Addresses that no test of this program is allowed to reach: an unlisted server, the web servers on
/// guarded addresses, the host's own loopback.
fn assert_nothing_leaked(world: &World) {
    world.assert_never_asked("evil");
    for address in GUARDED {
        world.assert_never_reached(address);
    }
    for address in ["203.0.113.90", "192.0.2.2"] {
        world.assert_never_reached(address);
    }
    // Resolvers that the host does not use; a sandbox that asks them is answered by the gateway.
    for query in world.dns_log() {
        let server = query.server.ip().to_string();
        assert!(
            portcullis_testkit::RESOLVERS.contains(&server.as_str()),
            "{query:?}"
        );
    }
}
