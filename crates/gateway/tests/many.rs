//! Many gateways in one process: each has a policy, a record, numbers and an end of its own, and what has
//! ended leaves nothing behind. Alone in its file, since it counts what the process holds.

use portcullis_gateway::{
    CancellationToken, Entrances, Gateway, Input, Label, Labels, Origin, Policy, Recorder,
    SandboxMetrics, Subscription, TaskTracker, Verdict, WriterThread, openmetrics,
};
use portcullis_record::Memory;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

/// How long anything here may take.
const TIMEOUT: Duration = Duration::from_secs(20);
const GATEWAYS: usize = 50;
/// Descriptors that each may hold.
const DESCRIPTORS: usize = 64;
/// A question for the address of `host.portcullis.internal`, which needs no resolver.
const QUESTION: &[u8] =
    b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04host\x0aportcullis\x08internal\0\0\x01\0\x01";
/// Where an answer's code is, in bytes.
const RCODE_AT: usize = 3;

struct Sandbox {
    name: String,
    gateway: Gateway,
    decisions: Subscription,
    records: Memory,
    tracker: TaskTracker,
    token: CancellationToken,
    dns: SocketAddr,
}

impl Sandbox {
    /// Every second one allows the name that is asked for.
    async fn start(number: usize, thread: &WriterThread) -> Sandbox {
        let target = match number % 2 {
            0 => "host.portcullis.internal:80",
            _ => "other.example:80",
        };
        let inputs = [Input::Allow(target.to_owned())];
        let loaded = Policy::load(&inputs, &mut |path| std::fs::read_to_string(path));
        let policy = loaded.unwrap_or_else(|errors| panic!("{errors:?}")).policy;
        let name = format!("sandbox-{number}");
        let origin = Origin {
            sandbox: name.clone(),
            labels: Labels::new([Label::new("job", number.to_string()).unwrap()]).unwrap(),
            ..Origin::default()
        };
        let (recorder, records) = Recorder::to_memory(origin);
        let recorder = recorder.with_writer_thread(thread);
        let decisions = recorder.subscribe();
        let gateway = Gateway::builder()
            .policy(policy)
            .recorder(recorder)
            .descriptors(DESCRIPTORS)
            .build()
            .unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let dns = udp.local_addr().unwrap();
        let tcp = || vec![TcpListener::bind("127.0.0.1:0").unwrap()];
        let entrances = Entrances {
            dns_udp: vec![udp],
            dns_tcp: tcp(),
            http: tcp(),
            socks5: tcp(),
            transparent: tcp(),
            datagrams: Vec::new(),
        };
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        gateway.start(entrances, &tracker, &token).await.unwrap();
        Sandbox {
            name,
            gateway,
            decisions,
            records,
            tracker,
            token,
            dns,
        }
    }

    /// Asks, and gives the code of the answer.
    fn ask(&self) -> std::io::Result<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.connect(self.dns)?;
        socket.send(QUESTION)?;
        let mut answer = [0; 512];
        socket.recv(&mut answer)?;
        Ok(answer[RCODE_AT] & 0x0f)
    }

    async fn end(self) -> Memory {
        self.token.cancel();
        self.tracker.close();
        let ended = tokio::time::timeout(TIMEOUT, self.tracker.wait());
        ended.await.expect("a part is still there");
        assert!(self.ask().is_err(), "{} still answers", self.name);
        self.records
    }
}

/// What this process holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
}

impl Held {
    fn now() -> Held {
        let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
        Held {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_gateways_share_a_process_and_nothing_else() {
    // What the process makes once is there from the first on.
    let thread = WriterThread::start().unwrap();
    let first = Sandbox::start(0, &thread).await;
    first.ask().unwrap();
    first.end().await;
    drop(thread);
    let before = settled(None);

    let thread = WriterThread::start().unwrap();
    let mut all = Vec::new();
    for number in 0..GATEWAYS {
        all.push(Sandbox::start(number, &thread).await);
    }
    for (number, sandbox) in all.iter().enumerate() {
        let allows = number % 2 == 0;
        assert_eq!(sandbox.ask().unwrap() == 0, allows, "{}", sandbox.name);
        let seen = sandbox.decisions.recv().await.unwrap();
        assert_eq!(seen.verdict == Verdict::Allow, allows, "{}", sandbox.name);
    }
    let metrics: Vec<_> = all.iter().map(|one| one.gateway.metrics()).collect();
    let numbers: Vec<_> = all
        .iter()
        .zip(&metrics)
        .map(|(one, metrics)| SandboxMetrics {
            sandbox: &one.name,
            metrics,
        })
        .collect();
    let text = openmetrics("test", &numbers);
    let decisions = text
        .lines()
        .filter(|l| l.starts_with("portcullis_decisions_total{"));
    assert!(decisions.clone().all(|line| line.ends_with(" 1")), "{text}");
    assert_eq!(decisions.count(), GATEWAYS, "{text}");

    // Half of them end; the others do not notice.
    let rest = all.split_off(GATEWAYS / 2);
    let mut records = Vec::new();
    for sandbox in all {
        records.push(sandbox.end().await);
    }
    for sandbox in &rest {
        sandbox.ask().unwrap();
    }
    for sandbox in rest {
        records.push(sandbox.end().await);
    }
    let mut boots = BTreeSet::new();
    for (number, records) in records.iter().enumerate() {
        let lines = records.lines();
        assert!(!lines.is_empty(), "sandbox-{number}");
        for line in &lines {
            assert!(
                line.contains(&format!(r#""sandbox":"sandbox-{number}""#)),
                "{line}"
            );
            assert!(
                line.contains(&format!(r#""labels":{{"job":"{number}"}}"#)),
                "{line}"
            );
        }
        let boot = lines[0].split(r#""boot":""#).nth(1).map(|rest| &rest[..16]);
        boots.insert(boot.unwrap().to_owned());
    }
    assert_eq!(boots.len(), GATEWAYS);
    drop(thread);
    assert_eq!(settled(Some(&before)), before);
}

/// What the process holds once that is what is expected, or no longer changes.
fn settled(expected: Option<&Held>) -> Held {
    let start = Instant::now();
    loop {
        let held = Held::now();
        std::thread::sleep(Duration::from_millis(100));
        let is_it = expected.is_none_or(|expected| *expected == held);
        if (is_it && Held::now() == held) || start.elapsed() > TIMEOUT {
            return held;
        }
    }
}
