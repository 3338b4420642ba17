//! Plain HTTP through the proxy port: each request decided on, sent on in the gateway's words.

use crate::scenario;
use crate::talk::{End, Talk};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

scenario!(a_listed_host_is_forwarded_in_origin_form, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client
        .say(
            "GET http://A.example/p?q=1 HTTP/1.1\r\nHost: a.EXAMPLE\r\nProxy-Connection: keep-alive\r\n\
             X-Forwarded-Host: evil.example\r\nVia: 1.0 evil\r\nProxy-Authorization: Basic eA==\r\n\r\n",
        )
        .await;
    let mut upstream = server.accept().await;
    let head = upstream.hear_head().await;
    assert_eq!(
        head,
        "GET /p?q=1 HTTP/1.1\r\nHost: a.example\r\nVia: 1.1 portcullis\r\n\r\n"
    );
    upstream.say(OK).await;
    client.hear_text(OK).await;
    drop(client);
    let records = world.records_after(1).await;
    let [open] = records.decisions()[..] else {
        panic!("{:#?}", records.0)
    };
    assert_eq!(
        (&open["layer"], &open["protocol"]),
        (&"http".into(), &"http".into())
    );
    assert_eq!(
        (&open["method"], &open["path"]),
        (&"GET".into(), &"/p".into())
    );
    assert!(
        !records.0.iter().any(|v| v.to_string().contains("q=1")),
        "queries are not recorded"
    );
    assert_eq!(records.the_close()["bytes_down"], OK.len());
});

scenario!(
    second_request_on_a_kept_alive_connection_to_a_denied_host,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        let mut client = world.http().await;
        client
            .say("GET http://a.example/1 HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await;
        let mut upstream = server.accept().await;
        upstream.hear_head().await;
        upstream.say(OK).await;
        client.hear_text(OK).await;
        client
            .say("GET http://evil.example/2 HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            .await;
        let (answer, end) = client.hear_all().await;
        assert!(
            answer.starts_with(b"HTTP/1.1 403 Forbidden\r\nx-proxy-error: blocked-by-allowlist")
        );
        assert_eq!(end, End::Orderly);
        assert_eq!(
            upstream.hear_all().await.0,
            b"",
            "nothing of it went upstream"
        );
        world
            .records()
            .await
            .denied("http", "http", "not-in-allowlist");
    }
);

scenario!(
    a_kept_alive_connection_is_reused_for_the_same_host_and_dialled_anew_for_another,
    |world| {
        let one = world.listen("192.0.2.1:80").await;
        let two = world.listen("192.0.2.2:80").await;
        let mut client = world.http().await;
        client
            .say("GET http://a.example/1 HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await;
        let mut first = one.accept().await;
        first.hear_head().await;
        first.say(OK).await;
        client.hear_text(OK).await;
        client
            .say("GET http://a.example/2 HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await;
        assert!(first.hear_head().await.starts_with("GET /2 "));
        first.say(OK).await;
        client.hear_text(OK).await;
        client
            .say("GET http://b.example/3 HTTP/1.1\r\nHost: b.example\r\n\r\n")
            .await;
        let mut second = two.accept().await;
        assert!(
            second
                .hear_head()
                .await
                .starts_with("GET /3 HTTP/1.1\r\nHost: b.example\r\n")
        );
        second.say(OK).await;
        client.hear_text(OK).await;
        assert_eq!(first.hear_all().await.0, b"");
        // x.deep.example has a.example's address, and is another destination all the same.
        client
            .say("GET http://x.deep.example/4 HTTP/1.1\r\nHost: x.deep.example\r\n\r\n")
            .await;
        let mut third = one.accept().await;
        assert!(
            third
                .hear_head()
                .await
                .starts_with("GET /4 HTTP/1.1\r\nHost: x.deep.example\r\n")
        );
        third.say(OK).await;
        client.hear_text(OK).await;
        assert_eq!(
            world.records().await.decisions().len(),
            4,
            "each request is decided on"
        );
    }
);

scenario!(pipelining_past_a_denial, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    let denied = "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n";
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

scenario!(pipelined_requests_are_answered_in_order, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    let get = |n| format!("GET http://a.example/{n} HTTP/1.1\r\nHost: a.example\r\n\r\n");
    client.say(format!("{}{}{}", get(1), get(2), get(3))).await;
    let mut upstream = server.accept().await;
    for n in 1..=3 {
        assert!(
            upstream
                .hear_head()
                .await
                .starts_with(&format!("GET /{n} "))
        );
        upstream.silence().await;
        upstream
            .say(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{n}"))
            .await;
        client
            .hear_text(&format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{n}"))
            .await;
    }
});

scenario!(
    a_kept_upstream_connection_that_was_closed_is_dialled_again,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        let mut client = world.http().await;
        for _ in 0..2 {
            client
                .say("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
                .await;
            let mut upstream = server.accept().await;
            upstream.hear_head().await;
            upstream.say(OK).await;
            client.hear_text(OK).await;
        }
        // Closed only when the next request is there: repeated once, for GET.
        client
            .say("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await;
        let mut upstream = server.accept().await;
        upstream.hear_head().await;
        upstream.say(OK).await;
        client.hear_text(OK).await;
        client
            .say("GET http://a.example/again HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await;
        upstream.hear_head().await;
        drop(upstream);
        let mut upstream = server.accept().await;
        assert!(upstream.hear_head().await.starts_with("GET /again "));
        upstream.say(OK).await;
        client.hear_text(OK).await;
    }
);

scenario!(bodies_and_100_continue, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client
        .say("PUT http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let mut upstream = server.accept().await;
    let head = upstream.hear_head().await;
    assert!(head.contains("Content-Length: 5\r\n") && head.contains("Expect: 100-continue\r\n"));
    upstream.say("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.hear_text("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.say("hello").await;
    upstream.hear_text("hello").await;
    upstream.say(OK).await;
    client.hear_text(OK).await;
    // Chunks pass as they are, in both directions, and the connection goes on behind them.
    client
        .say("POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    upstream.hear_head().await;
    client.spell("5;x=y\r\nhello\r\n0\r\n\r\n").await;
    upstream.hear_text("5;x=y\r\nhello\r\n0\r\n\r\n").await;
    upstream
        .say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client
        .hear_text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    upstream.spell("2\r\nok\r\n0\r\nTrailer: x\r\n\r\n").await;
    client.hear_text("2\r\nok\r\n0\r\nTrailer: x\r\n\r\n").await;
    client
        .say("HEAD http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await;
    upstream.hear_head().await;
    upstream
        .say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        .await;
    client
        .hear_text("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        .await;
    client
        .say("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await;
    upstream.hear_head().await;
    upstream
        .say("HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n")
        .await;
    client
        .hear_text("HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n")
        .await;
});

scenario!(a_large_body_each_way_at_once, |world| {
    const SIZE: usize = 3_000_000;
    let server = world.listen("192.0.2.1:80").await;
    let client = world.http().await;
    let (mut reading, mut writing) = client.into_split();
    let upload = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let head = format!(
            "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: {SIZE}\r\n\r\n"
        );
        writing.write_all(head.as_bytes()).await.unwrap();
        writing.write_all(&vec![b'u'; SIZE]).await.unwrap();
        writing
    });
    let mut upstream = server.accept().await;
    upstream.hear_head().await;
    upstream
        .say(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"))
        .await;
    let (mut from_proxy, mut to_proxy) = upstream.into_split();
    let echo = tokio::spawn(async move {
        tokio::io::copy(&mut from_proxy, &mut to_proxy)
            .await
            .unwrap_or(0)
    });
    let mut all = Vec::new();
    while all.len() < SIZE {
        let mut piece = vec![0; 65536];
        let read = tokio::io::AsyncReadExt::read(&mut reading, &mut piece)
            .await
            .unwrap();
        assert_ne!(read, 0, "after {}", all.len());
        all.extend_from_slice(&piece[..read]);
    }
    drop(upload.await.unwrap());
    drop(reading);
    echo.await.unwrap();
    assert!(all.ends_with(b"uuuu"));
});

scenario!(an_answer_that_ends_with_the_connection, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client
        .say("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await;
    let mut upstream = server.accept().await;
    upstream.hear_head().await;
    upstream.say("HTTP/1.0 200 OK\r\n\r\nsome").await;
    client
        .hear_text("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsome")
        .await;
    upstream.say("thing").await;
    drop(upstream);
    assert_eq!(client.hear_all().await, (b"thing".to_vec(), End::Orderly));
});

scenario!(an_answer_that_breaks_off_is_not_taken_for_whole, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client
        .say("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await;
    let mut upstream = server.accept().await;
    upstream.hear_head().await;
    upstream
        .say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    client
        .hear_text("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    drop(upstream);
    assert_eq!(client.hear_all().await, (vec![], End::Reset));
    assert_eq!(
        world.records_after(1).await.the_close()["close_reason"],
        "upstream-reset"
    );
});

scenario!(an_upstream_that_is_no_http_server_is_a_502, |world| {
    let server = world.listen("192.0.2.1:80").await;
    for (words, error) in [
        ("SSH-2.0-OpenSSH_9.9\r\n\r\n", "http_protocol_error"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "http_protocol_error",
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "http_protocol_error",
        ),
        ("HTTP/1.1 20", "connection_terminated"),
        ("", "connection_terminated"),
    ] {
        let mut client = world.http().await;
        client
            .say("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await;
        let mut upstream = server.accept().await;
        upstream.hear_head().await;
        upstream.say(words).await;
        drop(upstream);
        let (answer, _) = client.hear_all().await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 502 "), "{words:?}: {answer}");
        assert!(answer.contains(error), "{words:?}: {answer}");
    }
});

scenario!(upgrade_to_websocket_becomes_a_tunnel, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client
        .say(
            "GET http://a.example/ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nfirst",
        )
        .await;
    let mut upstream = server.accept().await;
    let head = upstream.hear_head().await;
    assert!(
        head.ends_with("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        "{head}"
    );
    upstream.silence().await;
    upstream
        .say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: a\r\n\r\nhello")
        .await;
    let head = client.hear_head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("Upgrade: websocket\r\n") && head.contains("Sec-WebSocket-Accept: a"));
    client.hear_text("hello").await;
    upstream.hear_text("first").await;
    client.say("more").await;
    upstream.hear_text("more").await;
});

scenario!(upgrade_to_h2c_is_not_passed_on, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client
        .say(
            "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n\r\n",
        )
        .await;
    let mut upstream = server.accept().await;
    let head = upstream.hear_head().await.to_ascii_lowercase();
    assert!(
        !head.contains("upgrade") && !head.contains("http2"),
        "{head}"
    );
});

scenario!(an_early_answer_is_heard_and_ends_the_connection, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client
        .say(
            "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100\r\n\r\nsome",
        )
        .await;
    let mut upstream = server.accept().await;
    upstream.hear_head().await;
    upstream
        .say("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        .await;
    client
        .hear_text("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        .await;
    // What would follow is still the body, and no request.
    client
        .say("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await;
    assert_eq!(client.hear_all().await.0, b"");
    server.nobody().await;
});

scenario!(a_client_that_half_closes_still_gets_its_answer, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client
        .say("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await;
    tokio::io::AsyncWriteExt::shutdown(&mut client)
        .await
        .unwrap();
    let mut upstream = server.accept().await;
    upstream.hear_head().await;
    assert_eq!(upstream.hear_all().await, (vec![], End::Orderly));
    upstream.say(OK).await;
    let (answer, end) = client.hear_all().await;
    assert_eq!(
        (String::from_utf8(answer).unwrap().as_str(), end),
        (OK, End::Orderly)
    );
});

scenario!(a_client_that_resets_ends_the_wait_upstream, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client
        .say("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await;
    let mut upstream = server.accept().await;
    upstream.hear_head().await;
    client.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(upstream.hear_all().await, (vec![], End::Reset));
    assert_eq!(
        world.records_after(1).await.the_close()["close_reason"],
        "client-reset"
    );
});

scenario!(a_company_address_is_not_reached_by_redirect, |world| {
    // The client follows a redirect by a new request, which is decided on like any other.
    for (target, error) in [
        (
            "http://169.254.169.254/latest/meta-data",
            "blocked-by-private-address",
        ),
        ("http://10.0.0.1/", "blocked-by-private-address"),
        ("http://[::ffff:127.0.0.1]/", "blocked-by-private-address"),
        ("http://192.0.2.9/", "blocked-by-allowlist"),
        ("http://private.example/", "blocked-by-private-address"),
    ] {
        let mut client = world.http().await;
        let host = target.split('/').nth(2).unwrap();
        client
            .say(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        let head = client.hear_head().await;
        assert!(
            head.starts_with(&format!(
                "HTTP/1.1 403 Forbidden\r\nx-proxy-error: {error}\r\n"
            )),
            "{target}: {head}"
        );
    }
});
