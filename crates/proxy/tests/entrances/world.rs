//! A small world: a resolver, a gateway, a sandbox. Servers are on the outside, programs inside.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis_dial::{DialConfig, Dialer};
use portcullis_dns::{Clock, DnsConfig, DnsService, LEASE_GRACE, Leases, NoGate, PolicyHandle};
use portcullis_names::{Name, PortSet};
use portcullis_policy::{Input, Mode, Policy};
use portcullis_proxy::{Inspector, Proxy, Room, serve_http, serve_socks5, serve_transparent};
use portcullis_record::{Memory, Recorder};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

const POLICY: &str = r#"
version = 1
[network.domains]
"a.example" = "allow"
"b.example" = "allow"
"**.deep.example" = "allow"
"evil.deep.example" = "deny"
"any.example:*" = "allow"
"private.example" = "allow"
"nowhere.example" = "allow"
"look.example" = { verdict = "allow", inspect = true, ca_file = "ca.pem" }
"blind.example" = { verdict = "allow", allow_no_sni = true }
"host.portcullis.internal:9000" = "allow"
[network.addresses]
"198.51.100.0/24:8080" = "allow"
"198.51.100.0/24:443" = "allow"
"#;

/// Asks the sandbox's thread for connections.
type Dials = Sender<(SocketAddr, Sender<io::Result<StdStream>>)>;

/// Everything a test needs.
pub struct World {
    pub recorder: Recorder,
    pub leases: Arc<Leases>,
    pub token: CancellationToken,
    memory: Memory,
    dials: Dials,
    policy: PolicyHandle,
    ctx: Arc<Proxy>,
    inspection_ca: String,
}

/// Ports on which every address inside leads to the catch-all.
const CAUGHT: [u16; 6] = [22, 80, 443, 8080, 9000, 9999];

/// Runs a test in a world with the usual limits.
pub fn within(body: impl FnOnce(World) -> Pin<Box<dyn Future<Output = ()>>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let world = World::new(Mode::Enforce, 64).await;
        body(world).await;
    });
}

impl World {
    pub async fn new(mode: Mode, connections: usize) -> World {
        World::with(mode, connections, "").await
    }

    /// A world with more in its policy.
    pub async fn with(mode: Mode, connections: usize, more: &str) -> World {
        World::of(mode, connections, more, LEASE_GRACE).await
    }

    /// A world whose leases outlive their TTL by this much.
    pub async fn with_grace(grace: Duration) -> World {
        World::of(Mode::Enforce, 64, "", grace).await
    }

    async fn of(mode: Mode, connections: usize, more: &str, grace: Duration) -> World {
        World::under(format!("{POLICY}{more}"), mode, connections, grace).await
    }

    /// A world with a policy of its own.
    pub async fn by(policy: &str) -> World {
        World::under(policy.to_owned(), Mode::Enforce, 64, LEASE_GRACE).await
    }

    async fn under(text: String, mode: Mode, connections: usize, grace: Duration) -> World {
        let policy: PolicyHandle = Arc::new(ArcSwap::from_pointee(load(text).with_mode(mode)));
        let (recorder, memory) = Recorder::to_memory("test");
        let clock = Clock::system();
        let leases = Leases::new(Box::new(NoGate), clock.clone()).with_grace(grace);
        let leases = Arc::new(leases);
        let resolver = resolver().await;
        let mut dns = DnsConfig::new(
            policy.clone(),
            vec![resolver],
            leases.clone(),
            recorder.clone(),
        );
        dns.clock = clock;
        dns.ipv6_route = Arc::new(|| false);
        let dns = Arc::new(DnsService::new(dns));
        let dialer = Arc::new(Dialer::new(DialConfig::new(policy.clone(), dns)));
        let (dials, listeners) = sandbox();
        let own = vec![
            listeners.http.local_addr().unwrap(),
            listeners.socks5.local_addr().unwrap(),
        ];
        let inspector = Inspector::new(&policy.load()).unwrap().map(Arc::new);
        let inspection_ca = inspector
            .as_ref()
            .map(|own| own.ca_pem())
            .unwrap_or_default();
        let ctx = Proxy::new(policy.clone(), dialer, leases.clone(), recorder.clone())
            .with_inspector(inspector)
            .with_listeners(own)
            .with_room(Room {
                connections,
                ..Room::default()
            });
        let ctx = Arc::new(ctx);
        let token = CancellationToken::new();
        let take = |listener: StdListener| {
            listener.set_nonblocking(true).unwrap();
            TcpListener::from_std(listener).unwrap()
        };
        tokio::spawn(serve_http(ctx.clone(), take(listeners.http), token.clone()));
        tokio::spawn(serve_socks5(
            ctx.clone(),
            take(listeners.socks5),
            token.clone(),
        ));
        for listener in listeners.transparent {
            tokio::spawn(serve_transparent(
                ctx.clone(),
                take(listener),
                token.clone(),
            ));
        }
        World {
            recorder,
            leases,
            token,
            memory,
            dials,
            inspection_ca,
            policy,
            ctx,
        }
    }

    /// Puts another policy in force, as a reload does; how many flows that cut.
    pub fn change(&self, text: &str) -> usize {
        let policy = load(text.to_owned());
        self.policy.store(Arc::new(policy.clone()));
        self.leases.follow(&policy).unwrap();
        self.ctx.follow_limits(&policy);
        self.ctx.recheck(&policy)
    }

    /// What programs trust where the gateway inspects, PEM.
    pub fn inspection_ca(&self) -> &str {
        &self.inspection_ca
    }

    /// A server outside.
    pub async fn listen(&self, at: &str) -> Server {
        Server(
            TcpListener::bind(at)
                .await
                .unwrap_or_else(|e| panic!("{at}: {e}")),
        )
    }

    /// Connects from inside the sandbox.
    pub async fn connect(&self, to: &str) -> TcpStream {
        self.try_connect(to)
            .await
            .unwrap_or_else(|e| panic!("{to}: {e}"))
    }

    /// Connects from inside the sandbox and is reset: right away, or before a byte comes.
    pub async fn connect_and_be_reset(&self, to: &str) {
        use crate::talk::{End, Talk};
        match self.try_connect(to).await {
            Ok(mut stream) => assert_eq!(stream.hear_all().await, (vec![], End::Reset), "{to}"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{to}"),
        }
    }

    /// Connects from inside the sandbox, where that is not reset at once.
    pub async fn knock(&self, to: &str) -> Option<TcpStream> {
        self.try_connect(to).await.ok()
    }

    async fn try_connect(&self, to: &str) -> io::Result<TcpStream> {
        let (send, receive) = channel();
        self.dials.send((to.parse().unwrap(), send)).unwrap();
        let stream = tokio::task::spawn_blocking(move || receive.recv_timeout(PATIENCE))
            .await
            .unwrap()
            .expect("the sandbox lives")?;
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    }

    pub async fn http(&self) -> TcpStream {
        self.connect("127.0.0.1:3128").await
    }

    pub async fn socks(&self) -> TcpStream {
        self.connect("127.0.0.1:1080").await
    }

    /// What a DNS answer would do.
    pub fn lease(&self, address: &str, name: &str) {
        let name = Name::from_policy(name).unwrap();
        let address: IpAddr = address.parse().unwrap();
        self.leases
            .grant(address, &name, &PortSet::WEB, Duration::from_secs(60))
            .unwrap();
    }

    /// All records so far.
    pub async fn records(&self) -> Records {
        let recorder = self.recorder.clone();
        tokio::task::spawn_blocking(move || recorder.flush(PATIENCE))
            .await
            .unwrap();
        let parse = |line: &String| serde_json::from_str(line).expect("a record is valid JSON");
        Records(self.memory.lines().iter().map(parse).collect())
    }

    /// The records once there are this many closes.
    pub async fn records_after(&self, closes: usize) -> Records {
        let until = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < until {
            let records = self.records().await;
            if records.closes().len() >= closes {
                return records;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{closes} closes: {:#?}", self.records().await.0);
    }
}

fn load(text: String) -> Policy {
    let input = Input::File {
        path: PathBuf::from("test.toml"),
        text,
    };
    // The one file that rules may name: the authority of the tests' own servers.
    Policy::load(&[input], &mut |path| match path.ends_with("ca.pem") {
        true => Ok(crate::inspect::upstream_ca().to_owned()),
        false => Err(io::ErrorKind::NotFound.into()),
    })
    .unwrap_or_else(|errors| panic!("{errors:?}"))
    .policy
}

/// A listening server outside.
pub struct Server(TcpListener);

impl Server {
    pub async fn accept(&self) -> TcpStream {
        timeout(PATIENCE, self.0.accept())
            .await
            .expect("a connection arrives")
            .unwrap()
            .0
    }

    /// Nobody connects, for a while.
    pub async fn nobody(&self) {
        let waited = timeout(Duration::from_millis(150), self.0.accept()).await;
        assert!(waited.is_err(), "a connection arrived");
    }
}

/// Decision records.
pub struct Records(pub Vec<Value>);

impl Records {
    pub fn decisions(&self) -> Vec<&Value> {
        self.of("decision")
    }

    pub fn closes(&self) -> Vec<&Value> {
        self.of("close")
    }

    fn of(&self, event: &str) -> Vec<&Value> {
        let dns = |v: &Value| v["layer"] == "dns";
        self.0
            .iter()
            .filter(|v| v["event"] == event && !dns(v))
            .collect()
    }

    /// Asserts that exactly one decision denies, and returns it.
    #[track_caller]
    pub fn the_denial(&self) -> &Value {
        let denials: Vec<_> = self
            .decisions()
            .into_iter()
            .filter(|v| v["verdict"] == "deny")
            .collect();
        assert_eq!(denials.len(), 1, "{:#?}", self.0);
        denials[0]
    }

    #[track_caller]
    pub fn denied(&self, layer: &str, protocol: &str, reason: &str) -> &Value {
        let denial = self.the_denial();
        assert_eq!(
            (&denial["layer"], &denial["protocol"], &denial["reason"]),
            (&layer.into(), &protocol.into(), &reason.into()),
            "{denial:#}"
        );
        denial
    }

    #[track_caller]
    pub fn the_close(&self) -> &Value {
        let closes = self.closes();
        assert_eq!(closes.len(), 1, "{:#?}", self.0);
        closes[0]
    }
}

struct Listeners {
    http: StdListener,
    socks5: StdListener,
    transparent: Vec<StdListener>,
}

/// A thread in a network namespace of its own: makes the listeners there, then connects on demand.
fn sandbox() -> (Dials, Listeners) {
    let (dials, orders) = channel::<(SocketAddr, Sender<io::Result<StdStream>>)>();
    let (made, bound) = channel();
    std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
        for line in [
            "link set lo up",
            "address add 10.0.2.15/32 dev lo",
            "route add local 0.0.0.0/0 dev lo src 10.0.2.15",
            "-6 route add local ::/0 dev lo",
        ] {
            crate::alone::ip(line);
        }
        let bind = |at: String| StdListener::bind(&at).unwrap_or_else(|e| panic!("{at}: {e}"));
        let listeners = Listeners {
            http: bind("127.0.0.1:3128".to_owned()),
            socks5: bind("127.0.0.1:1080".to_owned()),
            // Both families in one: IPv4 destinations show as mapped addresses.
            transparent: CAUGHT
                .iter()
                .map(|port| bind(format!("[::]:{port}")))
                .collect(),
        };
        made.send(listeners).unwrap();
        for (to, reply) in orders {
            let _ = reply.send(StdStream::connect_timeout(&to, PATIENCE));
        }
    });
    (
        dials,
        bound.recv_timeout(PATIENCE).expect("the sandbox stands"),
    )
}

/// A resolver that knows the names of this world.
async fn resolver() -> SocketAddr {
    let names: HashMap<&str, Ipv4Addr> = [
        ("a.example", [192, 0, 2, 1]),
        ("b.example", [192, 0, 2, 2]),
        ("x.deep.example", [192, 0, 2, 1]),
        ("any.example", [192, 0, 2, 3]),
        ("blind.example", [192, 0, 2, 4]),
        ("private.example", [10, 9, 9, 9]),
    ]
    .into_iter()
    .map(|(name, address)| (name, Ipv4Addr::from(address)))
    .collect();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0u8; 1500];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let Some(answer) = answer(&buffer[..len], &names) else {
                continue;
            };
            let _ = socket.send_to(&answer, from).await;
        }
    });
    at
}

fn answer(query: &[u8], names: &HashMap<&str, Ipv4Addr>) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    while let Some(&len) = query.get(at).filter(|len| **len > 0) {
        let label = query.get(at + 1..at + 1 + usize::from(len))?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + usize::from(len);
    }
    let question = query.get(12..at + 5)?;
    let is_a = query.get(at + 1..at + 3)? == [0, 1];
    let address = names.get(labels.join(".").as_str());
    let record = address.filter(|_| is_a);
    let rcode = if address.is_some() { 0 } else { 3 };
    let mut reply = query.get(..2)?.to_vec();
    reply.extend([
        0x81,
        0x80 | rcode,
        0,
        1,
        0,
        u8::from(record.is_some()),
        0,
        0,
        0,
        0,
    ]);
    reply.extend(question);
    if let Some(address) = record {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}
