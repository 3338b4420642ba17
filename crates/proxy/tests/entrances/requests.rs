//! The same attack by each way that a request can take: by the proxy port, on a direct connection, and
//! inside an inspected one, in HTTP/1.1 and in HTTP/2. All of them ask one core, and must say the same.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_policy::Mode;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::inspect::{self, PLACE, both, hear_rest, hear_until, say};
use crate::scenario;
use crate::talk::{End, Talk};
use crate::world::{PATIENCE, World};

/// Trailers that servers add to the fields that a request was decided by, and one that is a trailer.
const TRAILERS: [(&str, &str); 6] = [
    ("Host", "evil.example"),
    ("X-Original-URL", "/secret"),
    ("x_rewrite_url", "/secret"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Checksum", "kept"),
];

/// A world with this rule for `look.example`, which is inspected, and for `any.example`.
async fn world(rule: &str, limits: &str) -> World {
    let world = World::by(
        "version = 1\n[network.domains]\n\"look.example\" = { verdict = \"allow\", inspect = true, \
         ca_file = \"ca.pem\" }\n",
    )
    .await;
    world.change(&policy(rule, limits));
    world.lease("192.0.2.7", "look.example");
    world.lease("192.0.2.3", "any.example");
    world
}

fn policy(rule: &str, limits: &str) -> String {
    format!(
        "version = 1\n[network.domains]\n\"look.example\" = {{ verdict = \"allow\", inspect = true, \
         ca_file = \"ca.pem\"{rule} }}\n\"any.example:80\" = {{ verdict = \"allow\"{rule} }}\n\
         [network.limits]\n{limits}\n"
    )
}

/// A program that speaks plain HTTP with `any.example`, and how it writes a target.
async fn plain(world: &World, direct: bool) -> (TcpStream, &'static str) {
    match direct {
        true => (world.connect("192.0.2.3:80").await, ""),
        false => (world.http().await, "http://any.example"),
    }
}

/// A program inside an inspected connection that has agreed on HTTP/2, and the server's end.
async fn both_http2(world: &World) -> (TlsStream<TcpStream>, TlsServer) {
    let outside = world.listen(PLACE).await;
    let program = world.connect(PLACE).await;
    let upstream = outside.accept().await;
    tokio::join!(
        inspect::shake(world, program, &["h2"]),
        inspect::serve(upstream, "look.example", &["h2"])
    )
}

type TlsServer = tokio_rustls::server::TlsStream<TcpStream>;

/// A body in these frames.
struct Frames(Vec<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = (!self.0.is_empty()).then(|| Ok(self.0.remove(0)));
        std::task::Poll::Ready(next)
    }
}

fn fields(pairs: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    };
    pairs.iter().map(field).collect()
}

/// A server of HTTP/2 that answers with these trailers, and keeps those that it got.
async fn answer_http2(stream: TlsServer, trailers: HeaderMap, got: Arc<Mutex<Vec<HeaderMap>>>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (trailers, got) = (trailers.clone(), got.clone());
        async move {
            let mut body = request.into_body();
            while let Some(frame) = next_frame(&mut body).await {
                if let Ok(trailers) = frame.into_trailers() {
                    got.lock().unwrap().push(trailers);
                }
            }
            let body = Frames(vec![
                Frame::data(Bytes::from_static(b"ok")),
                Frame::trailers(trailers),
            ]);
            Ok::<_, std::convert::Infallible>(Response::new(body))
        }
    });
    let _ = server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn next_frame(body: &mut Incoming) -> Option<Frame<Bytes>> {
    let next = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx));
    timeout(PATIENCE, next).await.unwrap().map(Result::unwrap)
}

/// Begins HTTP/2 as a program.
async fn client_http2(stream: TlsStream<TcpStream>) -> client::conn::http2::SendRequest<Frames> {
    let (sender, driver) =
        client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(driver);
    sender
}

fn malformed(records: &[&Value]) -> u64 {
    let denied = records.iter().filter(|v| v["reason"] == "malformed");
    denied.map(|v| v["count"].as_u64().unwrap_or(1)).sum()
}

scenario!(trailers_that_name_another_host_method_or_path, |_usual| {
    let world = world("", "").await;
    let server = world.listen("192.0.2.3:80").await;
    let trailers: String = TRAILERS
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .concat();
    for direct in [false, true] {
        let (mut client, target) = plain(&world, direct).await;
        client
            .say(format!(
                "POST {target}/a HTTP/1.1\r\nHost: any.example\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nup\r\n0\r\n{trailers}\r\n"
            ))
            .await;
        let mut upstream = server.accept().await;
        upstream.hear_head().await;
        upstream
            .hear_text("2\r\nup\r\n0\r\nX-Checksum: kept\r\n\r\n")
            .await;
        // Upstream does not speak as the gateway, behind its body neither.
        upstream
            .say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Proxy-Error: x\r\nProxy-Status: portcullis\r\nX-Sum: 1\r\n\r\n")
            .await;
        client
            .hear_text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n")
            .await;
    }
    let (mut program, mut upstream) = both(&world).await;
    let names = TRAILERS.map(|(name, _)| name).join(", ");
    say(
        &mut program,
        &format!(
            "POST /a HTTP/1.1\r\nHost: look.example\r\nTransfer-Encoding: chunked\r\n\
             Trailer: {names}\r\n\r\n2\r\nup\r\n0\r\n{trailers}\r\n"
        ),
    )
    .await;
    hear_until(&mut upstream, "2\r\nup\r\n0\r\n").await;
    let heard = hear_until(&mut upstream, "\r\n\r\n").await;
    assert_eq!(heard.to_ascii_lowercase(), "x-checksum: kept\r\n\r\n");
    drop((program, upstream));

    let (program, upstream) = both_http2(&world).await;
    let got = Arc::new(Mutex::new(Vec::new()));
    let answers = fields(&[
        ("x-proxy-error", "x"),
        ("proxy-status", "portcullis"),
        ("x-sum", "1"),
    ]);
    tokio::spawn(answer_http2(upstream, answers, got.clone()));
    let mut sender = client_http2(program).await;
    let body = Frames(vec![
        Frame::data(Bytes::from_static(b"up")),
        Frame::trailers(fields(&TRAILERS)),
    ]);
    let request = Request::post("https://look.example/a").body(body).unwrap();
    let answer = timeout(PATIENCE, sender.send_request(request))
        .await
        .unwrap()
        .unwrap();
    let mut body = answer.into_body();
    let mut behind = HeaderMap::new();
    while let Some(frame) = next_frame(&mut body).await {
        behind.extend(frame.into_trailers().unwrap_or_default());
    }
    assert_eq!(behind, fields(&[("x-sum", "1")]));
    assert_eq!(*got.lock().unwrap(), [fields(&[("x-checksum", "kept")])]);
});

scenario!(
    a_head_a_byte_at_a_time_inside_an_inspected_connection,
    |_usual| {
        let world = world("", "header_timeout = \"2s\"").await;
        let (mut program, mut upstream) = both(&world).await;
        let begun = Instant::now();
        let (mut reading, mut writing) = tokio::io::split(&mut program);
        let dripping = async {
            for byte in "GET /a HTTP/1.1\r\nHost: look.example\r\nX: y"
                .bytes()
                .chain(std::iter::repeat(b'y'))
            {
                if tokio::io::AsyncWriteExt::write_all(&mut writing, &[byte])
                    .await
                    .is_err()
                {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            std::future::pending::<()>().await;
        };
        let heard = tokio::select! {
            () = dripping => unreachable!(),
            heard = hear_rest(&mut reading) => heard,
        };
        assert!(
            heard.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
            "{heard}"
        );
        assert!(begun.elapsed() >= Duration::from_secs(2));
        assert_eq!(hear_rest(&mut upstream).await, "");
        let records = world.records_after(1).await;
        assert_eq!(malformed(&records.decisions()), 1, "{:#?}", records.0);
    }
);

scenario!(silence_inside_an_inspected_connection, |_usual| {
    let world = world("", "header_timeout = \"2s\"").await;
    let (mut program, mut upstream) = both(&world).await;
    assert_eq!(hear_rest(&mut program).await, "");
    assert_eq!(hear_rest(&mut upstream).await, "");
    drop((program, upstream));
    let (mut program, _upstream) = both_http2(&world).await;
    hear_rest(&mut program).await;
    let records = world.records_after(2).await;
    assert_eq!(malformed(&records.decisions()), 0, "{:#?}", records.0);
});

scenario!(headers_of_http2_without_their_end, |_usual| {
    let world = world("", "header_timeout = \"2s\"").await;
    let (mut program, _upstream) = both_http2(&world).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // SETTINGS; HEADERS on stream 1, END_STREAM but not END_HEADERS: `:method: GET`.
    let frames = [
        &[0, 0, 0, 4, 0, 0, 0, 0, 0][..],
        &[0, 0, 1, 1, 1, 0, 0, 0, 1, 0x82],
    ]
    .concat();
    use tokio::io::AsyncWriteExt;
    program
        .write_all(&[&preface[..], &frames].concat())
        .await
        .unwrap();
    program.flush().await.unwrap();
    hear_rest(&mut program).await;
    let records = world.records_after(1).await;
    assert_eq!(malformed(&records.decisions()), 1, "{:#?}", records.0);
});

scenario!(a_websocket_that_the_rule_forbids, |_usual| {
    let world = world(", methods = [\"GET\"]", "").await;
    let server = world.listen("192.0.2.3:80").await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    let (mut client, target) = plain(&world, false).await;
    client
        .say(format!(
            "GET {target}/ws HTTP/1.1\r\nHost: any.example\r\n{upgrade}"
        ))
        .await;
    let head = client.hear_head().await;
    assert!(
        head.starts_with("HTTP/1.1 403 Forbidden\r\nx-proxy-error: blocked-by-method-policy\r\n"),
        "{head}"
    );
    server.nobody().await;
    let (mut program, mut upstream) = both(&world).await;
    say(
        &mut program,
        &format!("GET /ws HTTP/1.1\r\nHost: look.example\r\n{upgrade}"),
    )
    .await;
    let heard = hear_rest(&mut program).await;
    assert!(
        heard.starts_with("HTTP/1.1 403 Forbidden\r\nx-proxy-error: blocked-by-method-policy\r\n"),
        "{heard}"
    );
    assert_eq!(hear_rest(&mut upstream).await, "");
    drop((program, upstream));
    // Extended CONNECT (RFC 8441) is not offered, and told so where it is tried all the same. CONNECT itself
    // is refused like everywhere.
    let (program, mut upstream) = both_http2(&world).await;
    let mut sender = client_http2(program).await;
    let mut request = Request::connect("https://look.example/ws")
        .body(Frames(Vec::new()))
        .unwrap();
    let websocket = hyper::ext::Protocol::from_static("websocket");
    request.extensions_mut().insert(websocket);
    let answer = timeout(PATIENCE, sender.send_request(request)).await;
    assert_eq!(answer.unwrap().unwrap().status(), 403);
    let request = Request::connect("look.example:443").body(Frames(Vec::new()));
    let answer = timeout(PATIENCE, sender.send_request(request.unwrap()))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer.status(), 403);
    drop((sender, answer));
    assert!(!hear_rest(&mut upstream).await.contains("look.example"));
    let records = world.records_after(2).await;
    let http: Vec<_> = records
        .decisions()
        .into_iter()
        .filter(|v| v["layer"] == "http")
        .collect();
    assert_eq!(http.len(), 4, "{http:#?}");
    assert!(http.iter().all(|v| v["verdict"] == "deny"), "{http:#?}");
});

/// Answered once, and silent since: both ends. `early` is what the client sends along of its next
/// request.
async fn rested(world: &World, direct: bool, early: &str) -> (TcpStream, TcpStream) {
    let server = world.listen("192.0.2.3:80").await;
    let (mut client, target) = plain(world, direct).await;
    client
        .say(format!(
            "GET {target}/a HTTP/1.1\r\nHost: any.example\r\n\r\n{early}"
        ))
        .await;
    let mut upstream = server.accept().await;
    upstream.hear_head().await;
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    upstream.say(ok).await;
    client.hear_text(ok).await;
    (client, upstream)
}

scenario!(
    an_idle_connection_of_a_name_that_leaves_the_policy,
    |_usual| {
        // The first byte of a request that never comes does not keep the connection either.
        for (direct, early) in [(false, ""), (true, ""), (false, "G"), (true, "G")] {
            let world = world(", connections = 1", "").await;
            let (mut client, mut upstream) = rested(&world, direct, early).await;
            world.records_after(1).await;
            // The rule may change, as long as there is one.
            assert_eq!(
                world.change(&policy(", connections = 1, paths = [\"/b\"]", "")),
                0
            );
            client.silence().await;
            let without = "version = 1\n[network.domains]\n\"a.example\" = \"allow\"\n";
            assert!(world.change(without) > 0, "direct: {direct}, {early}");
            assert_eq!(
                client.hear_all().await,
                (vec![], End::Reset),
                "direct: {direct}, {early}"
            );
            upstream.hear_all().await;
            // Its place among the rule's connections is free again.
            world.change(&policy(", connections = 1", ""));
            rested(&world, direct, early).await;
        }
    }
);

scenario!(
    an_idle_connection_that_is_silent_for_longer_than_its_rule_says,
    |_usual| {
        for direct in [false, true] {
            let world = world(", idle_timeout = \"2s\", connections = 1", "").await;
            let begun = Instant::now();
            let (mut client, mut upstream) = rested(&world, direct, "").await;
            assert_eq!(client.hear_all().await.0, b"", "direct: {direct}");
            upstream.hear_all().await;
            assert!(begun.elapsed() >= Duration::from_secs(2));
            // Long before the 75 s that such a connection has without a limit.
            assert!(begun.elapsed() < Duration::from_secs(20));
            rested(&world, direct, "").await;
        }
    }
);

scenario!(a_raw_fragment_in_a_path, |_usual| {
    let world = World::with(Mode::Enforce, 64, "").await;
    world.lease("192.0.2.7", "look.example");
    world.lease("192.0.2.1", "a.example");
    let server = world.listen("192.0.2.1:80").await;
    let mut client = world.http().await;
    client
        .say("GET http://a.example/a#b HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await;
    assert!(client.hear_head().await.starts_with("HTTP/1.1 400 "));
    server.nobody().await;
    let mut client = world.connect("192.0.2.1:80").await;
    client
        .say("GET /a#b HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await;
    assert!(client.hear_head().await.starts_with("HTTP/1.1 400 "));
    let (mut program, mut upstream) = both(&world).await;
    say(
        &mut program,
        "GET /a#b HTTP/1.1\r\nHost: look.example\r\n\r\n",
    )
    .await;
    let heard = hear_rest(&mut program).await;
    assert!(heard.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{heard}");
    assert!(
        heard.contains("a fragment in the request target"),
        "{heard}"
    );
    assert_eq!(hear_rest(&mut upstream).await, "");
    let records = world.records_after(1).await;
    assert_eq!(malformed(&records.decisions()), 3, "{:#?}", records.0);
});

scenario!(
    a_malformed_head_behind_a_request_that_is_being_served,
    |_usual| {
        let world = world("", "").await;
        let (mut program, mut upstream) = both(&world).await;
        let good = "GET /a HTTP/1.1\r\nHost: look.example\r\n\r\n";
        let bad = "GET /b HTTP/1.1\r\nHost: look.example\r\nContent-Length: +1\r\n\r\n";
        say(&mut program, &format!("{good}{bad}")).await;
        hear_until(&mut upstream, "\r\n\r\n").await;
        say(
            &mut upstream,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        let heard = hear_rest(&mut program).await;
        assert!(heard.starts_with("HTTP/1.1 200 OK\r\n"), "{heard}");
        assert!(
            heard.contains("\r\n\r\nokHTTP/1.1 400 Bad Request\r\n"),
            "{heard}"
        );
        assert_eq!(hear_rest(&mut upstream).await, "");
    }
);
