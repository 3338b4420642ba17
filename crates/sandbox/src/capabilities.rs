//! What the supervisor of `connect` calls may do, and as whom it acts.
//!
//! Answers *around the gateway* (docs/threats.md). It carries out calls of the program, so it has no
//! power that the program lacks but those by which it looks at the program.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, set_capabilities,
    set_capabilities_secure_bits,
};

use crate::caller::{Caller, Identity, act_as};

/// What is always needed: other programs' descriptors, memory and roots.
const NEEDED: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::SYS_CHROOT);
/// To act as the caller does, where there is more than one user inside.
const CHANGE_IDS: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);
/// What root inside may do to files.
const ROOT_FILES: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH);
/// To ask which file a socket is bound to. Never in force during a `connect`: on a netlink socket it
/// would permit what the program may not do.
const ASK_BOUND_FILE: CapabilitySet = CapabilitySet::NET_ADMIN;

/// The capabilities of this process, and as whom it acts.
#[derive(Debug)]
pub(crate) struct Capabilities {
    many_users: bool,
    acting: Option<Identity>,
}

impl Capabilities {
    /// Drops every other capability for good.
    pub(crate) fn drop_others(many_users: bool) -> Result<Self, Errno> {
        let capabilities = Self {
            many_users,
            acting: None,
        };
        if many_users {
            set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
        }
        capabilities.put_in_force(CapabilitySet::empty())?;
        Ok(capabilities)
    }

    /// Runs something with the power to ask which file a socket is bound to.
    pub(crate) fn asking<T>(&self, ask: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        self.put_in_force(ASK_BOUND_FILE)?;
        let result = ask();
        self.put_in_force(CapabilitySet::empty())?;
        result
    }

    fn put_in_force(&self, also: CapabilitySet) -> Result<(), Errno> {
        let mut usual = NEEDED;
        let mut permitted = NEEDED | ASK_BOUND_FILE;
        if self.many_users {
            usual |= CHANGE_IDS;
            permitted |= CHANGE_IDS | ROOT_FILES;
            if self.acting.as_ref().is_none_or(|acting| acting.user == 0) {
                usual |= ROOT_FILES;
            }
        }
        let sets = CapabilitySets {
            effective: usual | also,
            permitted,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets)
    }

    /// Acts as the caller does: its user's permissions count, and its user is what a peer sees.
    pub(crate) fn act_as(&mut self, caller: &Caller) -> Result<(), Errno> {
        if !self.many_users {
            return Ok(());
        }
        let who = caller.identity()?;
        if self.acting.as_ref() == Some(&who) {
            return Ok(());
        }
        // In between it is nobody in particular.
        self.acting = None;
        act_as(&who)?;
        self.acting = Some(who);
        self.put_in_force(CapabilitySet::empty())
    }
}
