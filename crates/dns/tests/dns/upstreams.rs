//! Truncation, spoofed answers, equal questions. What depends on time is in the scenarios and in
//! `health`.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use portcullis_dns::{Attempts, Clock, Progress, Upstream, UpstreamConfig};
use portcullis_names::RecordType;
use portcullis_policy::Reason;
use tokio::time::Instant;

use crate::memory::MemoryNetwork;
use crate::world::*;

const ZONE: &str = "listed.example 60 A 192.0.2.1";

/// Where the resolver in memory stands.
const AT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53)), 53);

/// A resolver in memory, for tests whose clock stands still: nothing is late on a busy machine.
fn in_memory(
    script: impl Fn(&Heard, usize) -> Vec<Act> + Send + Sync + 'static,
) -> (MemoryNetwork, World) {
    let network = MemoryNetwork::default();
    network.serve(AT, script);
    let world = World::with(policy(&["listed.example"]), vec![AT], |config| {
        config.network = Arc::new(network.clone());
        config.clock = Clock::tokio();
    });
    (network, world)
}

fn good(query: &Message) -> Vec<u8> {
    Zone::new(ZONE).answer(query)
}

#[tokio::test]
async fn a_silent_upstream_is_servfail_after_four_attempts_each_fresh() {
    let server = Server::scripted(|_, _| Vec::new()).await;
    let world = World::new(&["listed.example"], &[&server]);
    let raw = world
        .raw(&query("listed.example", A_TYPE, Some(1232)))
        .await;
    let reply = Message::from_vec(&raw).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(ede(&raw).unwrap().0, 22);
    let heard = server.heard();
    assert!(heard.len() >= 4, "{}", heard.len());
    let ids: HashSet<&[u8]> = heard.iter().map(|one| &one.bytes[..2]).collect();
    let ports: HashSet<u16> = heard.iter().map(|one| one.from.port()).collect();
    assert_eq!(
        (ids.len(), ports.len()),
        (heard.len(), heard.len()),
        "all fresh"
    );
    let record = world.record();
    assert_eq!(record["reason"], "dns-timeout");
    assert_eq!(record["attempts"], heard.len());
}

#[tokio::test]
async fn a_truncated_answer_is_asked_again_over_tcp() {
    let mut text = String::new();
    for last in 1..=200 {
        text.push_str(&format!("listed.example 60 A 192.0.2.{last}\n"));
    }
    let zone = Zone::new(&text);
    let server = Server::scripted(move |heard, _| {
        if heard.tcp {
            return vec![Act::Send(zone.answer(&heard.message()))];
        }
        let mut reply = response(&heard.message());
        reply.metadata.truncation = true;
        vec![Act::Send(reply.to_vec().unwrap())]
    })
    .await;
    let world = World::new(&["listed.example"], &[&server]);
    let reply = world.ask("listed.example", A_TYPE).await;
    assert!(
        reply.metadata.truncation,
        "1232 bytes do not hold 200 addresses"
    );
    let heard = server.heard();
    let over_tcp = heard.iter().find(|one| one.tcp).expect("asked over TCP");
    assert!(!heard[0].tcp, "UDP first");
    assert_ne!(
        heard[0].bytes[..2],
        over_tcp.bytes[..2],
        "a fresh id over TCP too"
    );
    let mut out = Vec::new();
    let ask = query("listed.example", A_TYPE, None);
    world
        .service
        .answer(&ask, portcullis_record::Protocol::DnsTcp, &mut out)
        .await;
    assert_eq!(addresses(&Message::from_vec(&out).unwrap()).len(), 200);
}

#[tokio::test]
async fn a_flood_of_forged_answers_ends_the_attempt() {
    let server = Server::scripted(|heard, nth| {
        let query = heard.message();
        if nth > 0 {
            return vec![Act::Send(good(&query))];
        }
        let forged = |n: u8| {
            let mut bytes = good(&query);
            bytes[0] ^= n | 0x80;
            Act::Send(bytes)
        };
        (0..64).map(forged).collect()
    })
    .await;
    let world = World::new(&["listed.example"], &[&server]);
    assert_eq!(
        addresses(&world.ask("listed.example", A_TYPE).await).len(),
        1
    );
    assert!(server.heard().len() >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_equal_queries_are_one_upstream() {
    let server = Server::scripted(|heard, _| {
        vec![
            Act::Wait(Duration::from_millis(100)),
            Act::Send(good(&heard.message())),
        ]
    })
    .await;
    let world = World::new(&["listed.example"], &[&server]);
    let asked = (0..50).map(|n: u8| {
        let service = world.service.clone();
        tokio::spawn(async move {
            let name = if n.is_multiple_of(2) {
                "listed.example"
            } else {
                "LISTED.example"
            };
            let mut out = Vec::new();
            let ask = query(name, A_TYPE, None);
            service
                .answer(&ask, portcullis_record::Protocol::DnsUdp, &mut out)
                .await;
            assert_eq!(
                out[12..12 + ask.len() - 12],
                ask[12..],
                "the client's own spelling"
            );
            addresses(&Message::from_vec(&out).unwrap()).len()
        })
    });
    for one in asked.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap(), 1);
    }
    assert!(server.heard().len() <= 4, "one, and its retries; not fifty");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_does_not_take_the_answer_from_others() {
    let (network, world) = in_memory(|heard, _| {
        vec![
            Act::Wait(Duration::from_millis(150)),
            Act::Send(good(&heard.message())),
        ]
    });
    let first = tokio::time::timeout(
        Duration::from_millis(30),
        world.ask("listed.example", A_TYPE),
    );
    assert!(first.await.is_err(), "it left");
    assert_eq!(
        addresses(&world.ask("listed.example", A_TYPE).await).len(),
        1
    );
    assert_eq!(network.heard(AT).len(), 1);
}

#[tokio::test]
async fn other_resolvers_take_over_when_they_are_set() {
    let first = Server::with_zone(Zone::new(ZONE)).await;
    let second = Server::with_zone(Zone::new(ZONE)).await;
    let world = World::new(&["listed.example", "other.example"], &[&first]);
    world.ask("listed.example", A_TYPE).await;
    world.service.set_upstreams(vec![second.address]);
    world.ask("other.example", A_TYPE).await;
    assert_eq!((first.heard().len(), second.heard().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn one_attempt_is_one_attempt() {
    let [first, second] = [1, 2].map(|last| SocketAddr::from(([192, 0, 2, last], 53)));
    let network = MemoryNetwork::default();
    network.serve(first, |_, _| Vec::new());
    network.serve(second, |heard, _| vec![Act::Send(good(&heard.message()))]);
    let world = World::with(policy(&["listed.example"]), vec![first], |_| {});
    let permit = world.lookup_permit("listed.example");
    let mut config = UpstreamConfig::new(world.policy.clone(), vec![first, second]);
    config.network = Arc::new(network.clone());
    let upstream = Upstream::new(config);
    let limit = Duration::from_secs(2);
    let started = Instant::now();
    let one = |number| Attempts::One { number, limit };
    let error = upstream
        .query(&permit, RecordType::A, one(0), &Progress::default())
        .await
        .unwrap_err();
    assert_eq!((error.reason, error.attempts), (Reason::DnsTimeout, 1));
    assert_eq!(started.elapsed(), limit);
    let answered = upstream
        .query(&permit, RecordType::A, one(1), &Progress::default())
        .await
        .unwrap();
    assert_eq!(answered.attempts, 1);
    assert_eq!(
        started.elapsed(),
        limit,
        "the second server answers at once"
    );
    assert_eq!(network.heard(first).len(), 1);
}
