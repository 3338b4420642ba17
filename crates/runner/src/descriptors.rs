//! How many descriptors the gateway's process may hold.
//!
//! Answers *exhaustion* (docs/threats.md): the usual soft limit of 1,024 would be used up by some
//! hundreds of connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets the gateway hold as many descriptors as the host allows it: each flow needs two, each
/// lookup up to four. The program inside keeps the caller's own limit.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // A limit that cannot be raised is a limit that holds: refusals say so when it is reached.
    let _ = setrlimit(Resource::Nofile, raised);
}
