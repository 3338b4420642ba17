//! What a daemon of root's may do: what it takes to put doors into the namespaces of others, and no more.
//!
//! Answers *around the gateway* (docs/threats.md): whoever takes over a process that reads hostile traffic has no
//! more than these.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use crate::error::{At, SandboxError, Step};

/// What is kept, by the names of capabilities(7).
const KEPT: [(CapabilitySet, &str); 11] = [
    // Namespaces are entered, and files shown over a sandbox's.
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::SYS_CHROOT, "CAP_SYS_CHROOT"),
    // Addresses, routes and rules inside; port 53; listeners for every address.
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"),
    (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
    // Other users' processes are looked at, and their namespaces opened.
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    // The owner of a sandbox's user namespace; a guest's socket is its owner's.
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
];
/// Numbers of capabilities that there may ever be.
const NUMBERS: u32 = u64::BITS;

/// What is kept.
pub fn kept() -> impl Iterator<Item = &'static str> {
    KEPT.iter().map(|(_, name)| *name)
}

/// Drops every other capability of this thread, and of those that it starts, for good. An ordinary user has none, and
/// gets none by this.
///
/// # Errors
/// The kernel refuses.
pub fn drop_others() -> Result<(), SandboxError> {
    drop_all_but_kept().at(Step::Confine, "capabilities of the daemon")
}

fn drop_all_but_kept() -> Result<(), Errno> {
    let kept = KEPT
        .iter()
        .fold(CapabilitySet::empty(), |all, (one, _)| all | *one);
    let now = capabilities(None)?;
    if now.permitted.contains(CapabilitySet::SETPCAP) {
        for number in 0..NUMBERS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if kept.contains(one) {
                continue;
            }
            match remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // This kernel knows no more.
                Err(Errno::INVAL) => break,
                Err(error) => return Err(error),
            }
        }
    }
    clear_ambient_capability_set()?;
    let left = now.permitted & kept;
    set_capabilities(
        None,
        CapabilitySets {
            effective: left,
            permitted: left,
            inheritable: CapabilitySet::empty(),
        },
    )
}
