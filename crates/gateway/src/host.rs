//! What the gateway reads of the host it runs on: its resolvers and its IPv6 route.

use portcullis_dial::{Host, HostAddresses};
use portcullis_dns::{ResolvConf, SearchList};
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The host's resolver configuration (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What is read of it, bytes; a real one has a few hundred.
const MAX_RESOLV_CONF_BYTES: u64 = 1024 * 1024;
/// Read at once of the routes, bytes.
const ROUTES_READ_BYTES: usize = 4096;
/// The kernel's IPv6 routes: a line each, destination and prefix length first.
const IPV6_ROUTES: &str = "/proc/net/ipv6_route";

/// What the host's own `resolv.conf` says.
///
/// # Errors
/// The file cannot be read.
pub fn host_resolv_conf() -> io::Result<ResolvConf> {
    let mut text = Vec::new();
    File::open(RESOLV_CONF)?
        .take(MAX_RESOLV_CONF_BYTES)
        .read_to_end(&mut text)?;
    Ok(resolv_conf_in(&String::from_utf8_lossy(&text)))
}

/// What the text of a `resolv.conf` of this host says.
pub fn resolv_conf_in(text: &str) -> ResolvConf {
    let hostname = rustix::system::uname();
    ResolvConf::parse(text, &hostname.nodename().to_string_lossy())
}

/// The search list of a `resolv.conf` as programs with this process's environment have it.
pub fn callers_search(resolv_conf: &ResolvConf) -> SearchList {
    let variable = |name| std::env::var(name).ok();
    let (localdomain, options) = (variable("LOCALDOMAIN"), variable("RES_OPTIONS"));
    let search = resolv_conf.search.clone();
    search.amended(localdomain.as_deref(), options.as_deref())
}

/// The resolvers of a `resolv.conf` that this host can ask now.
pub fn usable_resolvers(resolv_conf: &ResolvConf) -> Vec<SocketAddr> {
    resolv_conf.resolvers(portcullis_dns::interface_index)
}

/// What gateways ask the host's kernel for: the addresses of its interfaces, and whether it has an IPv6 route. One serves
/// all gateways of a process that live in one network namespace.
#[derive(Clone)]
pub struct HostNetwork {
    routes: Arc<Ipv6Routes>,
    addresses: Arc<Host>,
}

impl HostNetwork {
    /// The network of the calling thread's namespace.
    pub fn open() -> HostNetwork {
        HostNetwork {
            routes: Arc::new(Ipv6Routes::open()),
            addresses: Arc::new(Host::new(HostAddresses::Interfaces)),
        }
    }

    /// Whether there is a route to IPv6 addresses beyond the host's own links.
    pub(crate) fn has_ipv6(&self) -> bool {
        self.routes.lead_out()
    }

    /// Whether an address is the host's own, as far as anybody knows.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        // Where the interfaces cannot be read nobody knows, and the address is kept.
        self.addresses.owns(address).unwrap_or(true)
    }
}

/// The host's IPv6 routes, held open: they are read again when there is no free descriptor, too.
struct Ipv6Routes(Option<File>);

impl Ipv6Routes {
    /// Opens them; a host without IPv6 has none.
    fn open() -> Ipv6Routes {
        Ipv6Routes(File::open(IPV6_ROUTES).ok())
    }

    /// Whether the host has a route to IPv6 addresses beyond its own links.
    fn lead_out(&self) -> bool {
        let Some(file) = &self.0 else { return false };
        let mut routes = Vec::new();
        let mut part = [0; ROUTES_READ_BYTES];
        // As long as it does not change, each part begins where the one before it ended.
        while let Ok(length @ 1..) = file.read_at(&mut part, routes.len() as u64) {
            routes.extend_from_slice(&part[..length]);
        }
        default_route(&String::from_utf8_lossy(&routes))
    }
}

/// Finds a default route on a device other than the loopback (an `lo` default is the kernel's
/// reject route).
fn default_route(routes: &str) -> bool {
    routes.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (destination, length) = (fields.next(), fields.next());
        let global = destination.is_some_and(|address| {
            address.bytes().all(|byte| byte == b'0') || address.starts_with(['2', '3'])
        });
        let shorter_than_host = length.is_some_and(|length| length != "80");
        global && shorter_than_host && fields.next_back() != Some("lo")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_often_as_somebody_asks() {
        let routes = Ipv6Routes::open();
        let now = std::fs::read_to_string(IPV6_ROUTES);
        let now = now.is_ok_and(|routes| default_route(&routes));
        assert_eq!([routes.lead_out(), routes.lead_out()], [now, now]);
    }

    #[test]
    fn only_a_way_out_counts_as_an_ipv6_route() {
        let zeros = "0".repeat(32);
        let line = |destination: &str, length, device| {
            format!(
                "{destination} {length} {zeros} 00 {zeros} {zeros} 00000400 00000001 00000000 00000001 {device}\n"
            )
        };
        assert!(default_route(&line(&zeros, "00", "eth0")));
        assert!(default_route(&line(
            "20010db8000000000000000000000000",
            "40",
            "eth0"
        )));
        assert!(!default_route(&line(&zeros, "00", "lo")));
        assert!(!default_route(&line(
            "fe800000000000000000000000000000",
            "40",
            "eth0"
        )));
        assert!(!default_route(""));
    }
}
