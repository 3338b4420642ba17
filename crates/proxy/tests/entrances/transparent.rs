//! Direct connections: what a program that knows no proxy meets.

use crate::hello::{self, ACCESS_DENIED, UNRECOGNIZED_NAME};
use crate::scenario;
use crate::talk::{End, Talk};
use crate::world::World;
use portcullis_policy::Mode;

scenario!(
    an_address_that_was_not_leased_is_reset_and_never_dialled,
    |world| {
        let server = world.listen("192.0.2.1:443").await;
        world.connect_and_be_reset("192.0.2.1:443").await;
        server.nobody().await;
        let records = world.records().await;
        let denial = records.denied("tcp", "transparent", "address-not-leased");
        assert_eq!(denial["addresses"][0], "192.0.2.1");
    }
);

scenario!(a_leased_address_on_a_port_that_is_not_the_names, |world| {
    world.lease("192.0.2.1", "a.example");
    world.connect_and_be_reset("192.0.2.1:22").await;
    world
        .records()
        .await
        .denied("tcp", "transparent", "port-not-allowed");
});

scenario!(private_addresses_are_reset_in_every_form, |world| {
    for to in [
        "10.0.0.1:443",
        "169.254.169.254:80",
        "[fd00::1]:443",
        "[2002:7f00:1::]:80",
    ] {
        world.connect_and_be_reset(to).await;
    }
    let records = world.records().await;
    assert!(
        records
            .decisions()
            .iter()
            .all(|v| v["reason"] == "private-address")
    );
});

scenario!(
    another_names_address_is_no_way_around_where_a_rule_sends_a_name,
    |_usual| {
        let sent =
            "\n[network.domains.\"mock.example\"]\nverdict = \"allow\"\nto = \"192.0.2.9:8443\"\n";
        let world = World::with(Mode::Enforce, 64, sent).await;
        let real = world.listen("192.0.2.1:443").await;
        let plain = world.listen("192.0.2.1:80").await;
        let mock = world.listen("192.0.2.9:8443").await;
        // Given out for both before the policy had the rule.
        world.lease("192.0.2.1", "a.example");
        world.lease("192.0.2.1", "mock.example");
        let mut client = world.connect("192.0.2.1:443").await;
        let hello = hello::hello(Some("mock.example"));
        client.say(&hello).await;
        let mut upstream = mock.accept().await;
        assert_eq!(upstream.hear(hello.len()).await, hello);
        assert!(real.accept().await.hear_all().await.0.is_empty());
        let mut client = world.connect("192.0.2.1:80").await;
        client
            .say("GET / HTTP/1.1\r\nHost: mock.example\r\n\r\n")
            .await;
        assert!(mock.accept().await.hear_head().await.starts_with("GET / "));
        assert!(plain.accept().await.hear_all().await.0.is_empty());
    }
);

scenario!(a_listed_sni_that_owns_the_address_passes, |world| {
    let server = world.listen("192.0.2.1:443").await;
    world.lease("192.0.2.1", "a.example");
    let mut client = world.connect("192.0.2.1:443").await;
    let mut upstream = server.accept().await;
    let hello = hello::hello(Some("a.example"));
    client.say(&hello).await;
    assert_eq!(upstream.hear(hello.len()).await, hello);
    upstream.say("ok").await;
    client.hear_text("ok").await;
    drop((client, upstream));
    let records = world.records_after(1).await;
    let [open] = records.decisions()[..] else {
        panic!("{:#?}", records.0)
    };
    assert_eq!(
        (&open["layer"], &open["protocol"]),
        (&"tls".into(), &"transparent".into())
    );
    assert_eq!(
        (&open["verdict"], &open["name"]),
        (&"allow".into(), &"a.example".into())
    );
    assert_eq!(records.the_close()["id"], open["id"]);
});

scenario!(connect_to_a_leased_address_with_another_sni, |world| {
    let server = world.listen("192.0.2.1:443").await;
    world.lease("192.0.2.1", "a.example");
    for (sni, reason) in [
        ("b.example", "sni-mismatch"),
        ("evil.example", "sni-not-listed"),
        ("evil.deep.example", "denied-by-rule"),
    ] {
        let mut client = world.connect("192.0.2.1:443").await;
        let mut upstream = server.accept().await;
        client.say(hello::hello(Some(sni))).await;
        assert_eq!(
            client.hear_all().await,
            (UNRECOGNIZED_NAME.to_vec(), End::Orderly),
            "{sni}"
        );
        assert_eq!(upstream.hear_all().await.0, b"", "{sni}");
        let records = world.records().await;
        let last = records.decisions().into_iter().next_back().unwrap().clone();
        assert_eq!(
            (&last["reason"], &last["layer"]),
            (&reason.into(), &"tls".into())
        );
        assert_eq!(last["name"], sni);
    }
});

scenario!(
    tls_without_sni_is_refused_unless_the_rule_says_otherwise,
    |world| {
        let server = world.listen("192.0.2.1:443").await;
        world.lease("192.0.2.1", "a.example");
        let mut client = world.connect("192.0.2.1:443").await;
        let mut upstream = server.accept().await;
        client.say(hello::hello(None)).await;
        assert_eq!(
            client.hear_all().await,
            (ACCESS_DENIED.to_vec(), End::Orderly)
        );
        assert_eq!(upstream.hear_all().await.0, b"");
        world
            .records()
            .await
            .denied("tls", "transparent", "sni-missing");
        let server = world.listen("192.0.2.4:443").await;
        world.lease("192.0.2.4", "blind.example");
        let mut client = world.connect("192.0.2.4:443").await;
        let mut upstream = server.accept().await;
        let hello = hello::hello(None);
        client.say(&hello).await;
        assert_eq!(upstream.hear(hello.len()).await, hello);
    }
);

scenario!(two_names_on_one_cdn_address, |world| {
    let server = world.listen("192.0.2.1:443").await;
    world.lease("192.0.2.1", "a.example");
    world.lease("192.0.2.1", "x.deep.example");
    for name in ["a.example", "x.deep.example"] {
        let mut client = world.connect("192.0.2.1:443").await;
        let mut upstream = server.accept().await;
        let hello = hello::hello(Some(name));
        client.say(&hello).await;
        assert_eq!(upstream.hear(hello.len()).await, hello);
    }
    let records = world.records_after(2).await;
    let names: Vec<_> = records
        .decisions()
        .iter()
        .map(|v| v["name"].clone())
        .collect();
    assert_eq!(
        names,
        ["a.example", "x.deep.example"],
        "recorded by the name that was shown"
    );
});

scenario!(
    an_address_rule_speaks_for_what_is_behind_the_address,
    |world| {
        let server = world.listen("198.51.100.7:443").await;
        for hello in [hello::hello(None), hello::hello(Some("whoever.example"))] {
            let mut client = world.connect("198.51.100.7:443").await;
            let mut upstream = server.accept().await;
            client.say(&hello).await;
            assert_eq!(upstream.hear(hello.len()).await, hello);
        }
    }
);

scenario!(the_server_speaks_first_and_is_heard_at_once, |world| {
    let server = world.listen("198.51.100.7:8080").await;
    let mut client = world.connect("198.51.100.7:8080").await;
    let mut upstream = server.accept().await;
    upstream.say("220 mail.example ESMTP\r\n").await;
    client.hear_text("220 mail.example ESMTP\r\n").await;
    // The record does not wait for the client for ever.
    let until = tokio::time::Instant::now() + crate::world::PATIENCE;
    while world.records().await.decisions().is_empty() {
        assert!(tokio::time::Instant::now() < until, "no record");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(world.records().await.decisions()[0]["layer"], "tcp");
    client.say("EHLO me\r\n").await;
    upstream.hear_text("EHLO me\r\n").await;
    drop((client, upstream));
    let records = world.records_after(1).await;
    assert_eq!(records.decisions().len(), 1);
});

scenario!(
    an_upstream_that_refuses_is_a_reset_and_an_error_record,
    |world| {
        world.lease("192.0.2.1", "a.example");
        world.connect_and_be_reset("192.0.2.1:443").await;
        let records = world.records().await;
        let [error] = records.decisions()[..] else {
            panic!("{:#?}", records.0)
        };
        assert_eq!(
            (&error["verdict"], &error["reason"]),
            (&"error".into(), &"connection-refused".into())
        );
        assert!(
            error["detail"].as_str().unwrap().contains("refused"),
            "the exact error: {error}"
        );
    }
);

/// A connection to a.example's address, with a Host.
async fn request(world: &World, host: &str) -> tokio::net::TcpStream {
    let mut client = world.connect("192.0.2.1:80").await;
    client
        .say(format!("GET /p HTTP/1.1\r\nHost: {host}\r\n\r\n"))
        .await;
    client
}

scenario!(plain_http_is_decided_on_by_its_host, |world| {
    let server = world.listen("192.0.2.1:80").await;
    world.lease("192.0.2.1", "a.example");
    for (host, error) in [
        ("evil.example", "blocked-by-allowlist"),
        ("b.example", "blocked-by-allowlist"),
        ("evil.deep.example", "blocked-by-denylist"),
        ("a.example:8080", "blocked-by-allowlist"),
        ("192.0.2.1", "blocked-by-allowlist"),
        ("192.0.2.9", "blocked-by-allowlist"),
    ] {
        let mut client = request(&world, host).await;
        let mut upstream = server.accept().await;
        let head = client.hear_head().await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 403 Forbidden\r\nx-proxy-error: {error}")),
            "{host}: {head}"
        );
        assert_eq!(upstream.hear_all().await.0, b"", "{host}");
    }
    let mut client = request(&world, "A.Example:80").await;
    let mut upstream = server.accept().await;
    assert_eq!(
        upstream.hear_head().await,
        "GET /p HTTP/1.1\r\nHost: a.example\r\n\r\n"
    );
    upstream
        .say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    client
        .hear_text("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
});

scenario!(
    second_request_on_a_direct_connection_with_another_host,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        world.lease("192.0.2.1", "a.example");
        world.lease("192.0.2.1", "x.deep.example");
        let mut client = request(&world, "a.example").await;
        let mut upstream = server.accept().await;
        upstream.hear_head().await;
        upstream
            .say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        client.hear_head().await;
        // Listed and an owner: the same connection.
        client
            .say("GET / HTTP/1.1\r\nHost: x.deep.example\r\n\r\n")
            .await;
        assert!(
            upstream
                .hear_head()
                .await
                .contains("Host: x.deep.example\r\n")
        );
        upstream
            .say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        client.hear_head().await;
        client
            .say("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            .await;
        assert!(client.hear_head().await.starts_with("HTTP/1.1 403 "));
        assert_eq!(upstream.hear_all().await.0, b"");
        let records = world.records_after(2).await;
        let denial = records.denied("http", "transparent", "not-in-allowlist");
        assert_eq!(denial["name"], "evil.example");
    }
);

scenario!(framing_is_as_strict_on_direct_connections, |world| {
    let server = world.listen("192.0.2.1:80").await;
    world.lease("192.0.2.1", "a.example");
    for bad in [
        "GET / HTTP/1.1\nHost: a.example\n\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: evil.example\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET http://a.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "\r \nGET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ] {
        let mut client = world.connect("192.0.2.1:80").await;
        let mut upstream = server.accept().await;
        client.say(bad).await;
        let head = client.hear_head().await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{bad:?}: {head}");
        assert_eq!(upstream.hear_all().await.0, b"", "{bad:?}");
    }
});

scenario!(a_connect_inside_does_not_hide_a_host, |world| {
    let server = world.listen("192.0.2.1:80").await;
    world.lease("192.0.2.1", "a.example");
    let mut client = world.connect("192.0.2.1:80").await;
    let mut upstream = server.accept().await;
    client
        .say("CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n")
        .await;
    assert!(client.hear_head().await.starts_with("HTTP/1.1 403 "));
    assert_eq!(upstream.hear_all().await.0, b"");
});

scenario!(websocket_on_a_direct_connection, |world| {
    let server = world.listen("192.0.2.1:80").await;
    world.lease("192.0.2.1", "a.example");
    let mut client = world.connect("192.0.2.1:80").await;
    let mut upstream = server.accept().await;
    client
        .say("GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    upstream.hear_head().await;
    upstream
        .say(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .await;
    client.hear_head().await;
    upstream.say("ping").await;
    client.hear_text("ping").await;
    client.say("pong").await;
    upstream.hear_text("pong").await;
});

scenario!(other_protocols_go_by_the_lease, |world| {
    let server = world.listen("192.0.2.3:9999").await;
    let any = portcullis_names::Name::from_policy("any.example").unwrap();
    let ports = portcullis_names::PortSet::ANY;
    let ttl = std::time::Duration::from_secs(60);
    world
        .leases
        .grant("192.0.2.3".parse().unwrap(), &any, &ports, ttl)
        .unwrap();
    let mut client = world.connect("192.0.2.3:9999").await;
    let mut upstream = server.accept().await;
    client.say([0, 0, 0, 8, 4, 210, 22, 47]).await;
    assert_eq!(upstream.hear(8).await, [0, 0, 0, 8, 4, 210, 22, 47]);
    // A few letters and the end of the stream cannot become a request any more.
    let mut client = world.connect("192.0.2.3:9999").await;
    let mut upstream = server.accept().await;
    client.say("ping").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client)
        .await
        .unwrap();
    upstream.hear_text("ping").await;
    upstream.say("pong").await;
    drop(upstream);
    assert_eq!(client.hear_all().await, (b"pong".to_vec(), End::Orderly));
});

scenario!(a_word_that_no_request_begins_with_passes_at_once, |world| {
    let server = world.listen("192.0.2.1:80").await;
    world.lease("192.0.2.1", "a.example");
    for word in ["ru", "x", "12345", "stats"] {
        let mut client = world.connect("192.0.2.1:80").await;
        let mut upstream = server.accept().await;
        let begin = std::time::Instant::now();
        client.say(word).await;
        upstream.hear_text(word).await;
        // Half of what such a word as `GET` is held for.
        let held = begin.elapsed();
        assert!(
            held < std::time::Duration::from_millis(250),
            "{word}: {held:?}"
        );
        // What would make a request of it does not get out.
        client
            .say(" / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            .await;
        assert_eq!(client.hear_all().await, (vec![], End::Reset), "{word}");
        let heard = upstream.hear_all().await.0;
        assert!(!heard.contains(&b'\n'), "{word}: {}", heard.escape_ascii());
    }
});

scenario!(
    a_word_that_waits_for_its_answer_goes_by_the_lease,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        world.lease("192.0.2.1", "a.example");
        let mut client = world.connect("192.0.2.1:80").await;
        let mut upstream = server.accept().await;
        // It begins like a method: held for a moment, then passed.
        client.say("pu").await;
        let begun = std::time::Instant::now();
        upstream.hear_text("pu").await;
        assert!(begun.elapsed() < std::time::Duration::from_millis(400));
        client.say("t").await;
        upstream.hear_text("t").await;
        upstream.say("imok").await;
        client.hear_text("imok").await;
        // Still a word. A line end makes it one that no request starts with.
        client.say("12345").await;
        upstream.hear_text("12345").await;
        client.say("\nGET / HTTP/1.1\n").await;
        upstream.hear_text("\nGET / HTTP/1.1\n").await;
        drop((client, upstream));
        let records = world.records_after(1).await;
        let [open] = records.decisions()[..] else {
            panic!("{:#?}", records.0)
        };
        assert_eq!(
            (&open["verdict"], &open["layer"]),
            (&"allow".into(), &"tcp".into())
        );
        assert_eq!(records.the_close()["bytes_up"], 3 + 5 + 16);
    }
);

scenario!(
    a_request_in_pieces_does_not_slip_its_host_past_the_check,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        world.lease("192.0.2.1", "a.example");
        for (pieces, rest) in [
            (&["GE"][..], "T / HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
            (
                &["G", "E", "T"],
                " / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            ),
            (
                &["\r\n", "GET"],
                " / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            ),
            (&["get"], " x HTTP/1.1\nHost: evil.example\n\n"),
            (
                &["CONNECT"],
                " evil.example:80 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            ),
        ] {
            let mut client = world.connect("192.0.2.1:80").await;
            let mut upstream = server.accept().await;
            for piece in pieces {
                client.say(piece).await;
                upstream.hear_text(piece).await;
            }
            upstream.say("100 go on\r\n").await;
            client.hear_text("100 go on\r\n").await;
            client.say(rest).await;
            assert_eq!(client.hear_all().await, (vec![], End::Reset), "{pieces:?}");
            assert_eq!(
                upstream.hear_all().await,
                (vec![], End::Reset),
                "{pieces:?}"
            );
        }
        let records = world.records_after(5).await;
        let denials = records.decisions().into_iter();
        let denials: Vec<_> = denials.filter(|v| v["verdict"] == "deny").collect();
        let counted = |v: &&serde_json::Value| v["count"].as_u64().unwrap_or(1);
        assert_eq!(denials.iter().map(counted).sum::<u64>(), 5, "{denials:#?}");
        for denial in denials {
            assert_eq!(denial["reason"], "malformed", "{denial:#}");
        }
        assert!(
            records
                .closes()
                .iter()
                .all(|v| v["bytes_up"].as_u64() < Some(10))
        );
    }
);

scenario!(
    a_request_line_without_its_end_is_never_let_through,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        world.lease("192.0.2.1", "a.example");
        for held in [
            "get x",
            "get x HTTP/1.1\rHost: evil.example\r\r",
            "PRI * HTTP/2.0",
        ] {
            let mut client = world.connect("192.0.2.1:80").await;
            let mut upstream = server.accept().await;
            client.say(held).await;
            tokio::time::sleep(std::time::Duration::from_millis(700)).await;
            upstream.silence().await;
        }
    }
);

scenario!(the_hosts_loopback_by_its_name, |world| {
    let server = world.listen("127.0.0.1:9000").await;
    let name = portcullis_names::Name::from_policy("host.portcullis.internal").unwrap();
    let ports = portcullis_names::PortSet::single(9000);
    let ttl = std::time::Duration::from_secs(60);
    world
        .leases
        .grant("10.0.2.2".parse().unwrap(), &name, &ports, ttl)
        .unwrap();
    let mut client = world.connect("10.0.2.2:9000").await;
    let mut upstream = server.accept().await;
    client
        .say("GET / HTTP/1.1\r\nHost: host.portcullis.internal:9000\r\n\r\n")
        .await;
    let head = upstream.hear_head().await;
    assert!(
        head.contains("Host: host.portcullis.internal:9000\r\n"),
        "{head}"
    );
    // Its other ports stay shut.
    world.connect_and_be_reset("10.0.2.2:22").await;
});
