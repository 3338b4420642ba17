//! HTTP/2 without TLS: each stream is decided on by its `:authority`, on a direct connection and in
//! tunnels, whatever the port is and whoever speaks first.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response, Version, client, server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::scenario;
use crate::talk::{End, Talk};
use crate::world::{PATIENCE, World};

/// What a server was asked for.
type Heard = Arc<Mutex<Vec<String>>>;

/// A server of HTTP/2 without TLS, which says its settings as soon as it is connected to.
async fn serve(world: &World, at: &str) -> Heard {
    let heard = Heard::default();
    let kept = heard.clone();
    let server = world.listen(at).await;
    tokio::spawn(async move {
        loop {
            let stream = server.accept().await;
            let kept = kept.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                kept.lock().unwrap().push(request.uri().to_string());
                async { Ok::<_, Infallible>(Response::new(request.into_body())) }
            });
            let serving = server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    heard
}

async fn begin(stream: TcpStream) -> SendRequest<Empty<Bytes>> {
    let began = client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, driver) = began.await.unwrap();
    tokio::spawn(driver);
    sender
}

/// The status and the body of the answer.
async fn get(sender: &mut SendRequest<Empty<Bytes>>, uri: &str) -> (u16, String) {
    let request = Request::get(uri)
        .version(Version::HTTP_2)
        .body(Empty::new())
        .unwrap();
    let answer = timeout(PATIENCE, sender.send_request(request));
    let answer = answer.await.expect("an answer").unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

scenario!(
    requests_of_cleartext_http2_are_decided_on_one_by_one,
    |world| {
        let heard = serve(&world, "192.0.2.3:80").await;
        world.lease("192.0.2.3", "any.example");
        let mut sender = begin(world.connect("192.0.2.3:80").await).await;
        assert_eq!(get(&mut sender, "http://any.example/1?q=1").await.0, 200);
        let (status, body) = get(&mut sender, "http://evil.example/2").await;
        assert_eq!(status, 403);
        assert!(body.contains("reason: not-in-allowlist"), "{body}");
        // Another stream's refusal is none of this one's.
        assert_eq!(get(&mut sender, "http://any.example/3").await.0, 200);
        let asked = ["http://any.example/1?q=1", "http://any.example/3"];
        assert_eq!(*heard.lock().unwrap(), asked);
        drop(sender);
        let records = world.records_after(3).await;
        let mut http: Vec<_> = (records.decisions().into_iter())
            .filter(|v| v["layer"] == "http")
            .map(|v| (v["path"].as_str().unwrap(), v["verdict"].as_str().unwrap()))
            .collect();
        http.sort(); // a denial's record waits for its program
        assert_eq!(http, [("/1", "allow"), ("/2", "deny"), ("/3", "allow")]);
    }
);

scenario!(
    a_server_that_says_its_settings_first_is_not_in_the_way,
    |world| {
        let heard = serve(&world, "192.0.2.3:9999").await;
        let mut client = world.http().await;
        client
            .say("CONNECT any.example:9999 HTTP/1.1\r\nHost: any.example:9999\r\n\r\n")
            .await;
        client
            .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
            .await;
        sleep(Duration::from_millis(200)).await;
        let mut sender = begin(client).await;
        assert_eq!(get(&mut sender, "http://any.example:9999/a").await.0, 200);
        assert_eq!(get(&mut sender, "http://b.example:9999/b").await.0, 403);
        assert_eq!(*heard.lock().unwrap(), ["http://any.example:9999/a"]);
    }
);

scenario!(rules_with_paths_hold_in_cleartext_http2, |_usual| {
    let world = World::by(
        "version = 1\n[network.domains]\n\
         \"any.example:80\" = { verdict = \"allow\", methods = [\"GET\"], paths = [\"/public/**\"] }\n",
    )
    .await;
    let heard = serve(&world, "192.0.2.3:80").await;
    world.lease("192.0.2.3", "any.example");
    let mut sender = begin(world.connect("192.0.2.3:80").await).await;
    assert_eq!(get(&mut sender, "http://any.example/public/a").await.0, 200);
    assert_eq!(get(&mut sender, "http://any.example/secret").await.0, 403);
    assert_eq!(*heard.lock().unwrap(), ["http://any.example/public/a"]);
});

scenario!(
    a_server_that_begins_like_http2_is_heard_when_the_client_speaks,
    |world| {
        let server = world.listen("192.0.2.3:9999").await;
        let mut client = world.http().await;
        client
            .say("CONNECT any.example:9999 HTTP/1.1\r\nHost: any.example:9999\r\n\r\n")
            .await;
        client
            .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
            .await;
        let mut upstream = server.accept().await;
        upstream.say([0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        client.silence().await;
        client.say("\0\x01 something else\n").await;
        assert_eq!(client.hear(9).await, [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        upstream.hear_text("\0\x01 something else\n").await;
        upstream.shutdown().await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(client.hear_all().await, (vec![], End::Orderly));
    }
);

/// A tunnel to a.example, opened by CONNECT or by SOCKS.
async fn tunnel(world: &World, socks: bool) -> TcpStream {
    if socks {
        let mut client = world.socks().await;
        client.say([5, 1, 0]).await;
        client.hear(2).await;
        client.say(b"\x05\x01\0\x03\x09a.example\0\x50").await;
        client.hear(10).await;
        return client;
    }
    let mut client = world.http().await;
    let request = "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n";
    client.say(request).await;
    client.hear_head().await;
    client
}

scenario!(
    requests_for_several_hosts_in_one_tunnel_are_decided_on_one_by_one,
    |world| {
        let heard = serve(&world, "192.0.2.1:80").await;
        for socks in [false, true] {
            let mut sender = begin(tunnel(&world, socks).await).await;
            for (uri, expected) in [
                ("http://x.deep.example/1", 200), // listed, and at this address
                ("http://b.example/2", 403),      // listed, and elsewhere
                ("http://evil.deep.example/3", 403),
                ("http://a.example:8080/4", 403),
                ("http://192.0.2.1/5", 403),
                ("https://a.example/6", 400),
                ("http://a.example/7", 200),
            ] {
                assert_eq!(get(&mut sender, uri).await.0, expected, "{uri}");
            }
            let asked = ["http://x.deep.example/1", "http://a.example/7"];
            assert_eq!(std::mem::take(&mut *heard.lock().unwrap()), asked);
            drop(sender);
        }
        // Each is one record: the tunnels, and what was asked in them.
        let records = world.records_after(6).await;
        let refused = records.decisions().into_iter();
        let refused = refused.filter(|v| v["verdict"] == "deny").count();
        assert_eq!((refused, records.decisions().len()), (10, 16));
    }
);

scenario!(
    a_host_with_limits_of_its_own_is_not_asked_on_another_one_s_connection,
    |_usual| {
        let world = World::by(
            "version = 1\n[network.domains]\n\"a.example\" = \"allow\"\n\
             \"x.deep.example\" = { verdict = \"allow\", total_bytes = \"1MB\" }\n",
        )
        .await;
        let heard = serve(&world, "192.0.2.1:80").await;
        let mut sender = begin(tunnel(&world, false).await).await;
        assert_eq!(get(&mut sender, "http://x.deep.example/").await.0, 429);
        assert_eq!(get(&mut sender, "http://a.example/").await.0, 200);
        assert_eq!(*heard.lock().unwrap(), ["http://a.example/"]);
    }
);

scenario!(a_preface_in_pieces_is_one_and_no_way_around, |world| {
    let server = world.listen("192.0.2.1:80").await;
    world.lease("192.0.2.1", "a.example");
    let mut client = world.connect("192.0.2.1:80").await;
    let mut upstream = server.accept().await;
    client.spell("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.say([0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
    assert_eq!(client.hear(9).await[3], 4, "settings of the gateway's");
    // `GET http://evil.example/`, without a table.
    client
        .say(b"\0\0\x11\x01\x05\0\0\0\x01\x82\x86\x84\x01\x0cevil.example")
        .await;
    sleep(Duration::from_millis(500)).await;
    let records = world.records().await;
    records.denied("http", "transparent", "not-in-allowlist");
    // Another protocol behind the preface is none.
    client
        .say("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        .await;
    client.hear_all().await;
    let sent = upstream.hear_all().await.0;
    assert!(!sent.windows(4).any(|part| part == b"evil"), "{sent:x?}");
});

scenario!(
    a_policy_that_changes_cuts_streams_that_it_no_longer_allows,
    |world| {
        serve(&world, "192.0.2.1:80").await;
        world.lease("192.0.2.1", "a.example");
        let mut sender = begin(world.connect("192.0.2.1:80").await).await;
        assert_eq!(get(&mut sender, "http://a.example/").await.0, 200);
        world.change("version = 1\n[network.domains]\n\"b.example\" = \"allow\"\n");
        let request = Request::get("http://a.example/")
            .body(Empty::new())
            .unwrap();
        let answer = timeout(PATIENCE, sender.send_request(request))
            .await
            .unwrap();
        assert!(answer.is_err(), "{answer:?}");
    }
);
