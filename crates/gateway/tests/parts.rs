//! A gateway that has lost one of its parts ends as a whole and says which part it was.
//!
//! Answers *failing open* (docs/threats.md).

use portcullis_gateway::{
    AddressGate, CancellationToken, Entrances, Gateway, Input, Policy, PortSet, Recorder, Serving,
    TaskTracker,
};
use portcullis_record::Memory;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// How long anything here may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Until then a connection is surely accepted.
const ACCEPTED: Duration = Duration::from_millis(300);
/// What the parts that break say as they do.
const BROKEN: &str = "it broke on purpose";
/// More connections than DNS over TCP takes at once.
const MANY: usize = 140;

/// A kernel's set that cannot even refuse.
struct BrokenGate;

impl AddressGate for BrokenGate {
    fn open(&self, _: IpAddr, _: &PortSet, _: Duration) -> io::Result<()> {
        panic!("{BROKEN}");
    }

    fn close(&self, _: IpAddr, _: &PortSet) -> io::Result<()> {
        Ok(())
    }
}

struct World {
    serving: Serving,
    tracker: TaskTracker,
    token: CancellationToken,
    records: Memory,
    recorder: Recorder,
    dns_udp: SocketAddr,
    dns_tcp: SocketAddr,
    http: SocketAddr,
    transparent: SocketAddr,
}

/// Serves every kind of listener. What looks a denied program up panics, and so does the gate.
async fn serve() -> World {
    let text = "version = 1\n[network.domains]\n\"host.portcullis.internal:80\" = \"allow\"\n\
                [network.limits]\nconnections = 1\n";
    let file = Input::File {
        path: "policy.toml".into(),
        text: text.into(),
    };
    let loaded = Policy::load(&[file], &mut |path| std::fs::read_to_string(path));
    let policy = loaded.unwrap_or_else(|errors| panic!("{errors:?}")).policy;
    let (recorder, records) = Recorder::to_memory("test");
    let broken = recorder
        .clone()
        .with_process_finder(Arc::new(|_| panic!("{BROKEN}")));
    let gateway = Gateway::builder()
        .policy(policy)
        .recorder(broken)
        .gate(Box::new(BrokenGate))
        .build()
        .unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (dns, http, transparent) = (tcp(), tcp(), tcp());
    let at = |listener: &TcpListener| listener.local_addr().unwrap();
    let (dns_udp, dns_tcp) = (udp.local_addr().unwrap(), at(&dns));
    let (http_at, transparent_at) = (at(&http), at(&transparent));
    let entrances = Entrances {
        dns_udp: vec![udp],
        dns_tcp: vec![dns],
        http: vec![http],
        transparent: vec![transparent],
        ..Entrances::default()
    };
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    let serving = gateway.start(entrances, &tracker, &token).await.unwrap();
    World {
        serving,
        tracker,
        token,
        records,
        recorder,
        dns_udp,
        dns_tcp,
        http: http_at,
        transparent: transparent_at,
    }
}

impl World {
    /// Waits for the end, and checks that it is told everywhere and that nothing is served any more.
    async fn has_lost(self, part: &str) {
        let ended = tokio::time::timeout(TIMEOUT, self.serving.ended()).await;
        let error = ended
            .expect("the gateway goes on")
            .expect_err("nothing failed");
        assert!(error.part.contains(part), "{error}");
        assert!(error.to_string().contains(BROKEN), "{error}");
        assert!(self.token.is_cancelled());
        self.tracker.close();
        let wait = tokio::time::timeout(TIMEOUT, self.tracker.wait());
        wait.await.expect("a part is still there");
        for address in [self.http, self.dns_tcp, self.transparent] {
            assert!(TcpStream::connect(address).is_err(), "{address} is open");
        }
        self.recorder.flush(TIMEOUT);
        let lines = self.records.lines();
        let told = |line: &&String| line.contains("\"internal\"") && line.contains(part);
        assert_eq!(lines.iter().filter(told).count(), 1, "{lines:?}");
    }
}

/// A question for the address of `host.portcullis.internal`.
fn question() -> Vec<u8> {
    let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in ["host", "portcullis", "internal", ""] {
        query.push(label.len() as u8);
        query.extend(label.bytes());
    }
    query.extend(b"\0\x01\0\x01");
    query
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_the_loop_of_dns_over_udp_ends_the_gateway() {
    let world = serve().await;
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(&question(), world.dns_udp).unwrap();
    world.has_lost("the DNS (UDP) entrance at 127.0.0.1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_the_accept_loop_of_dns_over_tcp_ends_the_gateway() {
    let world = serve().await;
    let clients: Vec<_> = (0..MANY)
        .map_while(|_| TcpStream::connect(world.dns_tcp).ok())
        .collect();
    world.has_lost("the DNS (TCP) entrance at 127.0.0.1").await;
    drop(clients);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_an_accept_loop_of_the_proxy_ends_the_gateway_and_its_open_connections() {
    let world = serve().await;
    // It takes the only place, and is idle.
    let open = TcpStream::connect(world.http).unwrap();
    open.set_read_timeout(Some(TIMEOUT)).unwrap();
    // Nothing tells when it has been accepted: no answer comes before a request.
    std::thread::sleep(ACCEPTED);
    // The first may still wait to be accepted: one of these is one too many.
    let more: Vec<_> = (0..3)
        .map_while(|_| TcpStream::connect(world.transparent).ok())
        .collect();
    world
        .has_lost("the transparent TCP entrance at 127.0.0.1")
        .await;
    drop(more);
    let read = io::Read::read_to_end(&mut &open, &mut Vec::new());
    assert!(
        !read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock),
        "the idle connection is still open"
    );
}

#[tokio::test]
async fn a_part_of_the_embedder_ends_the_gateway_when_it_fails_or_ends_by_itself() {
    for (result, why) in [
        (Ok(()), "ended by itself"),
        (Err(io::ErrorKind::BrokenPipe.into()), "broken pipe"),
    ] {
        let world = serve().await;
        let part = async move { result };
        world
            .serving
            .keep("the published port 8080", &world.tracker, part);
        let ended = tokio::time::timeout(TIMEOUT, world.serving.ended()).await;
        let error = ended.unwrap().unwrap_err().to_string();
        assert!(
            error.starts_with("the published port 8080 failed: "),
            "{error}"
        );
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn the_token_ends_every_part_and_nothing_has_failed() {
    let world = serve().await;
    let until = world.token.clone();
    let part = async move {
        until.cancelled().await;
        Ok(())
    };
    world.serving.keep("a part", &world.tracker, part);
    world.token.cancel();
    world.tracker.close();
    tokio::time::timeout(TIMEOUT, world.tracker.wait())
        .await
        .unwrap();
    assert!(world.serving.ended().await.is_ok());
}
