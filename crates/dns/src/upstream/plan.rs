//! Which servers are asked for which names, as the policy in force says.
//!
//! A plan is made anew when another policy is in force. Servers that stay keep their health, their
//! known quirks and their connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::Message;
use portcullis_names::NameRef;
use portcullis_policy::{Policy, ProxyHost, Resolver};

use super::connector::{Connector, Transport};
use super::encrypted::EncryptedServer;
use super::endpoint::{Endpoint, Protocol};
use super::error::ExchangeError;
use super::plain::{At, PlainServer};
use super::question::Question;
use super::server::{Group, Server, ServerState};
use super::zones::ByZone;

/// Resolvers of the host that are used; its `resolv.conf` is no place for more.
const MAX_HOST_RESOLVERS: usize = 16;

/// A resolver that the policy or the host names.
#[derive(Debug)]
pub(super) enum AnyServer {
    Plain(Arc<PlainServer>),
    Encrypted(EncryptedServer),
}

impl AnyServer {
    fn new(resolver: &Resolver, transport: &Transport) -> AnyServer {
        let encrypted = |host: &ProxyHost, port, protocol| {
            let endpoint = Endpoint {
                host: host.clone(),
                port,
                protocol,
                permit: resolver.lookup_permit(),
            };
            let connector = Connector::new(endpoint, transport.clone());
            AnyServer::Encrypted(EncryptedServer::new(resolver.to_string(), connector))
        };
        match resolver {
            Resolver::Plain(address) => {
                let at = At::Address(*address);
                let server = PlainServer::new(resolver, at, transport.network.clone());
                AnyServer::Plain(Arc::new(server))
            }
            Resolver::OnLink {
                address,
                port,
                interface,
            } => {
                let at = At::OnLink(*address, *port, interface.clone());
                let server = PlainServer::new(resolver, at, transport.network.clone());
                AnyServer::Plain(Arc::new(server))
            }
            Resolver::Tls { host, port } => encrypted(host, *port, Protocol::Tls),
            Resolver::Https { host, port, path } => {
                encrypted(host, *port, Protocol::https(host, *port, path))
            }
        }
    }
}

impl Server for AnyServer {
    fn state(&self) -> &ServerState {
        match self {
            AnyServer::Plain(server) => server.state(),
            AnyServer::Encrypted(server) => server.state(),
        }
    }

    async fn ask(&self, question: Question<'_>, retry: usize) -> Result<Message, ExchangeError> {
        match self {
            AnyServer::Plain(server) => server.ask(question, retry).await,
            AnyServer::Encrypted(server) => server.ask(question, retry).await,
        }
    }
}

/// The servers of one policy and one list of the host's resolvers.
#[derive(Debug)]
pub(super) struct Plan {
    host: Arc<[SocketAddr]>,
    known: HashMap<Resolver, Arc<AnyServer>>,
    servers: ByZone<AnyServer>,
    /// Whom the names of encrypted servers are asked for at.
    pub bootstrap: Arc<ByZone<PlainServer>>,
}

impl Plan {
    /// A plan for a policy, with the servers of the one before where they are the same.
    pub(super) fn new(
        policy: Arc<Policy>,
        host: Arc<[SocketAddr]>,
        before: Option<&Plan>,
        transport: &Transport,
    ) -> Plan {
        let mut known: HashMap<Resolver, Arc<AnyServer>> = HashMap::new();
        let mut server = |resolver: &Resolver| {
            let entry = known.entry(resolver.clone());
            entry
                .or_insert_with(|| {
                    let kept = before.and_then(|plan| plan.known.get(resolver));
                    let new = || Arc::new(AnyServer::new(resolver, transport));
                    kept.cloned().unwrap_or_else(new)
                })
                .clone()
        };
        let settings = policy.settings();
        let plain = |address: &SocketAddr| Resolver::Plain(*address);
        let hosts: Vec<Resolver> = host.iter().take(MAX_HOST_RESOLVERS).map(plain).collect();
        let or_hosts = |own: &[Resolver]| match own {
            [] => hosts.clone(),
            own => own.to_vec(),
        };
        let general = or_hosts(&settings.resolvers);
        let general = general.iter().map(&mut server).collect();
        let bootstrap = or_hosts(&settings.dns.bootstrap);
        let bootstrap: Group<AnyServer> = bootstrap.iter().map(&mut server).collect();
        let zones: Vec<Group<AnyServer>> = settings
            .dns
            .zones
            .iter()
            .map(|zone| zone.resolvers.iter().map(&mut server).collect())
            .collect();
        let bootstrap = plain_servers(&bootstrap);
        let own_or_general = |zone| match plain_servers(zone) {
            own if own.is_empty() => bootstrap.clone(),
            own => own,
        };
        Plan {
            bootstrap: Arc::new(ByZone {
                policy: policy.clone(),
                zones: zones.iter().map(own_or_general).collect(),
                general: bootstrap.clone(),
            }),
            servers: ByZone {
                policy,
                zones,
                general,
            },
            host,
            known,
        }
    }

    /// Whether it is the plan for these.
    pub(super) fn is_for(&self, policy: &Arc<Policy>, host: &Arc<[SocketAddr]>) -> bool {
        Arc::ptr_eq(&self.servers.policy, policy) && Arc::ptr_eq(&self.host, host)
    }

    /// The servers to ask for a name.
    pub(super) fn servers_for(&self, name: NameRef<'_>) -> &Group<AnyServer> {
        self.servers.servers_for(name)
    }
}

fn plain_servers(servers: &Group<AnyServer>) -> Group<PlainServer> {
    let plain = |server: &Arc<AnyServer>| match &**server {
        AnyServer::Plain(plain) => Some(plain.clone()),
        AnyServer::Encrypted(_) => None,
    };
    servers.iter().filter_map(plain).collect()
}
