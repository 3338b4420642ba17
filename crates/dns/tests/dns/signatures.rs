//! What a program sees of refusals and of the names that are answered here.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

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
async fn every_prefix_of_a_query_is_answered_or_dropped_without_a_lookup() {
    let (world, server) = world(&["listed.example"]).await;
    let message = query("listed.example", A_TYPE, Some(1232));
    for end in 0..message.len() {
        let reply = world.raw(&message[..end]).await;
        // Without a whole header there is nobody to answer to.
        let fits = match end {
            0..12 => reply.is_empty(),
            _ => reply.is_empty() || Message::from_vec(&reply).is_ok(),
        };
        assert!(fits, "prefix of {end} bytes");
    }
    assert!(server.heard().is_empty());
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
