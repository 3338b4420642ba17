//! Canonical names, reverse lookups, leases and the dialler, over real sockets.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{RData, Record, RecordType};
use portcullis_dns::LEASE_GRACE;
use portcullis_policy::Reason;

use crate::world::*;

const ZONE: &str = "
    internal-data.example.corp 300 CNAME lb.example.corp
    lb.example.corp 20 CNAME backend-canonical-host.example.corp
    backend-canonical-host.example.corp 60 A 192.0.2.7
    7.2.0.192.in-addr.arpa 60 PTR backend-canonical-host.example.corp
    cdn-user.example 60 CNAME edge.cdn.example
    edge.cdn.example 60 A 192.0.2.8
    silent.example 60 A 192.0.2.9
";

async fn world(rules: &[&str]) -> (World, Server) {
    let server = Server::scripted(|heard, _| {
        if heard.question().starts_with("9.2.0.192.") {
            return Vec::new();
        }
        let query = heard.message();
        vec![Act::Send(Zone::new(ZONE).answer(&query))]
    })
    .await;
    (World::new(rules, &[&server]), server)
}

fn pointer(message: &hickory_proto::op::Message) -> String {
    match message.answers.first().map(|record| &record.data) {
        Some(RData::PTR(name)) => name.0.to_ascii(),
        other => panic!("no PTR: {other:?}"),
    }
}

#[tokio::test]
async fn getfqdn_finds_the_canonical_name_of_the_last_chain() {
    let (world, _server) = world(&["internal-data.example.corp"]).await;
    let reply = world.ask("internal-data.example.corp", A_TYPE).await;
    let kinds: Vec<RecordType> = reply.answers.iter().map(Record::record_type).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::CNAME, RecordType::A]);
    assert!(
        reply.answers.iter().all(|record| record.ttl == 20),
        "the chain holds as one"
    );
    let reply = world.ask(&reverse("192.0.2.7"), PTR_TYPE).await;
    assert_eq!(pointer(&reply), "backend-canonical-host.example.corp.");
    let records = world.records();
    let forward = &records[0];
    assert_eq!(
        forward["canonical_name"],
        "backend-canonical-host.example.corp"
    );
    assert!(
        records
            .iter()
            .any(|record| record["reason"] == "reverse-lookup")
    );
}

#[tokio::test]
async fn a_canonical_name_that_a_rule_denies_stays_denied() {
    let (world, server) = world(&["cdn-user.example", "!edge.cdn.example"]).await;
    assert_eq!(
        addresses(&world.ask("cdn-user.example", A_TYPE).await).len(),
        1
    );
    let asked = server.heard().len();
    let reply = world.ask("edge.cdn.example", A_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(server.heard().len(), asked);
}

#[tokio::test]
async fn a_reload_that_drops_the_listed_name_drops_its_canonical_name_and_its_reverse() {
    let (world, server) = world(&["internal-data.example.corp"]).await;
    world.ask("internal-data.example.corp", A_TYPE).await;
    world
        .policy
        .store(std::sync::Arc::new(policy(&["silent.example"])));
    let asked = server.heard().len();
    for (name, qtype) in [
        ("internal-data.example.corp", A_TYPE),
        ("backend-canonical-host.example.corp", A_TYPE),
        (reverse("192.0.2.7").as_str(), PTR_TYPE),
    ] {
        let reply = world.ask(name, qtype).await;
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::NXDomain,
            "{name}"
        );
    }
    assert_eq!(server.heard().len(), asked, "nothing left");
}

#[tokio::test]
async fn a_silent_reverse_zone_does_not_stall_getfqdn() {
    let (world, server) = world(&["silent.example"]).await;
    world.ask("silent.example", A_TYPE).await;
    let started = std::time::Instant::now();
    let reply = world.ask(&reverse("192.0.2.9"), PTR_TYPE).await;
    assert_eq!(pointer(&reply), "silent.example.");
    // It waits for 1.5 s; the rest is for a busy machine, whose programs give up at 5 s.
    assert!(started.elapsed() < Duration::from_secs(5));
    let asked = server.heard().len();
    world.ask(&reverse("192.0.2.9"), PTR_TYPE).await;
    assert_eq!(server.heard().len(), asked, "the failure is remembered");
}

#[tokio::test]
async fn a_chain_without_end_is_bounded() {
    let server = Server::scripted(|heard, nth| {
        let query = heard.message();
        let mut reply = response(&query);
        let target = fqdn(&format!("hop{nth}.example"));
        let owner = query.queries[0].name().clone();
        reply
            .answers
            .push(Record::from_rdata(owner, 60, RData::CNAME(CNAME(target))));
        vec![Act::Send(reply.to_vec().unwrap())]
    })
    .await;
    let world = World::new(&["start.example"], &[&server]);
    let reply = world.ask("start.example", A_TYPE).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(server.heard().len() <= 16, "{}", server.heard().len());
}

#[tokio::test]
async fn the_address_is_leased_and_the_gate_open_before_the_answer_is_there() {
    let (world, _server) = world(&["silent.example:5432"]).await;
    let reply = world.ask("silent.example", A_TYPE).await;
    let address = addresses(&reply)[0];
    let opened = world.gate.0.lock().unwrap().clone();
    assert_eq!(opened.len(), 1);
    let (gate_address, ports, lifetime) = &opened[0];
    assert_eq!(*gate_address, address);
    assert!(ports.contains(5432) && !ports.contains(443));
    assert_eq!(*lifetime, Duration::from_secs(60) + LEASE_GRACE);
    // From the cache within the TTL the lease still covers what the client may remember.
    world.clock.advance(Duration::from_secs(30));
    let reply = world.ask("silent.example", A_TYPE).await;
    assert_eq!(reply.answers[0].ttl, 30, "TTLs count down");
    assert_eq!(world.gate.0.lock().unwrap().len(), 1);
    // After it, asking again renews.
    world.clock.advance(Duration::from_secs(30));
    world.ask("silent.example", A_TYPE).await;
    assert_eq!(world.gate.0.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn an_answer_that_the_kernels_gate_refuses_is_not_given_out() {
    struct Shut;
    impl portcullis_dns::AddressGate for Shut {
        fn open(
            &self,
            _: IpAddr,
            _: &portcullis_names::PortSet,
            _: Duration,
        ) -> std::io::Result<()> {
            Err(std::io::Error::from_raw_os_error(28))
        }
    }
    let server = Server::with_zone(Zone::new(ZONE)).await;
    let world = World::with(
        policy(&["silent.example"]),
        vec![server.address],
        |config| {
            let clock = config.clock.clone();
            config.leases = std::sync::Arc::new(portcullis_dns::Leases::new(Box::new(Shut), clock));
        },
    );
    for _ in 0..2 {
        let reply = world.ask("silent.example", A_TYPE).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert!(reply.answers.is_empty());
    }
    assert_eq!(world.records()[0]["reason"], "internal");
}

#[tokio::test]
async fn the_dialler_resolves_from_the_same_cache_and_leases_nothing() {
    let (world, server) = world(&["internal-data.example.corp"]).await;
    let permit = world.lookup_permit("internal-data.example.corp");
    let resolved = world.service.resolve(&permit).await.unwrap();
    assert_eq!(
        resolved.addresses,
        vec!["192.0.2.7".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(
        resolved.canonical.as_str(),
        "backend-canonical-host.example.corp"
    );
    assert_eq!(resolved.upstream, Some(server.address.to_string().into()));
    assert!(world.leases.is_empty(), "nothing was given out");
    let asked = server.heard().len();
    let reply = world.ask("internal-data.example.corp", A_TYPE).await;
    assert_eq!(addresses(&reply).len(), 1);
    assert_eq!(server.heard().len(), asked);
    assert!(!world.leases.is_empty());
}

#[tokio::test]
async fn the_dialler_is_told_why_a_name_does_not_resolve() {
    let (world, _server) = world(&["absent.example"]).await;
    let error = world
        .service
        .resolve(&world.lookup_permit("absent.example"))
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::NameNotFound);
    let dead = World::with(policy(&["absent.example"]), Vec::new(), |_| {});
    let error = dead
        .service
        .resolve(&dead.lookup_permit("absent.example"))
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::DnsUnreachable);
    let server = Server::with_zone(Zone::new("p.example 60 A 10.0.0.9")).await;
    let guarded = World::new(&["p.example"], &[&server]);
    let error = guarded
        .service
        .resolve(&guarded.lookup_permit("p.example"))
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::PrivateAddress);
    assert_eq!(error.refused, vec!["10.0.0.9".parse::<IpAddr>().unwrap()]);
}
