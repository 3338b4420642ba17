//! What a policy and the host's files mean inside a sandbox: what the kernel there opens, and what the
//! files about names say.

use crate::guarded_networks;
use crate::host_files::SeenInside;
use crate::kernel_gate::ranges;
use portcullis_dns::hosts_inside;
use portcullis_gateway::{Mode, Policy, PortSet};
use portcullis_names::{Name, NameBuf, NameRef, RecordType};
use portcullis_policy::{AddressRule, Reason, Request};
use portcullis_sandbox::{NameFiles, Network, OpenRule, OpenRules, Spec};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Destinations that no policy lists by accident: the start-up probe takes the first that the
/// policy refuses. Port 9 is "discard" (RFC 863).
const PROBES: [Ipv4Addr; 3] = [
    Ipv4Addr::new(198, 18, 0, 1),
    Ipv4Addr::new(169, 254, 254, 254),
    Ipv4Addr::new(240, 0, 0, 1),
];
const PROBE_PORT: u16 = 9;

/// What the kernel inside needs to know of a policy.
pub(crate) fn open_rules(policy: &Policy) -> OpenRules {
    let audit = policy.mode() == Mode::Audit;
    let networks = |rules: &[AddressRule], ports: fn(&AddressRule) -> &PortSet| {
        let network = |rule: &AddressRule| OpenRule {
            network: Network {
                address: rule.net.addr(),
                prefix: rule.net.prefix_len(),
            },
            ports: ranges(ports(rule)),
        };
        rules.iter().map(network).collect()
    };
    let denied = if audit { &[] } else { policy.denied_networks() };
    OpenRules {
        rules: networks(policy.address_rules(), |rule| &rule.ports),
        closed: networks(denied, |rule| &rule.ports),
        datagrams: networks(policy.address_rules(), |rule| &rule.udp),
        datagram_ports: policy.udp_ports().iter().flatten().collect(),
        audit,
        guarded: if audit {
            guarded_networks::networks()
        } else {
            Vec::new()
        },
    }
}

/// Whether the hosts file inside has an address for a name: the host's own name, and where the policy does
/// not speak of the name but an address rule opens the address, so that it is reached without DNS.
fn keeps(policy: &Policy, address: IpAddr, name: NameRef<'_>) -> bool {
    let own = own_hostname(rustix::system::uname().nodename().to_bytes());
    if own.is_some_and(|own| own.as_ref() == name) {
        return true;
    }
    let qtype = RecordType::A;
    let unlisted = policy.decide(&Request::Lookup { name, qtype }).reason == Reason::NotListed;
    let mut rules = policy.address_rules().iter();
    unlisted && rules.any(|rule| rule.net.contains(&address))
}

/// What the files about names inside say.
pub fn name_files(policy: &Policy) -> NameFiles {
    let host = SeenInside::read();
    let keeps = |address, name: NameRef<'_>| keeps(policy, address, name);
    NameFiles {
        hosts: host.hosts.map(|text| hosts_inside(&text, keeps)),
        resolv_conf: host.search.lines(),
    }
}

/// Puts into `spec` what the kernel inside needs to know of the policy.
pub fn prepare(policy: &Policy, spec: &mut Spec) {
    spec.trust = policy.inspected().next().is_some();
    spec.open = open_rules(policy);
    spec.name_files = name_files(policy);
    let refused = PROBES
        .into_iter()
        .map(|v4| SocketAddr::new(v4.into(), PROBE_PORT));
    if let Some(probe) = refused
        .into_iter()
        .find(|probe| policy.guard(probe.ip(), probe.port()).is_err())
    {
        spec.probe_refused = probe;
    }
}

/// A host name in DNS's form; one that DNS could not hold is never asked for there.
pub(crate) fn own_hostname(nodename: &[u8]) -> Option<Name> {
    let name = NameBuf::from_program(nodename).ok()?;
    Some(name.as_ref().to_name())
}
