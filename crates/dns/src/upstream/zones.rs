//! Servers by zone, as one policy says.
//!
//! Answers *resolution as a way out* (docs/threats.md): a name below a zone's suffix is asked for
//! at that zone's servers and never at any other, not even when all of them are silent; what a
//! server says about names outside of the zone that it was asked for is not believed.

use std::sync::Arc;

use portcullis_names::{Name, NameRef};
use portcullis_policy::{Policy, Zone};

use super::server::Group;

/// Groups of servers, one for each zone of a policy and one for all other names.
#[derive(Debug)]
pub(super) struct ByZone<S> {
    /// Holding the policy keeps its address from being used again: comparing pointers tells
    /// policies apart.
    pub policy: Arc<Policy>,
    /// As `policy.settings().dns.zones`.
    pub zones: Vec<Group<S>>,
    pub general: Group<S>,
}

impl<S> ByZone<S> {
    /// The servers to ask for a name.
    pub(super) fn servers_for(&self, name: NameRef<'_>) -> &Group<S> {
        let zones = &self.policy.settings().dns.zones;
        let own = self.zone_for(name).and_then(|found| {
            let index = zones.iter().position(|zone| std::ptr::eq(zone, found))?;
            self.zones.get(index)
        });
        own.unwrap_or(&self.general)
    }

    /// The suffix of the zone that a name is in.
    pub(super) fn suffix_for(&self, name: NameRef<'_>) -> Option<&Name> {
        self.zone_for(name).map(|zone| &zone.suffix)
    }

    fn zone_for(&self, name: NameRef<'_>) -> Option<&Zone> {
        self.policy.settings().dns.zone_for(name)
    }
}
