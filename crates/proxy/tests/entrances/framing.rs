//! *HTTP framing* (docs/threats.md): raw bytes that two readers could take differently never get
//! past the gateway.

use crate::scenario;
use crate::talk::Talk;

/// Requests to a listed host with something wrong in them.
const BAD: [(&str, &str); 19] = [
    (
        "CL with TE",
        "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    (
        "TE with CL",
        "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
    ),
    (
        "two CL",
        "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
    ),
    (
        "CL with sign",
        "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: +4\r\n\r\n",
    ),
    (
        "TE that is not chunked",
        "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: xchunked\r\n\r\n",
    ),
    (
        "TE with space before the colon",
        "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding : chunked\r\n\r\n",
    ),
    (
        "bare LF",
        "GET http://a.example/ HTTP/1.1\nHost: a.example\n\n",
    ),
    (
        "bare LF in a field",
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example\nX: y\r\n\r\n",
    ),
    (
        "bare CR",
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example\rX: y\r\n\r\n",
    ),
    (
        "obs-fold",
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nX: y\r\n z\r\n\r\n",
    ),
    (
        "duplicate Host",
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nHost: evil.example\r\n\r\n",
    ),
    (
        "Host unlike the target",
        "GET http://a.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ),
    (
        "Host with another port",
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example:8080\r\n\r\n",
    ),
    (
        "userinfo",
        "GET http://allowed@evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ),
    (
        "backslash",
        "GET http://evil.example\\@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ),
    (
        "percent-encoded host",
        "GET http://a%2eexample/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ),
    (
        "https in absolute form",
        "GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ),
    (
        "a request as to a server",
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ),
    (
        "Connection names Host",
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nConnection: host\r\n\r\n",
    ),
];

scenario!(
    malformed_requests_are_answered_400_recorded_and_never_dialled,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        for (what, bytes) in BAD {
            let mut client = world.http().await;
            client.say(bytes).await;
            let (answer, _) = client.hear_all().await;
            let answer = String::from_utf8(answer).unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
                "{what}: {answer}"
            );
            assert!(
                answer.contains("error=http_request_error"),
                "{what}: {answer}"
            );
        }
        server.nobody().await;
        let records = world.records().await;
        let malformed =
            |v: &&serde_json::Value| v["verdict"] == "deny" && v["reason"] == "malformed";
        let counted: u64 = records
            .decisions()
            .into_iter()
            .filter(malformed)
            .map(|v| v["count"].as_u64().unwrap_or(1))
            .sum();
        assert_eq!(counted, BAD.len() as u64, "{:#?}", records.0);
    }
);

scenario!(the_proxy_says_that_it_is_no_web_server, |world| {
    let mut client = world.http().await;
    client
        .say("GET / HTTP/1.1\r\nHost: 127.0.0.1:3128\r\n\r\n")
        .await;
    let (answer, _) = client.hear_all().await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("not a web server"), "{answer}");
});

scenario!(a_malformed_chunk_is_not_passed_on, |world| {
    let server = world.listen("192.0.2.1:80").await;
    for bad in [
        "5\nhello\r\n",
        "5\r\nhelloX",
        "zz\r\n",
        "-1\r\n",
        "5;\0\r\n",
        "\r\n",
    ] {
        let mut client = world.http().await;
        client
            .say("POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        let mut upstream = server.accept().await;
        upstream.hear_head().await;
        client.say(bad).await;
        let (answer, _) = client.hear_all().await;
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{bad:?}: {answer:?}");
        assert_eq!(upstream.hear_all().await.0, b"", "{bad:?}");
    }
});

scenario!(a_request_behind_a_body_is_decided_on_by_itself, |world| {
    // The smuggler's aim: a second request that only the server sees.
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    let hidden = "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    client
        .say(format!(
            "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n\
             0\r\n\r\n{hidden}"
        ))
        .await;
    let mut upstream = server.accept().await;
    upstream.hear_head().await;
    upstream.hear_text("0\r\n\r\n").await;
    upstream.silence().await;
    upstream
        .say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    client
        .hear_text("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert!(client.hear_head().await.starts_with("HTTP/1.1 403 "));
    assert_eq!(upstream.hear_all().await.0, b"");
});

scenario!(oversized_heads, |world| {
    let mut client = world.http().await;
    let field = format!("X: {}\r\n", "y".repeat(60_000));
    let head = format!("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n{field}{field}\r\n");
    // The refusal may come before all of it was taken.
    let _ = tokio::io::AsyncWriteExt::write_all(&mut client, head.as_bytes()).await;
    assert!(client.hear_head().await.starts_with("HTTP/1.1 400 "));
    let mut client = world.http().await;
    let fields = "X: y\r\n".repeat(200);
    client
        .say(format!(
            "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"
        ))
        .await;
    assert!(client.hear_head().await.starts_with("HTTP/1.1 400 "));
});

scenario!(a_header_a_byte_at_a_time_arrives_whole, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client
        .spell("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nX: y\r\n\r\n")
        .await;
    let mut upstream = server.accept().await;
    assert!(upstream.hear_head().await.contains("X: y\r\n"));
});

scenario!(http_1_0_gets_no_chunks_and_no_second_request, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client
        .say("GET http://a.example/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        .await;
    let mut upstream = server.accept().await;
    let head = upstream.hear_head().await;
    assert!(
        head.starts_with("GET / HTTP/1.0\r\nHost: a.example\r\n"),
        "{head}"
    );
    upstream
        .say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    let (answer, _) = client.hear_all().await;
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    );
});

/// The same faults as they stand on a direct connection, where the target is an address.
const BAD_DIRECT: [(&str, &str); 9] = [
    (
        "duplicate Host",
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: evil.example\r\n\r\n",
    ),
    ("no Host", "GET / HTTP/1.1\r\nX: y\r\n\r\n"),
    (
        "Host in a fold",
        "GET / HTTP/1.1\r\nX: y\r\n Host: evil.example\r\nHost: a.example\r\n\r\n",
    ),
    (
        "CL with TE",
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    (
        "two CL",
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
    ),
    ("bare LF", "GET / HTTP/1.1\nHost: a.example\n\n"),
    (
        "a NUL in a field",
        "GET / HTTP/1.1\r\nHost: a.example\r\nX: \0\r\n\r\n",
    ),
    (
        "Host with a list",
        "GET / HTTP/1.1\r\nHost: a.example, evil.example\r\n\r\n",
    ),
    (
        "an absolute target unlike Host",
        "GET http://evil.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ),
];

scenario!(
    malformed_requests_on_direct_connections_reach_nobody,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        world.lease("192.0.2.1", "a.example");
        for (what, bytes) in BAD_DIRECT {
            let mut client = world.connect("192.0.2.1:80").await;
            let mut upstream = server.accept().await;
            client.say(bytes).await;
            let (answer, _) = client.hear_all().await;
            let answer = String::from_utf8(answer).unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
                "{what}: {answer}"
            );
            assert_eq!(upstream.hear_all().await.0, b"", "{what}");
        }
    }
);

scenario!(what_a_client_says_as_a_proxy_steers_nothing, |world| {
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client
        .say(
            "GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\nProxy-Connection: keep-alive\r\n\
             Proxy-Authorization: Basic eDp5\r\nX-Forwarded-Host: evil.example\r\n\
             X-Forwarded-For: 10.0.0.1\r\nForwarded: host=evil.example\r\nVia: 1.1 evil.example\r\n\
             X-Kept: y\r\n\r\n",
        )
        .await;
    let mut upstream = server.accept().await;
    let head = upstream.hear_head().await;
    assert!(
        head.starts_with("GET /x HTTP/1.1\r\nHost: a.example\r\n"),
        "{head}"
    );
    assert!(head.contains("X-Kept: y\r\n"), "{head}");
    for word in ["proxy-", "eDp5", "evil.example", "10.0.0.1"] {
        assert!(
            !head.to_lowercase().contains(&word.to_lowercase()),
            "{word}: {head}"
        );
    }
});

scenario!(
    a_head_that_takes_for_ever_is_ended_and_reaches_nobody,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        let mut client = world.http().await;
        let (mut reading, mut writing) = client.split();
        let dripping = async {
            let head = b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nX: ";
            let mut bytes = head.iter().copied().chain(std::iter::repeat(b'y'));
            // Until it is hung up on.
            while tokio::io::AsyncWriteExt::write_all(&mut writing, &[bytes.next().unwrap()])
                .await
                .is_ok()
            {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        };
        let mut answer = Vec::new();
        let hearing = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut answer);
        tokio::select! {
            () = dripping => panic!("no answer"),
            // The last byte may come behind the end, and be answered with a reset.
            heard = tokio::time::timeout(crate::world::PATIENCE, hearing) => drop(heard.expect("in time")),
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
            "{answer}"
        );
        assert!(answer.contains("took too long"), "{answer}");
        server.nobody().await;
    }
);
