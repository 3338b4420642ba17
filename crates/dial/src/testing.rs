//! A world on loopback for this crate's tests: policies, a name server, listeners.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use portcullis_dns::{Clock, DnsConfig, DnsService, Leases, NoGate, PolicyHandle};
use portcullis_names::Name;
use portcullis_policy::{ConnectPermit, Destination, Input, Policy, Request};
use portcullis_record::Recorder;
use tokio::net::UdpSocket;

use crate::{DialConfig, Dialer, HostAddresses};

/// Lifts the guard for loopback, where the tests' servers are.
pub(crate) const LOOPBACK: &str = "[network.addresses]\n\"127.0.0.0/8\" = \"allow\"\n";

/// A public-looking address that is the host's own in a [`World`]: the guard refuses it, and no
/// packet of a test leaves the machine.
pub(crate) const OWN_ADDRESS: &str = "192.0.2.77";
/// The same, of the other family.
pub(crate) const OWN_ADDRESS_V6: &str = "2001:db8::77";

pub(crate) fn load(text: &str) -> Policy {
    let path = PathBuf::from("policy.toml");
    let input = Input::File {
        path,
        text: format!("version = 1\n{text}"),
    };
    let loaded = Policy::load(&[input], &mut |_| Err(io::ErrorKind::NotFound.into()));
    loaded.expect("the test's policy").policy
}

pub(crate) fn policy(text: &str) -> PolicyHandle {
    Arc::new(ArcSwap::from_pointee(load(text)))
}

type Answers = Arc<Mutex<Vec<(String, Vec<IpAddr>)>>>;

/// A name server with a table that tests change under way. Every answer's TTL is 0.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    answers: Answers,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    pub(crate) async fn start() -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (answers, asked) = (Answers::default(), Arc::new(AtomicUsize::new(0)));
        let (table, count) = (answers.clone(), asked.clone());
        tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                count.fetch_add(1, Ordering::SeqCst);
                let reply = reply(&query[..length], &table.lock().unwrap());
                let _ = socket.send_to(&reply, from).await;
            }
        });
        NameServer {
            address,
            answers,
            asked,
        }
    }

    pub(crate) fn set(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        let mut answers = self.answers.lock().unwrap();
        answers.retain(|(known, _)| known != name);
        answers.push((name.to_owned(), addresses));
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Answers the question with the table's addresses of the family asked for, or NXDOMAIN.
fn reply(query: &[u8], table: &[(String, Vec<IpAddr>)]) -> Vec<u8> {
    let mut at = 12;
    let mut labels = Vec::new();
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..at + 1 + length]).to_lowercase());
        at += 1 + length;
    }
    let qtype = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let question = &query[12..at + 5];
    let found = table.iter().find(|(name, _)| *name == labels.join("."));
    let mut records = Vec::new();
    let mut count = 0u8;
    for address in found.iter().flat_map(|(_, addresses)| addresses) {
        let data = match (address, qtype) {
            (IpAddr::V4(v4), 1) => v4.octets().to_vec(),
            (IpAddr::V6(v6), 28) => v6.octets().to_vec(),
            _ => continue,
        };
        records.extend_from_slice(&[
            0xc0,
            12,
            0,
            qtype as u8,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            data.len() as u8,
        ]);
        records.extend_from_slice(&data);
        count += 1;
    }
    let rcode = if found.is_some() { 0x80 } else { 0x83 };
    let mut reply = vec![query[0], query[1], 0x81, rcode, 0, 1, 0, count, 0, 0, 0, 0];
    reply.extend_from_slice(question);
    reply.extend_from_slice(&records);
    reply
}

/// A policy, a name server and a dialler between them.
pub(crate) struct World {
    pub(crate) policy: PolicyHandle,
    pub(crate) names: NameServer,
    pub(crate) dialer: Arc<Dialer>,
}

impl World {
    pub(crate) async fn new(rules: &str) -> World {
        World::with_listeners(rules, Vec::new()).await
    }

    pub(crate) async fn with_listeners(rules: &str, listeners: Vec<SocketAddr>) -> World {
        let policy = policy(rules);
        let names = NameServer::start().await;
        let leases = Arc::new(Leases::new(Box::new(NoGate), Clock::system()));
        let config = DnsConfig::new(
            policy.clone(),
            vec![names.address],
            leases,
            Recorder::null(),
        );
        let resolver = Arc::new(DnsService::new(config));
        let host = HostAddresses::Fixed(vec![
            OWN_ADDRESS.parse().unwrap(),
            OWN_ADDRESS_V6.parse().unwrap(),
        ]);
        let config = DialConfig {
            listeners,
            host,
            ..DialConfig::new(policy.clone(), resolver)
        };
        World {
            policy,
            names,
            dialer: Arc::new(Dialer::new(config)),
        }
    }

    pub(crate) fn by_name(&self, name: &str, port: u16) -> ConnectPermit {
        let name = Name::from_policy(name).unwrap();
        self.permit(&Destination::name(name), port)
    }

    pub(crate) fn by_address(&self, address: &str, port: u16) -> ConnectPermit {
        self.permit(&Destination::address(address.parse().unwrap()), port)
    }

    pub(crate) fn by_lease(&self, name: &str, address: &str, port: u16) -> ConnectPermit {
        let names = [Name::from_policy(name).unwrap()];
        self.permit(&Destination::leased(address.parse().unwrap(), &names), port)
    }

    fn permit(&self, to: &Destination<'_>, port: u16) -> ConnectPermit {
        let policy = self.policy.load();
        let request = Request::connect(to, port);
        let decision = policy.decide(&request);
        decision
            .connect_permit()
            .unwrap_or_else(|| panic!("the policy says {decision:?}"))
    }
}
