//! Bursts and repeated questions over UDP: batches on the socket, answers given once more.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::world::*;

const PATIENCE: Duration = Duration::from_secs(20);

const ZONE: &str = "listed.example 60 A 192.0.2.1\n\
                    alias.example 60 CNAME end.example\n\
                    end.example 60 A 192.0.2.2";

async fn world(rules: &[&str]) -> World {
    let server = Server::with_zone(Zone::new(ZONE)).await;
    World::new(rules, &[&server])
}

/// A socket, and where it is asked: on the loopback, whatever it is bound to.
async fn bind(address: &str) -> (UdpSocket, u16) {
    let socket = UdpSocket::bind(address).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

fn serve(world: &World, socket: UdpSocket) -> DropGuard {
    let token = CancellationToken::new();
    tokio::spawn(world.service.clone().serve_udp(socket, token.clone()));
    token.drop_guard()
}

/// A client of one server: the kernel drops what comes from any other address than it asked.
struct Client(UdpSocket);

impl Client {
    async fn of(server: SocketAddr) -> Client {
        let any = if server.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).await.unwrap();
        socket.connect(server).await.unwrap();
        Client(socket)
    }

    async fn send(&self, id: u16, mut message: Vec<u8>) {
        message[..2].copy_from_slice(&id.to_be_bytes());
        self.0.send(&message).await.unwrap();
    }

    async fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        let length = timeout(PATIENCE, self.0.recv(&mut buffer))
            .await
            .expect("a reply")
            .unwrap();
        buffer.truncate(length);
        buffer
    }

    async fn ask(&self, id: u16, name: &str) -> Message {
        self.send(id, query(name, A_TYPE, Some(1232))).await;
        let reply = Message::from_vec(&self.receive().await).unwrap();
        assert_eq!(reply.metadata.id, id, "{name}");
        reply
    }
}

/// A client on the loopback, of a socket that is served there.
async fn client(world: &World) -> (Client, DropGuard) {
    let (socket, port) = bind("127.0.0.1:0").await;
    let guard = serve(world, socket);
    (Client::of(([127, 0, 0, 1], port).into()).await, guard)
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

/// Sends a burst of more than a batch to each of `addresses`, from several clients, before anybody
/// reads the socket, with what is no query in between.
async fn burst(bound: &str, addresses: &[&str]) {
    const CLIENTS: usize = 5;
    const QUERIES: u16 = 9;
    let world = world(&["listed.example"]).await;
    let (socket, port) = bind(bound).await;
    let mut clients = Vec::new();
    for address in addresses {
        for _ in 0..CLIENTS {
            clients.push(Client::of(SocketAddr::new(address.parse().unwrap(), port)).await);
        }
    }
    assert!(
        clients.len() * usize::from(QUERIES) > 128,
        "two batches and more"
    );
    for id in 0..QUERIES {
        for client in &clients {
            let name = ["listed.example", "denied.example"][usize::from(id) % 2];
            client.send(id, query(name, A_TYPE, Some(1232))).await;
        }
        if id % 4 == 0 {
            let mut junk = query("listed.example", A_TYPE, None);
            junk.resize(3_000, 0);
            clients[0].send(999, junk).await;
        }
    }
    let _serving = serve(&world, socket);
    for client in &clients {
        let mut ids = HashSet::new();
        for _ in 0..QUERIES {
            let reply = Message::from_vec(&client.receive().await).unwrap();
            let id = reply.metadata.id;
            let expected = match id % 2 {
                0 => (ResponseCode::NoError, "listed.example."),
                _ => (ResponseCode::NXDomain, "denied.example."),
            };
            let name = reply.queries[0].name().to_ascii();
            assert_eq!((code(&reply), &*name), expected);
            ids.insert(id);
        }
        assert_eq!(ids, (0..QUERIES).collect());
    }
    let denied: u64 = world
        .records()
        .iter()
        .filter(|record| record["name"] == "denied.example")
        .map(|record| record["count"].as_u64().unwrap())
        .sum();
    let odd = usize::from(QUERIES) / 2;
    assert_eq!(denied, (clients.len() * odd) as u64, "each denial counts");
}

#[tokio::test]
async fn a_burst_is_answered_from_each_address_that_was_asked() {
    burst("0.0.0.0:0", &["127.0.0.1", "127.0.0.53", "127.8.8.8"]).await;
}

#[tokio::test]
async fn a_burst_on_an_ipv6_socket_is_answered_from_each_address_that_was_asked() {
    // IPv4 clients of the same socket show as mapped addresses.
    burst("[::]:0", &["::1", "127.0.0.1", "127.8.8.8"]).await;
}

#[tokio::test]
async fn a_burst_on_a_socket_of_one_address_is_answered() {
    burst("127.0.0.1:0", &["127.0.0.1"; 3]).await;
}

#[tokio::test]
async fn a_client_that_never_reads_does_not_hold_up_another() {
    let world = world(&["listed.example"]).await;
    let (socket, port) = bind("127.0.0.1:0").await;
    let server = SocketAddr::from(([127, 0, 0, 1], port));
    let _serving = serve(&world, socket);
    let deaf = Client::of(server).await;
    for id in 0..3_000 {
        deaf.send(id, query("listed.example", A_TYPE, None)).await;
        if id % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    // The burst may have filled the server's queue: a client asks again, as they all do.
    let client = Client::of(server).await;
    for id in 0.. {
        client.send(id, query("listed.example", A_TYPE, None)).await;
        let mut buffer = [0; 512];
        let reply = timeout(Duration::from_secs(1), client.0.recv(&mut buffer)).await;
        if reply.is_ok() {
            break;
        }
        assert!(id < 20, "no reply");
    }
}

#[tokio::test]
async fn repeated_questions_are_answered_alike_and_all_counted() {
    let world = world(&["listed.example"]).await;
    let (client, _serving) = client(&world).await;
    const TIMES: u16 = 40;
    let mut shown = HashSet::new();
    for id in 0..TIMES {
        let reply = client.ask(id, "listed.example").await;
        assert_eq!(addresses(&reply).len(), 1);
        client
            .send(id, query("denied.example", A_TYPE, Some(1232)))
            .await;
        let (_, text) = ede(&client.receive().await).expect("an extended error");
        shown.insert(text.rsplit_once("id=").unwrap().1.to_owned());
    }
    let records = world.records();
    let counted = |name: &str| -> u64 {
        let of_name = records.iter().filter(|record| record["name"] == name);
        of_name
            .map(|record| record["count"].as_u64().unwrap())
            .sum()
    };
    assert_eq!(counted("listed.example"), u64::from(TIMES));
    assert_eq!(counted("denied.example"), u64::from(TIMES));
    // Denials share a record for a second, which a slow machine may pass.
    let written: HashSet<String> = records
        .iter()
        .filter(|record| record["verdict"] == "deny")
        .map(|record| record["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(shown, written, "the ids that were shown are the records'");
}

#[tokio::test]
async fn rfc_1035_ttls_of_repeated_answers_count_down() {
    let world = world(&["listed.example"]).await;
    let (client, _serving) = client(&world).await;
    for left in [60, 59, 55, 54] {
        for id in 0..4 {
            let reply = client.ask(id, "listed.example").await;
            assert_eq!(reply.answers[0].ttl, left);
        }
        world.clock.advance(Duration::from_secs(match left {
            59 => 4,
            _ => 1,
        }));
    }
}

#[tokio::test]
async fn a_new_policy_holds_for_repeated_questions() {
    let world = world(&["listed.example"]).await;
    let (client, _serving) = client(&world).await;
    for round in 0..3 {
        for id in 0..4 {
            let listed = client.ask(id, "listed.example").await;
            let other = client.ask(id, "end.example").await;
            let expected = match round {
                1 => [ResponseCode::NXDomain, ResponseCode::NoError],
                _ => [ResponseCode::NoError, ResponseCode::NXDomain],
            };
            assert_eq!([code(&listed), code(&other)], expected, "round {round}");
        }
        let next = if round == 0 {
            "end.example"
        } else {
            "listed.example"
        };
        world.policy.store(policy(&[next]).into());
    }
}

#[tokio::test]
async fn a_refused_name_that_turns_out_canonical_is_answered_at_once() {
    let world = world(&["alias.example"]).await;
    let (client, _serving) = client(&world).await;
    for id in 0..4 {
        let reply = client.ask(id, "end.example").await;
        assert_eq!(code(&reply), ResponseCode::NXDomain);
    }
    client.ask(5, "alias.example").await;
    let reply = client.ask(6, "end.example").await;
    assert_eq!(addresses(&reply).len(), 1);
}

#[tokio::test]
async fn the_question_comes_back_as_it_was_spelt() {
    let world = world(&["listed.example"]).await;
    let (client, _serving) = client(&world).await;
    for id in 0..4 {
        for name in ["listed.example", "LISTED.example", "liSted.eXample"] {
            for edns in [None, Some(1232)] {
                let asked = query(name, A_TYPE, edns);
                client.send(id, asked.clone()).await;
                let reply = client.receive().await;
                let question = 12..12 + name.len() + 6;
                assert_eq!(reply[question.clone()], asked[question]);
                let message = Message::from_vec(&reply).unwrap();
                assert_eq!(message.edns.is_some(), edns.is_some());
            }
        }
    }
}
