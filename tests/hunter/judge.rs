//! The judge: everything that left must be explained by a record, and every record by a policy.

use crate::capture::Packets;
use crate::policies::Policies;
use crate::support::Records;
use portcullis_testkit::{GUARDED, RESOLVERS, World};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What a chain of the world's zone leads to: asked for where the name at its beginning is allowed.
const ALIASES: [(&str, &str); 2] = [
    ("www.example.com", "cdn.example.net"),
    ("to-private.example.com", "private.example.com"),
];
/// ICMP and ICMPv6 types that a kernel sends by itself: a port is closed; neighbours and routers.
const ICMP: [u16; 1] = [3];
const ICMP6: [u16; 7] = [1, 133, 134, 135, 136, 137, 143];

/// What the records allow.
#[derive(Default)]
struct Allowed {
    /// Names that were looked up or connected to, in lower case.
    names: BTreeSet<String>,
    /// Names of connections and datagrams.
    reached: BTreeSet<String>,
    /// Destinations: protocol, address, port.
    flows: BTreeSet<(&'static str, String, u64)>,
    /// The names that an address was given out for.
    leased: BTreeMap<String, BTreeSet<String>>,
    /// What no policy explains.
    wrong: Vec<String>,
}

/// Fails the test on the first things that are not explained, all of them in one message.
pub fn judge(world: &World, packets: &[Packets], records: &Records, policies: &Policies) {
    let mut allowed = explained(records, policies);
    let mut wrong = std::mem::take(&mut allowed.wrong);
    for packet in packets {
        if !left_by_permission(packet, &allowed, policies) {
            wrong.push(format!("a packet: {packet:?}"));
        }
    }
    for query in world.dns_log() {
        let name = query.name.to_ascii_lowercase();
        let resolver = RESOLVERS.contains(&query.server.ip().to_string().as_str());
        if !resolver || !allowed.knows(&name) {
            wrong.push(format!("a query: {query:?}"));
        }
    }
    for event in world.server_log() {
        let to = event
            .local
            .rsplit_once(':')
            .map_or("", |(address, _)| address);
        if GUARDED.contains(&to.trim_matches(['[', ']'])) {
            wrong.push(format!("a guarded address: {event:?}"));
        }
        if let Some(flow) = tcp_flow(&event.local)
            && event.event == "close"
            && event.bytes_in > 0
            && !allowed.flows.contains(&flow)
        {
            wrong.push(format!("bytes on a connection that was refused: {event:?}"));
        }
        let head = event.head_text();
        let hosts: Vec<String> = (head.lines())
            .filter_map(|line| line.split_once(':'))
            .filter(|(field, _)| field.trim().eq_ignore_ascii_case("host"))
            .map(|(_, host)| host_name(host.trim()))
            .collect();
        for host in hosts.iter().chain(&event.sni) {
            if !allowed.reached.contains(host) {
                wrong.push(format!("a request: {event:?}\n{head}"));
            }
        }
        if hosts.len() > 1 {
            wrong.push(format!("a request with two hosts: {event:?}\n{head}"));
        }
        if hosts == ["v4only.example.com"]
            && !(head.starts_with("GET /public") || head.starts_with("HEAD /public"))
        {
            wrong.push(format!("a path that no rule has: {event:?}\n{head}"));
        }
    }
    wrong.truncate(20);
    assert!(
        wrong.is_empty(),
        "not explained by any record or policy:\n{}",
        wrong.join("\n")
    );
}

/// Fails the test if the hunt was no hunt: nothing tried, nothing served, nothing changed.
pub fn was_worth_it(said: &str, policies: &Policies, seconds: u64) {
    assert!(
        !said.contains("starved"),
        "who behaves is not served: {said}"
    );
    assert!(
        !said.contains("Traceback"),
        "a part of the program ended early: {said}"
    );
    let count = |kind: &str, column: usize| -> u64 {
        let line = said.lines().find(|line| line.starts_with(kind));
        let word = line.and_then(|line| line.split(' ').nth(column));
        word.and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("{said}"))
    };
    for kind in [
        "honest",
        "lookup",
        "direct",
        "proxied",
        "socks",
        "datagrams",
        "odd",
        "exhaust",
    ] {
        assert!(count(kind, 1) > 0, "{kind} was never tried: {said}");
    }
    for kind in ["honest", "lookup", "proxied"] {
        assert!(count(kind, 2) > 0, "{kind} was never served: {said}");
    }
    let tried: u64 = ["lookup", "direct", "proxied", "socks", "datagrams"]
        .iter()
        .map(|kind| count(kind, 1))
        .sum();
    assert!(tried > seconds * 5, "hardly anything was tried: {said}");
    assert!(
        policies.changes() as u64 > seconds / 5,
        "the policy hardly changed"
    );
    eprintln!(
        "{} changes of the policy; tried and served:\n{said}",
        policies.changes()
    );
}

impl Allowed {
    fn knows(&self, name: &str) -> bool {
        let through =
            |(alias, target): &(&str, &str)| name == *target && self.names.contains(*alias);
        self.names.contains(name) || ALIASES.iter().any(through)
    }
}

fn explained(records: &Records, policies: &Policies) -> Allowed {
    let mut allowed = Allowed::default();
    // Equal lookups share a record that is written a minute later, and a connection's is written when it
    // has shown what it is: what counts is when a decision was made. All times have one length.
    let time = |record: &Value| record["time"].as_str().unwrap_or_default().to_owned();
    let reloads = records
        .0
        .iter()
        .filter(|record| record["reason"] == "policy-reloaded");
    let mut reloads: Vec<String> = reloads.map(time).collect();
    reloads.sort_unstable();
    for record in &records.0 {
        let made = time(record);
        let changes = reloads.partition_point(|reload| *reload <= made);
        if record["event"] != "decision" || record["protocol"] == "startup" {
            continue;
        }
        if !["allow", "error"].contains(&record["verdict"].as_str().unwrap_or_default()) {
            continue;
        }
        let name = record["name"].as_str().unwrap_or_default().to_owned();
        let port = record["port"].as_u64().unwrap_or_default();
        let lookup = record["layer"] == "dns";
        let udp = record["layer"] == "udp";
        let in_policy = if record["reason"] == "reverse-lookup" {
            // The name of an address that was given out for this one.
            let of = record["canonical_name"].as_str().unwrap_or_default();
            policies.may_look_up(changes, of)
        } else if record["reason"] == "canonical-name" {
            let mut aliases = ALIASES.iter().filter(|(_, target)| *target == name);
            aliases.any(|(alias, _)| policies.may_look_up(changes, alias))
        } else if lookup {
            policies.may_look_up(changes, &name)
        } else {
            policies.may_reach(changes, &name, port, udp)
        };
        let close = || records.close_of(record);
        if !in_policy && !is_of_the_sandbox(record) && !was_cut_unheard(close()) {
            allowed.wrong.push(format!(
                "allowed by no policy in force: {record}\n  changes before: {:?}\n  its close: {:?}",
                &reloads[changes.saturating_sub(3)..changes],
                close()
            ));
        }
        for address in record["addresses"].as_array().into_iter().flatten() {
            let address = address.as_str().unwrap_or_default().to_owned();
            if lookup {
                let names = allowed.leased.entry(address).or_default();
                names.insert(name.clone());
            } else {
                let protocol = if udp { "udp" } else { "tcp" };
                allowed.flows.insert((protocol, address, port));
            }
        }
        if !lookup {
            allowed.reached.insert(name.clone());
        }
        allowed.names.insert(name);
    }
    allowed
}

/// A direct connection that had said nothing yet is recorded when a change cuts it.
fn was_cut_unheard(close: Option<&Value>) -> bool {
    close.is_some_and(|close| close["close_reason"] == "policy-changed" && close["bytes_up"] == 0)
}

/// What never leaves: it is answered by the gateway itself, or connected inside. That it does not leave is
/// seen on the interfaces, the host's loopback among them.
fn is_of_the_sandbox(record: &Value) -> bool {
    let text = |field: &str| record[field].as_str().unwrap_or_default();
    let upstream: Option<std::net::SocketAddr> = text("upstream").parse().ok();
    let own = ["10.0.2.15", "fd50:6f72:7463::15"];
    let is_own = |ip: std::net::IpAddr| ip.is_loopback() || own.contains(&ip.to_string().as_str());
    match record["layer"] == "dns" {
        true => upstream.is_none(),
        false => text("detail").contains(" inside: ") || upstream.is_some_and(|to| is_own(to.ip())),
    }
}

fn left_by_permission(packet: &Packets, allowed: &Allowed, policies: &Policies) -> bool {
    let port = u64::from(packet.number);
    let flow = |protocol| (allowed.flows).contains(&(protocol, packet.address.clone(), port));
    // A direct connection is opened by the lease of its address alone. Where it then shows what is refused,
    // its record is a denial; none of its bytes may have passed (`judge` looks at that).
    let leased = || {
        let names = allowed.leased.get(&packet.address);
        let mut names = names.into_iter().flatten();
        names.any(|name| policies.ever_reach(name, port))
    };
    // Nothing is served on the host's own loopback: no rule opens it.
    packet.interface == "uplink"
        && match packet.protocol.as_str() {
            "tcp" | "udp" if RESOLVERS.contains(&packet.address.as_str()) && port == 53 => true,
            "tcp" => flow("tcp") || leased(),
            "udp" => flow("udp"),
            "icmp" => ICMP.contains(&packet.number),
            "icmp6" => ICMP6.contains(&packet.number),
            _ => false,
        }
}

/// The destination that a server stood for.
fn tcp_flow(local: &str) -> Option<(&'static str, String, u64)> {
    let (address, port) = local.rsplit_once(':')?;
    let address = address.trim_matches(['[', ']']).to_owned();
    Some(("tcp", address, port.parse().ok()?))
}

/// The host of a Host field, in lower case and without its port.
fn host_name(field: &str) -> String {
    let host = match field.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => field,
    };
    host.to_ascii_lowercase()
}
