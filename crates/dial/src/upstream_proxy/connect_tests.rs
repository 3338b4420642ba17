//! An upstream proxy, well behaved and otherwise.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portcullis_policy::Reason;
use portcullis_record::Stage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::connect::REPLY_TIMEOUT;
use crate::testing::{LOOPBACK, World};
use crate::{DialError, Dialed};

/// A proxy that shows each request's head and then does what `answer` says.
async fn proxy<F, Fut>(answer: F) -> (SocketAddr, mpsc::UnboundedReceiver<String>)
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (heads, shown) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let _ = heads.send(String::from_utf8(head).unwrap());
            tokio::spawn(answer(stream));
        }
    });
    (at, shown)
}

/// A proxy that writes these pieces one after the other, waits for the other side, and closes.
async fn writing(
    pieces: &'static [&'static [u8]],
) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    proxy(move |mut stream| async move {
        for piece in pieces {
            let _ = stream.write_all(piece).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = stream.shutdown().await;
        let _ = stream.read(&mut [0; 64]).await;
    })
    .await
}

fn rules(proxy: SocketAddr, no_proxy: &str) -> String {
    format!(
        "[network.domains]\n\"a.example:*\" = \"allow\"\n\"b.a.example:*\" = \"allow\"\n\
         [network.proxy]\nhttp = \"http://{proxy}\"\nhttps = \"http://{proxy}\"\n\
         no_proxy = \"{no_proxy}\"\n"
    )
}

async fn dial(proxy: SocketAddr) -> Result<Dialed, DialError> {
    let world = World::new(&rules(proxy, "")).await;
    let result = world.dialer.connect(&world.by_name("a.example", 22)).await;
    assert_eq!(world.names.asked(), 0, "the upstream proxy looks names up");
    result
}

async fn fails_with(proxy: SocketAddr, reason: Reason, detail: &str) -> DialError {
    let error = dial(proxy).await.unwrap_err();
    assert_eq!(error.reason, reason, "{error}");
    assert!(error.detail.contains(detail), "{error}");
    assert!(error.detail.contains(&format!("http://{proxy}")), "{error}");
    error
}

#[tokio::test]
async fn connect_goes_through_the_proxy_and_a_server_that_speaks_first_is_heard_to_the_byte() {
    for pieces in [
        &[b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n\r\n" as &[u8]] as &'static [&'static [u8]],
        &[
            b"HTTP/1.0 200 Connection established\r\nVia: 1",
            b".1 p\r",
            b"\n\r",
            b"\nSSH-2.0-x\r\n\r\n",
        ],
        &[
            b"HTTP/1.1 200",
            b"\r\nContent-Length: 5\r\n\r\nSSH-2.0",
            b"-x\r\n\r\n",
        ],
        &[b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n\r\n"],
        // Bare line feeds: RFC 9112 section 2.2.
        &[b"HTTP/1.1 200 OK\n\nSSH-2.0-x\r\n\r\n"],
        &[b"HTTP/1.0 200 OK\nVia: x\n", b"\nSSH-2.0-x\r\n\r\n"],
        &[
            b"HTTP/1.0 200 OK\r\nVia: x\n",
            b"\r",
            b"\nSSH-2.0-x\r\n\r\n",
        ],
    ] {
        let (at, mut heads) = writing(pieces).await;
        let mut dialed = dial(at).await.unwrap();
        let head = heads.recv().await.unwrap();
        assert_eq!(
            head,
            "CONNECT a.example:22 HTTP/1.1\r\nHost: a.example:22\r\n\r\n"
        );
        assert_eq!(dialed.address, at);
        assert_eq!(
            dialed.upstream_proxy.as_deref(),
            Some(format!("http://{at}").as_str())
        );
        assert!(dialed.timings.get(Stage::Proxy).is_some());
        let mut heard = String::new();
        dialed.stream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "SSH-2.0-x\r\n\r\n");
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_with_its_status() {
    use Reason::{UpstreamProxyFailed, UpstreamProxyRefused};
    for (answer, reason, status, detail) in [
        (
            &[b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n" as &[u8]]
                as &'static [&'static [u8]],
            UpstreamProxyRefused,
            407,
            "answered 407 Proxy Authentication Required to CONNECT a.example:22",
        ),
        (
            &[b"HTTP/1.1 403 Forbidden\r\n\r\n"],
            UpstreamProxyRefused,
            403,
            "answered 403",
        ),
        (
            &[b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\n\r\n"],
            UpstreamProxyRefused,
            302,
            "answered 302",
        ),
        (
            &[b"HTTP/1.1 503 Busy\r\n\r\n"],
            UpstreamProxyFailed,
            503,
            "answered 503 Busy",
        ),
    ] {
        let (at, _heads) = writing(answer).await;
        let error = fails_with(at, reason, detail).await;
        assert_eq!(error.received_status, Some(status));
    }
}

#[tokio::test]
async fn a_proxy_that_sends_garbage_closes_or_floods_is_given_up() {
    use Reason::{UpstreamProxyClosed, UpstreamProxyProtocol};
    let (at, _heads) = writing(&[b"220 smtp ready\r\n\r\n"]).await;
    fails_with(at, UpstreamProxyProtocol, "something other than HTTP").await;
    let (at, _heads) = writing(&[]).await;
    fails_with(
        at,
        UpstreamProxyClosed,
        "closed the connection without an answer",
    )
    .await;
    let (at, _heads) = writing(&[b"HTTP/1.1 200 OK\r\n"]).await;
    fails_with(
        at,
        UpstreamProxyClosed,
        "closed the connection in its answer",
    )
    .await;
    let (at, _heads) = writing(&[b"HTTP/1.1 200 ", &[b'x'; 20_000]]).await;
    fails_with(at, UpstreamProxyProtocol, "bytes of header").await;
    for bare in [
        b"HTTP/1.1 200 OK\r\r" as &[u8],
        b"HTTP/1.1 200 OK\r\nX: a\rb",
    ] {
        // Told at once: the proxy keeps the connection open.
        let (at, _heads) = proxy(move |mut stream| async move {
            let _ = stream.write_all(bare).await;
            let _ = stream.read(&mut [0; 64]).await;
        })
        .await;
        fails_with(at, UpstreamProxyProtocol, "ends no line").await;
    }
    let (at, _heads) = writing(&[b"HTTP/1.1 101 Switching Protocols\r\n\r\n"]).await;
    fails_with(at, UpstreamProxyProtocol, "answered 101").await;
    // Neither an end of a line nor of the connection.
    let (at, _heads) = proxy(|mut stream| async move {
        let _ = stream.write_all(b"HTCPCP/1.0 418").await;
        let _ = stream.read(&mut [0; 64]).await;
    })
    .await;
    fails_with(at, UpstreamProxyProtocol, "something other than HTTP").await;
    let (at, _heads) = proxy(|mut stream| async move {
        while stream
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
            .await
            .is_ok()
        {}
    })
    .await;
    fails_with(at, UpstreamProxyProtocol, "interim replies only").await;
}

#[tokio::test]
async fn a_proxy_that_hangs_is_given_up_in_time() {
    let (at, mut heads) = proxy(|stream| async move {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        drop(stream);
    })
    .await;
    let start = Instant::now();
    let dialing = tokio::spawn(dial(at));
    heads.recv().await.unwrap();
    // From here on only timers are left: let them run.
    tokio::time::pause();
    let error = dialing.await.unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::UpstreamProxyTimeout);
    assert!(
        error.detail.contains("did not answer CONNECT in time"),
        "{error}"
    );
    assert!(start.elapsed() < REPLY_TIMEOUT);
}

#[tokio::test]
async fn a_proxy_that_cannot_be_reached_is_the_proxys_failure_not_the_destinations() {
    // Bound and not listening: nobody else gets the port meanwhile.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let at = socket.local_addr().unwrap();
    fails_with(at, Reason::UpstreamProxyFailed, "onnection refused").await;
}

#[tokio::test]
async fn plain_http_ends_at_the_proxy_which_expects_absolute_form() {
    let (at, mut heads) = proxy(|_stream| async {}).await;
    let world = World::new(&rules(at, "")).await;
    let permit = world.by_name("a.example", 80);
    let mut dialed = world.dialer.connect_http(&permit).await.unwrap();
    assert!(dialed.absolute.is_some());
    dialed
        .stream
        .write_all(b"GET http://a.example/ HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    assert!(
        heads.recv().await.unwrap().starts_with("GET "),
        "nothing was sent before"
    );
}

#[tokio::test]
async fn the_guard_holds_for_addresses_that_the_proxy_would_dial() {
    let (at, mut heads) = writing(&[b"HTTP/1.1 200 OK\r\n\r\n"]).await;
    let world = World::new(&format!("{}{LOOPBACK}", rules(at, ""))).await;
    // As allowed when the permit was made; the rule is gone when it is used.
    let permit = world.by_address("127.0.0.9", 443);
    let leased = world.by_lease("a.example", "127.0.0.9", 443);
    assert!(world.dialer.connect(&permit).await.is_ok());
    assert!(
        heads
            .recv()
            .await
            .unwrap()
            .starts_with("CONNECT 127.0.0.9:443 ")
    );
    world
        .policy
        .store(std::sync::Arc::new(crate::testing::load(&rules(at, ""))));
    for permit in [permit, leased] {
        let error = world.dialer.connect(&permit).await.unwrap_err();
        assert_eq!(error.reason, Reason::PrivateAddress, "{error}");
    }
    assert!(heads.try_recv().is_err(), "the proxy was asked");
}

#[tokio::test]
async fn a_proxy_that_is_the_gateway_itself_is_a_loop() {
    let at: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let world = World::with_listeners(&rules(at, ""), vec![at]).await;
    let error = world
        .dialer
        .connect(&world.by_name("a.example", 443))
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::GatewayLoop, "{error}");
}

#[tokio::test]
async fn the_hosts_own_name_never_goes_to_an_upstream_proxy() {
    let (at, mut heads) = writing(&[b"HTTP/1.1 200 OK\r\n\r\n"]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let rules = format!(
        "[network.domains]\n\"host.portcullis.internal:{port}\" = \"allow\"\n\
         [network.proxy]\nhttps = \"http://{at}\"\n"
    );
    let world = World::new(&rules).await;
    let permit = world.by_name("host.portcullis.internal", port);
    assert_eq!(
        world.dialer.connect(&permit).await.unwrap().address.port(),
        port
    );
    assert!(heads.try_recv().is_err());
}

#[tokio::test]
async fn a_proxy_by_name_may_be_at_a_private_address() {
    let (at, mut heads) = writing(&[b"HTTP/1.1 200 OK\r\n\r\n"]).await;
    let rules = format!(
        "[network.domains]\n\"a.example\" = \"allow\"\n\
         [network.proxy]\nhttps = \"http://proxy.example:{}\"\n",
        at.port()
    );
    let world = World::new(&rules).await;
    world.names.set("proxy.example", &["127.0.0.1"]);
    let dialed = world
        .dialer
        .connect(&world.by_name("a.example", 443))
        .await
        .unwrap();
    assert_eq!(dialed.address, at);
    assert!(
        heads
            .recv()
            .await
            .unwrap()
            .starts_with("CONNECT a.example:443 ")
    );
}

#[tokio::test]
async fn a_proxy_that_only_the_system_knows_is_found_and_remembered() {
    let (at, mut heads) = writing(&[b"HTTP/1.1 200 OK\r\n\r\n"]).await;
    // `localhost` is in /etc/hosts; the name server has never heard of it.
    let rules = format!(
        "[network.domains]\n\"a.example\" = \"allow\"\n\
         [network.proxy]\nhttps = \"http://localhost:{}\"\n",
        at.port()
    );
    let world = World::new(&rules).await;
    let permit = world.by_name("a.example", 443);
    assert_eq!(world.dialer.connect(&permit).await.unwrap().address, at);
    let asked = world.names.asked();
    assert_eq!(world.dialer.connect(&permit).await.unwrap().address, at);
    assert_eq!(world.names.asked(), asked, "the second dial asks nobody");
    assert!(heads.recv().await.is_some());
}

#[tokio::test]
async fn no_proxy_has_the_semantics_of_curl() {
    let (at, _heads) = writing(&[b"HTTP/1.1 200 OK\r\n\r\n"]).await;
    let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = host.local_addr().unwrap().port();
    for (no_proxy, name, direct) in [
        ("", "a.example", false),
        ("*", "a.example", true),
        ("a.example", "a.example", true),
        ("a.example", "b.a.example", true),
        (".a.example", "b.a.example", true),
        ("example", "a.example", true),
        ("b.a.example", "a.example", false),
        ("xa.example", "a.example", false),
        ("localhost,127.0.0.1, a.example", "a.example", true),
        ("A.Example", "a.example", true),
        ("127.0.0.0/8", "a.example", false),
        ("127.0.0.0/8", "127.0.0.1", true),
        ("127.0.0.1", "127.0.0.1", true),
        ("10.0.0.0/8", "127.0.0.1", false),
        ("a.example", "127.0.0.1", false),
    ] {
        let world = World::new(&format!("{}{LOOPBACK}", rules(at, no_proxy))).await;
        world.names.set(name, &["127.0.0.1"]);
        let permit = match name.parse::<std::net::IpAddr>() {
            Ok(_) => world.by_address(name, port),
            Err(_) => world.by_name(name, port),
        };
        let dialed = world.dialer.connect(&permit).await.unwrap();
        assert_eq!(
            dialed.upstream_proxy.is_none(),
            direct,
            "no_proxy {no_proxy:?}, {name}"
        );
    }
    for (entry, direct) in [
        (format!("a.example:{port}"), true),
        ("a.example:1".to_owned(), false),
    ] {
        let world = World::new(&format!("{}{LOOPBACK}", rules(at, &entry))).await;
        world.names.set("a.example", &["127.0.0.1"]);
        let dialed = world
            .dialer
            .connect(&world.by_name("a.example", port))
            .await
            .unwrap();
        assert_eq!(dialed.upstream_proxy.is_none(), direct, "{entry}");
    }
}
