//! What may be said inside a tunnel to a name: HTTP for that name, or for another one that is listed for
//! the same address, and every other protocol. Answers *host unlike the request target*, *second request on
//! a kept-alive connection* and *HTTP framing* (docs/threats.md).

use tokio::net::TcpStream;

use crate::scenario;
use crate::talk::{End, Talk};
use crate::world::World;

/// The ways to a tunnel by name.
const WAYS: [&str; 2] = ["connect", "socks5"];

/// A tunnel to a.example.
async fn tunnel(world: &World, way: &str, port: u16) -> TcpStream {
    if way == "connect" {
        let mut client = world.http().await;
        let to = format!("a.example:{port}");
        client
            .say(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n"))
            .await;
        assert!(client.hear_head().await.starts_with("HTTP/1.1 200 "));
        return client;
    }
    let mut client = world.socks().await;
    client.say([5, 1, 0]).await;
    client.hear(2).await;
    let name = b"a.example";
    let mut request = vec![5, 1, 0, 3, name.len() as u8];
    request.extend(name);
    request.extend(port.to_be_bytes());
    client.say(request).await;
    assert_eq!(client.hear(10).await[1], 0);
    client
}

fn get(host: &str) -> String {
    format!("GET /p HTTP/1.1\r\nhost: {host}\r\n\r\n")
}

scenario!(http_in_a_tunnel_for_its_own_name, |world| {
    let server = world.listen("192.0.2.1:80").await;
    for way in WAYS {
        for host in ["a.example", "A.Example.", "a.example:80"] {
            let mut client = tunnel(&world, way, 80).await;
            let mut upstream = server.accept().await;
            client.say(get(host)).await;
            let head = upstream.hear_head().await;
            assert_eq!(head, "GET /p HTTP/1.1\r\nHost: a.example\r\n\r\n", "{way}");
            upstream
                .say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await;
            assert!(client.hear_head().await.starts_with("HTTP/1.1 200 "));
            client.hear_text("ok").await;
        }
    }
});

scenario!(host_in_a_tunnel_of_another_name, |world| {
    let server = world.listen("192.0.2.1:80").await;
    for way in WAYS {
        // b.example is listed, but not at this address
        for host in [
            "evil.example",
            "b.example",
            "evil.deep.example",
            "a.example:8080",
            "192.0.2.1",
        ] {
            let mut client = tunnel(&world, way, 80).await;
            let mut upstream = server.accept().await;
            client.say(get(host)).await;
            let (answer, end) = client.hear_all().await;
            let answer = String::from_utf8(answer).unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 403 "),
                "{way} {host}: {answer}"
            );
            assert!(answer.contains("host-mismatch"), "{answer}");
            assert_eq!(end, End::Orderly);
            assert_eq!(upstream.hear_all().await.0, b"", "{way} {host}");
            let records = world.records().await;
            let denial = records.decisions().into_iter().next_back().unwrap();
            assert_eq!(
                (&denial["verdict"], &denial["reason"], &denial["layer"]),
                (&"deny".into(), &"host-mismatch".into(), &"http".into())
            );
        }
    }
});

scenario!(
    host_in_a_tunnel_of_another_name_that_is_listed_for_the_address,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        for way in WAYS {
            let mut client = tunnel(&world, way, 80).await;
            let mut upstream = server.accept().await;
            for host in ["x.deep.example", "a.example", "x.deep.example"] {
                client.say(get(host)).await;
                let head = upstream.hear_head().await;
                assert!(head.contains(&format!("Host: {host}\r\n")), "{head}");
                upstream
                    .say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .await;
                assert!(client.hear_head().await.starts_with("HTTP/1.1 200 "));
            }
            // The first one passes, the next one does not: also behind it in one segment.
            client.say(get("a.example") + &get("evil.example")).await;
            upstream.hear_head().await;
            upstream
                .say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
            assert!(client.hear_head().await.starts_with("HTTP/1.1 200 "));
            assert!(client.hear_head().await.starts_with("HTTP/1.1 403 "));
            assert_eq!(upstream.hear_all().await.0, b"");
        }
    }
);

scenario!(
    odd_request_lines_in_tunnels_and_on_direct_connections,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        world.lease("192.0.2.1", "a.example");
        let long = format!("{} / HTTP/1.1\r\n", "M".repeat(200));
        let lines: [&[u8]; 12] = [
            b"\x0bGET / HTTP/1.1\r\n",
            b"GET\x0c/ HTTP/1.1\r\n",
            b"\xa0GET / HTTP/1.1\r\n",
            b"GET\x1f/\x1fHTTP/1.1\r\n",
            b"GET\x85/\x85HTTP/1.0\r\n",
            b"\tGET / HTTP/1.1\r\n",
            b"get / HTTP/1.1\n",
            b"G(T / HTTP/1.1\r\n",
            b"\0 / HTTP/1.1\r\n",
            b"SOURCE / ICE/1.0\r\n",
            b"GET x\r\n",
            long.as_bytes(),
        ];
        for way in ["direct", "connect", "socks5"] {
            for line in lines {
                for in_pieces in [false, true] {
                    let mut client = match way {
                        "direct" => world.connect("192.0.2.1:80").await,
                        way => tunnel(&world, way, 80).await,
                    };
                    let mut upstream = server.accept().await;
                    let request = [line, b"Host: evil.example\r\n\r\n"].concat();
                    // Whether it is refused at once or on the way, its Host does not get out.
                    if in_pieces {
                        client.set_nodelay(true).unwrap();
                        for byte in request {
                            if tokio::io::AsyncWriteExt::write_all(&mut client, &[byte])
                                .await
                                .is_err()
                            {
                                break;
                            }
                            tokio::task::yield_now().await;
                        }
                    } else {
                        client.say(request).await;
                    }
                    client.hear_all().await;
                    drop(client);
                    let heard = upstream.hear_all().await.0;
                    let shown = heard.escape_ascii().to_string();
                    assert!(!heard.contains(&b'\n'), "{way}: {shown}");
                    assert!(!shown.contains("evil"), "{way}: {shown}");
                }
            }
        }
        let records = world.records().await;
        let denied: u64 = records
            .decisions()
            .iter()
            .filter(|v| v["verdict"] == "deny" && v["layer"] == "http")
            .map(|v| v["count"].as_u64().unwrap())
            .sum();
        assert_eq!(denied, 3 * 12 * 2, "{:#?}", records.0);
    }
);

scenario!(
    other_protocols_in_tunnels_and_on_direct_connections,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        world.lease("192.0.2.1", "a.example");
        let said: [&[u8]; 10] = [
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"EHLO me\r\n",
            b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n",
            b"GET key\r\n",
            b"\0\0\0\x54\0\x03\0\0user\0me\0\0",
            b"ruok",
            b"hello server",
            b"CONNECT {\"verbose\":false}\r\n",
            b"{\"id\":1}",
            b"\x10\x2f\0\x04MQTT\x04",
        ];
        for way in ["direct", "connect", "socks5"] {
            for first in said {
                let mut client = match way {
                    "direct" => world.connect("192.0.2.1:80").await,
                    way => tunnel(&world, way, 80).await,
                };
                let mut upstream = server.accept().await;
                client.say(first).await;
                assert_eq!(upstream.hear(first.len()).await, first, "{way}");
                upstream.say("yes").await;
                client.hear_text("yes").await;
                client.say("\x01more\r\nX: http\r\n").await;
                upstream.hear_text("\x01more\r\nX: http\r\n").await;
            }
            // The server speaks first.
            let mut client = match way {
                "direct" => world.connect("192.0.2.1:80").await,
                way => tunnel(&world, way, 80).await,
            };
            let mut upstream = server.accept().await;
            upstream.say("220 ready\r\n").await;
            client.hear_text("220 ready\r\n").await;
            client.say("EHLO me\r\n").await;
            upstream.hear_text("EHLO me\r\n").await;
        }
    }
);
