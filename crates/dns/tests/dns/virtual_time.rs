//! The retry schedule, to the millisecond and without waiting: a network in memory, paused time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use portcullis_dns::{Attempts, Clock, Upstream, UpstreamConfig};
use portcullis_names::RecordType;
use portcullis_policy::Reason;
use tokio::time::Instant;

use crate::memory::MemoryNetwork;
use crate::world::*;

const ZONE: &str = "listed.example 60 A 192.0.2.1";

fn server(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 53))
}

fn world(network: &MemoryNetwork, servers: &[SocketAddr]) -> World {
    let network = network.clone();
    World::with(policy(&["listed.example"]), servers.to_vec(), |config| {
        config.network = Arc::new(network);
        config.clock = Clock::tokio();
    })
}

/// Loses the first `lost` datagrams, then answers.
fn losing(network: &MemoryNetwork, at: SocketAddr, lost: usize) {
    network.serve(at, move |heard, nth| {
        if nth < lost {
            return Vec::new();
        }
        vec![Act::Send(Zone::new(ZONE).answer(&heard.message()))]
    });
}

#[tokio::test(start_paused = true)]
async fn three_lost_datagrams_are_made_up_for_at_2_000_ms() {
    let network = MemoryNetwork::default();
    losing(&network, server(1), 3);
    let world = world(&network, &[server(1)]);
    let started = Instant::now();
    let reply = world.ask("listed.example", A_TYPE).await;
    assert_eq!(addresses(&reply).len(), 1);
    assert_eq!(started.elapsed(), Duration::from_millis(2_000));
    assert_eq!(network.heard(server(1)).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn one_lost_datagram_is_made_up_for_at_300_ms() {
    let network = MemoryNetwork::default();
    losing(&network, server(1), 1);
    let world = world(&network, &[server(1)]);
    let started = Instant::now();
    let reply = world.ask("listed.example", A_TYPE).await;
    assert_eq!(addresses(&reply).len(), 1);
    assert_eq!(started.elapsed(), Duration::from_millis(300));
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_answer_is_taken_though_a_retry_is_under_way() {
    let network = MemoryNetwork::default();
    network.serve(server(1), |heard, nth| match nth {
        0 => vec![
            Act::Wait(Duration::from_millis(500)),
            Act::Send(Zone::new(ZONE).answer(&heard.message())),
        ],
        _ => Vec::new(),
    });
    let world = world(&network, &[server(1)]);
    let started = Instant::now();
    let reply = world.ask("listed.example", A_TYPE).await;
    assert_eq!(addresses(&reply).len(), 1);
    assert_eq!(started.elapsed(), Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn silence_is_servfail_at_3_700_ms() {
    let network = MemoryNetwork::default();
    losing(&network, server(1), usize::MAX);
    let world = world(&network, &[server(1)]);
    let started = Instant::now();
    let reply = world.ask("listed.example", A_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(started.elapsed(), Duration::from_millis(3_700));
}

#[tokio::test(start_paused = true)]
async fn what_expires_and_what_waits_share_one_time() {
    let network = MemoryNetwork::default();
    losing(&network, server(1), 0);
    let world = world(&network, &[server(1)]);
    world.ask("listed.example", A_TYPE).await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    world.ask("listed.example", A_TYPE).await;
    assert_eq!(network.heard(server(1)).len(), 1, "still in the cache");
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.ask("listed.example", A_TYPE).await;
    assert_eq!(network.heard(server(1)).len(), 2, "expired");
}

#[tokio::test(start_paused = true)]
async fn one_attempt_is_one_attempt() {
    let network = MemoryNetwork::default();
    losing(&network, server(1), usize::MAX);
    losing(&network, server(2), 0);
    let world = world(&network, &[server(1)]);
    let permit = world.lookup_permit("listed.example");
    let mut config = UpstreamConfig::new(world.policy.clone(), vec![server(1), server(2)]);
    config.network = Arc::new(network.clone());
    let upstream = Upstream::new(config);
    let limit = Duration::from_secs(2);
    let started = Instant::now();
    let one = |number| Attempts::One { number, limit };
    let error = upstream
        .query(&permit, RecordType::A, one(0))
        .await
        .unwrap_err();
    assert_eq!((error.reason, error.attempts), (Reason::DnsTimeout, 1));
    assert_eq!(started.elapsed(), limit);
    let answered = upstream
        .query(&permit, RecordType::A, one(1))
        .await
        .unwrap();
    assert_eq!(answered.attempts, 1);
    assert_eq!(
        started.elapsed(),
        limit,
        "the second server answers at once"
    );
    assert_eq!(network.heard(server(1)).len(), 1);
}
