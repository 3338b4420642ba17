//! "Resolution as a way out": what the upstream heard, byte by byte.

use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record};
use proptest::prelude::*;

use crate::world::*;

const ZONE: &str = "listed.example 60 A 192.0.2.1\nlisted.example 60 TXT hello";

#[tokio::test]
async fn no_lookup_leaves_before_the_name_is_allowed() {
    let server = Server::with_zone(Zone::new(ZONE)).await;
    let world = World::new(&["listed.example", "*.wild.example"], &[&server]);
    for name in [
        "other.example",
        "listed.example.evil.example",
        "notlisted.example",
        "notlisted.example.",
        "sub.listed.example",
        "wild.example",
        "example",
        "listed",
        "c2VjcmV0.evil.example",
        "listed.example.corp.search.domain",
    ] {
        for qtype in [A_TYPE, AAAA_TYPE, TXT_TYPE, PTR_TYPE, 5, 15, 33, 65, 255] {
            let reply = world.ask(name, qtype).await;
            assert!(reply.answers.is_empty(), "{name} {qtype}");
        }
    }
    assert!(server.heard().is_empty(), "{:?}", server.questions());
}

#[tokio::test]
async fn the_clients_id_is_never_forwarded() {
    let server = Server::with_zone(Zone::new("")).await;
    let names: Vec<String> = (0..40).map(|n| format!("n{n}.wild.example")).collect();
    let world = World::new(&["*.wild.example"], &[&server]);
    for name in &names {
        world.ask(name, A_TYPE).await;
    }
    let same = server
        .heard()
        .iter()
        .filter(|one| one.bytes[..2] == CLIENT_ID.to_be_bytes())
        .count();
    assert!(same <= 1, "40 random ids hit one value at most by chance");
}

#[tokio::test]
async fn an_answer_counts_only_from_the_server_that_was_asked() {
    // Another socket of the same host answers first, with id, question and all, to the very port.
    let server = Server::scripted(|heard, _| {
        let mut forged = response(&heard.message());
        let data = RData::A(hickory_proto::rr::rdata::A::new(198, 51, 100, 66));
        let record = Record::from_rdata(fqdn("listed.example"), 86_400, data);
        forged.answers.push(record);
        let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let forged = forged.to_vec().unwrap();
        stranger.send_to(&forged, heard.from).unwrap();
        let truth = Zone::new(ZONE).answer(&heard.message());
        vec![Act::Wait(Duration::from_millis(50)), Act::Send(truth)]
    })
    .await;
    let world = World::new(&["listed.example"], &[&server]);
    let reply = world.ask("listed.example", A_TYPE).await;
    let expected: std::net::IpAddr = "192.0.2.1".parse().unwrap();
    assert_eq!(addresses(&reply), [expected]);
}

#[tokio::test]
async fn ports_are_fresh() {
    let server = Server::with_zone(Zone::new("")).await;
    let world = World::new(&["*.wild.example"], &[&server]);
    for n in 0..40 {
        world.ask(&format!("n{n}.wild.example"), A_TYPE).await;
    }
    let heard = server.heard();
    let ports: std::collections::HashSet<u16> = heard.iter().map(|one| one.from.port()).collect();
    assert!(ports.len() > 30, "{ports:?}");
}

#[tokio::test]
async fn extra_questions_records_and_opcodes_do_not_leave() {
    let server = Server::with_zone(Zone::new(ZONE)).await;
    let world = World::new(&["listed.example"], &[&server]);
    let good = query("listed.example", A_TYPE, None);
    let question = &good[12..];
    let mut hostile: Vec<Vec<u8>> = Vec::new();
    for (count_at, _section) in [(5, "question"), (7, "answer"), (9, "authority")] {
        let mut message = good.clone();
        message[count_at] += 1;
        message.extend_from_slice(question);
        hostile.push(message);
    }
    // A record in the additional section that is no OPT.
    let mut message = good.clone();
    message[11] = 1;
    message.extend_from_slice(b"\x01x\x00\x00\x10\x00\x01\x00\x00\x00\x00\x00\x05\x04leak");
    hostile.push(message);
    // Two OPT records, and bytes behind the message.
    let mut message = query("listed.example", A_TYPE, Some(1232));
    message[11] = 2;
    message.extend_from_slice(&[0, 0, 41, 4, 0xD0, 0, 0, 0, 0, 0, 0]);
    hostile.push(message);
    let mut message = good.clone();
    message.extend_from_slice(b"trailing secret");
    hostile.push(message);
    // A pointer for a name, and one that points at itself.
    hostile.push([&good[..12], &[0xC0, 12, 0, 1, 0, 1]].concat());
    hostile.push([&good[..12], &[1, b'a', 0xC0, 12, 0, 1, 0, 1]].concat());
    for opcode in [1u8, 2, 4, 5] {
        let mut message = good.clone();
        message[2] |= opcode << 3;
        hostile.push(message);
    }
    for message in &hostile {
        let reply = world.raw(message).await;
        assert_ne!(reply[3] & 0x0F, 0, "{message:02x?}");
    }
    assert!(server.heard().is_empty());
    let records = world.records();
    let count: u64 = records
        .iter()
        .map(|r| r["count"].as_u64().unwrap_or(1))
        .sum();
    assert_eq!(count, hostile.len() as u64, "each one is in the record");
    assert!(
        records
            .iter()
            .all(|r| r["verdict"] == "deny" && r["reason"] == "malformed")
    );
}

#[tokio::test]
async fn names_with_control_bytes_stay_out_of_upstreams_and_in_one_line_records() {
    let server = Server::with_zone(Zone::new(ZONE)).await;
    let world = World::new(&["listed.example", "*.wild.example"], &[&server]);
    for label in [
        &b"a\0b"[..],
        b"a\r\nb",
        b"a b",
        b"a.b",
        b"\x1b[31m",
        b"\xff\xfe",
        b"xn--\xe2\x80\xae",
        b"a@b",
        b"a%b",
        b"[a]",
    ] {
        let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.push(label.len() as u8);
        message.extend_from_slice(label);
        message.extend_from_slice(b"\x04wild\x07example\x00\x00\x01\x00\x01");
        let reply = world.raw(&message).await;
        assert_eq!(reply[3] & 0x0F, 3, "{label:?}");
    }
    assert!(server.heard().is_empty());
    assert!(
        world
            .records()
            .iter()
            .all(|record| record["reason"] == "malformed")
    );
}

#[tokio::test]
async fn the_gateways_own_names_never_leave_even_where_listed() {
    let server = Server::with_zone(Zone::new(ZONE)).await;
    let world = World::new(&["host.portcullis.internal"], &[&server]);
    for name in [
        "localhost",
        "secret.localhost",
        "secret.probe.portcullis.internal",
    ] {
        for qtype in [A_TYPE, AAAA_TYPE, TXT_TYPE, 15, 255] {
            world.ask(name, qtype).await;
        }
    }
    for qtype in [A_TYPE, AAAA_TYPE, TXT_TYPE, 65] {
        world.ask("host.portcullis.internal", qtype).await;
    }
    assert!(server.heard().is_empty());
}

#[tokio::test]
async fn a_flood_of_unlisted_names_costs_no_lookup_and_no_lease() {
    let server = Server::with_zone(Zone::new(ZONE)).await;
    let world = World::new(&["listed.example"], &[&server]);
    for n in 0..5_000 {
        let raw = world
            .raw(&query(&format!("n{n}.evil.example"), A_TYPE, None))
            .await;
        assert_eq!(raw[3] & 0x0F, 3);
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(server.heard().is_empty() && world.leases.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_are_answered_or_dropped_and_never_forwarded(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        flip in proptest::collection::vec((0usize..40, any::<u8>()), 0..4),
        from_good in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // No upstream: a lookup would be a SERVFAIL, which is visible.
            let world = World::with(policy(&["listed.example"]), Vec::new(), |_| {});
            let mut message = if from_good {
                query("unlisted.example", A_TYPE, Some(1232))
            } else {
                bytes
            };
            for (at, value) in flip {
                if let Some(byte) = message.get_mut(at) {
                    *byte = value;
                }
            }
            let reply = world.raw(&message).await;
            if !reply.is_empty() {
                prop_assert!(Message::from_vec(&reply).is_ok());
                prop_assert_eq!(&reply[..2], &message[..2]);
                prop_assert_ne!(reply[3] & 0x0F, 2, "SERVFAIL: something asked upstream");
            }
            Ok(())
        })?;
    }
}
