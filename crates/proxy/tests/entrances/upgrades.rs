//! Changes of protocol other than WebSocket: Docker's `tcp`, Kubernetes' `SPDY/3.1`, and HTTP itself, which
//! is none.

use tokio::io::AsyncWriteExt as _;

use crate::inspect::{both, hear_rest, hear_until, say};
use crate::scenario;
use crate::talk::{End, Talk};
use crate::world::World;

const SWITCHING: &str =
    "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n";

scenario!(a_change_to_another_protocol_becomes_a_tunnel, |world| {
    let server = world.listen("192.0.2.1:80").await;
    world.lease("192.0.2.1", "a.example");
    for protocol in ["tcp", "SPDY/3.1", "websocket, tcp"] {
        for direct in [false, true] {
            let (mut client, target) = match direct {
                true => (world.connect("192.0.2.1:80").await, ""),
                false => (world.http().await, "http://a.example"),
            };
            // Docker's exec has a body; behind it stands what belongs to the other protocol.
            let request = format!(
                "POST {target}/exec/1/start HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\n\
                 Upgrade: {protocol}\r\nContent-Length: 2\r\n\r\n{{}}early"
            );
            client.say(request).await;
            let mut upstream = server.accept().await;
            let head = upstream.hear_head().await;
            let asks = format!("Connection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
            assert!(head.ends_with(&asks), "{head}");
            upstream.hear_text("{}").await;
            upstream.silence().await;
            let chosen = protocol.rsplit(", ").next().unwrap();
            let answer =
                format!("{SWITCHING}Connection: Upgrade\r\nUpgrade: {chosen}\r\n\r\nhello");
            upstream.say(answer).await;
            let head = client.hear_head().await;
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            assert!(head.contains(&format!("Upgrade: {chosen}\r\n")), "{head}");
            assert!(head.contains("Content-Type: application/vnd.docker.raw-stream"));
            client.hear_text("hello").await;
            upstream.hear_text("early").await;
            // Half-close in both directions, one after the other.
            client
                .say("GET / HTTP/1.1\r\nHost: is.none.example\r\n\r\n")
                .await;
            client.shutdown().await.unwrap();
            assert!(upstream.hear_all().await.0.ends_with(b"\r\n\r\n"));
            upstream.say("last").await;
            upstream.shutdown().await.unwrap();
            assert_eq!(client.hear_all().await, (b"last".to_vec(), End::Orderly));
        }
    }
    let records = world.records_after(6).await;
    let closes = records.closes();
    assert!(
        closes
            .iter()
            .all(|close| close["bytes_down"].as_u64() > Some(100))
    );
    let up = |close: &&serde_json::Value| close["bytes_up"].as_u64() > Some(140);
    assert_eq!(
        closes.iter().filter(|close| up(close)).count(),
        6,
        "{closes:#?}"
    );
});

scenario!(an_answer_to_another_change_than_was_asked_for, |world| {
    let server = world.listen("192.0.2.1:80").await;
    for (asked, answered) in [
        ("tcp", "h2c"),
        ("tcp", "tcp, h2c"),
        ("h2c", "h2c"),
        ("", "tcp"),
    ] {
        let mut client = world.http().await;
        let request = format!(
            "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\n\
             Upgrade: {asked}\r\n\r\n"
        );
        client.say(request).await;
        let mut upstream = server.accept().await;
        upstream.hear_head().await;
        let answer = format!("{SWITCHING}Connection: Upgrade\r\nUpgrade: {answered}\r\n\r\n");
        upstream.say(answer).await;
        let answer = String::from_utf8(client.hear_all().await.0).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 502 "),
            "{asked} {answered}: {answer}"
        );
        let cause = "cause: a change of protocol that was not asked for";
        assert!(answer.contains(cause), "{answer}");
    }
});

scenario!(a_change_is_refused_where_methods_or_paths_count, |_usual| {
    for rule in [r#"methods = ["POST"]"#, r#"paths = ["/**"]"#] {
        let world = World::by(&format!(
            "version = 1\n[network.domains]\n\"a.example:80\" = {{ verdict = \"allow\", {rule} }}\n"
        ))
        .await;
        let server = world.listen("192.0.2.1:80").await;
        let ask = |protocol: &str| {
            format!(
                "POST http://a.example/x HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\n\
                 Upgrade: {protocol}\r\nContent-Length: 0\r\n\r\n"
            )
        };
        let mut client = world.http().await;
        client.say(ask("tcp")).await;
        let answer = String::from_utf8(client.hear_all().await.0).unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{rule}: {answer}");
        assert!(
            answer.contains("x-proxy-error: blocked-by-method-policy"),
            "{answer}"
        );
        assert!(answer.contains("a change to another protocol"), "{answer}");
        let records = world.records().await;
        records.denied("http", "http", "method-not-allowed");
        // HTTP itself is no other protocol: the request goes on without its Upgrade.
        let mut client = world.http().await;
        client.say(ask("h2c")).await;
        let mut upstream = server.accept().await;
        let head = upstream.hear_head().await;
        assert!(!head.to_ascii_lowercase().contains("upgrade"), "{head}");
        upstream
            .say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert!(client.hear_head().await.starts_with("HTTP/1.1 200 "));
        // Behind it stands HTTP/1.1 as before, decided on request by request.
        client
            .say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await;
        let refused = String::from_utf8(client.hear_all().await.0).unwrap();
        assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
        assert_eq!(upstream.hear_all().await.0, b"");
    }
});

scenario!(
    a_rule_that_gets_methods_ends_what_a_request_has_changed_to,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        let mut client = world.http().await;
        client
            .say(
                "GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\n\
             Upgrade: tcp\r\n\r\n",
            )
            .await;
        let mut upstream = server.accept().await;
        upstream.hear_head().await;
        let answer = format!("{SWITCHING}Connection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello");
        upstream.say(answer).await;
        client.hear_head().await;
        client.hear_text("hello").await;
        let rule = |more: &str| {
            format!(
                "version = 1\n[network.domains]\n\"a.example:80\" = {{ verdict = \"allow\"{more} }}\n"
            )
        };
        assert_eq!(world.change(&rule("")), 0);
        assert_eq!(world.change(&rule(", paths = [\"/**\"]")), 1);
        client.hear_all().await;
    }
);

scenario!(a_change_inside_an_inspected_connection, |world| {
    world.lease("192.0.2.7", "look.example");
    for (protocol, body) in [("tcp", ""), ("SPDY/3.1", ""), ("tcp", "{\"Tty\":false}")] {
        let (mut program, mut upstream) = both(&world).await;
        let request = format!(
            "POST /exec HTTP/1.1\r\nHost: look.example\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
             Content-Length: {}\r\n\r\n{body}early",
            body.len()
        );
        say(&mut program, &request).await;
        let head = hear_until(&mut upstream, "\r\n\r\n").await;
        let head = head.to_ascii_lowercase();
        let asks = format!("upgrade: {}\r\n", protocol.to_ascii_lowercase());
        assert!(
            head.contains(&asks) && head.contains("connection: upgrade\r\n"),
            "{head}"
        );
        if !body.is_empty() {
            hear_until(&mut upstream, body).await;
        }
        let answer = format!("{SWITCHING}Connection: Upgrade\r\nUpgrade: {protocol}\r\n\r\nhello");
        say(&mut upstream, &answer).await;
        let head = hear_until(&mut program, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.to_ascii_lowercase().contains(&asks), "{head}");
        hear_until(&mut program, "hello").await;
        hear_until(&mut upstream, "early").await;
        say(
            &mut program,
            "GET / HTTP/1.1\r\nHost: is.none.example\r\n\r\n",
        )
        .await;
        hear_until(&mut upstream, "is.none.example\r\n\r\n").await;
        program.shutdown().await.unwrap();
        assert_eq!(hear_rest(&mut upstream).await, "");
        say(&mut upstream, "last").await;
        upstream.shutdown().await.unwrap();
        assert_eq!(hear_rest(&mut program).await, "last");
    }
    let records = world.records_after(6).await;
    let counted = (records.closes().into_iter()).filter(|close| {
        close["bytes_up"].as_u64() >= Some(46) && close["bytes_down"].as_u64() >= Some(9)
    });
    assert_eq!(counted.count(), 6, "{:#?}", records.0);
});

scenario!(
    a_change_that_an_inspected_rule_or_answer_has_no_room_for,
    |world| {
        world.lease("192.0.2.7", "look.example");
        let ask = |protocol: &str| {
            format!(
                "GET /x HTTP/1.1\r\nHost: look.example\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
            )
        };
        let (mut program, mut upstream) = both(&world).await;
        say(&mut program, &ask("tcp")).await;
        hear_until(&mut upstream, "\r\n\r\n").await;
        let answer = format!("{SWITCHING}Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
        say(&mut upstream, &answer).await;
        assert!(hear_rest(&mut program).await.starts_with("HTTP/1.1 502 "));
        world.change(
        "version = 1\n[network.domains]\n\"look.example\" = { verdict = \"allow\", inspect = true, \
         ca_file = \"ca.pem\", paths = [\"/x\"] }\n",
    );
        let (mut program, mut upstream) = both(&world).await;
        say(&mut program, &ask("h2c")).await;
        let head = hear_until(&mut upstream, "\r\n\r\n").await;
        assert!(!head.to_ascii_lowercase().contains("upgrade"), "{head}");
        say(
            &mut upstream,
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        hear_until(&mut program, "\r\n\r\n").await;
        say(&mut program, &ask("tcp")).await;
        let refused = hear_rest(&mut program).await;
        assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
        assert!(
            refused.contains("a change to another protocol"),
            "{refused}"
        );
    }
);
