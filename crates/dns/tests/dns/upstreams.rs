//! Truncation, spoofed answers, equal questions, over real sockets. What depends on time is in
//! `virtual_time` and `health`.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use portcullis_dns::Clock;

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

#[tokio::test(start_paused = true)]
async fn answers_with_a_wrong_id_or_question_are_ignored() {
    let (network, world) = in_memory(|heard, _| {
        let query = heard.message();
        let forged = |change: &dyn Fn(&mut Vec<u8>)| {
            let zone = Zone::new("listed.example 60 A 192.0.2.66");
            let mut bytes = zone.answer(&query);
            change(&mut bytes);
            Act::Send(bytes)
        };
        vec![
            forged(&|bytes| bytes[0] ^= 0x55),
            forged(&|bytes| bytes[13] = b'x'),
            forged(&|bytes| bytes[2] &= 0x7F),
            forged(&|bytes| bytes[2] |= 0x20),
            forged(&|bytes| bytes.truncate(11)),
            Act::Wait(Duration::from_millis(50)),
            Act::Send(good(&query)),
        ]
    });
    let reply = world.ask("listed.example", A_TYPE).await;
    assert_eq!(
        addresses(&reply),
        vec!["192.0.2.1".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(network.heard(AT).len(), 1);
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
async fn a_ttl_of_zero_is_raised_to_the_floor_and_a_week_lowered_to_the_ceiling() {
    let zone = "zero.example 0 A 192.0.2.1\nweek.example 604800 A 192.0.2.2";
    let server = Server::with_zone(Zone::new(zone)).await;
    let world = World::new(&["zero.example", "week.example"], &[&server]);
    assert_eq!(world.ask("zero.example", A_TYPE).await.answers[0].ttl, 5);
    assert_eq!(
        world.ask("week.example", A_TYPE).await.answers[0].ttl,
        3_600
    );
    world.ask("zero.example", A_TYPE).await;
    assert_eq!(server.heard().len(), 2);
    world.clock.advance(Duration::from_secs(5));
    world.ask("zero.example", A_TYPE).await;
    assert_eq!(server.heard().len(), 3);
}

#[tokio::test]
async fn negative_answers_are_cached_by_the_soa_minimum() {
    let server = Server::with_zone(Zone::new(ZONE)).await;
    let world = World::new(&["absent.example"], &[&server]);
    world.ask("absent.example", A_TYPE).await;
    world.clock.advance(Duration::from_secs(76));
    world.ask("absent.example", A_TYPE).await;
    assert_eq!(server.heard().len(), 1);
    world.clock.advance(Duration::from_secs(1));
    world.ask("absent.example", A_TYPE).await;
    assert_eq!(server.heard().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_narrows_during_a_lookup_decides_anew() {
    let (_network, world) = in_memory(|heard, _| {
        vec![
            Act::Wait(Duration::from_millis(100)),
            Act::Send(good(&heard.message())),
        ]
    });
    let narrow = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        world.policy.store(Arc::new(policy(&[])));
    };
    let (reply, ()) = tokio::join!(world.ask("listed.example", A_TYPE), narrow);
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert!(world.leases.is_empty());
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

#[tokio::test]
async fn a_flood_of_new_names_is_rate_limited_and_the_cached_ones_stay() {
    let server = Server::scripted(|heard, _| {
        if heard.question().contains(".wild.") {
            return Vec::new();
        }
        vec![Act::Send(good(&heard.message()))]
    })
    .await;
    let world = World::new(&["*.wild.example", "listed.example"], &[&server]);
    world.ask("listed.example", A_TYPE).await;
    let flood: Vec<_> = (0..192)
        .map(|n| {
            let service = world.service.clone();
            tokio::spawn(async move {
                let mut out = Vec::new();
                let ask = query(&format!("n{n}.wild.example"), A_TYPE, None);
                service
                    .answer(&ask, portcullis_record::Protocol::DnsUdp, &mut out)
                    .await;
            })
        })
        .collect();
    // Each has begun: what the server heard of, and what found no place, which is told at once.
    let until = tokio::time::Instant::now() + Duration::from_secs(2);
    while server.questions().len() < 100 && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let raw = world
        .raw(&query("extra.wild.example", A_TYPE, Some(1232)))
        .await;
    let (code, text) = ede(&raw).unwrap();
    assert_eq!((raw[3] & 0x0F, code), (2, 0));
    assert!(text.starts_with("rate-limited; id="), "{text}");
    assert_eq!(
        addresses(&world.ask("listed.example", A_TYPE).await).len(),
        1
    );
    flood.into_iter().for_each(|one| one.abort());
}
