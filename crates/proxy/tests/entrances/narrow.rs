//! Rules with methods and paths, and `mode = "limited"`, on every path that a request can take.

use portcullis_policy::Mode;
use tokio::net::TcpStream;

use crate::hello::{self, ACCESS_DENIED};
use crate::scenario;
use crate::talk::{End, Talk};
use crate::world::{Records, World};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What is narrow in these tests: x.deep.example, at 192.0.2.1.
const NARROW: &str = r#"
[network.domains."x.deep.example:80"]
verdict = "allow"
methods = ["GET", "POST"]
paths = ["/public/**", "/exact"]
[network.domains."x.deep.example:8080"]
verdict = "allow"
methods = ["GET", "POST"]
paths = ["/public/**", "/exact"]
[network.domains."x.deep.example:9000"]
verdict = "allow"
paths = ["/socket"]
"#;

async fn narrow() -> World {
    World::with(Mode::Enforce, 64, NARROW).await
}

async fn limited() -> World {
    World::with(Mode::Enforce, 64, "\n[network]\nmode = \"limited\"\n").await
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x.deep.example\r\n\r\n")
}

/// Asserts that the client is told this, and that the connection ends with it.
async fn assert_forbidden(client: &mut TcpStream, code: &str) -> String {
    let (answer, end) = client.hear_all().await;
    let answer = String::from_utf8(answer).unwrap();
    let start = format!("HTTP/1.1 403 Forbidden\r\nx-proxy-error: {code}\r\n");
    assert!(answer.starts_with(&start), "{answer}");
    assert_eq!(end, End::Orderly);
    answer
}

/// How often a protocol was refused by this rule: equal ones within a second share a record.
fn not_allowed(records: &Records, (layer, protocol, rule): (&str, &str, &str)) -> u64 {
    let denials = records.decisions().into_iter().filter(|v| {
        v["reason"] == "protocol-not-allowed"
            && (&v["layer"], &v["protocol"]) == (&layer.into(), &protocol.into())
            && v["rule"] == rule
    });
    denials.map(|v| v["count"].as_u64().unwrap_or(1)).sum()
}

async fn connect(world: &World, port: u16) -> TcpStream {
    let mut client = world.http().await;
    let head = format!("CONNECT x.deep.example:{port} HTTP/1.1\r\n\r\n");
    client.say(head).await;
    let said = client.hear_head().await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    client
}

scenario!(
    second_request_with_another_method_and_what_is_pipelined_behind_it,
    |_usual| {
        let world = narrow().await;
        let server = world.listen("192.0.2.1:80").await;
        let mut client = world.http().await;
        client
            .say("GET http://x.deep.example/public/1 HTTP/1.1\r\nHost: x.deep.example\r\n\r\n")
            .await;
        let mut upstream = server.accept().await;
        assert!(upstream.hear_head().await.starts_with("GET /public/1 "));
        upstream.say(OK).await;
        client.hear_text(OK).await;
        client
            .say(
                "DELETE http://x.deep.example/public/2?q=secret HTTP/1.1\r\nHost: x.deep.example\r\n\r\n\
                 GET http://x.deep.example/public/3 HTTP/1.1\r\nHost: x.deep.example\r\n\r\n",
            )
            .await;
        let answer = assert_forbidden(&mut client, "blocked-by-method-policy").await;
        assert!(answer.contains("error=http_request_denied"), "{answer}");
        let line = "[network.domains.\"x.deep.example:80\"]\nmethods = [\"DELETE\", \"GET\", \"HEAD\", \"POST\"]";
        assert!(answer.contains(line), "{answer}");
        assert_eq!(
            upstream.hear_all().await.0,
            b"",
            "nothing of it went upstream"
        );
        let records = world.records().await;
        let denial = records.denied("http", "http", "method-not-allowed");
        assert_eq!(denial["method"], "DELETE");
        assert_eq!(denial["path"], "/public/2");
        assert_eq!(denial["rule"], "x.deep.example:80");
        assert!(answer.contains(denial["id"].as_str().unwrap()));
        assert!(!records.0.iter().any(|v| v.to_string().contains("secret")));
    }
);

scenario!(a_path_of_no_rule_and_paths_that_could_be_two, |_usual| {
    let world = narrow().await;
    let server = world.listen("192.0.2.1:80").await;
    for path in [
        "/private",
        "/publicx",
        "/Public/a",
        "/exact/",
        "/public/../private",
        "/public/%2e%2e/private",
        "/public/..%2fprivate",
        "/public/..%5cprivate",
        "/public/..\\private",
        "/public//a",
        "//public/a",
        "/public/..;/private",
        "/public/a%00",
        "/public/%252e%252e/private",
        "/public/%c0%ae%c0%ae/private",
        "/public/%EF%BC%8E%EF%BC%8E/private",
        "/public/%",
    ] {
        let mut client = world.http().await;
        let request = format!("GET http://x.deep.example{path} HTTP/1.1\r\n");
        client.say(request + "Host: x.deep.example\r\n\r\n").await;
        assert_forbidden(&mut client, "blocked-by-path-policy").await;
    }
    server.nobody().await;
    let records = world.records().await;
    let decisions = records.decisions();
    assert!(
        decisions.iter().all(|v| v["reason"] == "path-not-allowed"),
        "{decisions:#?}"
    );
    assert!(
        decisions
            .iter()
            .any(|v| v["detail"] == "the path has a dot segment")
    );
});

scenario!(what_is_sent_on_is_the_form_that_matched, |_usual| {
    let world = narrow().await;
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client
        .say("GET http://x.deep.example/p%75blic/%7ea%2ab?q=%2e%2E/ HTTP/1.1\r\nHost: x.deep.example\r\n\r\n")
        .await;
    let mut upstream = server.accept().await;
    let head = upstream.hear_head().await;
    assert!(
        head.starts_with("GET /public/~a%2Ab?q=%2e%2E/ HTTP/1.1\r\n"),
        "{head}"
    );
    upstream.say(OK).await;
    client.hear_text(OK).await;
    // a rule without paths changes nothing
    let plain = world.listen("192.0.2.2:80").await;
    client
        .say("GET http://b.example/%7ea//b;c HTTP/1.1\r\nHost: b.example\r\n\r\n")
        .await;
    let mut upstream = plain.accept().await;
    let head = upstream.hear_head().await;
    assert!(head.starts_with("GET /%7ea//b;c HTTP/1.1\r\n"), "{head}");
});

scenario!(requests_inside_connect_are_decided_one_by_one, |_usual| {
    let world = narrow().await;
    let server = world.listen("192.0.2.1:8080").await;
    let mut client = connect(&world, 8080).await;
    let mut upstream = server.accept().await;
    client
        .spell(get("/public/1").replace("example", "example:8080"))
        .await;
    assert!(upstream.hear_head().await.starts_with("GET /public/1 "));
    upstream.say(OK).await;
    client.hear_text(OK).await;
    client.say(get("/exact").replace("GET", "HEAD")).await;
    assert!(upstream.hear_head().await.starts_with("HEAD /exact "));
    upstream.say("HTTP/1.1 204 No Content\r\n\r\n").await;
    client.hear_text("HTTP/1.1 204 No Content\r\n\r\n").await;
    client.say(get("/private")).await;
    assert_forbidden(&mut client, "blocked-by-path-policy").await;
    assert_eq!(upstream.hear_all().await.0, b"");
    let records = world.records().await;
    let denial = records.denied("http", "connect", "path-not-allowed");
    assert_eq!(
        (&denial["method"], &denial["path"]),
        (&"GET".into(), &"/private".into())
    );
});

scenario!(requests_inside_socks_are_decided_one_by_one, |_usual| {
    let world = narrow().await;
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.socks().await;
    let request = [&[5, 1, 0, 5, 1, 0, 3, 14][..], b"x.deep.example", &[0, 80]].concat();
    client.say(request).await;
    assert_eq!(client.hear(12).await[..4], [5, 0, 5, 0]);
    let mut upstream = server.accept().await;
    client.say(get("/public/1")).await;
    assert!(upstream.hear_head().await.starts_with("GET /public/1 "));
    upstream.say(OK).await;
    client.hear_text(OK).await;
    client.say(get("/public/2").replace("GET", "PUT")).await;
    assert_forbidden(&mut client, "blocked-by-method-policy").await;
    assert_eq!(upstream.hear_all().await.0, b"");
    world
        .records()
        .await
        .denied("http", "socks5", "method-not-allowed");
});

scenario!(
    requests_on_direct_connections_are_decided_one_by_one,
    |_usual| {
        let world = narrow().await;
        let server = world.listen("192.0.2.1:80").await;
        world.lease("192.0.2.1", "x.deep.example");
        let mut client = world.connect("192.0.2.1:80").await;
        client.say(get("/public/1")).await;
        let mut upstream = server.accept().await;
        assert!(upstream.hear_head().await.starts_with("GET /public/1 "));
        upstream.say(OK).await;
        client.hear_text(OK).await;
        client.say(get("/public/1").replace("GET", "PATCH")).await;
        assert_forbidden(&mut client, "blocked-by-method-policy").await;
        assert_eq!(upstream.hear_all().await.0, b"");
        // absolute form and no Host at all mean the same rule
        for request in [
            "GET http://x.deep.example/private HTTP/1.1\r\nHost: x.deep.example\r\n\r\n",
            "GET /private HTTP/1.0\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: x.deep.example\r\n\r\n",
        ] {
            let mut client = world.connect("192.0.2.1:80").await;
            client.say(request).await;
            let (answer, _) = client.hear_all().await;
            assert!(answer.starts_with(b"HTTP/1.1 403 "), "{request}");
            assert_eq!(server.accept().await.hear_all().await.0, b"");
        }
    }
);

scenario!(
    another_name_of_the_address_opens_nothing_of_this_one,
    |_usual| {
        let world = narrow().await;
        let server = world.listen("192.0.2.1:80").await;
        // a.example is plain, at the same address
        world.lease("192.0.2.1", "a.example");
        world.lease("192.0.2.1", "x.deep.example");
        for (request, passes) in [
            (get("/private"), false),
            (get("/private").replace("x.deep", "a"), true),
            // whose server would answer is anybody's guess
            ("GET /private HTTP/1.0\r\n\r\n".to_owned(), false),
            ("GET /public/x HTTP/1.0\r\n\r\n".to_owned(), true),
            // no HTTP: a.example's rule lets it through
            ("ruok\r\n".to_owned(), true),
        ] {
            let mut client = world.connect("192.0.2.1:80").await;
            client.say(&request).await;
            let mut upstream = server.accept().await;
            if passes {
                let start = request.split("\r\n").next().unwrap();
                upstream.hear_text(start).await;
                if start.starts_with("GET") {
                    upstream.hear_head().await;
                    upstream.say(OK).await;
                    assert!(client.hear_head().await.starts_with("HTTP/1.1 200 "));
                }
            } else {
                assert!(
                    client.hear_all().await.0.starts_with(b"HTTP/1.1 403 "),
                    "{request}"
                );
                assert_eq!(upstream.hear_all().await.0, b"");
            }
        }
    }
);

scenario!(no_tls_passes_that_nobody_looks_into, |_usual| {
    let world = narrow().await;
    let server = world.listen("192.0.2.1:8080").await;
    for sni in [Some("x.deep.example"), None] {
        let mut client = connect(&world, 8080).await;
        let mut upstream = server.accept().await;
        client.say(hello::hello(sni)).await;
        assert_eq!(client.hear_all().await.0, ACCESS_DENIED);
        assert_eq!(upstream.hear_all().await.0, b"");
    }
    let records = world.records_after(2).await;
    let of = ("tls", "connect", "x.deep.example:8080");
    assert_eq!(not_allowed(&records, of), 2, "{:#?}", records.0);
});

scenario!(
    no_other_protocol_passes_and_no_word_before_it_is_a_request,
    |_usual| {
        let world = narrow().await;
        let server = world.listen("192.0.2.1:8080").await;
        for (said, ends) in [
            (&b"SSH-2.0-x\r\n"[..], false),
            (b"\x00\x01\x02\x03", false),
            (b"ruok", true),
            (b"GE", true),
        ] {
            let mut client = connect(&world, 8080).await;
            let mut upstream = server.accept().await;
            client.say(said).await;
            if ends {
                tokio::io::AsyncWriteExt::shutdown(&mut client)
                    .await
                    .unwrap();
            }
            assert_eq!(client.hear_all().await, (vec![], End::Reset));
            assert_eq!(upstream.hear_all().await.0, b"", "{said:?}");
        }
        let records = world.records_after(4).await;
        let tcp = not_allowed(&records, ("tcp", "connect", "x.deep.example:8080"));
        assert_eq!(tcp, 4, "{:#?}", records.0);
    }
);

scenario!(
    a_websocket_passes_by_its_path_but_not_where_methods_count,
    |_usual| {
        let world = narrow().await;
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let mut client = world.http().await;
        client
            .say(format!(
                "GET http://x.deep.example/public/ws HTTP/1.1\r\nHost: x.deep.example\r\n{upgrade}"
            ))
            .await;
        assert_forbidden(&mut client, "blocked-by-method-policy").await;
        let server = world.listen("192.0.2.1:9000").await;
        let mut client = connect(&world, 9000).await;
        let mut upstream = server.accept().await;
        client
            .say(format!(
                "GET /socket HTTP/1.1\r\nHost: x.deep.example:9000\r\n{upgrade}"
            ))
            .await;
        assert!(upstream.hear_head().await.contains("Upgrade: websocket"));
        upstream
            .say(format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}"))
            .await;
        client.hear_head().await;
        client.say("up").await;
        upstream.hear_text("up").await;
    }
);

scenario!(
    limited_mode_lets_safe_methods_through_and_nothing_else,
    |_usual| {
        let world = limited().await;
        let server = world.listen("192.0.2.1:80").await;
        let mut client = world.http().await;
        client
            .say("GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await;
        let mut upstream = server.accept().await;
        assert!(upstream.hear_head().await.starts_with("GET /x "));
        upstream.say(OK).await;
        client.hear_text(OK).await;
        client
        .say("POST http://a.example/x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi")
        .await;
        let answer = assert_forbidden(&mut client, "blocked-by-method-policy").await;
        assert!(answer.contains("mode = \"full\""), "{answer}");
        assert_eq!(upstream.hear_all().await.0, b"");
        world
            .records()
            .await
            .denied("http", "http", "method-not-allowed");
    }
);

scenario!(limited_mode_refuses_tunnels_for_tls, |_usual| {
    let world = limited().await;
    let server = world.listen("192.0.2.1:443").await;
    let mut client = world.http().await;
    client.say("CONNECT a.example:443 HTTP/1.1\r\n\r\n").await;
    assert_forbidden(&mut client, "blocked-by-method-policy").await;
    server.nobody().await;
    let records = world.records().await;
    let denial = records.denied("http", "connect", "method-not-allowed");
    assert_eq!(denial["method"], "CONNECT");
    world.lease("192.0.2.1", "a.example");
    let mut client = world.connect("192.0.2.1:443").await;
    client.say(hello::hello(Some("a.example"))).await;
    let mut upstream = server.accept().await;
    assert_eq!(client.hear_all().await.0, ACCESS_DENIED);
    assert_eq!(upstream.hear_all().await.0, b"");
    // an address rule lets no more through
    let rule = world.listen("198.51.100.7:8080").await;
    let mut client = world.connect("198.51.100.7:8080").await;
    client.say("SSH-2.0-x\r\n").await;
    let mut upstream = rule.accept().await;
    assert_eq!(upstream.hear_all().await.0, b"");
    assert_eq!(client.hear_all().await, (vec![], End::Reset));
});

scenario!(
    a_policy_that_watches_records_what_it_would_refuse,
    |_usual| {
        let world = World::with(Mode::Audit, 64, NARROW).await;
        let server = world.listen("192.0.2.1:8080").await;
        let mut client = connect(&world, 8080).await;
        let mut upstream = server.accept().await;
        client.say(get("/private").replace("GET", "PUT")).await;
        assert!(upstream.hear_head().await.starts_with("PUT /private "));
        let mut client = connect(&world, 8080).await;
        let mut upstream = server.accept().await;
        client.say("SSH-2.0-x\r\n").await;
        upstream.hear_text("SSH-2.0-x\r\n").await;
        let records = world.records().await;
        let audits: Vec<_> = records
            .decisions()
            .into_iter()
            .filter(|v| v["verdict"] == "audit")
            .map(|v| v["reason"].clone())
            .collect();
        assert_eq!(audits, ["method-not-allowed", "protocol-not-allowed"]);
    }
);
