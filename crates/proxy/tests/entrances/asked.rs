//! The record of a malformed request says what it asked for, whatever way it came in. Answers *the record*
//! (docs/threats.md).

use crate::inspect::{both, hear_rest, say};
use crate::scenario;
use crate::talk::Talk;
use crate::world::World;

/// What the last record says that was asked for; it is a malformed request's.
async fn asked(world: &World) -> String {
    let records = world.records().await;
    let mut decisions = records.decisions().into_iter();
    let last = decisions.rfind(|v| v["reason"] == "malformed");
    let last = last.unwrap_or_else(|| panic!("{:#?}", records.0));
    assert_eq!(last["verdict"], "deny");
    let line = last.to_string();
    assert!(!line.contains("SECRET"), "{line}");
    last["asked"].as_str().unwrap_or_default().to_owned()
}

scenario!(
    a_malformed_request_is_recorded_with_what_it_asked_for,
    |world| {
        let _look = world.listen("192.0.2.1:80").await;
        world.lease("192.0.2.1", "a.example");
        for (request, expected) in [
            (
                "GET http://u:SECRET@evil.example/p?SECRET HTTP/1.1\r\nHost: x\r\n\r\n",
                "[userinfo]@evil.example/p",
            ),
            (
                "CONNECT evil.example%00.a.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
                "evil.example%00.a.example:443",
            ),
            (
                "GET http://a.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
                "a.example/",
            ),
            (
                "GET /p?SECRET HTTP/1.1\r\nHost: evil.example\r\n\r\n",
                "evil.example/p",
            ),
            (
                "GET /p?SECRET HTTP/1.1\r\nHost: evil.example\nX: SECRET\r\n\r\n",
                "evil.example/p",
            ),
            (
                "POST http://a.example/x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\
             Transfer-Encoding: chunked\r\n\r\nSECRET",
                "http://a.example/x",
            ),
        ] {
            let mut client = world.http().await;
            client.say(request).await;
            client.hear_all().await;
            assert_eq!(asked(&world).await, expected, "{request:?}");
        }
        let mut client = world.socks().await;
        client.say([5, 1, 0]).await;
        client.hear(2).await;
        client.say(b"\x05\x01\0\x03\x0cevil\0example\0\x50").await;
        client.hear_all().await;
        assert_eq!(asked(&world).await, "evil\0example");
        let mut client = world.socks().await;
        client
            .say("GET http://evil.example/socks?SECRET HTTP/1.1\r\n\r\n")
            .await;
        client.hear_all().await;
        assert_eq!(asked(&world).await, "http://evil.example/socks");
        let mut client = world.connect("192.0.2.1:80").await;
        client
            .say("\x0bGET /direct?SECRET HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            .await;
        client.hear_all().await;
        assert_eq!(asked(&world).await, "evil.example/direct");
        let long = format!("GET /{} HTTP/1.1\r\nHost: a b\r\n\r\n", "x".repeat(9000));
        let mut client = world.http().await;
        client.say(long).await;
        client.hear_all().await;
        assert_eq!(asked(&world).await.len(), 256);
    }
);

scenario!(
    a_malformed_request_inside_tls_is_recorded_with_what_it_asked_for,
    |world| {
        world.lease("192.0.2.7", "look.example");
        let (mut client, _server) = both(&world).await;
        say(
            &mut client,
            "GET /p?SECRET HTTP/1.1\r\nHost: evil.example\r\nHost: look.example\r\n\r\n",
        )
        .await;
        hear_rest(&mut client).await;
        assert_eq!(asked(&world).await, "evil.example/p");
    }
);

scenario!(a_body_framed_badly_inside_tls_is_recorded, |world| {
    world.lease("192.0.2.7", "look.example");
    let (mut client, _server) = both(&world).await;
    say(
        &mut client,
        "POST /p HTTP/1.1\r\nHost: look.example\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    )
    .await;
    hear_rest(&mut client).await;
    drop(client);
    let records = world.records_after(1).await;
    let malformed = records
        .decisions()
        .into_iter()
        .find(|v| v["reason"] == "malformed");
    let malformed = malformed.unwrap_or_else(|| panic!("{:#?}", records.0));
    assert_eq!(malformed["detail"], "a chunk without a size");
});
