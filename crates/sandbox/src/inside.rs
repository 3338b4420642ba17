//! What a namespace needs to be a sandbox: addresses, routes, packet rules, and the sockets that are
//! its only doors.
//!
//! Answers *around the gateway* (docs/threats.md): no route leads out, and what is not open is refused.
//! [`Inside::build`] works on the network namespace of the calling thread and on nothing else: not on
//! mounts, users or processes. The sandbox's first process calls it in the namespace that it made;
//! a process that has entered the namespace of a container or a virtual machine may call it there.

use std::fs;

use rustix::net::netlink::NETFILTER;

use crate::error::{At, SandboxError, Step};
use crate::listeners;
use crate::netlink;
use crate::sockets::{Family, NamedSockets, SocketName};
use crate::spec::{Addresses, OpenRules, Tap};
use crate::{frames, guest, link, refused, rules, shared, socket_diag, tap, unreachable};

/// The first port that needs no privilege, of the namespace of whoever asks.
pub(crate) const PORT_START: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
/// Whether the loopback has no IPv6, as docker leaves it; missing where the kernel has none.
pub(crate) const NO_IPV6: &str = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";

/// What is to be made in a network namespace.
#[derive(Debug, Clone, Default)]
pub struct Inside {
    /// The addresses that exist there.
    pub addresses: Addresses,
    /// What the kernel lets through from the start, and the UDP ports with sockets of their own.
    pub open: OpenRules,
    /// A TAP device.
    pub tap: Option<Tap>,
    /// The gateway's user, where the namespace is the gateway's as well: then it has other devices, and only that
    /// user's marked sockets ([`crate::GATEWAY_MARK`]) reach them.
    pub shared: Option<u32>,
}

impl Inside {
    /// Makes it in the calling thread's network namespace, which must have no devices but its own
    /// loopback.
    ///
    /// Needs `CAP_NET_ADMIN` and `CAP_NET_BIND_SERVICE` over the namespace, and a `/proc` whose
    /// `sys/net` may be written. When this returns, every rule is in force, and a connection to
    /// anything that is not open is refused. The sockets belong to the namespace for good and may
    /// be served by any process that they are sent to ([`NamedSockets::send`]).
    ///
    /// # Errors
    /// The kernel refused a step. What was made by then stays: no destination is open.
    pub fn build(&self) -> Result<NamedSockets, SandboxError> {
        let mut sockets = self.sockets()?;
        self.configure(&mut sockets)?;
        Ok(sockets)
    }

    /// Everything but the sockets, which are there already.
    pub(crate) fn configure(&self, sockets: &mut NamedSockets) -> Result<(), SandboxError> {
        let rules = sockets.get(SocketName::PacketRules);
        let rules = rules.ok_or_else(|| SandboxError::refused(Step::Rules, "no socket"))?;
        let made = self.tap.as_ref().map(tap::make).transpose();
        let tap = self.tap.as_ref().zip(made.at(Step::Tap, tap::DEVICE)?);
        let device = tap.as_ref().map(|(tap, made)| link::Device {
            index: made.index,
            mtu: tap.mtu,
        });
        if self.shared.is_none() {
            // Only then IPv6 destinations are caught and refused as the others are.
            if fs::read_to_string(NO_IPV6).is_ok_and(|is_off| is_off.trim() != "0") {
                fs::write(NO_IPV6, "0").at(Step::Network, NO_IPV6)?;
            }
            link::configure(&self.addresses, device).at(Step::Network, "")?;
            fs::write(PORT_START, "0").at(Step::Network, PORT_START)?;
        }
        let name = self.tap.as_ref().map(|tap| tap.name.as_str());
        for batch in rules::transactions(&self.addresses, &self.open, name, self.shared) {
            netlink::transact(rules, batch).at(Step::Rules, "")?;
        }
        if self.shared.is_some() {
            shared::routes(&self.addresses).at(Step::Network, "")?;
        }
        if let Some((Tap { name, .. }, made)) = tap {
            let frames = frames::transaction(&self.addresses, name);
            netlink::transact(rules, frames).at(Step::Rules, name)?;
            let dhcp = guest::dhcp(name).at(Step::Listeners, "dhcp")?;
            let router = guest::router(name, made.index);
            let router = router.at(Step::Listeners, "router advertisements")?;
            sockets.add(SocketName::GuestDhcp, dhcp);
            sockets.add(SocketName::GuestRouter, router);
            if let Some(device) = made.device {
                sockets.add(SocketName::GuestDevice, device);
            }
        }
        Ok(())
    }

    /// The sockets, which may be bound before their addresses exist.
    pub(crate) fn sockets(&self) -> Result<NamedSockets, SandboxError> {
        let mut sockets = NamedSockets::default();
        let mut add = |name, socket| sockets.add(name, socket);
        listeners::make(&self.addresses, &mut add).at(Step::Listeners, "")?;
        let diag = socket_diag::make_socket().at(Step::Listeners, "sock_diag")?;
        add(SocketName::SocketDiag, diag);
        for family in [Family::V4, Family::V6] {
            let errors = unreachable::make_socket(family).at(Step::Listeners, "raw")?;
            add(SocketName::DatagramErrors(family), errors);
        }
        let rules = netlink::open(Some(NETFILTER)).at(Step::Listeners, "nf_tables")?;
        add(SocketName::PacketRules, rules);
        let log = refused::make_socket().at(Step::Listeners, "nflog")?;
        add(SocketName::RefusalLog, log);
        listeners::datagrams(&self.open.datagram_ports, &mut add).at(Step::Listeners, "udp")?;
        Ok(sockets)
    }
}
