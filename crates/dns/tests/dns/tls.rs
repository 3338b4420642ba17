//! RFC 7858: resolvers over TLS.

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};

use crate::secure_world::{Act, Authority, SecureServer, secure_world};
use crate::world::{A_TYPE, Heard, Server, World, Zone, addresses};

/// An answer for any name; the last number of the address is the length of its first label.
fn good(heard: &Heard) -> Vec<u8> {
    let query = heard.message();
    let name = query.queries[0].name().to_lowercase();
    let length = name.iter().next().map_or(0, <[u8]>::len);
    Zone::new(&format!("{name} 60 A 203.0.113.{length}")).answer(&query)
}

async fn ask(world: &World, label: &str) -> Vec<String> {
    let reply = world.ask(&format!("{label}.example"), A_TYPE).await;
    addresses(&reply).iter().map(ToString::to_string).collect()
}

fn at(server: &SecureServer) -> String {
    format!("tls://{}", server.address)
}

#[tokio::test]
async fn questions_share_one_connection_and_are_padded() {
    let authority = Authority::new();
    let server = SecureServer::tls((&authority, &["127.0.0.1"]), |heard, _, _| {
        vec![Act::Send(good(heard))]
    })
    .await;
    let world = secure_world(&authority, &[at(&server)], "");
    for label in ["a", "bb", "a-much-longer-label-than-those"] {
        let expected = format!("203.0.113.{}", label.len());
        assert_eq!(ask(&world, label).await, [expected]);
    }
    // A second one where the machine took longer to answer than an attempt waits.
    assert!(server.connections() <= 2, "{}", server.connections());
    let heard = server.heard();
    assert!(heard.len() >= 3, "{}", heard.len());
    for one in &heard {
        assert_eq!(one.heard.bytes.len(), 128, "RFC 8467 4.1");
        let name = one.heard.message().queries[0].name().to_ascii();
        assert_eq!(name, name.to_ascii_lowercase(), "no need for 0x20 here");
    }
    assert_ne!(heard[0].heard.bytes[..2], heard[1].heard.bytes[..2]);
    let records = world.records();
    for record in &records {
        assert_eq!(record["upstream"], at(&server), "{record}");
    }
}

#[tokio::test]
async fn answers_in_any_order_find_their_questions() {
    let authority = Authority::new();
    let server = SecureServer::tls((&authority, &["127.0.0.1"]), |heard, _, _| {
        let mut acts = vec![Act::Send(good(heard))];
        if heard.question().starts_with("slow") {
            acts.insert(0, Act::Wait(Duration::from_millis(150)));
        }
        acts
    })
    .await;
    let world = secure_world(&authority, &[at(&server)], "");
    assert_eq!(ask(&world, "first").await, ["203.0.113.5"], "connected");
    let mut answers = Vec::new();
    let slow = ask(&world, "slow-and-long");
    let fast = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        ask(&world, "fast").await
    };
    tokio::pin!(slow, fast);
    for _ in 0..2 {
        tokio::select! {
            answer = &mut slow, if answers.iter().all(|(n, _)| *n != 0) => answers.push((0, answer)),
            answer = &mut fast, if answers.iter().all(|(n, _)| *n != 1) => answers.push((1, answer)),
        }
    }
    answers.sort();
    assert_eq!(answers[0].1, ["203.0.113.13"]);
    assert_eq!(answers[1].1, ["203.0.113.4"]);
    assert!(server.connections() <= 2, "{}", server.connections());
}

#[tokio::test]
async fn fifty_questions_at_once_take_no_more_than_two_connections() {
    let authority = Authority::new();
    let server = SecureServer::tls((&authority, &["127.0.0.1"]), |heard, _, _| {
        vec![Act::Wait(Duration::from_millis(20)), Act::Send(good(heard))]
    })
    .await;
    let world = Arc::new(secure_world(&authority, &[at(&server)], ""));
    assert_eq!(ask(&world, "first").await, ["203.0.113.5"]);
    let asked: Vec<_> = (0..50)
        .map(|n| {
            let world = world.clone();
            tokio::spawn(async move { ask(&world, &format!("n{n}")).await })
        })
        .collect();
    for one in asked {
        assert_eq!(one.await.unwrap().len(), 1);
    }
    assert!(server.connections() <= 2, "{}", server.connections());
}

/// SERVFAIL, a record that says TLS, and not a byte to the server or to anybody else.
async fn assert_refused(world: &World, server: &SecureServer, why: &str) {
    let reply = world.ask("secret.example", A_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let record = world.record();
    assert_eq!(record["reason"], "dns-failed", "{record}");
    let detail = record["detail"].as_str().unwrap().to_lowercase();
    assert!(detail.contains("tls: ") && detail.contains(why), "{detail}");
    assert!(server.heard().is_empty(), "nothing is said to a stranger");
}

#[tokio::test]
async fn a_certificate_for_another_name_or_address_is_refused() {
    let authority = Authority::new();
    for names in [
        &["dns.other.example"][..],
        &["127.0.0.2"],
        &["127.0.0.1.example"],
    ] {
        let server = SecureServer::tls((&authority, names), |heard, _, _| {
            vec![Act::Send(good(heard))]
        })
        .await;
        let world = secure_world(&authority, &[at(&server)], "");
        assert_refused(&world, &server, "not valid for").await;
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = SecureServer::tls((&stranger, &["127.0.0.1"]), |heard, _, _| {
        vec![Act::Send(good(heard))]
    })
    .await;
    let world = secure_world(&authority, &[at(&server)], "");
    assert_refused(&world, &server, "").await;
}

#[tokio::test]
async fn a_named_server_is_found_by_plain_resolvers_and_must_prove_its_name() {
    let authority = Authority::new();
    let plain = Server::with_zone(Zone::new(
        "dns.test 60 CNAME ns1.dns.test\nns1.dns.test 60 A 127.0.0.1\nsecret.example 60 A 203.0.113.66",
    ))
    .await;
    for (certificate, good_name) in [("dns.test", true), ("ns1.dns.test", false)] {
        let server = SecureServer::tls((&authority, &[certificate]), |heard, _, _| {
            vec![Act::Send(good(heard))]
        })
        .await;
        let named = format!("tls://dns.test:{}", server.address.port());
        let bootstrap = format!("bootstrap = [\"{}\"]", plain.address);
        let world = secure_world(&authority, std::slice::from_ref(&named), &bootstrap);
        if good_name {
            assert_eq!(ask(&world, "secret").await, ["203.0.113.6"]);
            assert_eq!(ask(&world, "another").await, ["203.0.113.7"]);
            assert_eq!(world.records()[0]["upstream"], named);
        } else {
            // The CNAME's target is not who the operator named.
            assert_refused(&world, &server, "not valid for").await;
        }
        let asked = plain.questions();
        assert!(
            asked.iter().all(|name| name.starts_with("dns.test.")),
            "{asked:?}"
        );
    }
    // One lookup for each gateway, of up to four queries on a busy machine; then it is known.
    let asked = plain.heard().len();
    assert!((2..=8).contains(&asked), "{asked} queries");
}

#[tokio::test]
async fn a_server_whose_name_nobody_can_be_asked_for_is_an_error_that_says_so() {
    let authority = Authority::new();
    let world = secure_world(&authority, &["tls://dns.test".to_owned()], "");
    let reply = world.ask("secret.example", A_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let record = world.record();
    assert_eq!(record["reason"], "dns-unreachable");
    let detail = record["detail"].as_str().unwrap();
    assert!(
        detail.contains("tls://dns.test:853") && detail.contains("no upstream resolver"),
        "{detail}"
    );
}

#[tokio::test]
async fn a_connection_that_ends_in_mid_answer_is_made_again() {
    let authority = Authority::new();
    let server = SecureServer::tls((&authority, &["127.0.0.1"]), |heard, connection, _| {
        let whole = good(heard);
        if connection > 0 {
            return vec![Act::Send(whole)];
        }
        let mut half = (whole.len() as u16).to_be_bytes().to_vec();
        half.extend_from_slice(&whole[..whole.len() / 2]);
        vec![Act::Raw(half), Act::Close]
    })
    .await;
    let world = secure_world(&authority, &[at(&server)], "");
    assert_eq!(ask(&world, "secret").await, ["203.0.113.6"]);
    assert!(server.connections() >= 2);
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_loses_no_question() {
    let authority = Authority::new();
    let server = SecureServer::tls((&authority, &["127.0.0.1"]), |heard, _, _| {
        vec![Act::Send(good(heard)), Act::Close]
    })
    .await;
    let world = secure_world(&authority, &[at(&server)], "");
    for n in 10..20 {
        assert_eq!(ask(&world, &format!("n{n}")).await, ["203.0.113.3"]);
    }
}

#[tokio::test]
async fn a_frame_of_impossible_length_or_another_questions_answer_fails_over() {
    let authority = Authority::new();
    let broken: [fn(&Heard) -> Act; 3] = [
        |_| Act::Raw(vec![0, 0]),
        |_| Act::Raw(vec![0, 5, 1, 2, 3, 4, 5]),
        |heard| {
            let mut other = good(heard);
            other[13] ^= 1;
            Act::Send(other)
        },
    ];
    let second = SecureServer::tls((&authority, &["127.0.0.1"]), |heard, _, _| {
        vec![Act::Send(good(heard))]
    })
    .await;
    for act in broken {
        let first = SecureServer::tls((&authority, &["127.0.0.1"]), move |heard, _, _| {
            vec![act(heard)]
        })
        .await;
        let world = secure_world(&authority, &[at(&first), at(&second)], "");
        assert_eq!(ask(&world, "secret").await, ["203.0.113.6"]);
        assert!(!first.heard().is_empty());
    }
}

#[tokio::test]
async fn answers_to_nothing_and_wrong_ids_are_skipped() {
    let authority = Authority::new();
    let server = SecureServer::tls((&authority, &["127.0.0.1"]), |heard, _, _| {
        let mut stray = good(heard);
        stray[0] ^= 0x55;
        vec![Act::Send(stray), Act::Send(good(heard))]
    })
    .await;
    let world = secure_world(&authority, &[at(&server)], "");
    assert_eq!(ask(&world, "secret").await, ["203.0.113.6"]);
}

#[tokio::test]
async fn a_silent_server_is_passed_over_and_nothing_falls_back_to_plain_dns() {
    let authority = Authority::new();
    let silent = SecureServer::tls((&authority, &["127.0.0.1"]), |_, _, _| Vec::new()).await;
    let good_one = SecureServer::tls((&authority, &["127.0.0.1"]), |heard, _, _| {
        vec![Act::Send(good(heard))]
    })
    .await;
    let world = secure_world(&authority, &[at(&silent), at(&good_one)], "");
    assert_eq!(ask(&world, "secret").await, ["203.0.113.6"]);
    // A port where plain DNS is served, and nothing over TLS.
    let plain = Server::with_zone(Zone::new("secret.example 60 A 203.0.113.66")).await;
    let world = secure_world(&authority, &[format!("tls://{}", plain.address)], "");
    let reply: Message = world.ask("secret.example", A_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let said: Vec<u8> = plain.heard().iter().flat_map(|h| h.bytes.clone()).collect();
    assert!(!said.windows(6).any(|w| w.eq_ignore_ascii_case(b"secret")));
}
