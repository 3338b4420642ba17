//! The upstream proxy behind the gateway.

use portcullis_policy::Mode;

use crate::scenario;
use crate::talk::Talk;
use crate::world::World;

const PROXIES: &str = r#"
[network.proxy]
http = "http://192.0.2.50:3128"
https = "http://192.0.2.50:3128"
no_proxy = "b.example"
"#;

scenario!(a_plain_request_is_forwarded_in_absolute_form, |_usual| {
    let world = World::with(Mode::Enforce, 64, PROXIES).await;
    let upstream_proxy = world.listen("192.0.2.50:3128").await;
    let mut client = world.http().await;
    client
        .say("GET http://a.example/p?q=1 HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await;
    let mut proxy = upstream_proxy.accept().await;
    let head = proxy.hear_head().await;
    assert!(
        head.starts_with("GET http://a.example/p?q=1 HTTP/1.1\r\nHost: a.example\r\n"),
        "{head}"
    );
    proxy
        .say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    client
        .hear_text("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    // Another host is another decision, and another connection.
    client
        .say("GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        .await;
    assert!(client.hear_head().await.starts_with("HTTP/1.1 403 "));
    assert_eq!(proxy.hear_all().await.0, b"");
    let records = world.records_after(1).await;
    assert_eq!(records.decisions()[0]["upstream"], "http://192.0.2.50:3128");
});

scenario!(a_proxy_that_refuses_is_a_502_with_its_status, |_usual| {
    let world = World::with(Mode::Enforce, 64, PROXIES).await;
    let upstream_proxy = world.listen("192.0.2.50:3128").await;
    for (answer, status) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
            407,
        ),
        (
            "HTTP/1.1 403 Forbidden\r\nX-Squid-Error: ERR_ACCESS_DENIED 0\r\nContent-Length: 0\r\n\r\n",
            403,
        ),
        (
            "HTTP/1.1 403 Forbidden\r\nProxy-Status: corp; error=http_request_denied\r\nContent-Length: 0\r\n\r\n",
            403,
        ),
    ] {
        for request in [
            "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
        ] {
            let mut client = world.http().await;
            client.say(request).await;
            let mut proxy = upstream_proxy.accept().await;
            proxy.hear_head().await;
            proxy.say(answer).await;
            let head = client.hear_head().await.to_ascii_lowercase();
            assert!(head.starts_with("http/1.1 502 "), "{head}");
            let words = format!(
                "portcullis; error=http_request_denied; received-status={status}; details="
            );
            assert!(head.contains(&words), "{head}");
            assert!(!head.contains("proxy-authenticate"), "{head}");
            assert!(
                !head.contains("x-proxy-error"),
                "policy did not refuse: {head}"
            );
        }
    }
});

scenario!(
    a_403_of_the_destination_passes_through_the_proxy,
    |_usual| {
        let world = World::with(Mode::Enforce, 64, PROXIES).await;
        let upstream_proxy = world.listen("192.0.2.50:3128").await;
        let mut client = world.http().await;
        client
            .say("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await;
        let mut proxy = upstream_proxy.accept().await;
        proxy.hear_head().await;
        let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        proxy.say(answer).await;
        client.hear_text(answer).await;
    }
);

const TWO: &str = r#"
[network.proxy]
http = ["http://u:secret@192.0.2.50:3128", "http://192.0.2.51:3128"]
https = ["http://u:secret@192.0.2.50:3128", "http://192.0.2.51:3128"]
"#;

scenario!(credentials_go_to_the_proxy_and_into_no_record, |_usual| {
    let world = World::with(Mode::Enforce, 64, TWO).await;
    let upstream_proxy = world.listen("192.0.2.50:3128").await;
    let basic = "Proxy-Authorization: Basic dTpzZWNyZXQ=\r\n";
    let mut client = world.http().await;
    client
        .say("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nProxy-Authorization: Basic eDp5\r\n\r\n")
        .await;
    let mut proxy = upstream_proxy.accept().await;
    let head = proxy.hear_head().await;
    assert_eq!(head.matches("Proxy-Authorization").count(), 1, "{head}");
    assert!(head.contains(basic), "{head}");
    proxy
        .say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    client
        .hear_text("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    let mut client = world.http().await;
    client
        .say("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
        .await;
    let mut proxy = upstream_proxy.accept().await;
    assert!(proxy.hear_head().await.contains(basic));
    proxy.say("HTTP/1.1 403 no\r\n\r\n").await;
    let head = client.hear_head().await;
    assert!(!head.contains("secret") && !head.contains("dTpz"), "{head}");
    let records = world.records_after(1).await;
    for record in records.decisions() {
        let text = record.to_string();
        assert!(!text.contains("secret") && !text.contains("dTpz"), "{text}");
    }
});

scenario!(a_request_goes_to_the_next_proxy_where_one_fails, |_usual| {
    // A GET again, since nothing was answered; what may not be sent twice fails, once.
    for answer in ["", "220 smtp ready\r\n\r\n"] {
        let world = World::with(Mode::Enforce, 64, TWO).await;
        let bad = world.listen("192.0.2.50:3128").await;
        let good = world.listen("192.0.2.51:3128").await;
        let mut client = world.http().await;
        client
            .say("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await;
        let mut proxy = bad.accept().await;
        proxy.hear_head().await;
        proxy.say(answer).await;
        drop(proxy);
        let mut proxy = good.accept().await;
        let head = proxy.hear_head().await;
        assert!(
            !head.contains("Proxy-Authorization"),
            "not this proxy's: {head}"
        );
        proxy
            .say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        client
            .hear_text("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        // It comes last now, for everything.
        let mut client = world.http().await;
        client
            .say("POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n")
            .await;
        let mut proxy = good.accept().await;
        proxy.hear_head().await;
        proxy.say(answer).await;
        drop(proxy);
        let head = client.hear_head().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    }
});

scenario!(
    connect_goes_through_by_connect_and_no_proxy_goes_direct,
    |_usual| {
        let world = World::with(Mode::Enforce, 64, PROXIES).await;
        let upstream_proxy = world.listen("192.0.2.50:3128").await;
        let direct = world.listen("192.0.2.2:443").await;
        let mut client = world.http().await;
        client
            .say("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
            .await;
        let mut proxy = upstream_proxy.accept().await;
        assert!(
            proxy
                .hear_head()
                .await
                .starts_with("CONNECT a.example:443 HTTP/1.1\r\n")
        );
        client.silence().await;
        proxy.say("HTTP/1.1 200 OK\r\n\r\n").await;
        client
            .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
            .await;
        proxy.say("hello").await;
        client.hear_text("hello").await;
        let mut client = world.http().await;
        client
            .say("CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n")
            .await;
        direct.accept().await;
        client
            .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
            .await;
    }
);

scenario!(
    two_names_on_one_address_are_two_names_to_the_proxy,
    |_usual| {
        // The tunnel was opened for the first owner of the address; the SNI names another one.
        let world = World::with(Mode::Enforce, 64, PROXIES).await;
        let upstream_proxy = world.listen("192.0.2.50:3128").await;
        world.lease("192.0.2.1", "a.example");
        world.lease("192.0.2.1", "x.deep.example");
        let mut client = world.connect("192.0.2.1:443").await;
        let mut first = upstream_proxy.accept().await;
        assert!(
            first
                .hear_head()
                .await
                .starts_with("CONNECT a.example:443 ")
        );
        first.say("HTTP/1.1 200 OK\r\n\r\n").await;
        let hello = crate::hello::hello(Some("x.deep.example"));
        client.say(&hello).await;
        let mut second = upstream_proxy.accept().await;
        assert!(
            second
                .hear_head()
                .await
                .starts_with("CONNECT x.deep.example:443 ")
        );
        second.say("HTTP/1.1 200 OK\r\n\r\n").await;
        assert_eq!(second.hear(hello.len()).await, hello);
        assert_eq!(
            first.hear_all().await.0,
            b"",
            "not a byte of it in the other tunnel"
        );
    }
);

scenario!(
    direct_connections_on_port_80_chain_in_absolute_form_and_others_by_connect,
    |_usual| {
        let world = World::with(Mode::Enforce, 64, PROXIES).await;
        let upstream_proxy = world.listen("192.0.2.50:3128").await;
        world.lease("192.0.2.1", "a.example");
        let mut client = world.connect("192.0.2.1:80").await;
        client
            .say("GET /p HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await;
        let mut proxy = upstream_proxy.accept().await;
        let head = proxy.hear_head().await;
        assert!(
            head.starts_with("GET http://a.example/p HTTP/1.1\r\nHost: a.example\r\n"),
            "{head}"
        );
        proxy
            .say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        client
            .hear_text("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        // Not HTTP after all: nothing of it is said to the proxy as if it were.
        let hello = crate::hello::hello(Some("a.example"));
        for bytes in [&[0, 1, 2, 3][..], &hello] {
            let mut client = world.connect("192.0.2.1:80").await;
            let mut plain = upstream_proxy.accept().await;
            client.say(bytes).await;
            let mut tunnel = upstream_proxy.accept().await;
            assert!(
                tunnel
                    .hear_head()
                    .await
                    .starts_with("CONNECT a.example:80 ")
            );
            tunnel.say("HTTP/1.1 200 OK\r\n\r\n").await;
            assert_eq!(tunnel.hear(bytes.len()).await, bytes);
            assert_eq!(plain.hear_all().await.0, b"");
        }
    }
);
