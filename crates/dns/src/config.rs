//! What the gateway hands the service when it is made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use portcullis_names::{AllowedClients, Name};
use portcullis_record::Recorder;

use crate::{
    Authorities, Clock, HostsFile, Leases, Network, PolicyHandle, SearchList, SystemNetwork,
};

/// Memory that one sandbox's cached answers may take, bytes.
pub const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Lookups under way for one sandbox.
pub const MAX_LOOKUPS: usize = 192;

/// Sockets that one lookup may hold while its upstreams are silent.
pub const DESCRIPTORS_PER_LOOKUP: usize = 4;

/// Connections of clients of DNS over TCP at a time.
pub const MAX_TCP_CLIENTS: usize = 128;

/// Everything a [`DnsService`](crate::DnsService) needs; start from [`DnsConfig::new`].
#[derive(Clone)]
pub struct DnsConfig {
    /// The policy in force.
    pub policy: PolicyHandle,
    /// The host's own resolvers in order of preference, asked where the policy names none. Without
    /// either every allowed name fails with SERVFAIL.
    pub upstreams: Vec<SocketAddr>,
    /// The host's hosts file: its names are answered from it, except in zones that the policy gives
    /// resolvers of their own.
    pub hosts: Arc<HostsFile>,
    /// How short names are completed: the search list that programs inside have too.
    pub search: SearchList,
    /// What opens the sockets to them; real ones by default.
    pub network: Arc<dyn Network>,
    /// Whose certificates encrypted resolvers may show; the host's authorities by default.
    pub authorities: Authorities,
    /// The sandbox's leases: which name gave out which address.
    pub leases: Arc<Leases>,
    /// Where decisions are recorded.
    pub recorder: Recorder,
    /// Names and addresses of the sandbox itself, answered without asking anyone.
    pub own: OwnNames,
    /// Whether connections to what is answered come to this gateway, as a sandbox's do. Where they do
    /// not (a resolver on the host), a mocked name is answered with its target's own address.
    pub transparent: bool,
    /// Whether the host can reach IPv6 addresses now; where it cannot, AAAA is answered NODATA.
    pub ipv6_route: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Whether an address is one of the host's own, which are guarded like private ones.
    pub host_owns: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// The clock that expires answers. Give the same one to [`Leases`].
    pub clock: Clock,
    /// Memory for cached answers, bytes ([`CACHE_BYTES`] by default).
    pub cache_bytes: u64,
    /// Lookups under way at a time ([`MAX_LOOKUPS`] by default). Further names are answered SERVFAIL.
    pub max_lookups: usize,
    /// Connections of clients over TCP at a time ([`MAX_TCP_CLIENTS`] by default). Further ones are
    /// reset.
    pub max_tcp_clients: usize,
    /// Who may ask; everybody by default.
    pub allowed_clients: AllowedClients,
}

impl DnsConfig {
    /// A configuration with defaults: the addresses of a `run` sandbox, IPv6 assumed routed, no
    /// address known as the host's own.
    pub fn new(
        policy: PolicyHandle,
        upstreams: Vec<SocketAddr>,
        leases: Arc<Leases>,
        recorder: Recorder,
    ) -> DnsConfig {
        DnsConfig {
            policy,
            upstreams,
            hosts: Arc::default(),
            search: SearchList::default(),
            network: Arc::new(SystemNetwork::default()),
            authorities: Authorities::Host,
            leases,
            recorder,
            own: OwnNames::default(),
            transparent: true,
            ipv6_route: Arc::new(|| true),
            host_owns: Arc::new(|_| false),
            clock: Clock::system(),
            cache_bytes: CACHE_BYTES,
            max_lookups: MAX_LOOKUPS,
            max_tcp_clients: MAX_TCP_CLIENTS,
            allowed_clients: AllowedClients::default(),
        }
    }
}

/// Names and addresses that belong to the sandbox itself.
#[derive(Clone, Debug)]
pub struct OwnNames {
    /// The address that `host.portcullis.internal` means inside (listed like any other name).
    pub host: Ipv4Addr,
    /// The sandbox's own addresses and those of its gateway and resolver: a reverse lookup of one
    /// is answered NXDOMAIN here, without a record, because every stub library asks for them.
    pub addresses: Vec<IpAddr>,
    /// The sandbox's own host name, where it is one that DNS could hold. Stub libraries ask for the
    /// addresses that the hosts file does not give it: unless it is listed it has no records here,
    /// without a record, and is never asked for elsewhere.
    pub hostname: Option<Name>,
    /// The addresses that the status page's name means inside; none where there is no page.
    pub status: Vec<IpAddr>,
}

impl Default for OwnNames {
    fn default() -> OwnNames {
        let v4 = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 2, last));
        OwnNames {
            host: Ipv4Addr::new(10, 0, 2, 2),
            addresses: vec![
                v4(2),
                v4(3),
                v4(14),
                v4(15),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ],
            hostname: None,
            status: Vec::new(),
        }
    }
}

impl OwnNames {
    /// Whether `address` is the sandbox's own (its loopback included).
    pub fn owns(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }
}
