//! CONNECT, and what is said in the tunnel.

use tokio::io::AsyncWriteExt;

use crate::hello::{self, ACCESS_DENIED, UNRECOGNIZED_NAME};
use crate::scenario;
use crate::talk::{End, Talk};
use crate::world::World;

/// A tunnel to a.example, from inside.
async fn tunnel(world: &World) -> tokio::net::TcpStream {
    let mut client = world.http().await;
    client
        .say("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
        .await;
    client
        .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
        .await;
    client
}

scenario!(
    a_listed_name_passes_and_leaves_one_record_and_one_close,
    |world| {
        let server = world.listen("192.0.2.1:443").await;
        let mut client = tunnel(&world).await;
        let mut upstream = server.accept().await;
        let hello = hello::hello(Some("A.Example"));
        client.say(&hello).await;
        assert_eq!(upstream.hear(hello.len()).await, hello);
        upstream.say("server").await;
        client.hear_text("server").await;
        drop(client);
        assert_eq!(upstream.hear_all().await, (vec![], End::Orderly));
        drop(upstream);
        let records = world.records_after(1).await;
        let [open] = records.decisions()[..] else {
            panic!("{:#?}", records.0)
        };
        assert_eq!(open["verdict"], "allow");
        assert_eq!(
            (&open["layer"], &open["protocol"]),
            (&"http".into(), &"connect".into())
        );
        assert_eq!(
            (&open["name"], &open["port"]),
            (&"a.example".into(), &443.into())
        );
        assert_eq!(open["addresses"][0], "192.0.2.1");
        let close = records.the_close();
        assert_eq!(close["id"], open["id"]);
        assert_eq!(close["bytes_up"], hello.len());
        assert_eq!(close["bytes_down"], 6);
        assert_eq!(close["close_reason"], "finished");
    }
);

scenario!(an_unlisted_name_gets_403_and_is_never_dialled, |world| {
    let mut client = world.http().await;
    client
        .say("CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n")
        .await;
    let (answer, end) = client.hear_all().await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(
        answer.contains("x-proxy-error: blocked-by-allowlist\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("proxy-status: portcullis; error=http_request_denied"),
        "{answer}"
    );
    assert!(answer.contains("\r\n\r\nportcullis: "), "{answer}");
    assert_eq!(end, End::Orderly);
    let records = world.records().await;
    let denial = records.denied("http", "connect", "not-in-allowlist");
    assert_eq!(denial["name"], "evil.example");
    assert!(
        answer.contains(denial["id"].as_str().unwrap()),
        "the program is told the id"
    );
    assert!(!answer.contains("test.toml"), "no file paths");
});

scenario!(a_refusal_in_json_for_those_who_ask, |world| {
    let mut client = world.http().await;
    client
        .say("CONNECT evil.deep.example:443 HTTP/1.1\r\nHost: evil.deep.example\r\nAccept: application/json\r\n\r\n")
        .await;
    let (answer, _) = client.hear_all().await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.contains("x-proxy-error: blocked-by-denylist\r\n"),
        "{answer}"
    );
    let body: serde_json::Value =
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["reason"], "denied-by-rule");
    assert_eq!(body["target"], "evil.deep.example:443");
});

scenario!(another_port_than_the_rules, |world| {
    let mut client = world.http().await;
    client
        .say("CONNECT a.example:22 HTTP/1.1\r\nHost: a.example:22\r\n\r\n")
        .await;
    let (answer, _) = client.hear_all().await;
    assert!(String::from_utf8_lossy(&answer).contains("blocked-by-port-policy"));
    world
        .records()
        .await
        .denied("http", "connect", "port-not-allowed");
});

scenario!(a_listed_name_with_a_private_address, |world| {
    let mut client = world.http().await;
    client
        .say("CONNECT private.example:443 HTTP/1.1\r\nHost: private.example:443\r\n\r\n")
        .await;
    let (answer, _) = client.hear_all().await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(
        answer.contains("x-proxy-error: blocked-by-private-address\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("error=destination_ip_prohibited"),
        "{answer}"
    );
    assert!(
        !answer.contains("10.9.9.9"),
        "addresses inside the company are not told: {answer}"
    );
    let records = world.records().await;
    let denial = records.denied("http", "connect", "private-address");
    assert!(
        denial.to_string().contains("10.9.9.9"),
        "the operator sees the address"
    );
});

scenario!(an_upstream_that_refuses_is_a_502_and_never_a_200, |world| {
    let mut client = world.http().await;
    client
        .say("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
        .await;
    let (answer, _) = client.hear_all().await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"),
        "{answer}"
    );
    assert!(answer.contains("error=connection_refused"), "{answer}");
    assert!(
        !answer.contains("x-proxy-error"),
        "policy did not block this: {answer}"
    );
    let records = world.records().await;
    assert_eq!(records.decisions()[0]["verdict"], "error");
    assert_eq!(records.decisions()[0]["reason"], "connection-refused");
});

scenario!(a_name_that_does_not_exist_is_a_dns_error, |world| {
    let mut client = world.http().await;
    client
        .say("CONNECT nowhere.example:443 HTTP/1.1\r\nHost: nowhere.example:443\r\n\r\n")
        .await;
    let (answer, _) = client.hear_all().await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("error=dns_error"), "{answer}");
});

scenario!(connect_to_a_with_sni_b_gets_an_alert, |world| {
    let server = world.listen("192.0.2.1:443").await;
    let mut client = tunnel(&world).await;
    let mut upstream = server.accept().await;
    client.say(hello::hello(Some("b.example"))).await;
    assert_eq!(
        client.hear_all().await,
        (UNRECOGNIZED_NAME.to_vec(), End::Orderly)
    );
    assert_eq!(
        upstream.hear_all().await.0,
        b"",
        "not a byte of it went upstream"
    );
    let records = world.records_after(1).await;
    let denial = records.denied("tls", "connect", "sni-mismatch");
    assert_eq!(denial["name"], "b.example");
    assert_eq!(records.the_close()["close_reason"], "denied");
});

scenario!(no_sni_under_connect_passes_for_the_name_is_known, |world| {
    let server = world.listen("192.0.2.1:443").await;
    let mut client = tunnel(&world).await;
    let mut upstream = server.accept().await;
    let hello = hello::hello(None);
    client.say(&hello).await;
    assert_eq!(upstream.hear(hello.len()).await, hello);
});

scenario!(two_snis_are_no_sni_anybody_may_choose_from, |world| {
    let server = world.listen("192.0.2.1:443").await;
    let twice = [
        hello::server_name(&["a.example"]),
        hello::server_name(&["b.example"]),
    ]
    .concat();
    for bad in [
        hello::hello_with(&hello::server_name(&["a.example", "b.example"])),
        hello::hello_with(&twice),
    ] {
        let mut client = tunnel(&world).await;
        let mut upstream = server.accept().await;
        client.say(bad).await;
        assert_eq!(
            client.hear_all().await,
            (ACCESS_DENIED.to_vec(), End::Orderly)
        );
        assert_eq!(upstream.hear_all().await.0, b"");
    }
    let records = world.records_after(2).await;
    assert!(
        records
            .decisions()
            .iter()
            .any(|v| v["layer"] == "tls" && v["reason"] == "malformed")
    );
});

scenario!(sni_split_over_records_and_segments, |world| {
    let server = world.listen("192.0.2.1:443").await;
    for size in [1, 7] {
        let mut client = tunnel(&world).await;
        let mut upstream = server.accept().await;
        let bad = hello::split_hello("b.example", size);
        client.spell(&bad[..bad.len() - 1]).await;
        upstream.silence().await;
        client.say(&bad[bad.len() - 1..]).await;
        assert_eq!(client.hear_all().await.0, UNRECOGNIZED_NAME);
        assert_eq!(upstream.hear_all().await.0, b"");
        let mut client = tunnel(&world).await;
        let mut upstream = server.accept().await;
        let good = hello::split_hello("a.example", size);
        client.spell(&good).await;
        assert_eq!(upstream.hear(good.len()).await, good);
    }
});

scenario!(a_client_hello_of_16_kib_passes_whole, |world| {
    let server = world.listen("192.0.2.1:443").await;
    let mut client = tunnel(&world).await;
    let mut upstream = server.accept().await;
    let padding = hello::extension(21, &vec![0; 16_000]);
    let big = hello::hello_with(&[padding, hello::server_name(&["a.example"])].concat());
    client.say(&big).await;
    assert_eq!(upstream.hear(big.len()).await, big);
});

scenario!(bytes_behind_the_connect_head_are_not_lost, |world| {
    let server = world.listen("192.0.2.1:443").await;
    let mut client = world.http().await;
    let hello = hello::hello(Some("a.example"));
    let head = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
    client.say([&head[..], &hello, b"early"].concat()).await;
    client
        .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
        .await;
    let mut upstream = server.accept().await;
    assert_eq!(upstream.hear(hello.len()).await, hello);
    upstream.hear_text("early").await;
});

scenario!(the_server_speaks_first_without_a_stall, |world| {
    let server = world.listen("192.0.2.3:22").await;
    let mut client = world.http().await;
    client
        .say("CONNECT any.example:22 HTTP/1.1\r\nHost: any.example:22\r\n\r\n")
        .await;
    client
        .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
        .await;
    let mut upstream = server.accept().await;
    upstream.say("SSH-2.0-OpenSSH_9.9\r\n").await;
    client.hear_text("SSH-2.0-OpenSSH_9.9\r\n").await;
    client.say("SSH-2.0-client\r\n").await;
    upstream.hear_text("SSH-2.0-client\r\n").await;
});

scenario!(connect_to_an_address_needs_a_lease_or_a_rule, |world| {
    let server = world.listen("192.0.2.1:443").await;
    let head = "CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: 192.0.2.1:443\r\n\r\n";
    let mut client = world.http().await;
    client.say(head).await;
    assert!(client.hear_head().await.starts_with("HTTP/1.1 403 "));
    world
        .records()
        .await
        .denied("http", "connect", "address-not-leased");
    // With a lease, the SNI still has to own the address.
    world.lease("192.0.2.1", "a.example");
    let mut client = world.http().await;
    client.say(head).await;
    client
        .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
        .await;
    let mut upstream = server.accept().await;
    client.say(hello::hello(Some("b.example"))).await;
    assert_eq!(client.hear_all().await.0, UNRECOGNIZED_NAME);
    assert_eq!(upstream.hear_all().await.0, b"");
});

scenario!(connecting_back_to_the_gateways_own_listeners, |world| {
    for target in ["127.0.0.1:3128", "127.0.0.1:1080"] {
        let mut client = world.http().await;
        client
            .say(format!(
                "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
            ))
            .await;
        let head = client.hear_head().await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert!(head.contains("proxy_loop_detected"), "{head}");
    }
});

scenario!(pipelining_past_a_denied_connect, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    let denied = "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n";
    let behind = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n";
    client.say(format!("{denied}{behind}")).await;
    let (answer, _) = client.hear_all().await;
    assert_eq!(
        String::from_utf8_lossy(&answer)
            .matches("HTTP/1.1 ")
            .count(),
        1
    );
    server.nobody().await;
});

scenario!(hosts_that_are_no_hosts, |world| {
    for target in [
        "2130706433:443",
        "0x7f.1:443",
        "0177.0.0.1:443",
        "127.1:443",
        "[evil.com]:443",
        "[::1%25eth0]:443",
        "a.example@evil.com:443",
        "a.example\\@evil.com:443",
        "a%2eexample:443",
        "a..example:443",
        "a.example:0",
        "a.example:65536",
        "a.example",
    ] {
        let mut client = world.http().await;
        client
            .say(format!(
                "CONNECT {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"
            ))
            .await;
        let (answer, _) = client.hear_all().await;
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{target}: {answer:?}");
    }
    let records = world.records().await;
    assert!(
        records
            .decisions()
            .iter()
            .all(|v| v["reason"] == "malformed"),
        "{:#?}",
        records.0
    );
});

scenario!(a_connect_header_a_byte_at_a_time, |world| {
    let server = world.listen("192.0.2.1:443").await;
    let mut client = world.http().await;
    client
        .spell("CONNECT A.EXAMPLE.:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
        .await;
    client
        .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
        .await;
    server.accept().await.shutdown().await.unwrap();
    assert_eq!(client.hear_all().await, (vec![], End::Orderly));
});
