//! The service on real sockets: UDP on a wildcard address, TCP frames.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::world::*;

const PATIENCE: Duration = Duration::from_secs(30);

async fn udp(world: &World, bind: &str) -> (u16, CancellationToken) {
    let socket = UdpSocket::bind(bind).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let token = CancellationToken::new();
    tokio::spawn(world.service.clone().serve_udp(socket, token.clone()));
    (port, token)
}

async fn tcp(world: &World) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = CancellationToken::new();
    tokio::spawn(world.service.clone().serve_tcp(listener, token.clone()));
    (address, token)
}

async fn world() -> (World, Server) {
    let server = Server::scripted(|heard, _| {
        let zone = Zone::new("fast.example 60 A 192.0.2.1\nslow.example 60 A 192.0.2.2");
        let wait = if heard.question().starts_with("slow.") {
            200
        } else {
            0
        };
        let answer = zone.answer(&heard.message());
        vec![Act::Wait(Duration::from_millis(wait)), Act::Send(answer)]
    })
    .await;
    let world = World::new(&["fast.example", "slow.example"], &[&server]);
    (world, server)
}

async fn ask_udp(server: SocketAddr, message: &[u8]) -> Message {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let client = UdpSocket::bind(any).await.unwrap();
    // Connected: the kernel drops a reply that comes from any other address than the one asked.
    client.connect(server).await.unwrap();
    client.send(message).await.unwrap();
    let mut buffer = [0; 2048];
    let length = timeout(PATIENCE, client.recv(&mut buffer))
        .await
        .expect("a reply")
        .unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

#[tokio::test]
async fn a_udp_reply_leaves_from_the_address_that_was_asked() {
    let (world, _server) = world().await;
    let (port, _token) = udp(&world, "0.0.0.0:0").await;
    for address in ["127.0.0.1", "127.0.0.53", "127.8.8.8"] {
        let server = SocketAddr::new(address.parse().unwrap(), port);
        for name in ["fast.example", "slow.example", "other.example"] {
            let reply = ask_udp(server, &query(name, A_TYPE, None)).await;
            assert_eq!(reply.metadata.id, CLIENT_ID, "{address} {name}");
        }
    }
}

#[tokio::test]
async fn a_udp_reply_leaves_from_the_ipv6_address_that_was_asked() {
    let (world, _server) = world().await;
    let (port, _token) = udp(&world, "[::]:0").await;
    let server = SocketAddr::new("::1".parse().unwrap(), port);
    let reply = ask_udp(server, &query("fast.example", A_TYPE, None)).await;
    assert_eq!(addresses(&reply).len(), 1);
}

#[tokio::test]
async fn a_and_aaaa_on_one_socket_both_get_answers() {
    let (world, _server) = world().await;
    let (port, _token) = udp(&world, "127.0.0.1:0").await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(("127.0.0.1", port)).await.unwrap();
    client
        .send(&query("slow.example", A_TYPE, None))
        .await
        .unwrap();
    client
        .send(&query("slow.example", AAAA_TYPE, None))
        .await
        .unwrap();
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let mut buffer = [0; 512];
        let length = timeout(PATIENCE, client.recv(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        let reply = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        kinds.push(u16::from(reply.queries[0].query_type()));
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [A_TYPE, AAAA_TYPE]);
}

#[tokio::test]
async fn an_oversized_datagram_does_not_stop_the_service() {
    let (world, server) = world().await;
    let (port, _token) = udp(&world, "127.0.0.1:0").await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for size in [0, 1, 11, 4_097, 60_000] {
        let mut junk = query("fast.example", A_TYPE, None);
        junk.resize(size, 0xAA);
        client.send_to(&junk, address).await.unwrap();
    }
    let reply = ask_udp(address, &query("fast.example", A_TYPE, None)).await;
    assert_eq!(addresses(&reply).len(), 1);
    server.assert_one_lookup();
}

#[tokio::test]
async fn cancelling_ends_both_services() {
    let (world, _server) = world().await;
    let token = CancellationToken::new();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let udp = tokio::spawn(world.service.clone().serve_udp(socket, token.clone()));
    let tcp = tokio::spawn(world.service.clone().serve_tcp(listener, token.clone()));
    token.cancel();
    timeout(PATIENCE, udp).await.unwrap().unwrap().unwrap();
    timeout(PATIENCE, tcp).await.unwrap().unwrap().unwrap();
}

fn frame(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

async fn read_reply(stream: &mut TcpStream) -> Message {
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut bytes = vec![0; length.into()];
    timeout(PATIENCE, stream.read_exact(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    Message::from_vec(&bytes).unwrap()
}

/// Whether the server ended the connection.
async fn ended(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    matches!(
        timeout(PATIENCE, stream.read(&mut byte)).await,
        Ok(Ok(0) | Err(_))
    )
}

#[tokio::test]
async fn rfc_7766_pipelined_queries_are_answered_as_they_become_ready() {
    let (world, _server) = world().await;
    let (address, _token) = tcp(&world).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut both = frame(&query("slow.example", A_TYPE, None));
    both.extend(frame(&query("fast.example", A_TYPE, None)));
    stream.write_all(&both).await.unwrap();
    let first = read_reply(&mut stream).await;
    let second = read_reply(&mut stream).await;
    assert_eq!(first.queries[0].name().to_ascii(), "fast.example.");
    assert_eq!(second.queries[0].name().to_ascii(), "slow.example.");
    let protocols: Vec<String> = world
        .records()
        .iter()
        .map(|r| r["protocol"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        protocols.iter().all(|protocol| protocol == "dns-tcp"),
        "{protocols:?}"
    );
}

#[tokio::test]
async fn a_denied_name_never_reaches_upstream_by_tcp() {
    let (world, server) = world().await;
    let (address, _token) = tcp(&world).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(&frame(&query("other.example", A_TYPE, Some(1232))))
        .await
        .unwrap();
    let reply = read_reply(&mut stream).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert!(server.heard().is_empty());
    assert_eq!(world.record()["protocol"], "dns-tcp");
}

#[tokio::test]
async fn a_thousand_pipelined_queries_are_all_answered() {
    let (world, server) = world().await;
    let (address, _token) = tcp(&world).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let send = tokio::spawn(async move {
        for n in 0..1_000u16 {
            let mut message = query("slow.example", A_TYPE, None);
            message[..2].copy_from_slice(&n.to_be_bytes());
            writer.write_all(&frame(&message)).await.unwrap();
        }
        writer
    });
    let mut ids = std::collections::HashSet::new();
    for _ in 0..1_000 {
        let length = timeout(PATIENCE, reader.read_u16()).await.unwrap().unwrap();
        let mut bytes = vec![0; length.into()];
        reader.read_exact(&mut bytes).await.unwrap();
        ids.insert(bytes[..2].to_vec());
    }
    assert_eq!(ids.len(), 1_000);
    server.assert_one_lookup();
    drop(send.await.unwrap());
}

#[tokio::test]
async fn a_frame_of_bad_length_ends_the_connection_and_is_recorded() {
    for length in [0u16, 1, 11, 4_097, u16::MAX] {
        let (world, server) = world().await;
        let (address, _token) = tcp(&world).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(&frame(&query("fast.example", A_TYPE, None)));
        stream.write_all(&bytes).await.unwrap();
        assert!(ended(&mut stream).await, "length {length}");
        assert!(server.heard().is_empty(), "length {length}");
        assert_eq!(world.record()["reason"], "malformed");
    }
}

#[tokio::test]
async fn a_client_that_half_closes_still_gets_its_answer() {
    let (world, _server) = world().await;
    let (address, _token) = tcp(&world).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(&frame(&query("slow.example", A_TYPE, None)))
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(addresses(&read_reply(&mut stream).await).len(), 1);
    assert!(ended(&mut stream).await);
}

#[tokio::test]
async fn too_many_tcp_clients_are_refused_and_the_others_served() {
    let (world, _server) = world().await;
    let (address, _token) = tcp(&world).await;
    let mut idle = Vec::new();
    for _ in 0..128 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(&frame(&query("fast.example", A_TYPE, None)))
            .await
            .unwrap();
        read_reply(&mut stream).await;
        idle.push(stream);
    }
    let mut extra = TcpStream::connect(address).await.unwrap();
    assert!(ended(&mut extra).await);
    idle[0]
        .write_all(&frame(&query("fast.example", A_TYPE, None)))
        .await
        .unwrap();
    assert_eq!(addresses(&read_reply(&mut idle[0]).await).len(), 1);
    assert!(
        world
            .records()
            .iter()
            .any(|record| record["reason"] == "too-many-connections")
    );
    drop(Arc::new(idle));
}
