//! The DNS rows of the contract's table "what a program sees".

use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use portcullis_policy::Mode;

use crate::world::*;

const ZONE: &str = "
    listed.example 60 A 192.0.2.1
    six.example 60 AAAA 2001:db8::6
    private.example 60 A 10.1.2.3
    mixed.example 60 A 192.0.2.2
    mixed.example 60 A 127.0.0.1
    mixed.example 60 A 169.254.169.254
    meta6.example 60 AAAA ::ffff:169.254.169.254
";

async fn world(rules: &[&str]) -> (World, Server) {
    let server = Server::with_zone(Zone::new(ZONE)).await;
    (World::new(rules, &[&server]), server)
}

#[tokio::test]
async fn name_not_listed_is_nxdomain_with_soa_and_ede_15() {
    let (world, server) = world(&["listed.example"]).await;
    let reply = world.raw(&query("other.example", A_TYPE, Some(1232))).await;
    let message = Message::from_vec(&reply).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(message.authorities[0].record_type(), RecordType::SOA);
    assert!(message.authorities[0].ttl <= 10, "cached briefly");
    let (code, text) = ede(&reply).expect("EDE");
    let record = world.record();
    assert_eq!(code, 15);
    assert_eq!(
        text,
        format!("not-in-allowlist; id={}", record["id"].as_str().unwrap())
    );
    assert_eq!(record["verdict"], "deny");
    assert_eq!(record["reason"], "not-in-allowlist");
    assert_eq!(record["layer"], "dns");
    assert_eq!(record["protocol"], "dns-udp");
    assert_eq!(record["name"], "other.example");
    assert!(server.heard().is_empty());
}

#[tokio::test]
async fn a_denied_name_below_an_allowed_wildcard_is_nxdomain() {
    let (world, server) = world(&["*.example.org", "!gist.example.org"]).await;
    let reply = world.ask("gist.example.org", A_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(world.record()["reason"], "denied-by-rule");
    assert!(server.heard().is_empty());
}

#[tokio::test]
async fn without_edns_a_denial_has_no_opt_record() {
    let (world, _server) = world(&[]).await;
    let reply = world.raw(&query("other.example", A_TYPE, None)).await;
    let message = Message::from_vec(&reply).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    assert!(message.edns.is_none());
}

#[tokio::test]
async fn type_not_served_is_nodata_with_soa() {
    let (world, server) = world(&["listed.example"]).await;
    for qtype in [
        10, /* NULL */
        13, /* HINFO */
        35, /* NAPTR */
        44, /* SSHFP */
        65_280,
    ] {
        let reply = world.raw(&query("listed.example", qtype, Some(1232))).await;
        let message = Message::from_vec(&reply).unwrap();
        assert_eq!(
            message.metadata.response_code,
            ResponseCode::NoError,
            "type {qtype}"
        );
        assert!(message.answers.is_empty());
        assert_eq!(message.authorities[0].record_type(), RecordType::SOA);
        assert!(matches!(ede(&reply), Some((15 | 21, _))), "type {qtype}");
    }
    assert!(server.heard().is_empty());
}

#[tokio::test]
async fn aaaa_of_a_v4_only_name_is_nodata_never_refused() {
    let (world, _server) = world(&["listed.example", "six.example"]).await;
    let reply = world.ask("listed.example", AAAA_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty());
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    let reply = world.ask("six.example", A_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty());
    let reply = world.ask("six.example", AAAA_TYPE).await;
    assert_eq!(
        addresses(&reply),
        vec!["2001:db8::6".parse::<std::net::IpAddr>().unwrap()]
    );
}

#[tokio::test]
async fn without_an_ipv6_route_aaaa_is_nodata_and_nobody_is_asked() {
    let server = Server::with_zone(Zone::new(ZONE)).await;
    let world = World::with(policy(&["six.example"]), vec![server.address], |config| {
        config.ipv6_route = std::sync::Arc::new(|| false);
    });
    let reply = world.ask("six.example", AAAA_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty());
    assert!(server.heard().is_empty());
}

#[tokio::test]
async fn private_addresses_only_is_nxdomain_with_ede_15_private_address() {
    let (world, _server) = world(&["private.example", "meta6.example"]).await;
    let reply = world
        .raw(&query("private.example", A_TYPE, Some(1232)))
        .await;
    let message = Message::from_vec(&reply).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    let (code, text) = ede(&reply).unwrap();
    assert_eq!(code, 15);
    assert!(text.starts_with("private-address; id="), "{text}");
    assert!(
        !text.contains("10.1.2.3"),
        "the address stays in the operator's record"
    );
    let record = world.record();
    assert_eq!(record["verdict"], "deny");
    assert_eq!(record["addresses"][0], "10.1.2.3");
    assert!(world.gate.0.lock().unwrap().is_empty());
    let reply = world.ask("meta6.example", AAAA_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert!(world.leases.is_empty());
}

#[tokio::test]
async fn an_address_rule_lifts_the_guard() {
    let (world, _server) = world(&["private.example:5432", "10.1.0.0/16:5432"]).await;
    let reply = world.ask("private.example", A_TYPE).await;
    assert_eq!(addresses(&reply).len(), 1);
    assert!(world.leases.is_leased("10.1.2.3".parse().unwrap()));
}

#[tokio::test]
async fn mixed_public_and_private_answers_give_the_public_ones() {
    let (world, _server) = world(&["mixed.example"]).await;
    let reply = world.ask("mixed.example", A_TYPE).await;
    assert_eq!(
        addresses(&reply),
        vec!["192.0.2.2".parse::<std::net::IpAddr>().unwrap()]
    );
    assert!(!world.leases.is_leased("127.0.0.1".parse().unwrap()));
    assert!(!world.leases.is_leased("169.254.169.254".parse().unwrap()));
}

#[tokio::test]
async fn private_addresses_stay_refused_in_audit_mode() {
    let server = Server::with_zone(Zone::new(ZONE)).await;
    let audit = policy(&[]).with_mode(Mode::Audit);
    let world = World::with(audit, vec![server.address], |_| {});
    let reply = world.ask("listed.example", A_TYPE).await;
    assert_eq!(addresses(&reply).len(), 1);
    let reply = world.ask("private.example", A_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    let verdicts: Vec<String> = world
        .records()
        .iter()
        .map(|r| r["verdict"].as_str().unwrap().to_owned())
        .collect();
    assert!(verdicts.contains(&"audit".to_owned()) && verdicts.contains(&"deny".to_owned()));
}

#[tokio::test]
async fn upstream_nxdomain_passes_with_its_soa_and_without_ede() {
    let (world, _server) = world(&["absent.example"]).await;
    let reply = world
        .raw(&query("absent.example", A_TYPE, Some(1232)))
        .await;
    let message = Message::from_vec(&reply).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    let RData::SOA(soa) = &message.authorities[0].data else {
        panic!("no SOA")
    };
    assert_eq!(soa.serial, 7, "the upstream's own");
    assert_eq!(
        message.authorities[0].ttl, 77,
        "RFC 2308: the least of TTL and minimum"
    );
    assert_eq!(ede(&reply), None);
    let record = world.record();
    assert_eq!(record["verdict"], "error");
    assert_eq!(record["reason"], "name-not-found");
}

#[tokio::test]
async fn upstream_broken_is_servfail_with_ede_23_within_4_s() {
    let server = Server::scripted(|heard, _| {
        let mut reply = response(&heard.message());
        reply.metadata.response_code = ResponseCode::ServFail;
        vec![Act::Send(reply.to_vec().unwrap())]
    })
    .await;
    let world = World::new(&["listed.example"], &[&server]);
    let started = std::time::Instant::now();
    let reply = world
        .raw(&query("listed.example", A_TYPE, Some(1232)))
        .await;
    assert!(started.elapsed() < Duration::from_secs(5));
    let message = Message::from_vec(&reply).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    let (code, text) = ede(&reply).unwrap();
    assert_eq!(code, 23);
    assert!(text.starts_with("dns-failed; id="), "{text}");
    assert!(server.heard().len() >= 4);
    let record = world.record();
    assert_eq!(record["verdict"], "error");
    assert_eq!(record["upstream"], server.address.to_string());
}

#[tokio::test]
async fn upstream_unreachable_is_servfail_with_ede_22() {
    let world = World::with(policy(&["listed.example"]), Vec::new(), |_| {});
    let reply = world
        .raw(&query("listed.example", A_TYPE, Some(1232)))
        .await;
    let message = Message::from_vec(&reply).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(ede(&reply).unwrap().0, 22);
    assert_eq!(world.record()["reason"], "dns-unreachable");
}

#[tokio::test]
async fn any_is_answered_by_rfc_8482_and_asks_nobody() {
    let (world, server) = world(&["listed.example"]).await;
    let reply = world.ask("listed.example", 255).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert_eq!(reply.answers.len(), 1);
    let RData::HINFO(hinfo) = &reply.answers[0].data else {
        panic!("no HINFO")
    };
    assert_eq!(&*hinfo.cpu, b"RFC8482");
    let reply = world.ask("other.example", 255).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert!(server.heard().is_empty());
}

#[tokio::test]
async fn axfr_and_ixfr_are_refused_and_recorded() {
    let (world, server) = world(&["listed.example"]).await;
    for qtype in [252, 251] {
        let reply = world.raw(&query("listed.example", qtype, Some(1232))).await;
        let message = Message::from_vec(&reply).unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::Refused);
    }
    // As resolvers send it: with the SOA that the client has (RFC 1995 section 3).
    let mut ixfr = query("listed.example", 251, None);
    ixfr[9] = 1;
    ixfr.extend([0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 0, 0, 22]);
    ixfr.extend([0; 22]);
    let message = Message::from_vec(&world.raw(&ixfr).await).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::Refused);
    assert!(server.heard().is_empty());
    assert!(
        world
            .records()
            .iter()
            .all(|record| record["reason"] == "transfer-refused")
    );
}

#[tokio::test]
async fn two_questions_are_formerr() {
    let (world, server) = world(&["listed.example"]).await;
    let mut message = query("listed.example", A_TYPE, None);
    let question = message[12..].to_vec();
    message.extend_from_slice(&question);
    message[5] = 2;
    let reply = Message::from_vec(&world.raw(&message).await).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(reply.metadata.id, CLIENT_ID);
    assert!(server.heard().is_empty());
    assert_eq!(world.record()["reason"], "malformed");
}

#[tokio::test]
async fn other_opcodes_are_notimp_and_never_forwarded() {
    let (world, server) = world(&["listed.example"]).await;
    for opcode in [1u8, 2, 4, 5, 6] {
        let mut message = query("listed.example", A_TYPE, None);
        message[2] |= opcode << 3;
        let reply = world.raw(&message).await;
        assert_eq!(reply[3] & 0x0F, 4, "opcode {opcode}");
        assert_eq!((reply[2] >> 3) & 0x0F, opcode, "the opcode comes back");
    }
    assert!(server.heard().is_empty());
}

#[tokio::test]
async fn class_ch_is_refused_and_never_forwarded() {
    let (world, server) = world(&["**.version.bind", "version.bind"]).await;
    let mut message = query("version.bind", TXT_TYPE, None);
    let at = message.len() - 1;
    message[at] = 3;
    let reply = Message::from_vec(&world.raw(&message).await).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    assert!(server.heard().is_empty());
}

#[tokio::test]
async fn responses_and_short_datagrams_get_no_answer() {
    let (world, server) = world(&["listed.example"]).await;
    let mut message = query("listed.example", A_TYPE, None);
    message[2] |= 0x80;
    assert!(
        world.raw(&message).await.is_empty(),
        "answering an answer could start a loop"
    );
    for end in 0..12 {
        assert!(world.raw(&message[..end]).await.is_empty());
    }
    assert!(server.heard().is_empty());
}

#[tokio::test]
async fn every_prefix_of_a_query_is_answered_or_dropped_without_a_lookup() {
    let (world, server) = world(&["listed.example"]).await;
    let message = query("listed.example", A_TYPE, Some(1232));
    for end in 0..message.len() {
        let reply = world.raw(&message[..end]).await;
        assert!(
            reply.is_empty() || Message::from_vec(&reply).is_ok(),
            "prefix of {end} bytes"
        );
    }
    assert!(server.heard().is_empty());
}

#[tokio::test]
async fn edns_version_1_is_badvers() {
    let (world, _server) = world(&["listed.example"]).await;
    let mut message = query("listed.example", A_TYPE, Some(1232));
    let at = message.len() - 5;
    message[at] = 1;
    let reply = Message::from_vec(&world.raw(&message).await).unwrap();
    // 16 is BADVERS here and BADSIG under TSIG.
    assert_eq!(u16::from(reply.metadata.response_code), 16);
}

#[tokio::test]
async fn an_allowed_lookup_is_recorded_once_a_minute_with_its_addresses_and_rule() {
    let (world, server) = world(&["listed.example"]).await;
    for _ in 0..5 {
        assert_eq!(
            addresses(&world.ask("listed.example", A_TYPE).await).len(),
            1
        );
    }
    // The rest came from the cache.
    server.assert_one_lookup();
    let record = world.record();
    assert_eq!(record["verdict"], "allow");
    assert_eq!(record["reason"], "allowed");
    assert_eq!(record["count"], 5);
    assert_eq!(record["addresses"][0], "192.0.2.1");
    assert_eq!(record["upstream"], server.address.to_string());
    assert!(record["rule"].is_string(), "{record}");
}

#[tokio::test]
async fn localhost_is_the_loopback_and_leaves_no_record() {
    let (world, server) = world(&[]).await;
    for name in ["localhost", "LocalHost.", "app.localhost"] {
        let four = world.ask(name, A_TYPE).await;
        assert_eq!(
            addresses(&four),
            vec!["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]
        );
        let six = world.ask(name, AAAA_TYPE).await;
        assert_eq!(
            addresses(&six),
            vec!["::1".parse::<std::net::IpAddr>().unwrap()]
        );
    }
    for address in ["127.0.0.1", "10.0.2.15"] {
        let reply = world.ask(&reverse(address), PTR_TYPE).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    }
    assert!(world.records().is_empty());
    assert!(server.heard().is_empty());
}

#[tokio::test]
async fn the_own_host_name_has_no_records_and_leaves_none() {
    let (_, server) = world(&[]).await;
    let own = |rules: &[&str]| {
        World::with(policy(rules), vec![server.address], |config| {
            config.own.hostname = portcullis_names::Name::from_policy("listed.example").ok();
        })
    };
    let unlisted = own(&[]);
    for qtype in [A_TYPE, AAAA_TYPE, TXT_TYPE] {
        let reply = unlisted.ask("Listed.example", qtype).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(reply.answers.is_empty(), "{reply:?}");
    }
    assert!(unlisted.records().is_empty());
    // Only that very name, and no transfer of it.
    let reply = unlisted.ask("x.listed.example", AAAA_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    let reply = unlisted.ask("listed.example", 252).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    assert!(server.heard().is_empty());
    // Where it is listed, it is a name like any other; and a denial is a denial.
    let reply = own(&["listed.example"]).ask("listed.example", A_TYPE).await;
    assert_eq!(addresses(&reply).len(), 1);
    let denied = own(&["!listed.example"]);
    let reply = denied.ask("listed.example", A_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(denied.record()["reason"], "denied-by-rule");
}

#[tokio::test]
async fn the_self_probe_is_answered_under_the_emptiest_policy() {
    let (world, server) = world(&[]).await;
    let reply = world
        .ask("0123456789abcdef.probe.portcullis.internal", TXT_TYPE)
        .await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert_eq!(reply.metadata.id, CLIENT_ID);
    assert_eq!(reply.answers.len(), 1);
    let transfer = world
        .ask("0123456789abcdef.probe.portcullis.internal", 252)
        .await;
    assert_eq!(transfer.metadata.response_code, ResponseCode::Refused);
    assert!(server.heard().is_empty());
}

#[tokio::test]
async fn the_hosts_name_is_answered_only_where_listed() {
    let (unlisted, _server) = world(&[]).await;
    let reply = unlisted.ask("host.portcullis.internal", A_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    let (listed, server) = world(&["host.portcullis.internal:8080"]).await;
    let reply = listed.ask("host.portcullis.internal", A_TYPE).await;
    let host: std::net::IpAddr = "10.0.2.2".parse().unwrap();
    assert_eq!(addresses(&reply), vec![host]);
    assert_eq!(listed.leases.names_for(host).len(), 1);
    assert!(listed.gate.0.lock().unwrap()[0].1.contains(8080));
    let reply = listed.ask("host.portcullis.internal", AAAA_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty());
    let reply = listed.ask(&reverse("10.0.2.2"), PTR_TYPE).await;
    let RData::PTR(name) = &reply.answers[0].data else {
        panic!("no PTR")
    };
    assert_eq!(name.0.to_ascii(), "host.portcullis.internal.");
    assert!(server.heard().is_empty());
}
