//! A policy that changes under live traffic: what it no longer allows is reset on both sides and
//! recorded once, the rest notices nothing.

use tokio::net::TcpStream;

use crate::hello;
use crate::scenario;
use crate::talk::{End, Talk};
use crate::world::{Records, World};

/// Lists everything of the world's policy that the tests use, but a.example.
const WITHOUT_A: &str = "version = 1\n[network.domains]\n\"b.example\" = \"allow\"\n\
                         \"any.example:*\" = \"allow\"\n[network.addresses]\n\
                         \"198.51.100.0/24:8080\" = \"allow\"\n";

async fn connect(world: &World, authority: &str) -> TcpStream {
    let mut client = world.http().await;
    client
        .say(format!("CONNECT {authority} HTTP/1.1\r\n\r\n"))
        .await;
    client
        .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
        .await;
    client
}

async fn socks(world: &World, name: &str, port: u16) -> TcpStream {
    let mut client = world.socks().await;
    client.say([5, 1, 0]).await;
    assert_eq!(client.hear(2).await, [5, 0]);
    let mut request = vec![5, 1, 0, 3, name.len() as u8];
    request.extend(name.bytes());
    request.extend(port.to_be_bytes());
    client.say(request).await;
    assert_eq!(client.hear(10).await[..2], [5, 0]);
    client
}

/// Both sides were reset, whatever was on its way.
async fn is_cut(mut client: TcpStream, mut upstream: TcpStream) {
    assert_eq!(client.hear_all().await.1, End::Reset);
    assert_eq!(upstream.hear_all().await.1, End::Reset);
}

/// Bytes pass both ways.
async fn lives(client: &mut TcpStream, upstream: &mut TcpStream) {
    client.say("ping").await;
    upstream.hear_text("ping").await;
    upstream.say("pong").await;
    client.hear_text("pong").await;
}

fn closed_by_policy(records: &Records) -> usize {
    let closes = records.closes();
    let changed = |close: &&&serde_json::Value| close["close_reason"] == "policy-changed";
    closes.iter().filter(changed).count()
}

scenario!(
    tunnels_of_names_that_are_gone_are_cut_and_others_live,
    |world| {
        let a = world.listen("192.0.2.1:443").await;
        let b = world.listen("192.0.2.2:443").await;
        let mut client_a = connect(&world, "a.example:443").await;
        let mut upstream_a = a.accept().await;
        let mut client_b = connect(&world, "b.example:443").await;
        let mut upstream_b = b.accept().await;
        // One that has said something, one that has not, one by SOCKS.
        lives(&mut client_a, &mut upstream_a).await;
        let silent = connect(&world, "a.example:443").await;
        let silent_upstream = a.accept().await;
        let by_socks = socks(&world, "a.example", 443).await;
        let socks_upstream = a.accept().await;
        lives(&mut client_b, &mut upstream_b).await;
        assert_eq!(world.change(WITHOUT_A), 3);
        is_cut(client_a, upstream_a).await;
        is_cut(silent, silent_upstream).await;
        is_cut(by_socks, socks_upstream).await;
        lives(&mut client_b, &mut upstream_b).await;
        // New ones are refused, as ever.
        let mut refused = world.http().await;
        refused.say("CONNECT a.example:443 HTTP/1.1\r\n\r\n").await;
        assert!(refused.hear_head().await.starts_with("HTTP/1.1 403 "));
        let records = world.records_after(3).await;
        assert_eq!((records.closes().len(), closed_by_policy(&records)), (3, 3));
        drop((client_b, upstream_b));
        let records = world.records_after(4).await;
        assert_eq!((records.closes().len(), closed_by_policy(&records)), (4, 3));
        let (up, down) = (4, 4);
        let said =
            |close: &&&serde_json::Value| close["bytes_up"] == up && close["bytes_down"] == down;
        assert!(records.closes().iter().any(|close| said(&close)));
    }
);

scenario!(direct_connections_are_judged_by_what_they_showed, |world| {
    world.lease("192.0.2.1", "a.example");
    world.lease("192.0.2.1", "b.example");
    let server = world.listen("192.0.2.1:443").await;
    let mut by_sni = Vec::new();
    for name in ["a.example", "b.example"] {
        let mut client = world.connect("192.0.2.1:443").await;
        let mut upstream = server.accept().await;
        let hello = hello::hello(Some(name));
        client.say(&hello).await;
        assert_eq!(upstream.hear(hello.len()).await, hello);
        by_sni.push((client, upstream));
    }
    // One that speaks no TLS could be either name's.
    let mut raw = world.connect("192.0.2.1:443").await;
    let mut raw_upstream = server.accept().await;
    lives(&mut raw, &mut raw_upstream).await;
    // By an address rule, with nobody's name.
    let ruled = world.listen("198.51.100.7:8080").await;
    let mut by_rule = world.connect("198.51.100.7:8080").await;
    let mut by_rule_upstream = ruled.accept().await;
    lives(&mut by_rule, &mut by_rule_upstream).await;
    assert_eq!(world.change(WITHOUT_A), 1);
    let (mut client, mut upstream) = by_sni.pop().unwrap();
    lives(&mut client, &mut upstream).await;
    lives(&mut raw, &mut raw_upstream).await;
    lives(&mut by_rule, &mut by_rule_upstream).await;
    let (client_a, upstream_a) = by_sni.pop().unwrap();
    is_cut(client_a, upstream_a).await;
    // And now nothing at all.
    assert_eq!(world.change("version = 1\n"), 3);
    is_cut(client, upstream).await;
    is_cut(raw, raw_upstream).await;
    is_cut(by_rule, by_rule_upstream).await;
    let records = world.records_after(4).await;
    assert_eq!((records.closes().len(), closed_by_policy(&records)), (4, 4));
});

scenario!(
    a_direct_connection_that_waits_for_its_name_is_cut_too,
    |world| {
        world.lease("192.0.2.1", "a.example");
        let server = world.listen("192.0.2.1:443").await;
        let client = world.connect("192.0.2.1:443").await;
        let upstream = server.accept().await;
        world.change(WITHOUT_A);
        is_cut(client, upstream).await;
        let records = world.records_after(1).await;
        assert_eq!(closed_by_policy(&records), 1);
    }
);

scenario!(
    a_response_on_its_way_is_cut_and_the_next_request_is_refused,
    |world| {
        let a = world.listen("192.0.2.1:80").await;
        let b = world.listen("192.0.2.2:80").await;
        // In the middle of a response.
        let mut client = world.http().await;
        client
            .say("GET http://a.example/big HTTP/1.1\r\n\r\n")
            .await;
        let mut upstream = a.accept().await;
        upstream.hear_head().await;
        upstream
            .say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            .await;
        client.hear_head().await;
        client.hear_text("half").await;
        // Between two requests: cut as well, since it is there for that name alone.
        let mut idle = world.http().await;
        idle.say("GET http://a.example/small HTTP/1.1\r\n\r\n")
            .await;
        let mut idle_upstream = a.accept().await;
        idle_upstream.hear_head().await;
        idle_upstream
            .say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        idle.hear_head().await;
        idle.hear_text("ok").await;
        // A WebSocket to another name lives.
        let mut ws = world.http().await;
        ws.say(
            "GET http://b.example/ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .await;
        let mut ws_upstream = b.accept().await;
        ws_upstream.hear_head().await;
        ws_upstream
        .say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
        ws.hear_head().await;
        lives(&mut ws, &mut ws_upstream).await;
        world.records_after(1).await;
        assert_eq!(world.change(WITHOUT_A), 2);
        is_cut(client, upstream).await;
        is_cut(idle, idle_upstream).await;
        lives(&mut ws, &mut ws_upstream).await;
        let mut next = world.http().await;
        next.say("GET http://a.example/small HTTP/1.1\r\n\r\n")
            .await;
        assert!(next.hear_head().await.starts_with("HTTP/1.1 403 "));
        assert_eq!(world.change("version = 1\n"), 1);
        is_cut(ws, ws_upstream).await;
        let records = world.records_after(3).await;
        assert_eq!((records.closes().len(), closed_by_policy(&records)), (3, 2));
    }
);

scenario!(
    requests_behind_socks_go_with_the_flow_around_them,
    |world| {
        world.lease("192.0.2.1", "a.example");
        let server = world.listen("192.0.2.1:80").await;
        let mut client = world.socks().await;
        client.say([5, 1, 0]).await;
        client.hear(2).await;
        client.say([5, 1, 0, 1, 192, 0, 2, 1, 0, 80]).await;
        assert_eq!(client.hear(10).await[..2], [5, 0]);
        let mut upstream = server.accept().await;
        client
            .say("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await;
        upstream.hear_head().await;
        upstream
            .say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        client.hear_head().await;
        client.hear_text("ok").await;
        world.records_after(1).await;
        // Idle between two requests, and still a connection that somebody was let through for.
        assert_eq!(world.change(WITHOUT_A), 1);
        is_cut(client, upstream).await;
        let records = world.records_after(2).await;
        assert_eq!((records.closes().len(), closed_by_policy(&records)), (2, 1));
    }
);

scenario!(
    an_upload_and_a_websocket_that_would_outlive_their_rule_s_methods,
    |world| {
        let a = world.listen("192.0.2.1:80").await;
        let mut upload = world.http().await;
        upload
            .say("POST http://a.example/up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
            .await;
        let mut upload_upstream = a.accept().await;
        upload_upstream.hear_head().await;
        upload_upstream.hear_text("3\r\none\r\n").await;
        let mut ws = world.http().await;
        ws.say(
            "GET http://a.example/ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .await;
        let mut ws_upstream = a.accept().await;
        ws_upstream.hear_head().await;
        ws_upstream
            .say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        ws.hear_head().await;
        lives(&mut ws, &mut ws_upstream).await;
        // A request that the narrower rule takes.
        let mut get = world.http().await;
        get.say("GET http://a.example/big HTTP/1.1\r\n\r\n").await;
        let mut get_upstream = a.accept().await;
        get_upstream.hear_head().await;
        get_upstream
            .say("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            .await;
        get.hear_head().await;
        get.hear_text("half").await;
        let narrow = "version = 1\n[network.domains]\n\
                      \"a.example:80\" = { verdict = \"allow\", methods = [\"GET\"] }\n";
        assert_eq!(world.change(narrow), 2);
        is_cut(upload, upload_upstream).await;
        is_cut(ws, ws_upstream).await;
        get_upstream.say("full").await;
        get.hear_text("full").await;
        let records = world.records_after(3).await;
        assert_eq!((records.closes().len(), closed_by_policy(&records)), (3, 2));
    }
);

scenario!(what_is_stuck_in_a_full_buffer_is_cut_too, |world| {
    let server = world.listen("192.0.2.1:443").await;
    let client = connect(&world, "a.example:443").await;
    let upstream = server.accept().await;
    // Nobody reads: the relay holds bytes and waits for room.
    let chunk = vec![7u8; 64 * 1024];
    let mut stuck = 0;
    while stuck < 20 {
        match upstream.try_write(&chunk) {
            Ok(_) => stuck = 0,
            Err(_) => {
                stuck += 1;
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
    assert_eq!(world.change(WITHOUT_A), 1);
    is_cut(client, upstream).await;
    let records = world.records_after(1).await;
    assert_eq!((records.closes().len(), closed_by_policy(&records)), (1, 1));
});

scenario!(many_flows_of_which_half_lose_their_rule, |world| {
    // The world takes 64 connections at a time; a wider one is made for this.
    drop(world);
    let world = World::new(portcullis_policy::Mode::Enforce, 240).await;
    const EACH: usize = 80;
    let (a, b) = (
        world.listen("192.0.2.1:443").await,
        world.listen("192.0.2.2:443").await,
    );
    let (mut goes, mut stays) = (Vec::new(), Vec::new());
    for _ in 0..EACH {
        goes.push((connect(&world, "a.example:443").await, a.accept().await));
        stays.push((connect(&world, "b.example:443").await, b.accept().await));
    }
    assert_eq!(world.change(WITHOUT_A), EACH);
    for (client, upstream) in goes {
        is_cut(client, upstream).await;
    }
    for (client, upstream) in &mut stays {
        lives(client, upstream).await;
    }
    let records = world.records_after(EACH).await;
    assert_eq!(
        (records.closes().len(), closed_by_policy(&records)),
        (EACH, EACH)
    );
});
