//! Which servers are asked for which names, as the policy in force says.
//!
//! Answers "internal names shown to others": a name below a zone's suffix is asked for at that zone's
//! servers and never at any other, not even when all of them are silent; what a server says about
//! names outside of the zone that it was asked for is not believed.
//!
//! A plan is made anew when another policy is in force. Servers that stay keep their health, what was
//! learnt of them and their connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_names::{Name, NameRef};
use portcullis_policy::{Policy, Resolver};

use super::server::Server;

/// Resolvers of the host that are used; its `resolv.conf` is no place for more.
const MAX_HOST_RESOLVERS: usize = 16;

/// Servers in order of preference.
pub(super) type Group = Arc<[Arc<Server>]>;

/// Servers by zone.
#[derive(Debug)]
pub(super) struct Plan {
    /// What it was made of; holding it keeps its address from being used again.
    policy: Arc<Policy>,
    host: Arc<[SocketAddr]>,
    general: Group,
    /// As `policy.settings().dns.zones`.
    zones: Vec<Group>,
    /// Whom the names of encrypted servers are asked for at.
    bootstrap: Group,
}

impl Plan {
    /// A plan for a policy, with the servers of the one before where they are the same.
    pub(super) fn new(policy: Arc<Policy>, host: Arc<[SocketAddr]>, before: Option<&Plan>) -> Plan {
        let mut known: HashMap<Resolver, Arc<Server>> = HashMap::new();
        if let Some(before) = before {
            let groups = before.zones.iter();
            let groups = groups.chain([&before.general, &before.bootstrap]);
            for server in groups.flat_map(|group| group.iter()) {
                known.insert(server.resolver.clone(), server.clone());
            }
        }
        let mut server = |resolver: &Resolver| match known.get(resolver) {
            Some(server) => server.clone(),
            None => {
                let server = Arc::new(Server::new(resolver.clone()));
                known.insert(resolver.clone(), server.clone());
                server
            }
        };
        let settings = policy.settings();
        let plain = |address: &SocketAddr| Resolver::Plain(*address);
        let hosts: Vec<Resolver> = host.iter().take(MAX_HOST_RESOLVERS).map(plain).collect();
        let or_hosts = |own: &[Resolver]| match own {
            [] => hosts.clone(),
            own => own.to_vec(),
        };
        let general = or_hosts(&settings.resolvers);
        let bootstrap: Vec<Resolver> = settings.dns.bootstrap.iter().map(plain).collect();
        let bootstrap = or_hosts(&bootstrap);
        let zones = settings.dns.zones.iter();
        Plan {
            general: general.iter().map(&mut server).collect(),
            bootstrap: bootstrap.iter().map(&mut server).collect(),
            zones: zones
                .map(|zone| zone.resolvers.iter().map(&mut server).collect())
                .collect(),
            policy,
            host,
        }
    }

    /// Whether it is the plan for these.
    pub(super) fn is_for(&self, policy: &Arc<Policy>, host: &Arc<[SocketAddr]>) -> bool {
        Arc::ptr_eq(&self.policy, policy) && Arc::ptr_eq(&self.host, host)
    }

    /// The servers to ask for a name.
    pub(super) fn servers_for(&self, name: NameRef<'_>) -> Group {
        match self.zone_index(name) {
            Some(zone) => self.zones[zone].clone(),
            None => self.general.clone(),
        }
    }

    /// The servers to ask for the name of an encrypted server.
    pub(super) fn bootstrap_for(&self, name: NameRef<'_>) -> Group {
        let plain = |zone: usize| -> Group {
            let servers = self.zones[zone].iter();
            servers
                .filter(|server| server.resolver.plain().is_some())
                .cloned()
                .collect()
        };
        match self.zone_index(name).map(plain) {
            Some(own) if !own.is_empty() => own,
            _ => self.bootstrap.clone(),
        }
    }

    /// The suffix of the zone that a name is in.
    pub(super) fn zone_of(&self, name: NameRef<'_>) -> Option<&Name> {
        let zone = self.policy.settings().dns.zone_for(name);
        zone.map(|zone| &zone.suffix)
    }

    fn zone_index(&self, name: NameRef<'_>) -> Option<usize> {
        let dns = &self.policy.settings().dns;
        let found = dns.zone_for(name)?;
        dns.zones.iter().position(|zone| std::ptr::eq(zone, found))
    }
}
