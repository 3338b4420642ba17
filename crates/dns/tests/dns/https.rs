//! RFC 8484: resolvers over HTTPS.

use std::time::Duration;

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;

use crate::secure_world::{Authority, SecureServer, secure_world};
use crate::world::{A_TYPE, Heard, World, Zone, addresses};

const LOOPBACK: &[&str] = &["127.0.0.1"];
const TWO: &[&str] = &["h2", "http/1.1"];
const ONE: &[&str] = &["http/1.1"];

fn message(heard: &Heard) -> Vec<u8> {
    let query = heard.message();
    let name = query.queries[0].name().to_lowercase();
    let length = name.iter().next().map_or(0, <[u8]>::len);
    Zone::new(&format!("{name} 600 A 203.0.113.{length}")).answer(&query)
}

fn with_type(kind: &str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let response = Response::builder().header("content-type", kind);
    response.body(Full::new(body.into())).unwrap()
}

fn good(heard: &Heard) -> Response<Full<Bytes>> {
    with_type("application/dns-message", message(heard))
}

async fn ask(world: &World, label: &str) -> Vec<String> {
    let reply = world.ask(&format!("{label}.example"), A_TYPE).await;
    addresses(&reply).iter().map(ToString::to_string).collect()
}

fn at(server: &SecureServer) -> String {
    format!("https://{}/dns-query", server.address)
}

#[tokio::test]
async fn each_question_is_a_post_on_one_connection() {
    let authority = Authority::new();
    for (alpn, version) in [(TWO, "HTTP/2.0"), (ONE, "HTTP/1.1"), (&[][..], "HTTP/1.1")] {
        let server =
            SecureServer::https((&authority, LOOPBACK), alpn, |heard, _| good(heard)).await;
        let world = secure_world(&authority, &[at(&server)], "");
        for label in ["a", "bb", "ccc"] {
            let expected = format!("203.0.113.{}", label.len());
            assert_eq!(ask(&world, label).await, [expected], "{version}");
        }
        // A second one where the machine took longer to answer than an attempt waits.
        assert!(server.connections() <= 2, "{version}");
        for one in server.heard() {
            assert!(one.head.starts_with("POST "), "{}", one.head);
            assert!(
                one.head.contains("/dns-query ") && one.head.contains(version),
                "{}",
                one.head
            );
            assert!(one.head.contains("\"accept\": \"application/dns-message\""));
            assert!(
                one.head
                    .contains("\"content-type\": \"application/dns-message\"")
            );
            assert!(!one.head.contains("user-agent"), "{}", one.head);
            assert_eq!(one.heard.bytes[..2], [0, 0], "RFC 8484 4.1");
            assert_eq!(one.heard.bytes.len(), 128, "RFC 8467 4.1");
        }
        assert_eq!(world.records()[0]["upstream"], at(&server));
    }
}

#[tokio::test]
async fn many_questions_at_once_are_streams_or_wait_their_turn() {
    let authority = Authority::new();
    for alpn in [TWO, ONE] {
        let server =
            SecureServer::https((&authority, LOOPBACK), alpn, |heard, _| good(heard)).await;
        let world = std::sync::Arc::new(secure_world(&authority, &[at(&server)], ""));
        assert_eq!(ask(&world, "first").await, ["203.0.113.5"]);
        let asked: Vec<_> = (0..40)
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
}

#[tokio::test]
async fn what_is_no_dns_answer_fails_over() {
    let authority = Authority::new();
    let second = SecureServer::https((&authority, LOOPBACK), TWO, |heard, _| good(heard)).await;
    type Script = fn(&Heard) -> Response<Full<Bytes>>;
    let broken: [(&str, Script); 6] = [
        ("status 500", |heard| {
            let mut response = good(heard);
            *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
            response
        }),
        ("a redirect", |heard| {
            let mut response = good(heard);
            *response.status_mut() = hyper::StatusCode::FOUND;
            let there = "https://elsewhere.example/dns-query".parse().unwrap();
            response.headers_mut().insert("location", there);
            response
        }),
        ("another media type", |heard| {
            with_type("text/html", message(heard))
        }),
        ("no DNS message", |_| {
            with_type("application/dns-message", b"<html>".to_vec())
        }),
        ("64 KiB and more", |heard| {
            let mut long = message(heard);
            long.resize(70_000, 0);
            with_type("application/dns-message", long)
        }),
        ("another question's answer", |heard| {
            let mut other = message(heard);
            other[13] ^= 1;
            with_type("application/dns-message", other)
        }),
    ];
    for (what, script) in broken {
        for alpn in [TWO, ONE] {
            let first =
                SecureServer::https((&authority, LOOPBACK), alpn, move |heard, _| script(heard))
                    .await;
            let world = secure_world(&authority, &[at(&first), at(&second)], "");
            assert_eq!(ask(&world, "secret").await, ["203.0.113.6"], "{what}");
            assert!(!first.heard().is_empty(), "{what}");
        }
    }
}

#[tokio::test]
async fn garbage_in_the_place_of_http_fails_over() {
    let authority = Authority::new();
    let second = SecureServer::https((&authority, LOOPBACK), TWO, |heard, _| good(heard)).await;
    for alpn in [TWO, ONE] {
        for garbage in [
            &b""[..],
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-type: application/dns-message\r\ncontent-length: 99\r\n\r\nhalf",
            &[0xFF; 4096],
        ] {
            let first = SecureServer::saying((&authority, LOOPBACK), alpn, garbage).await;
            let world = secure_world(&authority, &[at(&first), at(&second)], "");
            assert_eq!(ask(&world, "secret").await, ["203.0.113.6"]);
            assert!(first.connections() >= 1);
        }
    }
}

#[tokio::test]
async fn a_server_with_a_wrong_certificate_is_refused() {
    let authority = Authority::new();
    let wrong: &[&str] = &["dns.other.example"];
    let server = SecureServer::https((&authority, wrong), TWO, |heard, _| good(heard)).await;
    let world = secure_world(&authority, &[at(&server)], "");
    assert!(ask(&world, "secret").await.is_empty());
    assert!(server.heard().is_empty());
    assert_eq!(world.record()["reason"], "dns-failed");
}

#[tokio::test]
async fn rfc_8484_the_time_spent_in_http_caches_is_taken_off() {
    let authority = Authority::new();
    let server = SecureServer::https((&authority, LOOPBACK), TWO, |heard, _| {
        let mut response = good(heard);
        response.headers_mut().insert("age", "250".parse().unwrap());
        response
    })
    .await;
    let world = secure_world(&authority, &[at(&server)], "");
    let reply = world.ask("secret.example", A_TYPE).await;
    assert_eq!(reply.answers[0].ttl, 350, "of 600");
    let asked = server.heard().len();
    world.clock.advance(Duration::from_secs(351));
    world.ask("secret.example", A_TYPE).await;
    assert!(server.heard().len() > asked);
}
