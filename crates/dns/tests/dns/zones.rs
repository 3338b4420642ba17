//! Split horizon: whose servers hear a name, and whose word counts for it.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RData;
use portcullis_dns::Clock;

use crate::memory::MemoryNetwork;
use crate::world::*;

const GENERAL: u8 = 1;
const CORP: u8 = 2;
const LAB: u8 = 3;

const RULES: &str = r#"
    "www.example" = "allow"
    "corp.example" = "allow"
    "*.corp.example" = "allow"
    "*.notcorp.example" = "allow"
"#;

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 53))
}

fn text(zones: &str) -> String {
    format!(
        "version = 1\n[network.dns]\nresolvers = [\"192.0.2.1\"]\n[network.dns.zones]\n{zones}\n\
         [network.domains]\n{RULES}"
    )
}

const ZONES: &str = "\"corp.example\" = [\"192.0.2.2\"]\n\"lab.corp.example\" = [\"192.0.2.3\"]\n\
                     \"113.0.203.in-addr.arpa\" = [\"192.0.2.2\"]";

/// Three resolvers that answer from zones of their own.
fn network(general: &str, corp: &str, lab: &str) -> MemoryNetwork {
    let network = MemoryNetwork::default();
    for (last, zone) in [(GENERAL, general), (CORP, corp), (LAB, lab)] {
        let zone = Zone::new(zone);
        network.serve(at(last), move |heard, _| {
            vec![Act::Send(zone.answer(&heard.message()))]
        });
    }
    network
}

fn world(network: &MemoryNetwork, policy: &str) -> World {
    let network = network.clone();
    World::with(policy_of(policy), Vec::new(), |config| {
        config.network = Arc::new(network);
        config.clock = Clock::tokio();
        config.ipv6_route = Arc::new(|| false);
    })
}

fn questions(network: &MemoryNetwork, last: u8) -> Vec<String> {
    let heard = network.heard(at(last));
    heard.iter().map(Heard::question).collect()
}

async fn address(world: &World, name: &str) -> Vec<String> {
    let reply = world.ask(name, A_TYPE).await;
    addresses(&reply).iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn the_longest_suffix_says_who_is_asked() {
    let network = network(
        "www.example 60 A 203.0.113.1\na.notcorp.example 60 A 203.0.113.2",
        "corp.example 60 A 203.0.113.3\na.corp.example 60 A 203.0.113.4",
        "a.lab.corp.example 60 A 203.0.113.5",
    );
    let world = world(&network, &text(ZONES));
    for (name, expected) in [
        ("www.example", "203.0.113.1"),
        ("a.notcorp.example", "203.0.113.2"),
        ("corp.example", "203.0.113.3"),
        ("A.Corp.Example", "203.0.113.4"),
        ("a.lab.corp.example", "203.0.113.5"),
    ] {
        assert_eq!(address(&world, name).await, [expected], "{name}");
    }
    assert_eq!(
        questions(&network, GENERAL),
        ["www.example. A", "a.notcorp.example. A"]
    );
    assert_eq!(
        questions(&network, CORP),
        ["corp.example. A", "a.corp.example. A"]
    );
    assert_eq!(questions(&network, LAB), ["a.lab.corp.example. A"]);
}

#[tokio::test(start_paused = true)]
async fn an_internal_name_is_not_shown_to_others_when_its_servers_are_silent_or_refuse() {
    let network = network("a.corp.example 60 A 203.0.113.66", "", "");
    network.serve(at(CORP), |_, _| Vec::new());
    network.serve(at(LAB), |heard, _| {
        let mut reply = response(&heard.message());
        reply.metadata.response_code = ResponseCode::Refused;
        vec![Act::Send(reply.to_vec().unwrap())]
    });
    let world = world(&network, &text(ZONES));
    for name in ["a.corp.example", "a.lab.corp.example"] {
        let reply = world.ask(name, A_TYPE).await;
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::ServFail,
            "{name}"
        );
    }
    assert_eq!(
        questions(&network, CORP).len(),
        4,
        "all attempts, at its own server"
    );
    assert!(questions(&network, GENERAL).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_leaves_a_zone_is_asked_for_at_the_other_zones_servers() {
    let network = network(
        "www.example 60 A 203.0.113.1\n\
         out.example 60 CNAME a.corp.example\na.corp.example 60 A 203.0.113.66",
        "a.corp.example 60 CNAME www.example\nwww.example 60 A 203.0.113.67",
        "",
    );
    let policy = text(ZONES).replace(
        "\"www.example\"",
        "\"out.example\" = \"allow\"\n\"www.example\"",
    );
    let world = world(&network, &policy);
    assert_eq!(address(&world, "a.corp.example").await, ["203.0.113.1"]);
    assert_eq!(questions(&network, CORP), ["a.corp.example. A"]);
    assert_eq!(questions(&network, GENERAL), ["www.example. A"]);
    // And the other way: what the world says of internal names does not count.
    let reply = world.ask("out.example", A_TYPE).await;
    let owners: Vec<String> = reply.answers.iter().map(|r| r.name.to_ascii()).collect();
    assert_eq!(owners, ["out.example.", "a.corp.example.", "www.example."]);
    assert!(matches!(&reply.answers[2].data, RData::A(a) if a.0.octets()[3] == 1));
}

#[tokio::test(start_paused = true)]
async fn an_alias_outside_has_no_internal_name_asked_for_that_is_not_listed() {
    let network = network(
        "www.example 60 CNAME secret.corp.example\nsecret.corp.example 60 A 203.0.113.66",
        "secret.corp.example 60 A 203.0.113.67",
        "",
    );
    let zone = "\"corp.example\" = [\"192.0.2.2\"]";
    let policy = format!(
        "version = 1\n[network.dns]\nresolvers = [\"192.0.2.1\"]\nzones = {{ {zone} }}\n\
         [network.domains]\n\"www.example\" = \"allow\"\n"
    );
    let world = world(&network, &policy);
    for qtype in [A_TYPE, TXT_TYPE] {
        let reply = world.ask("www.example", qtype).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert!(reply.answers.is_empty());
    }
    assert!(questions(&network, CORP).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_reverse_lookup_goes_to_the_servers_of_its_range() {
    let network = network(
        "www.example 60 A 203.0.113.1",
        "1.113.0.203.in-addr.arpa 60 PTR www.example",
        "",
    );
    let world = world(&network, &text(ZONES));
    assert_eq!(address(&world, "www.example").await, ["203.0.113.1"]);
    let reply = world.ask(&reverse("203.0.113.1"), PTR_TYPE).await;
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(questions(&network, CORP), ["1.113.0.203.in-addr.arpa. PTR"]);
    assert_eq!(questions(&network, GENERAL), ["www.example. A"]);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_swapped_takes_its_zones_with_it() {
    let network = network(
        "a.corp.example 60 A 203.0.113.1",
        "a.corp.example 60 A 203.0.113.2",
        "a.corp.example 60 A 203.0.113.3",
    );
    let world = world(&network, &text(""));
    assert_eq!(address(&world, "a.corp.example").await, ["203.0.113.1"]);
    let swap = |zones: &str| world.policy.store(Arc::new(policy_of(&text(zones))));
    swap("\"corp.example\" = [\"192.0.2.2\"]");
    assert_eq!(address(&world, "a.corp.example").await, ["203.0.113.2"]);
    swap("\"corp.example\" = [\"192.0.2.3\"]");
    assert_eq!(address(&world, "a.corp.example").await, ["203.0.113.3"]);
    swap("");
    assert_eq!(address(&world, "a.corp.example").await, ["203.0.113.1"]);
}
