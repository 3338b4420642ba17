//! Attacks by HTTP/2 inside inspected connections, in frames that no library would send.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::ext::Protocol;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::inspect::{PLACE, serve, shake};
use crate::scenario;
use crate::world::{PATIENCE, World};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:method: GET`, `:scheme: https`, `:authority: look.example`.
const GET: &[u8] = b"\x82\x87\x01\x0clook.example";

/// What a server was asked for, request by request.
type Asked = Arc<Mutex<Vec<String>>>;

/// A program that speaks HTTP/2 byte by byte.
struct Program(TlsStream<TcpStream>);

/// A frame that the gateway sent.
#[derive(Debug)]
struct Heard {
    kind: u8,
    flags: u8,
    stream: u8,
    payload: Vec<u8>,
}

impl Program {
    async fn send(&mut self, bytes: &[u8]) {
        let send = async {
            self.0.write_all(bytes).await?;
            self.0.flush().await
        };
        timeout(PATIENCE, send).await.unwrap().unwrap();
    }

    async fn hear(&mut self) -> Heard {
        let mut head = [0; 9];
        let hear = async {
            self.0.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            self.0.read_exact(&mut payload).await.unwrap();
            payload
        };
        let payload = timeout(PATIENCE, hear).await.expect("a frame comes");
        Heard {
            kind: head[3],
            flags: head[4],
            stream: head[8],
            payload,
        }
    }

    /// The head of the answer on a stream.
    async fn answered(&mut self, stream: u8) -> Vec<u8> {
        loop {
            let heard = self.hear().await;
            let reset = heard.kind == RST_STREAM && heard.stream == stream;
            assert!(!reset, "{heard:?}");
            if heard.kind == HEADERS && heard.stream == stream {
                return heard.payload;
            }
        }
    }

    /// Its status, in the bytes that the library writes it in where no table has it yet.
    async fn status(&mut self, stream: u8) -> u16 {
        match self.answered(stream).await[..] {
            [0x88, ..] => 200,
            [0x8c, ..] => 400,
            [0x48, 0x83, 0x68, 0x0c, ..] => 403,
            [0x48, 0x82, 0x6c, 0x02, ..] => 502,
            ref other => panic!("{other:x?}"),
        }
    }

    /// Whether the gateway's settings offer streams for WebSockets.
    async fn offered_websockets(&mut self) -> bool {
        let heard = self.hear().await;
        assert_eq!(heard.kind, SETTINGS, "{heard:?}");
        let settings = heard.payload.chunks(6);
        settings
            .filter(|setting| setting.starts_with(&[0, 8]))
            .any(|setting| setting[5] == 1)
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0, high, low, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A request without a body.
fn request(stream: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
}

/// A field that no table remembers.
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// A request for a stream that becomes another protocol (RFC 8441).
fn extended(stream: u8, protocol: &str, authority: &str) -> Vec<u8> {
    let block = [
        field(":method", "CONNECT"),
        field(":protocol", protocol),
        field(":scheme", "https"),
        field(":path", "/ws"),
        field(":authority", authority),
        field("sec-websocket-version", "13"),
    ];
    frame(HEADERS, END_HEADERS, stream, &block.concat())
}

fn policy(rule: &str, limits: &str) -> String {
    format!(
        "version = 1\n[network.domains]\n\"look.example\" = {{ verdict = \"allow\", inspect = true, \
         ca_file = \"ca.pem\"{rule} }}\n[network.limits]\n{limits}\n"
    )
}

/// A program that has begun HTTP/2, and what its server is asked for, which takes WebSockets or not.
async fn begin(world: &World, websockets: bool) -> (Program, Asked) {
    world.lease("192.0.2.7", "look.example");
    let outside = world.listen(PLACE).await;
    let program = world.connect(PLACE).await;
    let upstream = outside.accept().await;
    let (program, upstream) = tokio::join!(
        shake(world, program, &["h2"]),
        serve(upstream, "look.example", &["h2"])
    );
    let asked = Asked::default();
    let kept = asked.clone();
    let service = service_fn(move |request| answer(request, kept.clone()));
    let mut builder = server::conn::http2::Builder::new(TokioExecutor::new());
    if websockets {
        builder.enable_connect_protocol();
    }
    tokio::spawn(builder.serve_connection(TokioIo::new(upstream), service));
    let mut program = Program(program);
    program.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    // No limit to what may be sent on a stream.
    program
        .send(&frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]))
        .await;
    (program, asked)
}

/// Says what was asked for, or says back what comes on a WebSocket.
async fn answer(
    mut request: Request<Incoming>,
    asked: Asked,
) -> Result<Response<Said>, Infallible> {
    let protocol = request.extensions().get::<Protocol>();
    let protocol = protocol.map(|own| own.as_str().to_owned());
    let line = format!("{} {}", request.method(), request.uri());
    asked
        .lock()
        .unwrap()
        .push(line + protocol.as_deref().unwrap_or_default());
    if request.method() == Method::CONNECT {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let stream = TokioIo::new(upgraded.await.unwrap());
            let (mut from, mut to) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        });
        return Ok(Response::new(Said(0)));
    }
    let large = request.uri().path() == "/large";
    Ok(Response::new(Said(if large {
        64 * 1024 * 1024
    } else {
        2
    })))
}

/// A body of so many bytes.
struct Said(usize);

impl Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let now = self.0.min(16 * 1024);
        self.0 -= now;
        let data = (now > 0).then(|| Ok(Frame::data(Bytes::from(vec![b's'; now]))));
        std::task::Poll::Ready(data)
    }

    fn is_end_stream(&self) -> bool {
        self.0 == 0
    }
}

scenario!(a_raw_fragment_in_a_path_of_http2, |_usual| {
    let world = World::by(&policy(", paths = [\"/a\", \"/d\"]", "")).await;
    let (mut program, asked) = begin(&world, false).await;
    let path = |first: u8, value: &[u8]| {
        let len = value.len() as u8;
        [GET, &[first, len], value].concat()
    };
    let huffman = [GET, &[0x04, 0x84, 0x60, 0x7f, 0xf5, 0x1f]].concat();
    let split = path(0x04, b"/a#/../secret");
    let (one, two) = split.split_at(20);
    for (stream, sent, status) in [
        (1, request(1, &path(0x04, b"/a")), 200),
        (3, request(3, &path(0x04, b"/a#b")), 400),
        (5, request(5, &huffman), 400),
        (
            7,
            request(7, &[GET, &field(":path", "/a?q#b")].concat()),
            400,
        ),
        // Remembered by the table, and asked for again by its place there.
        (9, request(9, &path(0x44, b"/d#")), 400),
        (11, request(11, &[GET, &[0xbe]].concat()), 400),
        (
            13,
            [
                frame(HEADERS, END_STREAM, 13, one),
                frame(CONTINUATION, END_HEADERS, 13, two),
            ]
            .concat(),
            400,
        ),
        // Its neighbours are served.
        (15, request(15, &path(0x04, b"/d?q")), 200),
    ] {
        program.send(&sent).await;
        assert_eq!(program.status(stream).await, status, "stream {stream}");
    }
    assert_eq!(
        *asked.lock().unwrap(),
        ["GET https://look.example/a", "GET https://look.example/d?q"]
    );
    let records = world.records().await;
    let denied = records.decisions();
    let denied = denied.iter().filter(|v| v["reason"] == "malformed");
    let count: u64 = denied
        .clone()
        .map(|v| v["count"].as_u64().unwrap_or(1))
        .sum();
    assert_eq!(count, 6, "{:#?}", records.0);
    for denial in denied {
        assert_eq!(denial["layer"], "http");
        assert!(
            denial["asked"]
                .as_str()
                .unwrap()
                .starts_with("look.example/")
        );
    }
});

scenario!(
    a_header_block_that_two_readers_would_take_differently,
    |_usual| {
        for block in [
            // Depends on itself: the library skips it and forgets what it adds to the table.
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | 0x20,
                1,
                &[b"\x00\x00\x00\x01\x10", GET, b"\x44\x03/#a"].concat(),
            ),
            // No entry of the table.
            request(1, &[GET, &[0xbe]].concat()),
        ] {
            let world = World::by(&policy("", "")).await;
            let (mut program, asked) = begin(&world, false).await;
            program.send(&block).await;
            let ended = timeout(PATIENCE, program.0.read_to_end(&mut Vec::new())).await;
            ended.expect("the end").ok();
            let records = world.records_after(1).await;
            records.denied("http", "transparent", "malformed");
            assert!(asked.lock().unwrap().is_empty());
        }
    }
);

scenario!(a_websocket_over_http2, |_usual| {
    let world = World::by(&policy(", paths = [\"/ws\"]", "")).await;
    let (mut program, asked) = begin(&world, true).await;
    assert!(program.offered_websockets().await);
    program
        .send(&extended(1, "websocket", "look.example"))
        .await;
    assert_eq!(program.status(1).await, 200);
    program.send(&frame(DATA, 0, 1, b"there and back")).await;
    loop {
        let heard = program.hear().await;
        if heard.kind == DATA && !heard.payload.is_empty() {
            assert_eq!(heard.payload, b"there and back");
            break;
        }
    }
    // Other streams of the connection go on.
    program
        .send(&request(3, &[GET, b"\x04\x03/no"].concat()))
        .await;
    assert_eq!(program.status(3).await, 403);
    program.send(&frame(DATA, END_STREAM, 1, b"")).await;
    let records = world.records_after(1).await;
    let close = records.the_close();
    assert_eq!(close["close_reason"], "finished", "{close:#}");
    assert_eq!(
        (&close["bytes_up"], &close["bytes_down"]),
        (&14.into(), &14.into())
    );
    let decisions = records.decisions();
    let own = decisions.iter().find(|v| v["path"] == "/ws").unwrap();
    assert_eq!(
        (&own["verdict"], &own["id"]),
        (&"allow".into(), &close["id"])
    );
    assert_eq!(
        *asked.lock().unwrap(),
        ["CONNECT https://look.example/wswebsocket"]
    );
    // A rule that forbids it cuts one that stands.
    program
        .send(&extended(5, "websocket", "look.example"))
        .await;
    assert_eq!(program.status(5).await, 200);
    assert_eq!(world.change(&policy(", methods = [\"GET\"]", "")), 1);
    let ended = timeout(PATIENCE, program.0.read_to_end(&mut Vec::new())).await;
    ended.expect("the end").ok();
});

scenario!(a_websocket_over_http2_that_is_not_to_be, |_usual| {
    for (rule, takes, protocol, authority, status, reason) in [
        (
            ", methods = [\"GET\"]",
            true,
            "websocket",
            "look.example",
            403,
            "method-not-allowed",
        ),
        (
            ", paths = [\"/other\"]",
            true,
            "websocket",
            "look.example",
            403,
            "path-not-allowed",
        ),
        ("", true, "websocket", "evil.example", 403, "host-mismatch"),
        (
            "",
            true,
            "connect-udp",
            "look.example",
            403,
            "protocol-not-allowed",
        ),
        (
            "",
            true,
            "WebSocket",
            "look.example",
            403,
            "protocol-not-allowed",
        ),
        (
            ", methods = [\"GET\"]",
            false,
            "websocket",
            "look.example",
            403,
            "method-not-allowed",
        ),
        (
            "",
            false,
            "websocket",
            "look.example",
            502,
            "upstream-protocol",
        ),
    ] {
        let world = World::by(&policy(rule, "")).await;
        let (mut program, asked) = begin(&world, takes).await;
        let offered = program.offered_websockets().await;
        assert_eq!(
            offered,
            takes && !rule.contains("methods"),
            "{rule} {takes}"
        );
        program.send(&extended(1, protocol, authority)).await;
        assert_eq!(program.status(1).await, status, "{rule} {takes} {protocol}");
        // One stream is refused, and no more than that.
        program
            .send(&request(3, &[GET, b"\x04\x02/a"].concat()))
            .await;
        program.answered(3).await;
        let records = world.records().await;
        let decisions = records.decisions();
        let own = decisions
            .iter()
            .filter(|v| v["reason"] == reason && v["path"] != "/a");
        let own: Vec<_> = own.collect();
        assert_eq!(own.len(), 1, "{rule} {takes} {protocol}: {:#?}", records.0);
        assert_eq!(own[0]["layer"], "http");
        assert!(
            !asked
                .lock()
                .unwrap()
                .iter()
                .any(|line| line.contains("CONNECT"))
        );
    }
});

scenario!(a_program_that_does_not_read_what_it_asked_for, |_usual| {
    let world = World::by(&policy("", "idle_timeout = \"1s\"")).await;
    let (mut program, _asked) = begin(&world, false).await;
    // No limit for the connection either.
    program.send(&frame(8, 0, 0, &[0x7f, 0xfe, 0, 0])).await;
    program
        .send(&request(1, &[GET, b"\x04\x06/large"].concat()))
        .await;
    let begun = Instant::now();
    let records = world.records_after(2).await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    for close in records.closes() {
        assert_eq!(close["close_reason"], "idle-timeout", "{close:#}");
    }
});

scenario!(
    a_refusal_before_the_body_has_come_is_read_as_one,
    |_usual| {
        let world = World::by(&policy(", methods = [\"GET\"]", "")).await;
        let (mut program, asked) = begin(&world, false).await;
        let block = [
            field(":method", "POST"),
            field(":scheme", "https"),
            field(":path", "/up"),
            field(":authority", "look.example"),
        ];
        program
            .send(&frame(HEADERS, END_HEADERS, 1, &block.concat()))
            .await;
        assert_eq!(program.status(1).await, 403);
        // The stream waits for the body, and for what it says about the end.
        program.send(&frame(DATA, 0, 1, &[b'b'; 9000])).await;
        program.send(&frame(DATA, END_STREAM, 1, b"last")).await;
        loop {
            let heard = program.hear().await;
            assert_ne!(heard.kind, RST_STREAM, "{heard:?}");
            if heard.kind == DATA && heard.flags & END_STREAM != 0 {
                break;
            }
        }
        // A body that never ends does not keep it.
        program
            .send(&frame(HEADERS, END_HEADERS, 3, &block.concat()))
            .await;
        program.answered(3).await;
        let begun = Instant::now();
        while program.hear().await.kind != RST_STREAM {}
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(asked.lock().unwrap().is_empty());
    }
);
