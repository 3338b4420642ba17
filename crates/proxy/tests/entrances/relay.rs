//! The relay, limits, and the end of the gateway.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::scenario;
use crate::talk::{End, Talk};
use crate::world::{PATIENCE, Server, World};

/// A relayed pair: the program's end and the server's.
async fn pair(world: &World, server: &Server) -> (TcpStream, TcpStream) {
    let mut client = world.http().await;
    client
        .say("CONNECT any.example:9999 HTTP/1.1\r\nHost: any.example:9999\r\n\r\n")
        .await;
    client
        .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
        .await;
    let upstream = server.accept().await;
    client.say("open").await;
    let mut upstream = upstream;
    upstream.hear_text("open").await;
    (client, upstream)
}

scenario!(half_close_is_kept_in_both_directions, |world| {
    let server = world.listen("192.0.2.3:9999").await;
    let (mut client, mut upstream) = pair(&world, &server).await;
    client.shutdown().await.unwrap();
    assert_eq!(upstream.hear_all().await, (vec![], End::Orderly));
    sleep(Duration::from_millis(50)).await;
    upstream.say("still here").await;
    client.hear_text("still here").await;
    upstream.shutdown().await.unwrap();
    assert_eq!(client.hear_all().await, (vec![], End::Orderly));
    let (mut client, mut upstream) = pair(&world, &server).await;
    upstream.shutdown().await.unwrap();
    assert_eq!(client.hear_all().await, (vec![], End::Orderly));
    client.say("still here").await;
    upstream.hear_text("still here").await;
    drop(client);
    assert_eq!(upstream.hear_all().await, (vec![], End::Orderly));
    let records = world.records_after(2).await;
    assert!(
        records
            .closes()
            .iter()
            .all(|v| v["close_reason"] == "finished")
    );
});

scenario!(reset_arrives_as_reset_in_both_directions, |world| {
    let server = world.listen("192.0.2.3:9999").await;
    let (client, mut upstream) = pair(&world, &server).await;
    client.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(upstream.hear_all().await, (vec![], End::Reset));
    assert_eq!(
        world.records_after(1).await.closes()[0]["close_reason"],
        "client-reset"
    );
    let (mut client, upstream) = pair(&world, &server).await;
    upstream.set_zero_linger().unwrap();
    drop(upstream);
    assert_eq!(client.hear_all().await, (vec![], End::Reset));
    assert_eq!(
        world.records_after(2).await.closes()[1]["close_reason"],
        "upstream-reset"
    );
});

scenario!(what_a_server_said_before_it_reset_is_delivered, |world| {
    let server = world.listen("192.0.2.3:9999").await;
    let (mut client, mut upstream) = pair(&world, &server).await;
    // Closing with unread bytes resets, as servers do that answer early.
    client.say("unread").await;
    while upstream.peek(&mut [0; 6]).await.unwrap() < 6 {}
    upstream.say("last words").await;
    drop(upstream);
    client.hear_text("last words").await;
    assert_eq!(client.hear_all().await.1, End::Reset);
});

scenario!(
    bytes_arrive_in_order_through_a_slow_reader_with_bounded_memory,
    |world| {
        // More than the sockets on the way hold, where the kernel lets each grow to 32 MiB.
        const SIZE: usize = 80 * 1024 * 1024;
        let server = world.listen("192.0.2.3:9999").await;
        let (client, mut upstream) = pair(&world, &server).await;
        // Some hosts let a socket hold more than is sent here.
        let small = 256 * 1024;
        let socket = socket2::SockRef::from(&upstream);
        socket.set_recv_buffer_size(small).unwrap();
        let (mut reading, mut writing) = client.into_split();
        let pattern = |at: usize| (at / 251 + at) as u8;
        let writer = tokio::spawn(async move {
            let bytes: Vec<u8> = (0..SIZE).map(pattern).collect();
            writing.write_all(&bytes).await.unwrap();
            writing.shutdown().await.unwrap();
        });
        // Until the reader wakes up, the writer gets no further than sockets and one buffer.
        sleep(Duration::from_millis(300)).await;
        assert!(!writer.is_finished(), "backpressure reaches the writer");
        let mut all = Vec::with_capacity(SIZE);
        let mut piece = vec![0; 100_000];
        loop {
            let read = timeout(PATIENCE, upstream.read(&mut piece))
                .await
                .unwrap()
                .unwrap();
            if read == 0 {
                break;
            }
            all.extend_from_slice(&piece[..read]);
        }
        writer.await.unwrap();
        assert_eq!(all.len(), SIZE);
        assert!(
            all.iter()
                .enumerate()
                .all(|(at, byte)| *byte == pattern(at))
        );
        upstream.say("done").await;
        drop(upstream);
        let mut rest = Vec::new();
        reading.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"done");
        let records = world.records_after(1).await;
        assert_eq!(records.the_close()["bytes_up"], SIZE + 4);
        assert_eq!(records.the_close()["bytes_down"], 4);
    }
);

scenario!(both_directions_at_once, |world| {
    const SIZE: usize = 8 * 1024 * 1024;
    let server = world.listen("192.0.2.3:9999").await;
    let (client, upstream) = pair(&world, &server).await;
    let run = |stream: TcpStream, fill: u8| async move {
        let (mut reading, mut writing) = stream.into_split();
        let writer = tokio::spawn(async move {
            writing.write_all(&vec![fill; SIZE]).await.unwrap();
            writing.shutdown().await.unwrap();
        });
        let mut all = Vec::new();
        reading.read_to_end(&mut all).await.unwrap();
        writer.await.unwrap();
        all
    };
    let (one, two) = tokio::join!(run(client, 1), run(upstream, 2));
    assert!(one.len() == SIZE && one.iter().all(|b| *b == 2));
    assert!(two.len() == SIZE && two.iter().all(|b| *b == 1));
});

scenario!(
    the_token_ends_every_flow_with_a_reset_and_a_record,
    |world| {
        let server = world.listen("192.0.2.3:9999").await;
        let (mut client, mut upstream) = pair(&world, &server).await;
        let mut waiting = world.http().await;
        waiting.say("CONNECT any.exa").await;
        let mut silent = world.socks().await;
        sleep(Duration::from_millis(50)).await;
        world.token.cancel();
        assert_eq!(client.hear_all().await, (vec![], End::Reset));
        assert_eq!(upstream.hear_all().await, (vec![], End::Reset));
        waiting.hear_all().await;
        silent.hear_all().await;
        assert_eq!(
            world.records_after(1).await.the_close()["close_reason"],
            "shutdown"
        );
    }
);

scenario!(one_connection_too_many_is_told_so_and_recorded, |_usual| {
    let world = World::new(portcullis_policy::Mode::Enforce, 2).await;
    let server = world.listen("192.0.2.3:9999").await;
    let first = pair(&world, &server).await;
    let _second = pair(&world, &server).await;
    let mut third = world.http().await;
    let head = third.hear_head().await;
    assert!(
        head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"),
        "{head}"
    );
    assert!(head.contains("retry-after: 1\r\n"), "{head}");
    let mut third = world.socks().await;
    third.say([5, 1, 0]).await;
    assert_eq!(
        third.hear_all().await.0,
        [5, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0]
    );
    world.connect_and_be_reset("192.0.2.1:443").await;
    let records = world.records().await;
    let refused = |v: &&&serde_json::Value| v["reason"] == "too-many-connections";
    assert_eq!(
        records.decisions().iter().filter(refused).count(),
        3,
        "{:#?}",
        records.0
    );
    // A place that is given back is taken again.
    drop(first);
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut again = world.http().await;
        again
            .say("CONNECT any.example:9999 HTTP/1.1\r\nHost: any.example:9999\r\n\r\n")
            .await;
        if again.hear_head().await.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "the place stays taken");
        sleep(Duration::from_millis(20)).await;
    }
});

scenario!(
    audit_lets_pass_and_records_but_keeps_private_addresses,
    |_usual| {
        let world = World::new(portcullis_policy::Mode::Audit, 64).await;
        let server = world.listen("192.0.2.1:443").await;
        let mut client = world.http().await;
        // Not this port, and another name inside.
        client
            .say("CONNECT x.deep.example:443 HTTP/1.1\r\nHost: x.deep.example\r\n\r\n")
            .await;
        client
            .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
            .await;
        let mut upstream = server.accept().await;
        let hello = crate::hello::hello(Some("b.example"));
        client.say(&hello).await;
        assert_eq!(upstream.hear(hello.len()).await, hello);
        drop((client, upstream));
        let mut client = world.connect("192.0.2.1:443").await;
        let upstream = server.accept().await;
        client.say(&hello).await;
        drop((client, upstream));
        world.connect_and_be_reset("10.0.0.1:443").await;
        let records = world.records_after(2).await;
        records.denied("tcp", "transparent", "private-address");
        let audits: Vec<_> = records
            .decisions()
            .into_iter()
            .filter(|v| v["verdict"] == "audit")
            .map(|v| v["reason"].as_str().unwrap())
            .collect();
        assert!(audits.contains(&"sni-mismatch"), "{audits:?}");
    }
);

scenario!(
    ten_seconds_without_a_hello_end_what_cannot_be_told,
    |world| {
        let server = world.listen("192.0.2.1:443").await;
        world.lease("192.0.2.1", "a.example");
        let started = std::time::Instant::now();
        let mut client = world.connect("192.0.2.1:443").await;
        let mut upstream = server.accept().await;
        client.say([22, 3, 1, 2]).await;
        let mut end = Vec::new();
        let ended = timeout(PATIENCE, client.read_to_end(&mut end))
            .await
            .unwrap();
        assert!(ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
        assert!(
            started.elapsed() > Duration::from_secs(9),
            "{:?}",
            started.elapsed()
        );
        assert_eq!(
            upstream.hear_all().await.0,
            b"",
            "not a byte of it went upstream"
        );
        let records = world.records_after(1).await;
        records.denied("tcp", "transparent", "malformed");
    }
);
