//! A network namespace that the gateway shares with the programs that it keeps in, as a sidecar does with the other
//! containers of a pod: rules by user and mark let the gateway's own sockets out, and nothing else.
//!
//! Answers *around the gateway* and *failing open* (docs/threats.md). Programs must have no capability: with
//! CAP_NET_ADMIN they could change the rules, and with CAP_NET_RAW set the mark or send frames that no rule sees.
//! The mark is on the gateway's sockets, and only a process with such a capability can set it; so a program of the
//! gateway's user is kept in as well. The rules stay when the gateway ends: nobody answers then.

use std::io;
use std::os::fd::AsFd;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::net::netlink::NETFILTER;
use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities};

use crate::error::{At, SandboxError, Step};
use crate::link;
use crate::netlink::{self, Batch};
use crate::rules::{self, CAUGHT_MARK};
use crate::spec::{Addresses, OpenRules};

/// The routes of what is caught, and the place of the rule that leads to them: behind the kernel's own addresses.
const TABLE: u8 = 151;
const PRIORITY: u32 = 100;
const LOOPBACK_INDEX: u32 = 1;

/// The gateway's addresses, and the routes of what is caught. What is there already stays.
pub(crate) fn routes(addresses: &Addresses) -> io::Result<()> {
    let socket = netlink::open(netlink::ROUTE)?;
    let each = |build: &dyn Fn(&mut Batch)| {
        let mut batch = Batch::default();
        build(&mut batch);
        batch.acknowledge();
        match netlink::transact(socket.as_fd(), batch) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    };
    for address in [addresses.gateway4, addresses.resolver4] {
        each(&|batch| link::add_to_loopback(batch, address.into()))?;
    }
    let new = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut route = RouteMessage::default();
        route.header.address_family = family;
        route.header.table = TABLE;
        route.header.protocol = RouteProtocol::Static;
        route.header.scope = RouteScope::Host;
        route.header.kind = RouteType::Local;
        route.attributes = vec![RouteAttribute::Oif(LOOPBACK_INDEX)];
        each(&|batch| batch.emit(libc::RTM_NEWROUTE, new, &route))?;
        let mut rule = RuleMessage::default();
        rule.header.family = family;
        rule.header.table = TABLE;
        rule.header.action = RuleAction::ToTable;
        rule.attributes = vec![
            RuleAttribute::FwMark(CAUGHT_MARK),
            RuleAttribute::FwMask(u32::MAX),
            RuleAttribute::Priority(PRIORITY),
        ];
        each(&|batch| batch.emit(libc::RTM_NEWRULE, new, &rule))?;
    }
    Ok(())
}

/// Cuts off the network namespace of this process, until a gateway of this user serves it: for a step that comes
/// before every program that is to be kept in.
///
/// # Errors
/// The kernel refused a step: CAP_NET_ADMIN is needed. What was open stays so.
pub fn cut_off(user: u32) -> Result<(), SandboxError> {
    let addresses = Addresses::new();
    let socket = netlink::open(Some(NETFILTER)).at(Step::Rules, "nf_tables")?;
    for batch in rules::transactions(&addresses, &OpenRules::default(), None, Some(user)) {
        netlink::transact(socket.as_fd(), batch).at(Step::Rules, "")?;
    }
    routes(&addresses).at(Step::Network, "")
}

/// Becomes the gateway's user, and keeps of all capabilities the one over the network: for the mark, and for the
/// kernel's sets of what is open. Other threads of the
/// caller keep none.
///
/// # Errors
/// This process may not become that user, or lacks the capability.
pub fn become_gateway(user: u32) -> Result<(), SandboxError> {
    become_user(user).at(Step::Attach, "its user")
}

fn become_user(user: u32) -> io::Result<()> {
    if geteuid().as_raw() != user {
        set_keep_capabilities(true)?;
        // Of the whole process: threads besides this one lose every capability.
        setgroups(&[])?;
        let group = Gid::from_raw(user);
        setresgid(group, group, group)?;
        let user = Uid::from_raw(user);
        setresuid(user, user, user)?;
    }
    let kept = CapabilitySet::NET_ADMIN;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}
