//! Answers that are made up: synthetic addresses, and names that their rule sends elsewhere.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RData;
use portcullis_dns::{DnsConfig, LEASE_GRACE, Owner, SYNTHETIC_RANGE, SYNTHETIC_TTL};
use portcullis_names::PortSet;
use portcullis_policy::{Answers, Input, Policy};

use crate::world::*;

const HTTPS_TYPE: u16 = 65;
const CNAME_TYPE: u16 = 5;
const MX_TYPE: u16 = 15;

const ZONE: &str = "
a.example. 300 A 192.0.2.1
a.example. 300 AAAA 2001:db8::1
six.example. 300 AAAA 2001:db8::6
text.example. 300 TXT words
www.example. 300 CNAME edge.cdn.example.
edge.cdn.example. 300 A 192.0.2.7
private.example. 300 A 10.0.0.9
spoof.example. 300 A 198.18.0.77
n1.wild.example. 300 A 192.0.2.1
";

/// A policy file, and `--answers synthetic` if wanted.
fn load(text: &str, answers: Answers) -> Policy {
    let file = Input::File {
        path: PathBuf::from("test.toml"),
        text: format!("version = 1\n{text}"),
    };
    let mut no_files = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    Policy::load(&[file, Input::Answers(answers)], &mut no_files)
        .unwrap_or_else(|errors| panic!("{errors:?}"))
        .policy
}

fn synthetic(domains: &str, more: &str) -> Policy {
    let lines = domains.split_whitespace();
    let rules: String = lines.map(|d| format!("\"{d}\" = \"allow\"\n")).collect();
    load(
        &format!("[network.domains]\n{rules}{more}"),
        Answers::Synthetic,
    )
}

const PROXIES: &str = "[network.proxy]\nhttp = \"http://proxy.example:3128\"\n\
                       https = \"http://proxy.example:3128\"\nno_proxy = \"a.example\"\n";

/// A world with a range, and a resolver that logs what it is asked.
async fn world(policy: Policy, change: impl FnOnce(&mut DnsConfig)) -> (World, Server) {
    let server = Server::with_zone(Zone::new(ZONE)).await;
    let world = World::with(policy, vec![server.address], change);
    assert!(world.leases.use_synthetic_range(SYNTHETIC_RANGE));
    (world, server)
}

/// The one synthetic address that was answered.
async fn made_up(world: &World, name: &str) -> IpAddr {
    let reply = world.ask(name, A_TYPE).await;
    let given = addresses(&reply);
    assert_eq!(given.len(), 1, "{reply}");
    assert!(world.leases.is_synthetic(given[0]), "{reply}");
    assert!(u64::from(reply.answers[0].ttl) <= SYNTHETIC_TTL.as_secs());
    given[0]
}

async fn code(world: &World, name: &str, qtype: u16) -> (ResponseCode, usize) {
    let reply = world.ask(name, qtype).await;
    (reply.metadata.response_code, reply.answers.len())
}

/// The first record about a name.
fn record_of(world: &World, name: &str) -> serde_json::Value {
    let records = world.records();
    let found = records.iter().find(|record| record["name"] == name);
    found
        .unwrap_or_else(|| panic!("none of {name}: {records:#?}"))
        .clone()
}

const NODATA: (ResponseCode, usize) = (ResponseCode::NoError, 0);
const NXDOMAIN: (ResponseCode, usize) = (ResponseCode::NXDomain, 0);

#[tokio::test]
async fn a_listed_name_gets_an_address_of_its_own_that_leads_back_to_it() {
    let policy = synthetic("a.example www.example", "");
    let (world, _server) = world(policy, |_| {}).await;
    let a = made_up(&world, "a.example").await;
    let www = made_up(&world, "WWW.example").await;
    assert_ne!(a, www);
    let Owner::Synthetic(Some(owner)) = world.leases.owner(a) else {
        panic!("nobody's")
    };
    assert_eq!(owner.as_str(), "a.example");
    // The gate was open before the answer, for the name's ports.
    let opened = world.gate.0.lock().unwrap().clone();
    assert_eq!(opened[0], (a, PortSet::WEB, SYNTHETIC_TTL + LEASE_GRACE));
    // No IPv6, and no alias around the address.
    assert_eq!(code(&world, "a.example", AAAA_TYPE).await, NODATA);
    let reply = world.ask("www.example", A_TYPE).await;
    assert_eq!(reply.answers.len(), 1, "{reply}");
    assert_eq!(reply.answers[0].name.to_ascii(), "www.example.");
    let told = |record: &serde_json::Value| {
        record["name"] == "a.example"
            && record["addresses"][0] == a.to_string()
            && record["verdict"] == "allow"
    };
    assert!(world.records().iter().any(told), "{:#?}", world.records());
}

#[tokio::test]
async fn a_reverse_lookup_gives_the_name_back_and_asks_nobody() {
    let (world, server) = world(synthetic("www.example", ""), |_| {}).await;
    let address = made_up(&world, "www.example").await;
    let before = server.heard().len();
    let name = reverse(&address.to_string());
    let reply = world.ask(&name, PTR_TYPE).await;
    let RData::PTR(target) = &reply.answers[0].data else {
        panic!("{reply}")
    };
    assert_eq!(target.0.to_ascii(), "www.example.");
    assert_eq!(
        code(&world, &reverse("198.18.9.9"), PTR_TYPE).await,
        NXDOMAIN
    );
    assert_eq!(server.heard().len(), before);
}

#[tokio::test]
async fn a_name_that_goes_direct_is_looked_up_first() {
    let names = "a.example six.example missing.example text.example private.example spoof.example";
    let (world, server) = world(synthetic(names, ""), |_| {}).await;
    made_up(&world, "six.example").await;
    assert_eq!(code(&world, "missing.example", A_TYPE).await, NXDOMAIN);
    assert_eq!(code(&world, "missing.example", AAAA_TYPE).await, NXDOMAIN);
    assert_eq!(code(&world, "text.example", A_TYPE).await, NODATA);
    assert_eq!(code(&world, "text.example", AAAA_TYPE).await, NODATA);
    assert_eq!(code(&world, "private.example", A_TYPE).await, NXDOMAIN);
    // A server cannot make a name's address another name's.
    assert_eq!(code(&world, "spoof.example", A_TYPE).await, NXDOMAIN);
    let asked = server.heard().len();
    made_up(&world, "six.example").await;
    assert_eq!(server.heard().len(), asked, "from the cache");
    let reasons: Vec<String> = world
        .records()
        .iter()
        .map(|r| format!("{} {}", r["name"], r["reason"]))
        .collect();
    assert!(
        reasons.contains(&"\"private.example\" \"private-address\"".to_owned()),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn a_resolver_that_is_down_is_servfail_and_no_address() {
    let policy = synthetic("a.example", "");
    let world = World::with(policy, vec!["127.0.0.1:9".parse().unwrap()], |_| {});
    world.leases.use_synthetic_range(SYNTHETIC_RANGE);
    assert_eq!(
        code(&world, "a.example", A_TYPE).await,
        (ResponseCode::ServFail, 0)
    );
}

#[tokio::test]
async fn a_name_that_the_upstream_proxy_looks_up_is_asked_of_nobody() {
    let policy = synthetic("secret.corp a.example", PROXIES);
    let (world, server) = world(policy, |_| {}).await;
    let address = made_up(&world, "secret.corp").await;
    for qtype in [AAAA_TYPE, HTTPS_TYPE, 64, CNAME_TYPE] {
        assert_eq!(code(&world, "secret.corp", qtype).await, NODATA, "{qtype}");
    }
    assert_eq!(server.questions(), Vec::<String>::new());
    // Other records are asked for, but their absence does not take the address away.
    assert_eq!(code(&world, "secret.corp", MX_TYPE).await, NODATA);
    assert_eq!(server.questions(), ["secret.corp. MX"]);
    assert_eq!(made_up(&world, "secret.corp").await, address);
    // What no_proxy names goes direct, and is looked up.
    made_up(&world, "a.example").await;
    assert!(server.questions().contains(&"a.example. A".to_owned()));
    assert_eq!(code(&world, "evil.corp", A_TYPE).await, NXDOMAIN);
}

#[tokio::test]
async fn names_below_a_pattern_cannot_use_the_range_up() {
    let policy = synthetic("*.wild.corp", PROXIES);
    let (world, server) = world(policy, |_| {}).await;
    let mut refused = 0;
    for n in 0..200 {
        let (code, answers) = code(&world, &format!("n{n}.wild.corp"), A_TYPE).await;
        refused += usize::from(code == ResponseCode::ServFail && answers == 0);
    }
    assert_eq!(refused, 80, "120 new names a minute");
    assert_eq!(server.heard().len(), 0);
    let records = world.records();
    assert!(records.iter().any(|r| r["reason"] == "rate-limited"));
    made_up(&world, "n0.wild.corp").await;
}

#[tokio::test]
async fn a_range_in_use_is_servfail_with_its_reason() {
    let names: String = (0..300).map(|n| format!("n{n}.corp ")).collect();
    let server = Server::with_zone(Zone::new(ZONE)).await;
    let world = World::with(synthetic(&names, PROXIES), vec![server.address], |_| {});
    world
        .leases
        .use_synthetic_range("198.18.0.0/24".parse().unwrap());
    for n in 0..254 {
        made_up(&world, &format!("n{n}.corp")).await;
    }
    let reply = world.raw(&query("n254.corp", A_TYPE, Some(1232))).await;
    let (number, text) = ede(&reply).expect("an extended error");
    assert_eq!(number, 0);
    assert!(text.starts_with("rate-limited; id="), "{text}");
    let last = record_of(&world, "n254.corp");
    assert_eq!(last["reason"], "rate-limited");
    assert_eq!(
        last["detail"],
        "every address of the synthetic range 198.18.0.0/24 is in use"
    );
    world
        .clock
        .advance(SYNTHETIC_TTL + LEASE_GRACE + LEASE_GRACE);
    made_up(&world, "n254.corp").await;
}

#[tokio::test]
async fn an_alias_that_was_asked_for_leads_to_the_listed_names_address() {
    let (world, _server) = world(synthetic("www.example", ""), |_| {}).await;
    let address = made_up(&world, "www.example").await;
    let reply = world.ask("www.example", CNAME_TYPE).await;
    assert_eq!(reply.answers.len(), 1, "{reply}");
    assert_eq!(made_up(&world, "edge.cdn.example").await, address);
}

const MOCKS: &str = "[network.domains]\n\
    \"mock.example\" = { verdict = \"allow\", to = \"127.0.0.1:8080\" }\n\
    \"mock6.example\" = { verdict = \"allow\", to = \"[2001:db8::9]:8080\" }\n\
    \"a.example\" = \"allow\"\n";

#[tokio::test]
async fn a_mocked_name_in_a_sandbox_gets_a_synthetic_address_and_is_asked_of_nobody() {
    let (world, server) = world(load(MOCKS, Answers::Real), |_| {}).await;
    let mock = made_up(&world, "mock.example").await;
    let mock6 = made_up(&world, "mock6.example").await;
    assert_ne!(mock, mock6);
    for qtype in [AAAA_TYPE, HTTPS_TYPE, TXT_TYPE, MX_TYPE, CNAME_TYPE] {
        assert_eq!(code(&world, "mock.example", qtype).await, NODATA, "{qtype}");
    }
    assert_eq!(server.questions(), Vec::<String>::new());
    let told = |record: &serde_json::Value| {
        record["name"] == "mock.example"
            && record["addresses"][0] == mock.to_string()
            && record["detail"] == "its rule sends it to 127.0.0.1:8080"
    };
    assert!(world.records().iter().any(told), "{:#?}", world.records());
    // Other names keep their own addresses.
    let reply = world.ask("a.example", A_TYPE).await;
    assert_eq!(addresses(&reply), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
}

#[tokio::test]
async fn a_mocked_name_on_a_plain_resolver_is_answered_with_its_target() {
    let plain = |config: &mut DnsConfig| {
        config.transparent = false;
        config.ipv6_route = Arc::new(|| false);
    };
    let (world, server) = world(load(MOCKS, Answers::Real), plain).await;
    let answer = async |name: &str, qtype| addresses(&world.ask(name, qtype).await);
    let target: IpAddr = "127.0.0.1".parse().unwrap();
    assert_eq!(answer("mock.example", A_TYPE).await, [target]);
    assert_eq!(code(&world, "mock.example", AAAA_TYPE).await, NODATA);
    let target: IpAddr = "2001:db8::9".parse().unwrap();
    assert_eq!(answer("mock6.example", AAAA_TYPE).await, [target]);
    assert_eq!(code(&world, "mock6.example", A_TYPE).await, NODATA);
    assert_eq!(code(&world, "mock.example", TXT_TYPE).await, NODATA);
    assert_eq!(server.questions(), Vec::<String>::new());
}

#[tokio::test]
async fn a_reload_turns_a_name_into_a_mock_and_back() {
    let (world, server) = world(load(MOCKS, Answers::Real), |_| {}).await;
    let before = made_up(&world, "mock.example").await;
    let real = "[network.domains]\n\"mock.example\" = \"allow\"\n";
    world.policy.store(Arc::new(load(real, Answers::Real)));
    assert_eq!(code(&world, "mock.example", A_TYPE).await, NXDOMAIN);
    assert_eq!(server.questions(), ["mock.example. A"]);
    world.policy.store(Arc::new(load(MOCKS, Answers::Real)));
    assert_eq!(made_up(&world, "mock.example").await, before);
    world.clock.advance(Duration::from_secs(3_600));
    assert_eq!(made_up(&world, "mock.example").await, before);
}
