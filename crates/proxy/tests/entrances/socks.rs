//! SOCKS5, byte by byte.

use portcullis_policy::Reason;

use crate::hello::{self, UNRECOGNIZED_NAME};
use crate::scenario;
use crate::talk::{End, Talk};

const SUCCESS: [u8; 10] = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];

fn by_name(command: u8, name: &str, port: u16) -> Vec<u8> {
    let mut request = vec![5, command, 0, 3, u8::try_from(name.len()).unwrap()];
    request.extend(name.as_bytes());
    request.extend(port.to_be_bytes());
    request
}

fn by_address(address: [u8; 4], port: u16) -> Vec<u8> {
    [&[5, 1, 0, 1][..], &address, &port.to_be_bytes()].concat()
}

fn refused(code: u8) -> Vec<u8> {
    vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

scenario!(
    a_name_passes_with_the_reply_after_the_connection_stands,
    |world| {
        let server = world.listen("192.0.2.3:22").await;
        let mut client = world.socks().await;
        client.say([5, 1, 0]).await;
        assert_eq!(client.hear(2).await, [5, 0]);
        client.say(by_name(1, "any.example", 22)).await;
        assert_eq!(client.hear(10).await, SUCCESS);
        let mut upstream = server.accept().await;
        upstream.say("SSH-2.0-x\r\n").await;
        client.hear_text("SSH-2.0-x\r\n").await;
        client.say("SSH-2.0-y\r\n").await;
        upstream.hear_text("SSH-2.0-y\r\n").await;
        drop((client, upstream));
        let records = world.records_after(1).await;
        let [open] = records.decisions()[..] else {
            panic!("{:#?}", records.0)
        };
        assert_eq!(
            (&open["layer"], &open["protocol"]),
            (&"tcp".into(), &"socks5".into())
        );
        assert_eq!(open["name"], "any.example");
    }
);

scenario!(
    greeting_request_and_hello_in_one_segment_and_byte_by_byte,
    |world| {
        let server = world.listen("192.0.2.1:443").await;
        let hello = hello::hello(Some("a.example"));
        let all = [&[5, 2, 2, 0][..], &by_name(1, "A.example.", 443), &hello].concat();
        for spelled in [false, true] {
            let mut client = world.socks().await;
            if spelled {
                client.spell(&all).await;
            } else {
                client.say(&all).await;
            }
            assert_eq!(client.hear(2).await, [5, 0]);
            assert_eq!(client.hear(10).await, SUCCESS);
            assert_eq!(server.accept().await.hear(hello.len()).await, hello);
        }
    }
);

scenario!(refusals_have_the_contracts_codes, |world| {
    for (request, code, reason) in [
        (by_name(1, "evil.example", 443), 2, "not-in-allowlist"),
        (by_name(1, "a.example", 22), 2, "port-not-allowed"),
        (by_name(1, "private.example", 443), 2, "private-address"),
        (by_address([127, 0, 0, 1], 22), 2, "private-address"),
        (by_address([192, 0, 2, 1], 443), 2, "address-not-leased"),
        (by_address([127, 0, 0, 1], 3128), 2, "gateway-loop"),
        (by_name(1, "a.example", 443), 5, "connection-refused"),
        (by_name(1, "nowhere.example", 443), 4, "name-not-found"),
        (by_name(2, "a.example", 443), 7, "protocol-not-allowed"),
        (by_name(3, "a.example", 443), 7, "protocol-not-allowed"),
        (by_name(1, "a.example\0.evil", 443), 2, "malformed"),
        (by_name(1, "127.1", 443), 2, "malformed"),
        (vec![5, 1, 0, 2, 0, 0, 0, 0, 0, 80], 2, "malformed"),
        (vec![5, 1, 1, 1, 192, 0, 2, 1, 0, 80], 2, "malformed"),
        (by_name(1, "127.0.0.1", 443), 2, "private-address"),
    ] {
        let listed = Reason::from_code(reason).unwrap();
        assert_eq!(listed.socks_reply(), code, "{reason}: the one table");
        let mut client = world.socks().await;
        client.say([&[5, 1, 0][..], &request].concat()).await;
        assert_eq!(client.hear(2).await, [5, 0]);
        assert_eq!(
            client.hear_all().await,
            (refused(code), End::Orderly),
            "{reason}"
        );
        let records = world.records().await;
        let last = records.decisions().into_iter().next_back().unwrap().clone();
        assert_eq!(last["reason"], reason);
        assert_eq!(
            (&last["layer"], &last["protocol"]),
            (&"tcp".into(), &"socks5".into())
        );
    }
});

scenario!(a_password_is_not_wanted_and_socks4_is_not_spoken, |world| {
    let mut client = world.socks().await;
    client.say([5, 1, 2]).await;
    assert_eq!(client.hear_all().await.0, [5, 0xff]);
    let mut client = world.socks().await;
    client.say([4, 1, 0, 80, 192, 0, 2, 1, 0]).await;
    assert_eq!(client.hear_all().await.0, b"");
    let records = world.records().await;
    let denied = records.decisions();
    for why in ["no SOCKS method without authentication", "SOCKS version 4"] {
        let so = denied.iter().filter(|record| record["detail"] == why);
        assert_eq!(so.count(), 1, "{why}: {denied:#?}");
    }
    assert!(denied.iter().all(|record| record["reason"] == "malformed"));
});

scenario!(socks_to_a_with_sni_b_gets_an_alert, |world| {
    let server = world.listen("192.0.2.1:443").await;
    let mut client = world.socks().await;
    client
        .say([&[5, 1, 0][..], &by_name(1, "a.example", 443)].concat())
        .await;
    client.hear(12).await;
    let mut upstream = server.accept().await;
    client.say(hello::hello(Some("b.example"))).await;
    assert_eq!(client.hear_all().await.0, UNRECOGNIZED_NAME);
    assert_eq!(upstream.hear_all().await.0, b"");
    world
        .records()
        .await
        .denied("tls", "socks5", "sni-mismatch");
});

scenario!(
    a_leased_address_is_served_like_a_direct_connection,
    |world| {
        let server = world.listen("192.0.2.1:80").await;
        world.lease("192.0.2.1", "a.example");
        let mut client = world.socks().await;
        client
            .say([&[5, 1, 0][..], &by_address([192, 0, 2, 1], 80)].concat())
            .await;
        client.hear(12).await;
        let mut upstream = server.accept().await;
        client
            .say("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await;
        upstream.hear_head().await;
        upstream
            .say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        client.hear_head().await;
        client
            .say("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            .await;
        assert!(client.hear_head().await.starts_with("HTTP/1.1 403 "));
        drop(client);
        let records = world.records_after(2).await;
        records.denied("http", "socks5", "not-in-allowlist");
    }
);
