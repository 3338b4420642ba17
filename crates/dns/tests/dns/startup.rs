//! Start-up resolution in virtual time: the schedule to the millisecond, failures that name
//! every host, cancelling, ten thousand dead names, and the same results in whatever order.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_proto::op::ResponseCode;
use portcullis_dns::{
    ByteStream, Clock, Datagrams, MAX_STARTUP_NAMES, Network, StartupError, StartupFailure,
    StartupName, StartupSchedule,
};
use portcullis_policy::{Policy, Reason};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::memory::MemoryNetwork;
use crate::world::*;

const ZONE: &str = "\
    a.example 60 A 192.0.2.1\n\
    b.example 60 CNAME end.example\n\
    end.example 60 A 192.0.2.2\n\
    dual.example 60 A 192.0.2.3\n\
    dual.example 60 AAAA 2001:db8:1::3\n\
    six.example 60 AAAA 2001:db8:1::6\n\
    private.example 60 A 10.0.0.1\n\
    private.example 60 AAAA fd00::1\n\
    zero.example 60 A 0.0.0.0\n\
    zero.example 60 AAAA ::\n\
    empty.example 60 TXT nothing\n\
    in.wild.example 60 A 192.0.2.4\n\
    com 60 A 192.0.2.7\n\
    mixed.example 60 A 10.0.0.1\n\
    mixed.example 60 A 192.0.2.5";

fn server() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 53], 53))
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn world(network: impl Network + 'static, policy: Policy) -> World {
    World::with(policy, vec![server()], |config| {
        config.network = Arc::new(network);
        config.clock = Clock::tokio();
    })
}

/// A resolver that does to each query what `act` says to its name, and answers from [`ZONE`].
fn resolver(act: impl Fn(&str, usize) -> Fate + Send + Sync + 'static) -> MemoryNetwork {
    let network = MemoryNetwork::default();
    let zone = Zone::new(ZONE);
    network.serve(server(), move |heard, nth| {
        let question = heard.question();
        let answer = zone.answer(&heard.message());
        match act(&question, nth) {
            Fate::Answered => vec![Act::Send(answer)],
            Fate::After(ms) => vec![Act::Wait(millis(ms)), Act::Send(answer)],
            Fate::Lost => Vec::new(),
            Fate::ServFail => {
                let mut reply = response(&heard.message());
                reply.metadata.response_code = ResponseCode::ServFail;
                vec![Act::Send(reply.to_vec().unwrap())]
            }
        }
    });
    network
}

enum Fate {
    Answered,
    After(u64),
    Lost,
    ServFail,
}

async fn resolve(world: &World) -> Result<Vec<StartupName>, StartupError> {
    let schedule = StartupSchedule::default();
    let token = CancellationToken::new();
    world.service.resolve_all(&schedule, &token).await
}

fn failures(result: Result<Vec<StartupName>, StartupError>) -> Vec<StartupFailure> {
    match result {
        Err(StartupError::Unresolved { failures, .. }) => failures,
        other => panic!("not a list of failures: {other:?}"),
    }
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(IpAddr::to_string).collect()
}

#[test]
fn the_schedule_has_four_attempts_and_their_pauses() {
    let schedule = StartupSchedule::default();
    assert_eq!(schedule.longest(), millis(4 * 2_000 + 100 + 300 + 900));
    let more = schedule.attempts(6).longest();
    assert_eq!(more, millis(6 * 2_000 + 100 + 300 + 900 + 2_700 + 2_700));
    assert_eq!(schedule.attempts(0).longest(), millis(2_000));
    let longer = schedule.limit(Duration::from_secs(9));
    assert_eq!(longer, schedule, "an attempt takes at most 2 s");
}

#[tokio::test(start_paused = true)]
async fn all_names_are_resolved_at_once_and_then_answered_at_once() {
    let network = resolver(|_, nth| {
        if nth < 10 {
            Fate::After(80)
        } else {
            Fate::Lost
        }
    });
    let names = [
        "b.example",
        "dual.example",
        "a.example",
        "six.example",
        "mixed.example",
    ];
    let world = world(network.clone(), policy(&names));
    let started = Instant::now();
    let found = resolve(&world).await.unwrap();
    assert_eq!(started.elapsed(), millis(80), "not one after another");
    let told: Vec<(&str, Vec<String>)> = found
        .iter()
        .map(|name| (name.name.as_str(), texts(&name.addresses)))
        .collect();
    let text = |list: &[&str]| list.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        told,
        [
            ("a.example", text(&["192.0.2.1"])),
            ("b.example", text(&["192.0.2.2"])),
            ("dual.example", text(&["192.0.2.3", "2001:db8:1::3"])),
            ("mixed.example", text(&["192.0.2.5"])),
            ("six.example", text(&["2001:db8:1::6"])),
        ]
    );
    assert_eq!(found[1].canonical.as_str(), "end.example");
    assert!(found.iter().all(|name| name.attempts == 1));
    // The gate has opened for each of them before anybody asked, and the lease stands.
    let opened: Vec<IpAddr> = world
        .gate
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|open| open.0)
        .collect();
    for name in &found {
        for address in &name.addresses {
            assert!(opened.contains(address), "{address}");
            assert_eq!(
                world.leases.names_for(*address),
                std::slice::from_ref(&name.name)
            );
        }
    }
    assert!(!world.leases.is_leased("10.0.0.1".parse().unwrap()));
    // The resolver is silent by now: everything is answered all the same, and at once.
    let started = Instant::now();
    for (name, qtype, wanted) in [
        ("a.example", A_TYPE, text(&["192.0.2.1"])),
        ("a.example", AAAA_TYPE, text(&[])),
        ("b.example", A_TYPE, text(&["192.0.2.2"])),
        ("six.example", AAAA_TYPE, text(&["2001:db8:1::6"])),
        ("six.example", A_TYPE, text(&[])),
        ("mixed.example", A_TYPE, text(&["192.0.2.5"])),
    ] {
        let reply = world.ask(name, qtype).await;
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::NoError,
            "{name}"
        );
        assert_eq!(texts(&addresses(&reply)), wanted, "{name}");
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(
        network.heard(server()).len(),
        10,
        "A and AAAA of each, once"
    );
}

#[tokio::test(start_paused = true)]
async fn lost_datagrams_do_not_lose_the_name() {
    // Both families of the first one, two and three attempts are lost.
    for (lost, ms) in [(2, 2_100), (4, 4_400), (6, 7_300)] {
        let network = resolver(move |_, nth| {
            if nth < lost {
                Fate::Lost
            } else {
                Fate::Answered
            }
        });
        let world = world(network.clone(), policy(&["a.example"]));
        let started = Instant::now();
        let found = resolve(&world).await.unwrap();
        assert_eq!(started.elapsed(), millis(ms));
        assert_eq!(texts(&found[0].addresses), ["192.0.2.1"]);
        assert_eq!(found[0].attempts as usize, lost / 2 + 1);
        assert_eq!(network.heard(server()).len(), lost + 2);
        assert_eq!(world.record()["attempts"], found[0].attempts);
    }
}

#[tokio::test(start_paused = true)]
async fn servfail_is_asked_again_after_the_pauses() {
    let network = resolver(|_, _| Fate::ServFail);
    let world = world(network.clone(), policy(&["a.example"]));
    let started = Instant::now();
    let failed = failures(resolve(&world).await);
    assert_eq!(started.elapsed(), millis(100 + 300 + 900));
    assert_eq!(
        (failed[0].reason, failed[0].attempts),
        (Reason::DnsFailed, 4)
    );
    assert_eq!(network.heard(server()).len(), 8);
    let network = resolver(|_, nth| {
        if nth < 6 {
            Fate::ServFail
        } else {
            Fate::Answered
        }
    });
    let world = self::world(network, policy(&["a.example"]));
    assert_eq!(resolve(&world).await.unwrap()[0].attempts, 4);
}

#[tokio::test(start_paused = true)]
async fn a_failure_names_every_host_with_its_reason() {
    let network = resolver(|question, _| match question {
        q if q.starts_with("silent.") => Fate::Lost,
        q if q.starts_with("broken.") => Fate::ServFail,
        _ => Fate::Answered,
    });
    let names = [
        "zero.example",
        "silent.example",
        "a.example",
        "nowhere.example",
        "private.example",
        "broken.example",
        "empty.example",
        "six.example",
    ];
    let world = world(network, policy(&names));
    let started = Instant::now();
    let result = resolve(&world).await;
    assert_eq!(started.elapsed(), StartupSchedule::default().longest());
    let text = result.clone().unwrap_err().to_string();
    let failed = failures(result);
    let told: Vec<_> = failed
        .iter()
        .map(|failure| (failure.name.as_str(), failure.reason, failure.attempts))
        .collect();
    assert_eq!(
        told,
        [
            ("broken.example", Reason::DnsFailed, 4),
            ("empty.example", Reason::NoAddress, 1),
            ("nowhere.example", Reason::NameNotFound, 1),
            ("private.example", Reason::PrivateAddress, 1),
            ("silent.example", Reason::DnsTimeout, 4),
            ("zero.example", Reason::PrivateAddress, 1),
        ]
    );
    assert!(text.starts_with("6 of 8 names did not resolve\n"), "{text}");
    for failure in &failed {
        let line = format!("{}: {}", failure.name, failure.reason);
        assert!(text.contains(&line), "{text}");
    }
    assert!(text.contains("10.0.0.1, fd00::1"), "{text}");
    // Each name leaves one record, those that resolved too.
    let records = world.records();
    assert_eq!(records.len(), names.len(), "{records:#?}");
    for record in &records {
        assert_eq!(
            (&record["layer"], &record["protocol"]),
            (&"dns".into(), &"startup".into())
        );
        assert!(record["attempts"].as_u64() > Some(0), "{record}");
        let wanted = failed
            .iter()
            .find(|failure| record["name"] == failure.name.as_str());
        let reason = wanted.map_or("allowed", |failure| failure.reason.code());
        assert_eq!(record["reason"], reason, "{record}");
    }
    let of = |name: &str| {
        records
            .iter()
            .find(|record| record["name"] == name)
            .unwrap()
    };
    assert_eq!(of("six.example")["addresses"][0], "2001:db8:1::6");
    assert_eq!(of("six.example")["families"], serde_json::json!(["ipv6"]));
    assert_eq!(of("silent.example")["families"], serde_json::json!([]));
    assert_eq!(of("private.example")["verdict"], "deny");
    assert_eq!(of("silent.example")["verdict"], "error");
    // Nothing is answered with an address that is none.
    for qtype in [A_TYPE, AAAA_TYPE] {
        let reply = world.ask("zero.example", qtype).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert!(addresses(&reply).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn only_exact_names_that_may_be_looked_up_are_asked_for() {
    let network = resolver(|_, _| Fate::Answered);
    let rules = [
        "*.wild.example",
        "in.wild.example",
        "**.both.example",
        "dual.example",
        "!dual.example",
        "host.portcullis.internal:8080",
        "_kerberos._tcp.example",
        "a.example:22",
    ];
    let world = world(network.clone(), policy(&rules));
    let found = resolve(&world).await.unwrap();
    let names: Vec<&str> = found.iter().map(|name| name.name.as_str()).collect();
    assert_eq!(names, ["a.example", "in.wild.example"]);
    assert_eq!(network.heard(server()).len(), 4);
    // A policy without any is resolved at once.
    let world = self::world(network, policy(&["*.wild.example"]));
    assert_eq!(resolve(&world).await, Ok(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_name_with_ipv6_only_needs_a_host_with_ipv6() {
    let network = resolver(|_, _| Fate::Answered);
    let world = World::with(
        policy(&["six.example", "dual.example"]),
        vec![server()],
        |config| {
            config.network = Arc::new(network);
            config.clock = Clock::tokio();
            config.ipv6_route = Arc::new(|| false);
        },
    );
    let failed = failures(resolve(&world).await);
    assert_eq!(failed.len(), 1, "the other has an IPv4 address: {failed:?}");
    assert_eq!(failed[0].reason, Reason::NoAddress);
    assert!(
        failed[0].detail.contains("no IPv6 route"),
        "{}",
        failed[0].detail
    );
}

#[tokio::test(start_paused = true)]
async fn a_family_that_is_never_answered_does_not_hold_a_name_with_addresses() {
    let network = resolver(|question, _| match question {
        q if q.ends_with("AAAA") => Fate::Lost,
        _ => Fate::Answered,
    });
    let world = world(network, policy(&["a.example"]));
    let started = Instant::now();
    let found = resolve(&world).await.unwrap();
    assert_eq!(started.elapsed(), millis(500));
    assert_eq!((found[0].attempts, found[0].addresses.len()), (1, 1));
    // Without addresses in the other family it is asked for again, alone.
    let network = resolver(|question, nth| match question {
        q if q.ends_with("AAAA") && nth < 4 => Fate::Lost,
        _ => Fate::Answered,
    });
    let world = self::world(network.clone(), policy(&["six.example"]));
    let found = resolve(&world).await.unwrap();
    assert_eq!(texts(&found[0].addresses), ["2001:db8:1::6"]);
    let asked: Vec<String> = network
        .heard(server())
        .iter()
        .map(Heard::question)
        .collect();
    assert_eq!(
        asked
            .iter()
            .filter(|question| question.ends_with(" A"))
            .count(),
        1,
        "{asked:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_token_ends_it_at_any_moment() {
    for ms in [0, 1, 500, 2_050, 6_000, 9_299] {
        let dead = Dead::default();
        let world = world(dead.clone(), policy(&["a.example", "dual.example"]));
        let token = CancellationToken::new();
        let cancel = token.clone();
        tokio::spawn(async move {
            tokio::time::sleep(millis(ms)).await;
            cancel.cancel();
        });
        let started = Instant::now();
        let schedule = StartupSchedule::default();
        let result = world.service.resolve_all(&schedule, &token).await;
        assert_eq!(result, Err(StartupError::Cancelled));
        assert_eq!(started.elapsed(), millis(ms));
        assert_eq!(dead.open.load(Ordering::Relaxed), 0, "sockets are closed");
        assert!(world.records().is_empty(), "nothing was decided");
    }
    // Cancelled before it began: nothing is sent.
    let dead = Dead::default();
    let world = world(dead.clone(), policy(&["a.example"]));
    let token = CancellationToken::new();
    token.cancel();
    let schedule = StartupSchedule::default();
    let result = world.service.resolve_all(&schedule, &token).await;
    assert_eq!(result, Err(StartupError::Cancelled));
    assert_eq!(dead.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_dead_names_take_as_long_as_one() {
    let rules: Vec<String> = (0..MAX_STARTUP_NAMES)
        .map(|n| format!("n{n}.example"))
        .collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    // As many sockets as a process with 1,024 descriptors has, and as many as are ever used.
    for at_once in [400, usize::MAX] {
        let dead = Dead::default();
        let world = world(dead.clone(), policy(&rules));
        let schedule = StartupSchedule::default().at_once(at_once);
        let token = CancellationToken::new();
        let started = Instant::now();
        let failed = failures(world.service.resolve_all(&schedule, &token).await);
        assert!(
            started.elapsed() <= schedule.longest(),
            "{:?}",
            started.elapsed()
        );
        assert_eq!(failed.len(), MAX_STARTUP_NAMES);
        assert!(
            failed
                .iter()
                .all(|failure| failure.reason == Reason::DnsTimeout)
        );
        assert!(failed.iter().all(|failure| failure.attempts == 4));
        assert_eq!(dead.open.load(Ordering::Relaxed), 0);
        let most = dead.most.load(Ordering::Relaxed);
        assert!(most <= 2 * at_once.min(4_096), "{most} sockets");
        let asked = dead.asked.load(Ordering::Relaxed);
        assert_eq!(
            asked,
            8 * MAX_STARTUP_NAMES,
            "each attempt of each name was made"
        );
    }
    // One more is too many, and nothing is asked.
    let rules = [&rules[..], &["one-more.example"]].concat();
    let dead = Dead::default();
    let world = world(dead.clone(), policy(&rules));
    let names = MAX_STARTUP_NAMES + 1;
    assert_eq!(resolve(&world).await, Err(StartupError::TooMany { names }));
    assert_eq!(dead.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_name_among_many_dead_ones_is_found() {
    let slow = |question: &str, _| match question {
        q if q.starts_with("a.") => Fate::After(900),
        _ => Fate::Lost,
    };
    let rules: Vec<String> = (0..40).map(|n| format!("n{n}.example")).collect();
    let mut rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    rules.push("a.example");
    let world = world(resolver(slow), policy(&rules));
    let token = CancellationToken::new();
    let schedule = StartupSchedule::default().at_once(30);
    let failed = failures(world.service.resolve_all(&schedule, &token).await);
    assert_eq!(failed.len(), 40);
    assert!(
        failed
            .iter()
            .all(|failure| failure.name.as_str() != "a.example")
    );
}

#[tokio::test(start_paused = true)]
async fn a_thousand_orders_of_one_policy_give_the_same_results() {
    let mut rules = vec![
        "a.example",
        "b.example:22",
        "dual.example",
        "six.example",
        "mixed.example",
        "in.wild.example:443",
        "*.wild.example:22",
        "**.example:8443",
        "com:53",
        "*.com.example",
        "b.example:443",
        "!dual.example:80",
    ];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut first = None;
    for _ in 0..1_000 {
        for last in (1..rules.len()).rev() {
            // xorshift: any order will do, as long as it is another one.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            rules.swap(last, (random % (last as u64 + 1)) as usize);
        }
        let world = world(resolver(|_, _| Fate::Answered), policy(&rules));
        let found = resolve(&world).await.unwrap();
        let mut told = vec![format!("{found:?}")];
        for name in [
            "a.example",
            "b.example",
            "dual.example",
            "x.wild.example",
            "com",
            "x.com.example",
            "evil.test",
        ] {
            for qtype in [A_TYPE, AAAA_TYPE] {
                let reply = world.ask(name, qtype).await;
                let code = reply.metadata.response_code;
                told.push(format!("{name} {qtype}: {code} {:?}", addresses(&reply)));
            }
        }
        let mut opened = world.gate.0.lock().unwrap().clone();
        opened.sort_by_key(|open| format!("{open:?}"));
        told.push(format!("{opened:?}"));
        match &first {
            None => first = Some(told),
            Some(first) => assert_eq!(&told, first, "{rules:?}"),
        }
    }
}

/// A network on which nothing ever answers; counts its sockets.
#[derive(Clone, Debug, Default)]
struct Dead {
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

struct DeadSocket(Dead);

impl Network for Dead {
    fn udp(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>> {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(open, Ordering::Relaxed);
        let socket = DeadSocket(self.clone());
        Box::pin(async move { Ok(Box::new(socket) as Box<dyn Datagrams>) })
    }

    fn stream(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}

impl Datagrams for DeadSocket {
    fn send<'a>(&'a self, _: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    }

    fn recv<'a>(&'a self, _: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>> {
        Box::pin(std::future::pending())
    }
}

impl Drop for DeadSocket {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
