//! Servers and programs that are sloppy within what RFC 9110 and RFC 9112 have readers put up with: what
//! works without a gateway works through it, and what does not says why.

use crate::inspect::{both, hear_rest, hear_until, say};
use crate::scenario;
use crate::talk::Talk;
use crate::world::World;

/// What a program hears through the proxy port that asks for `/`, in this version, and is answered so.
async fn heard(world: &World, version: &str, answer: &str) -> String {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    let request =
        format!("GET http://a.example/ {version}\r\nHost: a.example\r\nConnection: close\r\n\r\n");
    client.say(request).await;
    let mut upstream = server.accept().await;
    upstream.hear_head().await;
    upstream.say(answer).await;
    drop(upstream);
    let (heard, _) = client.hear_all().await;
    String::from_utf8(heard).unwrap()
}

scenario!(a_sloppy_answer_is_set_right, |world| {
    let ok = "HTTP/1.1 200 OK\r\n";
    let close = "Connection: close\r\n\r\n";
    let five = format!("Content-Length: 5\r\n{close}hello");
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    let chunked = format!("Transfer-Encoding: chunked\r\n{close}{chunks}");
    for (what, answer, expected) in [
        (
            "space before the colon",
            format!("{ok}Content-Length : 5\r\n\r\nhello"),
            five.clone(),
        ),
        (
            "line feeds alone",
            "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello".to_owned(),
            five.clone(),
        ),
        (
            "one length twice",
            format!("{ok}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
            five.clone(),
        ),
        (
            "a folded field",
            format!("{ok}Content-Length: 5\r\nX: a\r\n b\r\n\r\nhello"),
            format!("X: a b\r\n{five}"),
        ),
        (
            "chunked twice",
            format!("{ok}Transfer-Encoding: chunked, chunked\r\n\r\n{chunks}"),
            chunked.clone(),
        ),
        (
            "chunked in two fields",
            format!("{ok}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
            chunked.clone(),
        ),
        (
            "no reason phrase",
            "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
            five.clone(),
        ),
        (
            "early hints",
            format!(
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{ok}Content-Length: 5\r\n\r\nhello"
            ),
            five.clone(),
        ),
    ] {
        let heard = heard(&world, "HTTP/1.1", &answer).await;
        let interim = heard.strip_prefix("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        let rest = interim.unwrap_or(&heard);
        let rest = rest
            .strip_prefix("HTTP/1.1 200 OK\r\n")
            .or(rest.strip_prefix("HTTP/1.1 200 \r\n"));
        assert_eq!(rest, Some(&*expected), "{what}: {heard}");
    }
});

scenario!(chunks_for_an_old_program_are_undone, |world| {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n6\r\n world\r\n0\r\nT: x\r\n\r\n";
    let heard = heard(&world, "HTTP/1.0", answer).await;
    assert_eq!(
        heard,
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello world"
    );
});

scenario!(an_answer_that_nobody_can_read_says_why, |world| {
    for (answer, why) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "the response has a length beside chunks",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            "the response has two lengths",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "the response has a Transfer-Encoding other than chunked",
        ),
        ("SSH-2.0-OpenSSH_9.9\r\n", "the response head is not HTTP/1"),
    ] {
        let heard = heard(&world, "HTTP/1.1", answer).await;
        assert!(heard.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{heard}");
        assert!(heard.contains(&format!("\ncause: {why}\n")), "{heard}");
        let records = world.records().await;
        let last = records.closes().last().copied().cloned().unwrap();
        assert_eq!(
            (&last["detail"], &last["close_reason"]),
            (&why.into(), &"upstream-protocol".into())
        );
    }
});

/// The head that upstream gets of a request to the proxy port.
async fn sent(world: &World, request: &[u8]) -> String {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client.say(request).await;
    let mut upstream = server.accept().await;
    upstream.hear_head().await
}

scenario!(a_sloppy_request_is_set_right, |world| {
    for (request, expected) in [
        // RFC 9112 section 2.2.
        (
            &b"\r\n\r\nGET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n"[..],
            "GET / HTTP/1.1\r\nHost: a.example\r\n",
        ),
        // Section 3.2.2, where the policy allows what Host names too.
        (
            b"GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example\r\n",
        ),
        (
            b"GET http://a.example/\xc3\xa9?q=\xff HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET /%C3%A9?q=%FF HTTP/1.1\r\nHost: a.example\r\n",
        ),
    ] {
        let head = sent(&world, request).await;
        assert!(head.starts_with(expected), "{head}");
    }
    // Blank lines have an end.
    let mut client = world.http().await;
    client
        .say("\r\n".repeat(5) + "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await;
    assert!(client.hear_head().await.starts_with("HTTP/1.1 400 "));
});

scenario!(a_host_field_may_name_the_proxy_itself, |world| {
    let client = world.http().await;
    let proxy = client.peer_addr().unwrap();
    let request = format!("GET http://a.example/ HTTP/1.1\r\nHost: {proxy}\r\n\r\n");
    let head = sent(&world, request.as_bytes()).await;
    assert!(
        head.starts_with("GET / HTTP/1.1\r\nHost: a.example\r\n"),
        "{head}"
    );
    let _server = world.listen("192.0.2.1:443").await;
    let port = proxy.port();
    for (host, status) in [
        (proxy.to_string(), "200"),
        (
            format!("localhost:{port}"),
            if proxy.ip().is_loopback() {
                "200"
            } else {
                "400"
            },
        ),
        (format!("{}:{}", proxy.ip(), port ^ 1), "400"),
        (format!("evil.example:{port}"), "400"),
        ("192.0.2.99:443".to_owned(), "400"),
    ] {
        let mut client = world.http().await;
        let request = format!("CONNECT a.example:443 HTTP/1.1\r\nHost: {host}\r\n\r\n");
        client.say(request).await;
        let head = client.hear_head().await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{host}: {head}"
        );
    }
});

scenario!(an_empty_line_behind_a_body_is_passed_over, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    client
        .say(
            "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi\r\n",
        )
        .await;
    let mut upstream = server.accept().await;
    upstream.hear_head().await;
    upstream.hear_text("hi").await;
    upstream.say(ok).await;
    client.hear_text(ok).await;
    client
        .say("GET http://a.example/2 HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await;
    assert!(upstream.hear_head().await.starts_with("GET /2 "));
});

/// What a program hears on an inspected connection that sends this, and is answered so.
async fn heard_inside(world: &World, request: &str, answer: &str) -> (String, String) {
    let (mut program, mut upstream) = both(world).await;
    say(&mut program, request).await;
    let head = hear_until(&mut upstream, "\r\n\r\n").await;
    say(&mut upstream, answer).await;
    drop(upstream);
    (head, hear_rest(&mut program).await)
}

scenario!(inside_inspected_https_too, |world| {
    world.lease("192.0.2.7", "look.example");
    let request = "GET / HTTP/1.1\r\nHost: look.example\r\nConnection: close\r\n\r\n";
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    for fields in [
        "Content-Length : 5\r\n\r\nhello",
        "X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
        "no field\r\nContent-Length: 5\r\n\r\nhello",
        "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "X: y\nContent-Length: 5\n\nhello",
        &format!("Transfer-Encoding: chunked, chunked\r\n\r\n{chunks}"),
        &format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: Chunked\r\n\r\n{chunks}"),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}");
        let (_, heard) = heard_inside(&world, request, &answer).await;
        assert!(heard.starts_with("HTTP/1.1 200 "), "{fields}: {heard}");
        assert!(heard.contains("hello"), "{fields}: {heard}");
    }
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    let old = "GET / HTTP/1.0\r\nHost: look.example\r\n\r\n";
    let (_, heard) = heard_inside(&world, old, &answer).await;
    assert!(heard.ends_with("\r\n\r\nhello"), "{heard}");
    for (answer, cause) in [
        (
            "SSH-2.0-x\r\n\r\n",
            "cause: the response head is not HTTP/1 as it should be",
        ),
        (
            "HTTP/1.1 99999 x\r\n\r\n",
            "cause: the response's status line has no valid status",
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "cause: ",
        ),
        ("", "cause: upstream broke off before it answered"),
    ] {
        let (_, heard) = heard_inside(&world, request, answer).await;
        assert!(heard.starts_with("HTTP/1.1 502 "), "{answer}: {heard}");
        assert!(heard.contains(cause), "{answer}: {heard}");
    }
    let (mut program, mut upstream) = both(&world).await;
    let requests = "\r\n\r\nGET /caf\u{e9}?q=\u{e9} HTTP/1.1\r\nHost: look.example\r\n\r\n";
    for _ in 0..2 {
        say(&mut program, requests).await;
        let head = hear_until(&mut upstream, "\r\n\r\n").await;
        assert!(
            head.starts_with("GET /caf%C3%A9?q=%C3%A9 HTTP/1.1\r\n"),
            "{head}"
        );
        say(
            &mut upstream,
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        hear_until(&mut program, "\r\n\r\n").await;
    }
    say(&mut program, &"\r\n".repeat(5)).await;
    assert!(hear_rest(&mut program).await.starts_with("HTTP/1.1 400 "));
});
