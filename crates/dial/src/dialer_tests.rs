//! The dialler against real sockets on loopback. Tests are named after the attacks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_policy::{PermitTarget, Reason};
use portcullis_record::Stage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::testing::{LOOPBACK, OWN_ADDRESS, OWN_ADDRESS_V6, World, load};
use crate::{Dialed, Dialer, HostAddresses};

/// A server that says which address it was reached at.
async fn server(address: &str) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream
                .write_all(stream.local_addr().unwrap().to_string().as_bytes())
                .await;
        }
    });
    at
}

async fn hears(mut dialed: Dialed) -> String {
    let mut text = String::new();
    dialed.stream.read_to_string(&mut text).await.unwrap();
    text
}

fn allow(name: &str, port: u16) -> String {
    format!("[network.domains]\n\"{name}:{port}\" = \"allow\"\n{LOOPBACK}")
}

/// A port that nobody listens on.
async fn free_port(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn a_listed_name_is_resolved_and_dialled_with_its_timings() {
    let at = server("127.0.0.1:0").await;
    let world = World::new(&allow("a.example", at.port())).await;
    world.names.set("a.example", &["127.0.0.1"]);
    let permit = world.by_name("a.example", at.port());
    let dialed = world.dialer.connect(&permit).await.unwrap();
    assert_eq!(
        (
            dialed.address,
            dialed.upstream_proxy.as_deref(),
            dialed.absolute.is_some()
        ),
        (at, None, false)
    );
    assert!(dialed.timings.get(Stage::Resolve).is_some());
    assert!(dialed.timings.get(Stage::Connect).is_some());
    assert_eq!(dialed.addresses, [at.ip()]);
    assert_eq!(hears(dialed).await, at.to_string());
}

#[tokio::test]
async fn rebinding_between_two_dials_meets_the_guard_again() {
    let open = server("127.0.0.1:0").await;
    let guarded = TcpListener::bind(("127.0.0.2", open.port())).await.unwrap();
    // One loopback address stands for the internet, all others are guarded. The TTL is 0.
    let rules = format!(
        "[network.domains]\n\"rebind.example:{}\" = \"allow\"\n\
         [network.addresses]\n\"127.0.0.1\" = \"allow\"\n",
        open.port()
    );
    let world = World::new(&rules).await;
    world.names.set("rebind.example", &["127.0.0.1"]);
    let permit = world.by_name("rebind.example", open.port());
    assert_eq!(world.dialer.connect(&permit).await.unwrap().address, open);
    world.names.set("rebind.example", &["127.0.0.2"]);
    // Whatever the resolver still remembers, the new address is never dialled.
    let until = Instant::now() + Duration::from_secs(60);
    let error = loop {
        match world.dialer.connect(&permit).await {
            Ok(dialed) => assert_eq!(dialed.address, open),
            Err(error) => break error,
        }
        assert!(Instant::now() < until, "the new answer never arrived");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(error.reason, Reason::PrivateAddress, "{error}");
    let knocked = tokio::time::timeout(Duration::from_millis(300), guarded.accept()).await;
    assert!(knocked.is_err(), "the guarded address was dialled");
}

#[tokio::test]
async fn the_policy_that_changes_between_check_and_dial_is_asked_at_the_dial() {
    let at = server("127.0.0.1:0").await;
    let world = World::new(LOOPBACK).await;
    let permit = world.by_address("127.0.0.1", at.port());
    assert!(world.dialer.connect(&permit).await.is_ok());
    world.policy.store(Arc::new(load("")));
    let error = world.dialer.connect(&permit).await.unwrap_err();
    assert_eq!(error.reason, Reason::PrivateAddress);
    assert!(
        error.detail.contains("not dialled (private-address)"),
        "{error}"
    );
    world.policy.store(Arc::new(load(
        "[network.addresses]\n\"127.0.0.0/8\" = \"deny\"\n",
    )));
    assert_eq!(
        world.dialer.connect(&permit).await.unwrap_err().reason,
        Reason::DeniedByRule
    );
}

#[tokio::test]
async fn an_address_lifted_for_one_port_is_not_dialled_on_another() {
    let at = server("127.0.0.1:0").await;
    let other = if at.port() == 9 { 10 } else { 9 };
    let rules = format!(
        "[network.domains]\n\"a.example:{0}\" = \"allow\"\n\"a.example:{other}\" = \"allow\"\n\
         [network.addresses]\n\"127.0.0.0/8:{other}\" = \"allow\"\n",
        at.port()
    );
    let world = World::new(&rules).await;
    // DNS gives the address out, since one of the name's ports may be reached there.
    world.names.set("a.example", &["127.0.0.1"]);
    let error = world
        .dialer
        .connect(&world.by_name("a.example", at.port()))
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::PrivateAddress, "{error}");
}

#[tokio::test]
async fn mixed_public_and_private_answers_reach_only_what_may_be_reached() {
    let open = server("127.0.0.1:0").await;
    let guarded = TcpListener::bind(("127.0.0.2", open.port())).await.unwrap();
    let rules = format!(
        "[network.domains]\n\"mixed.example:{0}\" = \"allow\"\n\
         [network.addresses]\n\"127.0.0.1:{0}\" = \"allow\"\n",
        open.port()
    );
    let world = World::new(&rules).await;
    world.names.set(
        "mixed.example",
        &["127.0.0.2", "10.0.0.1", "::ffff:127.0.0.2", "127.0.0.1"],
    );
    let permit = world.by_name("mixed.example", open.port());
    let dialed = world.dialer.connect(&permit).await.unwrap();
    assert_eq!(dialed.address, open);
    let knocked = tokio::time::timeout(Duration::from_millis(300), guarded.accept()).await;
    assert!(knocked.is_err(), "the guarded address was dialled");
}

#[tokio::test]
async fn an_ipv6_form_that_carries_loopback_is_not_dialled_though_loopback_is_lifted() {
    let at = server("127.0.0.1:0").await;
    let world = World::new(&allow("mapped.example", at.port())).await;
    world.names.set("mapped.example", &["::ffff:127.0.0.1"]);
    let permit = world.by_name("mapped.example", at.port());
    let error = world.dialer.connect(&permit).await.unwrap_err();
    assert_eq!(error.reason, Reason::PrivateAddress, "{error}");
}

#[tokio::test]
async fn a_name_that_leads_back_to_the_gateways_listener_is_a_loop() {
    let at = server("127.0.0.1:0").await;
    let world = World::with_listeners(&allow("loop.example", at.port()), vec![at]).await;
    world.names.set("loop.example", &["127.0.0.1"]);
    let permit = world.by_name("loop.example", at.port());
    let error = world.dialer.connect(&permit).await.unwrap_err();
    assert_eq!(error.reason, Reason::GatewayLoop, "{error}");
}

#[tokio::test]
async fn the_first_address_that_answers_wins_over_one_that_refuses() {
    let at = server("127.0.0.2:0").await;
    let world = World::new(&allow("two.example", at.port())).await;
    world.names.set("two.example", &["127.0.0.1", "127.0.0.2"]);
    let start = Instant::now();
    let permit = world.by_name("two.example", at.port());
    let dialed = world.dialer.connect(&permit).await.unwrap();
    assert_eq!(dialed.address, at);
    assert_eq!(dialed.addresses.len(), 2);
    assert!(start.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn a_leased_address_that_fails_is_replaced_by_another_of_its_name_of_either_family() {
    let at = server("127.0.0.2:0").await;
    let world = World::new(&allow("leased.example", at.port())).await;
    world.names.set("leased.example", &["127.0.0.2"]);
    for address in [OWN_ADDRESS, OWN_ADDRESS_V6] {
        let permit = world.by_lease("leased.example", address, at.port());
        let at_a_name = matches!(permit.target(), PermitTarget::NameAt(..));
        assert!(at_a_name, "{:?}", permit.target());
        let dialed = world.dialer.connect(&permit).await.unwrap();
        assert_eq!(dialed.address, at);
    }
}

#[tokio::test]
async fn a_leased_address_without_siblings_that_work_fails_for_its_own_reason() {
    let port = free_port("127.0.0.1").await;
    let world = World::new(&allow("leased.example", port)).await;
    let permit = world.by_lease("leased.example", OWN_ADDRESS, port);
    let error = world.dialer.connect(&permit).await.unwrap_err();
    assert_eq!(error.reason, Reason::PrivateAddress, "{error}");
    assert!(world.names.asked() > 0, "siblings were looked for");
}

#[tokio::test]
async fn the_hosts_own_name_at_its_address_inside_is_dialled_on_the_hosts_loopback() {
    let at = server("127.0.0.1:0").await;
    let rules = format!(
        "[network.domains]\n\"host.portcullis.internal:{}\" = \"allow\"\n",
        at.port()
    );
    let world = World::new(&rules).await;
    let permit = world.by_lease("host.portcullis.internal", "10.0.2.2", at.port());
    assert_eq!(world.dialer.connect(&permit).await.unwrap().address, at);
}

#[tokio::test]
async fn failures_have_their_reasons() {
    let port = free_port("127.0.0.1").await;
    let world = World::new(&allow("gone.example", port)).await;
    world.names.set("gone.example", &["127.0.0.1"]);
    let error = world
        .dialer
        .connect(&world.by_name("gone.example", port))
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::ConnectionRefused);
    assert!(error.detail.contains("127.0.0.1"), "{error}");
    assert!(error.timings.get(Stage::Resolve).is_some());
    let world = World::new(&allow("missing.example", port)).await;
    let error = world
        .dialer
        .connect(&world.by_name("missing.example", port))
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::NameNotFound, "{error}");
    let world = World::new(&allow("empty.example", port)).await;
    world.names.set("empty.example", &[]);
    let error = world
        .dialer
        .connect(&world.by_name("empty.example", port))
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::NoAddress, "{error}");
}

#[tokio::test]
async fn the_hosts_own_name_means_its_loopback_and_asks_nobody() {
    let at = server("127.0.0.1:0").await;
    let rules = format!(
        "[network.domains]\n\"host.portcullis.internal:{}\" = \"allow\"\n",
        at.port()
    );
    let world = World::new(&rules).await;
    let permit = world.by_name("host.portcullis.internal", at.port());
    assert_eq!(world.dialer.connect(&permit).await.unwrap().address, at);
    assert_eq!(world.names.asked(), 0);
}

#[tokio::test]
async fn the_hosts_own_name_tries_ipv6_loopback_as_well() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        panic!("this machine has no IPv6 loopback, which the test needs");
    };
    let at = listener.local_addr().unwrap();
    let rules = format!(
        "[network.domains]\n\"host.portcullis.internal:{}\" = \"allow\"\n",
        at.port()
    );
    let world = World::new(&rules).await;
    let permit = world.by_name("host.portcullis.internal", at.port());
    assert_eq!(world.dialer.connect(&permit).await.unwrap().address, at);
}

fn mock(name: &str, to: SocketAddr) -> String {
    format!("[network.domains]\n\"{name}\" = {{ verdict = \"allow\", to = \"{to}\" }}\n")
}

#[tokio::test]
async fn a_name_that_its_rule_sends_elsewhere_is_dialled_there_and_nowhere_else() {
    let at = server("127.0.0.1:0").await;
    // The upstream proxy is not for it: nothing answers there.
    let rules = mock("mock.example", at)
        + "[network.proxy]\nhttp = \"http://192.0.2.77:1\"\nhttps = \"http://192.0.2.77:1\"\n";
    let world = World::new(&rules).await;
    for permit in [
        world.by_name("mock.example", 443),
        world.by_lease("mock.example", OWN_ADDRESS, 80),
    ] {
        for tunnelled in [true, false] {
            let dialed = match tunnelled {
                true => world.dialer.connect(&permit).await.unwrap(),
                false => world.dialer.connect_http(&permit).await.unwrap(),
            };
            assert_eq!((dialed.address, dialed.upstream_proxy), (at, None));
            assert!(dialed.absolute.is_none());
        }
    }
    assert_eq!(world.names.asked(), 0);
}

#[tokio::test]
async fn a_rule_that_was_taken_back_lifts_nothing_any_more() {
    let at = server("127.0.0.1:0").await;
    let world = World::new(&mock("mock.example", at)).await;
    let permit = world.by_name("mock.example", 443);
    assert!(world.dialer.connect(&permit).await.is_ok());
    world.policy.store(Arc::new(load(
        "[network.domains]\n\"mock.example\" = \"allow\"\n",
    )));
    let error = world.dialer.connect(&permit).await.unwrap_err();
    assert_eq!(error.reason, Reason::PrivateAddress, "{error}");
}

#[tokio::test]
async fn a_mock_that_leads_back_to_the_gateways_listener_is_a_loop() {
    let at = server("127.0.0.1:0").await;
    let world = World::with_listeners(&mock("loop.example", at), vec![at]).await;
    let permit = world.by_name("loop.example", 443);
    let error = world.dialer.connect(&permit).await.unwrap_err();
    assert_eq!(error.reason, Reason::GatewayLoop, "{error}");
}

#[tokio::test]
async fn the_machines_own_addresses_are_guarded_in_the_real_configuration() {
    assert!(matches!(
        crate::DialConfig::new(crate::testing::policy(""), resolver().await).host,
        HostAddresses::Interfaces
    ));
}

async fn resolver() -> Arc<portcullis_dns::DnsService> {
    use portcullis_dns::{Clock, DnsConfig, DnsService, Leases, NoGate};
    let leases = Arc::new(Leases::new(Box::new(NoGate), Clock::system()));
    let recorder = portcullis_record::Recorder::null();
    Arc::new(DnsService::new(DnsConfig::new(
        crate::testing::policy(""),
        vec![],
        leases,
        recorder,
    )))
}

#[test]
fn dialling_can_be_spawned_and_stays_small() {
    fn is_send<T: Send>(value: T) -> usize {
        size_of_val(&value)
    }
    fn of(dialer: &Dialer, permit: &portcullis_policy::ConnectPermit) -> usize {
        is_send(dialer.connect(permit))
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let world = runtime.block_on(World::new(LOOPBACK));
    let bytes = of(&world.dialer, &world.by_address("127.0.0.1", 1));
    assert!(
        bytes <= 512,
        "the future of a dial takes {bytes} bytes of every flow's task"
    );
}
