//! Forged answers: mixed case in names ("0x20"), and servers that do not keep it.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use portcullis_dns::Clock;

use crate::memory::MemoryNetwork;
use crate::world::*;

const TRUE: &str = "203.0.113.1";
const FORGED: &str = "203.0.113.66";

fn server() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 53))
}

/// An answer for any name, in the case it was asked in.
fn answer(heard: &Heard, address: &str) -> Vec<u8> {
    let query = heard.message();
    let name = query.queries[0].name().to_lowercase();
    let zone = Zone::new(&format!("{name} 60 A {address}"));
    zone.answer(&query)
}

/// The same with the question in lower case.
fn folded(heard: &Heard, address: &str) -> Vec<u8> {
    let mut bytes = answer(heard, address);
    let end = heard.bytes.len().min(bytes.len());
    let question = 12..end.min(12 + 40);
    let name_end = bytes[question.clone()].iter().position(|b| *b == 0);
    bytes[12..12 + name_end.unwrap()].make_ascii_lowercase();
    bytes
}

fn world(network: &MemoryNetwork) -> World {
    let network = network.clone();
    World::with(policy(&["*.listed.example"]), vec![server()], |config| {
        config.network = Arc::new(network);
        config.clock = Clock::tokio();
        config.ipv6_route = Arc::new(|| false);
    })
}

async fn ask(world: &World, name: &str) -> Vec<IpAddr> {
    addresses(&world.ask(&format!("{name}.listed.example"), A_TYPE).await)
}

fn is(address: &str) -> Vec<IpAddr> {
    vec![address.parse().unwrap()]
}

fn is_lower(heard: &Heard) -> bool {
    !heard.bytes[12..].iter().any(u8::is_ascii_uppercase)
}

#[tokio::test(start_paused = true)]
async fn names_leave_in_random_case_and_the_program_sees_its_own() {
    let network = MemoryNetwork::default();
    network.serve(server(), |heard, _| vec![Act::Send(answer(heard, TRUE))]);
    let world = world(&network);
    for n in 0..20 {
        let name = format!("WWW{n}.LiStEd.example");
        let reply = world.ask(&name, A_TYPE).await;
        assert_eq!(reply.queries[0].name().to_ascii(), format!("{name}."));
        assert_eq!(addresses(&reply), is(TRUE));
        let cname_free = &reply.answers[0].name;
        assert_eq!(
            cname_free.to_ascii().to_ascii_lowercase(),
            format!("{name}.").to_lowercase()
        );
    }
    let heard = network.heard(server());
    assert_eq!(heard.len(), 20, "each was asked once");
    let spelt: HashSet<Vec<u8>> = heard.iter().map(|one| one.bytes[17..].to_vec()).collect();
    assert!(spelt.len() > 15, "{} spellings of 20", spelt.len());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_in_lower_case_is_asked_in_lower_case_from_then_on() {
    let network = MemoryNetwork::default();
    network.serve(server(), |heard, _| vec![Act::Send(folded(heard, TRUE))]);
    let world = world(&network);
    assert_eq!(ask(&world, "first-of-all").await, is(TRUE));
    let heard = network.heard(server());
    assert_eq!(
        heard.iter().map(is_lower).collect::<Vec<_>>(),
        [false, true]
    );
    assert_ne!(heard[0].bytes[..2], heard[1].bytes[..2], "a fresh id");
    assert_ne!(heard[0].from, heard[1].from, "a fresh port");
    for n in 0..5 {
        assert_eq!(ask(&world, &format!("later-{n}")).await, is(TRUE));
    }
    let heard = network.heard(server());
    assert_eq!(heard.len(), 7);
    assert!(heard[2..].iter().all(is_lower));
}

#[tokio::test(start_paused = true)]
async fn a_forger_who_has_port_and_id_but_not_the_case_is_not_believed() {
    // The true answer comes over TCP, where the gateway asks again, or later over UDP.
    for over_tcp in [true, false] {
        let network = MemoryNetwork::default();
        network.serve(server(), move |heard, nth| {
            if nth == 0 {
                return vec![Act::Send(answer(heard, TRUE))];
            }
            if heard.tcp {
                let act = over_tcp.then(|| Act::Send(answer(heard, TRUE)));
                return act.into_iter().collect();
            }
            let forged = Act::Send(folded(heard, FORGED));
            let late = Act::Wait(Duration::from_millis(100));
            match over_tcp {
                true => vec![forged],
                false => vec![forged, late, Act::Send(answer(heard, TRUE))],
            }
        });
        let world = world(&network);
        assert_eq!(ask(&world, "it-is-known-to-keep-the-case").await, is(TRUE));
        for n in 0..3 {
            assert_eq!(ask(&world, &format!("attacked-{n}")).await, is(TRUE));
        }
        assert!(!world.leases.is_leased(FORGED.parse().unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_replaced_by_one_that_folds_is_learnt_anew() {
    let network = MemoryNetwork::default();
    network.serve(server(), |heard, nth| {
        let new = nth > 0;
        vec![Act::Send(if new {
            folded(heard, TRUE)
        } else {
            answer(heard, TRUE)
        })]
    });
    let world = world(&network);
    for n in 0..12 {
        assert_eq!(ask(&world, &format!("never-lost-{n}")).await, is(TRUE));
    }
    let heard = network.heard(server());
    assert!(
        heard.iter().any(|one| one.tcp),
        "not believed over UDP at first"
    );
    let last = heard.last().unwrap();
    assert!(is_lower(last) && !last.tcp, "at last it is known");
}

#[tokio::test(start_paused = true)]
async fn an_error_without_a_question_teaches_nothing_about_case() {
    let network = MemoryNetwork::default();
    network.serve(server(), |heard, nth| {
        if nth < 2 {
            let mut bytes = heard.bytes[..12].to_vec();
            bytes[2] |= 0x80;
            bytes[3] = 2;
            bytes[4..12].fill(0);
            return vec![Act::Send(bytes)];
        }
        vec![Act::Send(folded(heard, TRUE))]
    });
    let world = world(&network);
    assert_eq!(ask(&world, "a-name-with-letters").await, is(TRUE));
    assert!(
        !network.heard(server()).iter().any(|one| one.tcp),
        "never taken for a keeper"
    );
}

#[tokio::test(start_paused = true)]
async fn edns_is_left_out_at_once_and_for_good_where_it_is_not_known() {
    let network = MemoryNetwork::default();
    network.serve(server(), |heard, _| {
        let query = heard.message();
        if query.edns.is_none() {
            return vec![Act::Send(answer(heard, TRUE))];
        }
        let mut reply = response(&query);
        reply.metadata.response_code = ResponseCode::FormErr;
        vec![Act::Send(reply.to_vec().unwrap())]
    });
    let world = world(&network);
    let started = tokio::time::Instant::now();
    assert_eq!(ask(&world, "first").await, is(TRUE));
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(ask(&world, "second").await, is(TRUE));
    let edns: Vec<bool> = network
        .heard(server())
        .iter()
        .map(|one| one.message().edns.is_some())
        .collect();
    assert_eq!(edns, [true, false, false]);
}
