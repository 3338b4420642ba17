//! Several proxies, SOCKS proxies, and proxies that are asked by address.

use std::net::SocketAddr;

use portcullis_policy::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::Dialed;
use crate::testing::{LOOPBACK, World};

/// How many bytes to read, and what to answer.
type Script = &'static [(usize, &'static [u8])];

/// A proxy that reads and answers these steps (how many bytes, then the answer), shows what it read,
/// and closes.
async fn steps(steps: Script) -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (read, shown) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let read = read.clone();
            tokio::spawn(async move {
                for (length, answer) in steps {
                    let mut bytes = vec![0; *length];
                    if stream.read_exact(&mut bytes).await.is_err() {
                        return;
                    }
                    let _ = read.send(bytes);
                    let _ = stream.write_all(answer).await;
                }
                let _ = stream.shutdown().await;
                let _ = stream.read(&mut [0; 64]).await;
            });
        }
    });
    (at, shown)
}

/// A proxy that reads a head and answers so.
async fn http(answer: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (heads, shown) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = read_head(&mut stream).await;
            let _ = heads.send(head);
            let _ = stream.write_all(answer.as_bytes()).await;
            tokio::spawn(async move {
                let _ = stream.shutdown().await;
                let _ = stream.read(&mut [0; 64]).await;
            });
        }
    });
    (at, shown)
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

fn rules(proxy: &str) -> String {
    format!(
        "[network.domains]\n\"a.example:*\" = \"allow\"\n[network.proxy]\nhttp = {proxy}\nhttps = {proxy}\n{}",
        "connect = \"name\"\n"
    )
}

async fn heard(mut dialed: Dialed) -> String {
    let mut text = String::new();
    dialed.stream.read_to_string(&mut text).await.unwrap();
    text
}

const NAME_REQUEST: usize = 4 + 1 + "a.example".len() + 2;

#[tokio::test]
async fn a_socks_proxy_is_asked_by_name_and_a_server_that_speaks_first_is_heard_to_the_byte() {
    // The bound address of each kind.
    for reply in [
        b"\x05\0\0\x01\x01\x02\x03\x04\0\x50SSH-2.0-x" as &[u8],
        b"\x05\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x50SSH-2.0-x",
        b"\x05\0\0\x03\x03a.b\0\x50SSH-2.0-x",
    ] {
        let script: Script = Box::leak(Box::new([(3, b"\x05\0" as &[u8]), (NAME_REQUEST, reply)]));
        let (at, mut read) = steps(script).await;
        let world = World::new(&rules(&format!("\"socks5h://{at}\""))).await;
        for plain in [false, true] {
            let permit = world.by_name("a.example", 80);
            let dialed = if plain {
                world.dialer.connect_http(&permit).await.unwrap()
            } else {
                world.dialer.connect(&permit).await.unwrap()
            };
            assert!(dialed.absolute.is_none(), "a tunnel for plain HTTP as well");
            assert_eq!(
                dialed.upstream_proxy.as_deref(),
                Some(&*format!("socks5://{at}"))
            );
            assert_eq!(read.recv().await.unwrap(), [5, 1, 0]);
            assert_eq!(
                read.recv().await.unwrap(),
                b"\x05\x01\0\x03\x09a.example\0\x50"
            );
            assert_eq!(heard(dialed).await, "SSH-2.0-x");
        }
        assert_eq!(world.names.asked(), 0, "the proxy looks names up");
    }
}

#[tokio::test]
async fn a_socks_proxy_gets_the_credentials_of_rfc_1929() {
    let (at, mut read) = steps(&[
        (4, b"\x05\x02"),
        (1 + 1 + 5 + 1 + 6, b"\x01\0"),
        (NAME_REQUEST, b"\x05\0\0\x01\0\0\0\0\0\0hello"),
    ])
    .await;
    let world = World::new(&rules(&format!("\"socks5://alice:secret@{at}\""))).await;
    let dialed = world.dialer.connect(&world.by_name("a.example", 22)).await;
    let dialed = dialed.unwrap();
    assert_eq!(read.recv().await.unwrap(), [5, 2, 0, 2]);
    assert_eq!(read.recv().await.unwrap(), b"\x01\x05alice\x06secret");
    assert!(!format!("{dialed:?}").contains("secret"));
    assert_eq!(heard(dialed).await, "hello");
}

#[tokio::test]
async fn what_a_socks_proxy_answers_has_its_reason() {
    use Reason::*;
    let cases: [(Script, Reason); 12] = [
        (&[(3, b"\x05\xff")], UpstreamProxyRefused),
        (&[(3, b"\x05\x02")], UpstreamProxyProtocol),
        (&[(3, b"HT")], UpstreamProxyProtocol),
        (&[(3, b"")], UpstreamProxyClosed),
        (
            &[(3, b"\x05\0"), (NAME_REQUEST, b"\x05\x02\0\x01")],
            UpstreamProxyRefused,
        ),
        (
            &[(3, b"\x05\0"), (NAME_REQUEST, b"\x05\x01\0\x01")],
            UpstreamProxyFailed,
        ),
        (
            &[(3, b"\x05\0"), (NAME_REQUEST, b"\x05\x04\0\x01")],
            Unreachable,
        ),
        (
            &[(3, b"\x05\0"), (NAME_REQUEST, b"\x05\x05\0\x01")],
            ConnectionRefused,
        ),
        (
            &[(3, b"\x05\0"), (NAME_REQUEST, b"\x05\x06\0\x01")],
            ConnectionTimeout,
        ),
        (
            &[(3, b"\x05\0"), (NAME_REQUEST, b"\x04\0\0\x01")],
            UpstreamProxyProtocol,
        ),
        (
            &[(3, b"\x05\0"), (NAME_REQUEST, b"\x05\0\0\x09")],
            UpstreamProxyProtocol,
        ),
        (
            &[(3, b"\x05\0"), (NAME_REQUEST, b"\x05\0\0\x01\0")],
            UpstreamProxyClosed,
        ),
    ];
    for (script, reason) in cases {
        let (at, _read) = steps(script).await;
        let world = World::new(&rules(&format!("\"socks5://{at}\""))).await;
        let error = world.dialer.connect(&world.by_name("a.example", 22)).await;
        let error = error.unwrap_err();
        assert_eq!(error.reason, reason, "{script:?}: {error}");
        assert!(error.detail.contains(&format!("socks5://{at}")), "{error}");
    }
}

#[tokio::test]
async fn the_next_proxy_takes_over_where_one_fails_and_the_failed_one_comes_last() {
    for answer in ["", "garbage without an end"] {
        let (bad, mut asked_bad) = http(answer).await;
        let (good, mut asked_good) = http("HTTP/1.1 200 OK\r\n\r\nhello").await;
        let list = format!("[\"http://{bad}\", \"http://u:p@{good}\"]");
        let world = World::new(&rules(&list)).await;
        let permit = world.by_name("a.example", 443);
        let dialed = world.dialer.connect(&permit).await.unwrap();
        assert_eq!(
            dialed.upstream_proxy.as_deref(),
            Some(&*format!("http://{good}"))
        );
        assert_eq!(heard(dialed).await, "hello");
        assert!(
            !asked_bad
                .recv()
                .await
                .unwrap()
                .contains("Proxy-Authorization")
        );
        let head = asked_good.recv().await.unwrap();
        assert!(
            head.contains("Proxy-Authorization: Basic dTpw\r\n"),
            "{head}"
        );
        world.dialer.connect(&permit).await.unwrap();
        assert!(asked_bad.try_recv().is_err(), "it failed a moment ago");
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_tcp_is_passed_over_and_when_all_fail_it_is_said_of_each() {
    // Bound and not listening: nobody else gets the port meanwhile.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let dead = socket.local_addr().unwrap();
    let (good, _asked) = http("HTTP/1.1 200 OK\r\n\r\n").await;
    let list = format!("[\"http://{dead}\", \"http://{good}\"]");
    let world = World::new(&rules(&list)).await;
    let permit = world.by_name("a.example", 443);
    assert_eq!(world.dialer.connect(&permit).await.unwrap().address, good);
    let (closing, _asked) = http("").await;
    let list = format!("[\"http://{dead}\", \"http://{closing}\"]");
    let world = World::new(&rules(&list)).await;
    let error = world.dialer.connect(&permit).await.unwrap_err();
    assert_eq!(
        error.reason,
        Reason::UpstreamProxyFailed,
        "the preferred one's: {error}"
    );
    for proxy in [dead, closing] {
        assert!(
            error.detail.contains(&format!("proxy http://{proxy}: ")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn what_a_proxy_answers_counts_and_no_other_is_asked() {
    for (answer, status) in [
        ("HTTP/1.1 403 Forbidden\r\n\r\n", 403),
        ("HTTP/1.1 407 Who are you\r\n\r\n", 407),
        ("HTTP/1.1 503 Cannot\r\n\r\n", 503),
    ] {
        let (first, _asked) = http(answer).await;
        let (second, mut asked) = http("HTTP/1.1 200 OK\r\n\r\n").await;
        let list = format!("[\"http://{first}\", \"http://{second}\"]");
        let world = World::new(&rules(&list)).await;
        for _ in 0..2 {
            let error = world.dialer.connect(&world.by_name("a.example", 443)).await;
            assert_eq!(error.unwrap_err().received_status, Some(status));
        }
        assert!(asked.try_recv().is_err(), "{status}");
    }
}

#[tokio::test]
async fn a_proxy_that_hangs_leaves_time_for_the_next() {
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (good, _asked) = http("HTTP/1.1 200 OK\r\n\r\n").await;
    let list = format!(
        "[\"http://{}\", \"http://{good}\"]",
        hanging.local_addr().unwrap()
    );
    let world = World::new(&rules(&list)).await;
    let dialer = world.dialer.clone();
    let permit = world.by_name("a.example", 443);
    let dialing = tokio::spawn(async move { dialer.connect(&permit).await });
    let (mut taken, _) = hanging.accept().await.unwrap();
    assert!(read_head(&mut taken).await.starts_with("CONNECT "));
    // From here on only timers are left, until the next proxy is asked: let them run.
    tokio::time::pause();
    let asked = std::time::Instant::now();
    let dialed = loop {
        if dialing.is_finished() {
            break dialing.await.unwrap();
        }
        assert!(
            asked.elapsed() < crate::DIAL_TIMEOUT,
            "nobody else was asked"
        );
        tokio::time::advance(std::time::Duration::from_millis(100)).await;
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    assert_eq!(dialed.unwrap().address, good);
}

#[tokio::test]
async fn by_address_the_guard_passes_what_the_proxy_is_asked_for() {
    let (at, mut asked) = http("HTTP/1.1 200 OK\r\n\r\n").await;
    let by_address = format!("{{ url = \"http://u:p@{at}\", connect = \"address\" }}");
    let world = World::new(&rules(&by_address)).await;
    world.names.set("a.example", &["10.0.0.1", "192.0.2.1"]);
    let permit = world.by_name("a.example", 443);
    let dialed = world.dialer.connect(&permit).await.unwrap();
    let head = asked.recv().await.unwrap();
    assert!(
        head.starts_with("CONNECT 192.0.2.1:443 HTTP/1.1\r\n"),
        "{head}"
    );
    assert_eq!(
        dialed.addresses,
        ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]
    );
    let plain = world.by_name("a.example", 80);
    let dialed = world.dialer.connect_http(&plain).await.unwrap();
    let form = dialed.absolute.unwrap();
    assert_eq!(form.address, Some("192.0.2.1:80".parse().unwrap()));
    assert_eq!(form.authorization.as_deref(), Some("Basic dTpw"));
    assert!(!format!("{form:?}").contains("dTpw"));
    drop(dialed.stream);
    let _ = asked.recv().await;
    let world = World::new(&rules(&by_address)).await;
    world.names.set("a.example", &["10.0.0.1"]);
    let error = world.dialer.connect(&permit).await.unwrap_err();
    assert_eq!(error.reason, Reason::PrivateAddress, "{error}");
    assert!(asked.try_recv().is_err(), "the proxy was asked");
    let lifted = World::new(&format!(
        "{}[network.addresses]\n\"10.0.0.0/8\" = \"allow\"\n{}",
        rules(&by_address),
        LOOPBACK.trim_start_matches("[network.addresses]\n")
    ))
    .await;
    lifted.names.set("a.example", &["10.0.0.1"]);
    lifted.dialer.connect(&permit).await.unwrap();
    assert!(
        asked
            .recv()
            .await
            .unwrap()
            .starts_with("CONNECT 10.0.0.1:443 ")
    );
}

#[tokio::test]
async fn destinations_may_have_proxies_of_their_own() {
    let (at, mut asked) = http("HTTP/1.1 200 OK\r\n\r\n").await;
    let (own, mut asked_own) = http("HTTP/1.1 200 OK\r\n\r\n").await;
    let text = format!(
        "{}[network.proxy.for]\n\"a.example:22\" = \"http://{own}\"\n\"127.0.0.0/8\" = \"direct\"\n{LOOPBACK}",
        rules(&format!("\"http://{at}\""))
    );
    let world = World::new(&text).await;
    let by_name = |port| world.by_name("a.example", port);
    assert_eq!(
        world.dialer.connect(&by_name(22)).await.unwrap().address,
        own
    );
    assert!(
        asked_own
            .recv()
            .await
            .unwrap()
            .starts_with("CONNECT a.example:22 ")
    );
    assert_eq!(
        world.dialer.connect(&by_name(443)).await.unwrap().address,
        at
    );
    assert!(
        asked
            .recv()
            .await
            .unwrap()
            .starts_with("CONNECT a.example:443 ")
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let direct = world
        .dialer
        .connect(&world.by_address("127.0.0.1", port))
        .await;
    assert!(direct.unwrap().upstream_proxy.is_none());
}
