//! Serves many sandboxes in one process and measures what each costs: resident memory, and the time until
//! it is served. `benches/gateways.sh` runs it.
//!
//! `thousand COUNT`: each gateway has a policy, a record, a live view of its decisions and counters of its
//! own, and listeners on the loopback for DNS, HTTP and connections, as a sandbox's namespace would have
//! them. One thread writes all records. Memory is given twice: for gateways that were never asked, and for
//! those that have answered a denied lookup and a denied request each. A cached lookup is timed in one gateway
//! alone and among the others. Then all of them get another policy. Prints a line for each figure.

use portcullis_gateway::{
    CancellationToken, Entrances, Gateway, HostsFile, Input, Labels, Origin, Policy, Recorder,
    Subscription, TaskTracker, Verdict, WriterThread,
};
use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Descriptors that each gateway may hold.
const DESCRIPTORS: usize = 256;
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a gateway is left alone before its memory is read: the window in which equal denials share a
/// record is over by then.
const SETTLE: Duration = Duration::from_secs(3);
/// A policy as a company writes it, for each.
const POLICY: &str = r#"
version = 1
[network.domains]
"api.example.com" = "allow"
"*.example.org" = "allow"
"git.example.net:22" = "allow"
"registry.example.net:80" = { verdict = "allow", methods = ["GET", "HEAD"] }
"telemetry.example.com" = "deny"
"#;
/// A question for the address of `denied.example`.
const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x06denied\x07example\0\0\x01\0\x01";
/// A question for the address of `api.example.com`, which is listed.
const LISTED: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03api\x07example\x03com\0\0\x01\0\x01";
/// Where it is found; nobody connects to it.
const HOSTS: &str = "1.0.0.1 api.example.com\n";
/// Lookups that are timed, one after the other.
const LOOKUPS: usize = 20_000;
/// A request for the same name.
const REQUEST: &[u8] =
    b"GET http://denied.example/ HTTP/1.1\r\nHost: denied.example\r\nConnection: close\r\n\r\n";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A gateway that serves, and where.
struct Served {
    gateway: Gateway,
    decisions: Subscription,
    dns: SocketAddr,
    http: SocketAddr,
}

fn main() -> Result<()> {
    let count = std::env::args().nth(1).map_or(Ok(1_000), |n| n.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(count))
}

async fn run(count: usize) -> Result<()> {
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    let thread = WriterThread::start()?;
    // What is made once for the process does not count.
    let first = serve(0, &thread, &tracker, &token).await?;
    ask(&first)?;
    let alone = lookup(&first)?;
    std::thread::sleep(SETTLE);
    let before = memory()?;
    let mut took = Vec::with_capacity(count);
    let mut served = Vec::with_capacity(count);
    for number in 1..=count {
        let start = Instant::now();
        served.push(serve(number, &thread, &tracker, &token).await?);
        took.push(start.elapsed());
    }
    took.sort();
    std::thread::sleep(SETTLE);
    let each = |now: usize| now.saturating_sub(before) as f64 / count as f64;
    println!(
        "{count} gateways, never asked: {:.1} KiB each, {} threads, {} descriptors",
        each(memory()?),
        threads()?,
        fs::read_dir("/proc/self/fd")?.count(),
    );
    println!(
        "built and started in: median {:.3} ms, 99th percentile {:.3} ms",
        took[count / 2].as_secs_f64() * 1e3,
        took[count * 99 / 100].as_secs_f64() * 1e3,
    );
    let asked = tokio::task::spawn_blocking(move || {
        for one in &served {
            ask(one).expect("an answer");
        }
        std::thread::sleep(SETTLE);
        served
    });
    let served = asked.await?;
    println!(
        "{count} gateways, each asked twice: {:.1} KiB each, {} threads",
        each(memory()?),
        threads()?
    );
    let among = lookup(&first)?;
    println!("cached lookup: median {alone:.1} µs alone, {among:.1} µs among {count} others");
    let start = Instant::now();
    for one in &served {
        one.gateway.replace_policy(policy()?)?;
    }
    println!(
        "another policy, read and in force in all: {:.0} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    token.cancel();
    tracker.close();
    tracker.wait().await;
    drop(served);
    Ok(())
}

fn policy() -> Result<Policy> {
    let input = Input::File {
        path: "policy.toml".into(),
        text: POLICY.to_owned(),
    };
    let loaded = Policy::load(&[input], &mut |path| fs::read_to_string(path));
    Ok(loaded.map_err(|errors| format!("{errors:?}"))?.policy)
}

async fn serve(
    number: usize,
    thread: &WriterThread,
    tracker: &TaskTracker,
    token: &CancellationToken,
) -> Result<Served> {
    let tcp = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (http, transparent) = (tcp()?, tcp()?);
    let (dns_at, http_at) = (udp.local_addr()?, http.local_addr()?);
    let origin = Origin {
        sandbox: format!("sandbox-{number}"),
        labels: Labels::new([format!("job={number}").parse()?])?,
        ..Origin::default()
    };
    let recorder = Recorder::to_file("/dev/null", origin)?.with_writer_thread(thread);
    let decisions = recorder.subscribe();
    let gateway = Gateway::builder()
        .policy(policy()?)
        .hosts(Arc::new(HostsFile::parse(HOSTS)))
        .resolvers(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 9))])
        .recorder(recorder)
        .listeners(vec![http_at])
        .descriptors(DESCRIPTORS)
        .build()?;
    let entrances = Entrances {
        dns_udp: vec![udp],
        dns_tcp: vec![tcp()?],
        http: vec![http],
        transparent: vec![transparent],
        ..Entrances::default()
    };
    gateway.start(entrances, tracker, token).await?;
    Ok(Served {
        gateway,
        decisions,
        dns: dns_at,
        http: http_at,
    })
}

/// Asks for a name that is not listed, in both ways, and sees that it is refused and counted.
fn ask(served: &Served) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    socket.send_to(QUESTION, served.dns)?;
    let mut answer = [0; 512];
    socket.recv(&mut answer)?;
    let mut proxy = TcpStream::connect(served.http)?;
    proxy.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    proxy.write_all(REQUEST)?;
    let mut refusal = String::new();
    proxy.read_to_string(&mut refusal)?;
    let seen = served.decisions.drain();
    let denied = served.gateway.metrics().counters.verdict(Verdict::Deny);
    if (seen.len(), denied) != (2, 2) || !refusal.starts_with("HTTP/1.1 403") {
        return Err(format!("{denied} denials, {} seen: {refusal}", seen.len()).into());
    }
    Ok(())
}

/// What a cached lookup takes, from the question to the answer: the median, in microseconds.
fn lookup(served: &Served) -> Result<f64> {
    const RCODE_AT: usize = 3;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    socket.connect(served.dns)?;
    let mut took = Vec::with_capacity(LOOKUPS);
    let mut answer = [0; 512];
    for _ in 0..LOOKUPS {
        let start = Instant::now();
        socket.send(LISTED)?;
        socket.recv(&mut answer)?;
        took.push(start.elapsed());
        if answer[RCODE_AT] & 0x0f != 0 {
            return Err("the listed name is refused".into());
        }
    }
    took.sort();
    // Nobody reads the view of these meanwhile.
    drop(served.decisions.drain());
    Ok(took[LOOKUPS / 2].as_secs_f64() * 1e6)
}

/// This process's resident memory, in KiB.
fn memory() -> Result<usize> {
    status("VmRSS:")
}

fn threads() -> Result<usize> {
    status("Threads:")
}

fn status(field: &str) -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("no such field")?.parse()?)
}
