//! Which server is asked first: the operator's order, and what happens to servers that fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use portcullis_dns::Clock;
use tokio::time::{Instant, sleep};

use crate::memory::MemoryNetwork;
use crate::world::*;

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 53))
}

/// Answers any question for an address.
fn good(heard: &Heard) -> Act {
    let query = heard.message();
    let name = query.queries[0].name().to_lowercase();
    Act::Send(Zone::new(&format!("{name} 60 A 203.0.113.9")).answer(&query))
}

fn with_code(heard: &Heard, code: ResponseCode) -> Act {
    let mut reply = response(&heard.message());
    reply.metadata.response_code = code;
    Act::Send(reply.to_vec().unwrap())
}

fn world(network: &MemoryNetwork, servers: &[SocketAddr]) -> World {
    let network = network.clone();
    World::with(policy(&["*.example"]), servers.to_vec(), |config| {
        config.network = Arc::new(network);
        config.clock = Clock::tokio();
        config.ipv6_route = Arc::new(|| false);
    })
}

/// Asks for a new name, and says after how many milliseconds an address was there.
async fn ask(world: &World, name: &str) -> u128 {
    let started = Instant::now();
    let reply = world.ask(&format!("{name}.example"), A_TYPE).await;
    assert_eq!(addresses(&reply).len(), 1, "{name}");
    started.elapsed().as_millis()
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_comes_last_is_probed_beside_the_next_and_comes_back() {
    let network = MemoryNetwork::default();
    let alive = Arc::new(AtomicBool::new(false));
    let is_alive = alive.clone();
    network.serve(at(1), move |heard, _| {
        let answer = is_alive.load(Ordering::Relaxed).then(|| good(heard));
        answer.into_iter().collect()
    });
    network.serve(at(2), |heard, _| vec![good(heard)]);
    let world = world(&network, &[at(1), at(2)]);
    let heard = || (network.heard(at(1)).len(), network.heard(at(2)).len());

    assert_eq!(
        ask(&world, "a").await,
        300,
        "the first retry, at the next server"
    );
    assert_eq!(heard(), (1, 1));
    assert_eq!(ask(&world, "b").await, 0, "the silent one comes last");
    assert_eq!(heard(), (1, 2));

    // Its back-off of about a second is over: one lookup asks both, and waits for neither.
    sleep(Duration::from_millis(1_300)).await;
    assert_eq!(ask(&world, "c").await, 0);
    assert_eq!(heard(), (2, 3));
    assert_eq!(ask(&world, "d").await, 0);
    assert_eq!(heard(), (2, 4), "one lookup finds out, not each");

    alive.store(true, Ordering::Relaxed);
    sleep(Duration::from_secs(40)).await;
    assert_eq!(ask(&world, "e").await, 0);
    let before = heard();
    assert_eq!(ask(&world, "f").await, 0);
    assert_eq!(
        heard(),
        (before.0 + 1, before.1),
        "the operator's order again"
    );
}

#[tokio::test(start_paused = true)]
async fn servfail_and_refused_are_passed_over_at_once() {
    for code in [
        ResponseCode::ServFail,
        ResponseCode::Refused,
        ResponseCode::NotAuth,
    ] {
        let network = MemoryNetwork::default();
        network.serve(at(1), move |heard, _| vec![with_code(heard, code)]);
        network.serve(at(2), move |heard, _| vec![with_code(heard, code)]);
        network.serve(at(3), |heard, _| vec![good(heard)]);
        let world = world(&network, &[at(1), at(2), at(3)]);
        assert_eq!(ask(&world, "a").await, 0, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_fails_does_not_cost_a_server_its_place_and_a_failing_server_does() {
    let network = MemoryNetwork::default();
    network.serve(at(1), |heard, _| {
        if heard.question().starts_with("bad") {
            return vec![with_code(heard, ResponseCode::ServFail)];
        }
        vec![good(heard)]
    });
    network.serve(at(2), |heard, _| vec![good(heard)]);
    let world = world(&network, &[at(1), at(2)]);
    let second = || network.heard(at(2)).len();
    for (name, heard_by_second) in [
        ("bad-a", 1),
        ("bad-b", 2),
        ("good-a", 2),
        ("bad-c", 3),
        ("bad-d", 4),
        ("bad-e", 5),
        // Three in a row are the server's fault.
        ("good-b", 6),
    ] {
        assert_eq!(ask(&world, name).await, 0);
        assert_eq!(second(), heard_by_second, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_are_down_all_are_still_tried_in_their_order() {
    let network = MemoryNetwork::default();
    for last in 1..=2 {
        network.serve(at(last), |_, _| Vec::new());
    }
    let world = world(&network, &[at(1), at(2)]);
    for n in 1..=3_usize {
        let reply = world.ask(&format!("n{n}.example"), A_TYPE).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        let heard = (network.heard(at(1)).len(), network.heard(at(2)).len());
        assert_eq!(heard.0 + heard.1, 4 * n, "four attempts for each name");
        assert!(heard.0 >= 2 * n && heard.1 >= n, "{heard:?}");
    }
    network.serve(at(2), |heard, _| vec![good(heard)]);
    assert!(ask(&world, "back").await <= 300);
}

#[tokio::test(start_paused = true)]
async fn closed_ports_cost_no_time() {
    let network = MemoryNetwork::default();
    network.serve(at(7), |heard, _| vec![good(heard)]);
    let servers: Vec<SocketAddr> = (1..=7).map(at).collect();
    let world = world(&network, &servers);
    assert_eq!(ask(&world, "a").await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_always_slow_is_given_a_little_longer() {
    let network = MemoryNetwork::default();
    network.serve(at(1), |heard, _| {
        vec![Act::Wait(Duration::from_millis(400)), good(heard)]
    });
    network.serve(at(2), |_, _| Vec::new());
    let world = world(&network, &[at(1), at(2)]);
    assert_eq!(ask(&world, "a").await, 400);
    assert_eq!(
        network.heard(at(2)).len(),
        1,
        "nothing is known yet: at 300 ms"
    );
    assert_eq!(ask(&world, "b").await, 400);
    assert_eq!(network.heard(at(2)).len(), 1, "it is known to take 400 ms");
}
