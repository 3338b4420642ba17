//! A small world: a scripted upstream resolver on the loopback, a policy, a service, its records.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use portcullis_dns::{AddressGate, Clock, DnsConfig, DnsService, Leases, PolicyHandle};
use portcullis_names::PortSet;
use portcullis_policy::{Input, LookupPermit, Policy, Request};
use portcullis_record::{Memory, Protocol, Recorder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// One message that reached the upstream.
#[derive(Clone, Debug)]
pub struct Heard {
    pub bytes: Vec<u8>,
    pub from: SocketAddr,
    pub tcp: bool,
}

impl Heard {
    pub fn message(&self) -> Message {
        Message::from_vec(&self.bytes).expect("the gateway sends well-formed queries")
    }

    pub fn question(&self) -> String {
        let message = self.message();
        let query = &message.queries[0];
        // In lower case: the case in which it was asked is random.
        format!(
            "{} {}",
            query.name().to_lowercase().to_ascii(),
            query.query_type()
        )
    }
}

/// What the upstream does about a query: pauses and messages, in order.
pub enum Act {
    Wait(Duration),
    Send(Vec<u8>),
}

pub type Script = Arc<dyn Fn(&Heard, usize) -> Vec<Act> + Send + Sync>;

/// An upstream resolver on the loopback, UDP and TCP on one port.
pub struct Server {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Server {
    /// Starts one that does what `script` says to each message; its second argument counts them.
    pub async fn scripted(
        script: impl Fn(&Heard, usize) -> Vec<Act> + Send + Sync + 'static,
    ) -> Server {
        let script: Script = Arc::new(script);
        let (udp, tcp) = both_on_one_port().await;
        let udp = Arc::new(udp);
        let address = udp.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let note = |heard: &Mutex<Vec<Heard>>, one: &Heard| {
            let mut all = heard.lock().unwrap();
            all.push(one.clone());
            all.len() - 1
        };
        let (log, plan) = (heard.clone(), script.clone());
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                let one = Heard {
                    bytes: buffer[..length].to_vec(),
                    from,
                    tcp: false,
                };
                let acts = plan(&one, note(&log, &one));
                let udp = udp.clone();
                tokio::spawn(async move {
                    for act in acts {
                        match act {
                            Act::Wait(time) => tokio::time::sleep(time).await,
                            Act::Send(bytes) => drop(udp.send_to(&bytes, from).await),
                        }
                    }
                });
            }
        });
        let log = heard.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, from)) = tcp.accept().await {
                let (log, script) = (log.clone(), script.clone());
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut bytes = vec![0; length.into()];
                        stream.read_exact(&mut bytes).await?;
                        let one = Heard {
                            bytes,
                            from,
                            tcp: true,
                        };
                        for act in script(&one, note(&log, &one)) {
                            match act {
                                Act::Wait(time) => tokio::time::sleep(time).await,
                                Act::Send(bytes) => {
                                    stream.write_u16(bytes.len() as u16).await?;
                                    stream.write_all(&bytes).await?;
                                }
                            }
                        }
                    }
                    io::Result::Ok(())
                });
            }
        });
        Server { address, heard }
    }

    /// Starts one that answers from `zone`, as a recursive resolver would.
    pub async fn with_zone(zone: Zone) -> Server {
        Server::scripted(move |heard, _| vec![Act::Send(zone.answer(&heard.message()))]).await
    }

    /// Everything heard so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// The questions heard so far, as `name. TYPE`, in the order in which each was heard first: one
    /// is sent again where the machine took longer to answer than an attempt waits.
    pub fn questions(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for question in self.heard().iter().map(Heard::question) {
            if !all.contains(&question) {
                all.push(question);
            }
        }
        all
    }

    /// Fails the test unless it heard of one lookup: one query, or up to four where the machine
    /// took longer to answer than an attempt waits.
    #[track_caller]
    pub fn assert_one_lookup(&self) {
        let heard = self.heard().len();
        assert!((1..=4).contains(&heard), "{heard} queries");
        assert_eq!(self.questions().len(), 1, "{:?}", self.questions());
    }
}

/// UDP and TCP on one free port; a port that is free for one may be taken for the other.
async fn both_on_one_port() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

/// Records of a small internet.
#[derive(Clone, Default)]
pub struct Zone(HashMap<String, Vec<Record>>);

impl Zone {
    /// From lines of `name ttl TYPE data`.
    pub fn new(text: &str) -> Zone {
        let mut zone = Zone::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut words = line.splitn(4, ' ');
            let mut word = || words.next().unwrap();
            let (owner, ttl, kind, data) = (word(), word(), word(), word());
            let data = match kind {
                "A" => RData::A(A(data.parse().unwrap())),
                "AAAA" => RData::AAAA(AAAA(data.parse().unwrap())),
                "CNAME" => RData::CNAME(CNAME(fqdn(data))),
                "PTR" => RData::PTR(PTR(fqdn(data))),
                "TXT" => RData::TXT(TXT::new(vec![data.to_owned()])),
                other => panic!("no such type in tests: {other}"),
            };
            zone.push(Record::from_rdata(fqdn(owner), ttl.parse().unwrap(), data));
        }
        zone
    }

    pub fn push(&mut self, record: Record) {
        self.0
            .entry(record.name.to_ascii())
            .or_default()
            .push(record);
    }

    /// A response with the zone's records, CNAMEs followed.
    pub fn respond(&self, query: &Message) -> Message {
        let mut reply = response(query);
        let question = &query.queries[0];
        let mut name = question.name().to_lowercase().to_ascii();
        loop {
            let Some(records) = self.0.get(&name) else {
                reply.metadata.response_code = ResponseCode::NXDomain;
                break;
            };
            let fits = |record: &&Record| record.record_type() == question.query_type();
            let found: Vec<Record> = records.iter().filter(fits).cloned().collect();
            if !found.is_empty() {
                reply.answers.extend(found);
                break;
            }
            let Some(cname) = records
                .iter()
                .find(|r| r.record_type() == RecordType::CNAME)
            else {
                break;
            };
            reply.answers.push(cname.clone());
            let RData::CNAME(target) = &cname.data else {
                unreachable!()
            };
            name = target.0.to_ascii();
        }
        if reply
            .answers
            .last()
            .is_none_or(|r| r.record_type() != question.query_type())
        {
            let data = SOA::new(fqdn("ns.example"), fqdn("admin.example"), 7, 1, 1, 1, 77);
            reply
                .authorities
                .push(Record::from_rdata(Name::root(), 900, RData::SOA(data)));
        }
        reply
    }

    pub fn answer(&self, query: &Message) -> Vec<u8> {
        self.respond(query).to_vec().unwrap()
    }
}

/// An empty response to `query`.
pub fn response(query: &Message) -> Message {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = true;
    reply.metadata.recursion_available = true;
    reply.add_queries(query.queries.iter().cloned());
    reply
}

pub fn fqdn(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

/// What the gate was told to open.
#[derive(Clone, Default)]
pub struct Gate(pub Arc<Mutex<Vec<(IpAddr, PortSet, Duration)>>>);

impl AddressGate for Gate {
    fn open(&self, address: IpAddr, ports: &PortSet, ttl: Duration) -> io::Result<()> {
        self.0.lock().unwrap().push((address, ports.clone(), ttl));
        Ok(())
    }
}

/// A policy that allows `rules`; those that begin with `!` deny.
pub fn policy(rules: &[&str]) -> Policy {
    let inputs: Vec<Input> = rules
        .iter()
        .map(|rule| match rule.strip_prefix('!') {
            Some(denied) => Input::Deny(denied.to_owned()),
            None => Input::Allow((*rule).to_owned()),
        })
        .collect();
    let mut no_files = |_: &std::path::Path| Err(io::ErrorKind::NotFound.into());
    Policy::load(&inputs, &mut no_files)
        .expect("the test's policy loads")
        .policy
}

/// A policy from the text of a file.
pub fn policy_of(toml: &str) -> Policy {
    let file = Input::File {
        path: "policy.toml".into(),
        text: toml.to_owned(),
    };
    let mut no_files = |_: &std::path::Path| Err(io::ErrorKind::NotFound.into());
    match Policy::load(&[file], &mut no_files) {
        Ok(loaded) => loaded.policy,
        Err(why) => panic!("the test's policy does not load: {why:?}"),
    }
}

/// A service with everything around it.
pub struct World {
    pub service: Arc<DnsService>,
    pub policy: PolicyHandle,
    pub leases: Arc<Leases>,
    pub gate: Gate,
    pub clock: Clock,
    pub recorder: Recorder,
    memory: Memory,
}

impl World {
    pub fn new(rules: &[&str], servers: &[&Server]) -> World {
        let addresses = servers.iter().map(|server| server.address).collect();
        World::with(policy(rules), addresses, |_| {})
    }

    pub fn with(
        policy: Policy,
        upstreams: Vec<SocketAddr>,
        change: impl FnOnce(&mut DnsConfig),
    ) -> World {
        let policy: PolicyHandle = Arc::new(ArcSwap::from_pointee(policy));
        let gate = Gate::default();
        let clock = Clock::manual();
        let leases = Arc::new(Leases::new(Box::new(gate.clone()), clock.clone()));
        let (recorder, memory) = Recorder::to_memory("test");
        let mut config =
            DnsConfig::new(policy.clone(), upstreams, leases.clone(), recorder.clone());
        config.clock = clock.clone();
        change(&mut config);
        let service = Arc::new(DnsService::new(config));
        World {
            service,
            policy,
            leases,
            gate,
            clock,
            recorder,
            memory,
        }
    }

    /// Asks for one name and type with EDNS, over the answer core.
    pub async fn ask(&self, name: &str, qtype: u16) -> Message {
        let reply = self.raw(&query(name, qtype, Some(1232))).await;
        Message::from_vec(&reply).expect("replies are well formed")
    }

    /// Sends any bytes and returns the reply's.
    pub async fn raw(&self, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.service
            .answer(message, Protocol::DnsUdp, &mut out)
            .await;
        out
    }

    /// The records so far, one JSON value each.
    pub fn records(&self) -> Vec<serde_json::Value> {
        self.recorder.flush(Duration::from_secs(30));
        self.memory
            .lines()
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The only record so far.
    pub fn record(&self) -> serde_json::Value {
        let records = self.records();
        assert_eq!(records.len(), 1, "{records:#?}");
        records[0].clone()
    }

    pub fn lookup_permit(&self, name: &str) -> LookupPermit {
        let name = portcullis_names::Name::from_policy(name).unwrap();
        let request = Request::Lookup {
            name: name.as_ref(),
            qtype: 1.into(),
        };
        self.policy
            .load()
            .decide(&request)
            .lookup_permit()
            .expect("the name is listed")
    }
}

pub const A_TYPE: u16 = 1;
pub const AAAA_TYPE: u16 = 28;
pub const PTR_TYPE: u16 = 12;
pub const TXT_TYPE: u16 = 16;

/// The id of every query that [`query`] makes.
pub const CLIENT_ID: u16 = 0x1D1D;

/// A client's query; the name is written as it is given, mixed case included.
pub fn query(name: &str, qtype: u16, edns: Option<u16>) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&CLIENT_ID.to_be_bytes());
    out.extend_from_slice(&[0x01, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
    for label in name.trim_end_matches('.').split('.') {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&qtype.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    if let Some(size) = edns {
        out.extend_from_slice(&[0, 0, 41]);
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(&[0; 6]);
    }
    out
}

/// The addresses in a reply's answer section.
pub fn addresses(message: &Message) -> Vec<IpAddr> {
    let address = |record: &Record| match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

/// The reverse name of an IPv4 address.
pub fn reverse(address: &str) -> String {
    let mut parts: Vec<&str> = address.split('.').collect();
    parts.reverse();
    format!("{}.in-addr.arpa", parts.join("."))
}

/// The code and text of the extended error in a reply, if there is one.
pub fn ede(reply: &[u8]) -> Option<(u16, String)> {
    // The OPT record is the last: find its option by walking from its fixed start.
    let message = Message::from_vec(reply).ok()?;
    message.edns.as_ref()?;
    let at = reply
        .windows(11)
        .rposition(|w| w[..3] == [0, 0, 41] && w[3..5] == [0x04, 0xD0])?;
    let option = reply.get(at + 11..)?;
    if option.len() < 6 || option[..2] != [0, 15] {
        return None;
    }
    let code = u16::from_be_bytes([option[4], option[5]]);
    Some((code, String::from_utf8(option[6..].to_vec()).ok()?))
}
