//! Exactly the flows that a policy no longer allows are cut.

use std::net::IpAddr;
use std::path::Path;

use arc_swap::ArcSwap;
use portcullis_dial::{DialConfig, HostAddresses};
use portcullis_dns::{Clock, DnsConfig, DnsService, Leases, NoGate};
use portcullis_policy::{Input, Reason, Shown};
use portcullis_record::Recorder;
use proptest::prelude::*;

use super::*;
use crate::decider::Decider;
use crate::target::Asks;

const NAMES: [&str; 4] = ["a.example", "b.example", "c.a.example", "private.example"];
const PORTS: [u16; 3] = [80, 443, 5432];

/// Where each name is, in this small world.
fn address_of(name: &str) -> IpAddr {
    let address = match name {
        "a.example" => "192.0.2.1",
        "b.example" | "c.a.example" => "192.0.2.2",
        _ => "10.9.9.9",
    };
    address.parse().unwrap()
}

fn policy(rules: &str) -> Policy {
    policy_of(&[rules.to_owned()])
}

/// A policy of several files: across files deny wins, within one a contradiction is an error.
fn policy_of(files: &[String]) -> Policy {
    let input = |(number, rules): (usize, &String)| Input::File {
        path: Path::new(&format!("{number}.toml")).to_owned(),
        text: format!("version = 1\n{rules}"),
    };
    let inputs: Vec<Input> = files.iter().enumerate().map(input).collect();
    let loaded = Policy::load(&inputs, &mut |_| Err(std::io::ErrorKind::NotFound.into()));
    loaded.unwrap_or_else(|errors| panic!("{errors:?}")).policy
}

/// What a flow goes through before it stands.
struct Parts {
    policy: PolicyHandle,
    decider: Decider,
    flows: Arc<Flows>,
}

fn context(first: Policy) -> Parts {
    let policy: PolicyHandle = Arc::new(ArcSwap::from_pointee(first));
    let leases = Arc::new(Leases::new(Box::new(NoGate), Clock::manual()));
    let recorder = Recorder::null();
    let dns = DnsConfig::new(policy.clone(), Vec::new(), leases.clone(), recorder.clone());
    let mut dial = DialConfig::new(policy.clone(), Arc::new(DnsService::new(dns)));
    dial.host = HostAddresses::Fixed(vec!["192.0.2.77".parse().unwrap()]);
    let dialer = Arc::new(Dialer::new(dial));
    Parts {
        decider: Decider::new(policy.clone(), leases, recorder, Default::default()),
        flows: Arc::new(Flows::new(policy.clone(), dialer)),
        policy,
    }
}

fn name(text: &str) -> Name {
    Name::from_policy(text).unwrap()
}

/// How a flow of the test came in.
#[derive(Clone, Copy, Debug)]
enum Way {
    Asked,
    AskedWithSni,
    Leased,
    LeasedWithSni,
    LeasedHidden,
    Bare,
    Synthetic,
}

const WAYS: [Way; 7] = [
    Way::Asked,
    Way::AskedWithSni,
    Way::Leased,
    Way::LeasedWithSni,
    Way::LeasedHidden,
    Way::Bare,
    Way::Synthetic,
];

/// One flow: how it came, to which name, on which port.
type Came = (Way, usize, usize);

/// Every kind of flow.
fn everything() -> impl Iterator<Item = Came> {
    let all = NAMES.len() * PORTS.len();
    WAYS.into_iter()
        .flat_map(move |way| (0..all).map(move |n| (way, n % NAMES.len(), n / NAMES.len())))
}

fn ask(ctx: &Parts, (way, which, port): Came) -> (Target, Ruling) {
    let (name, port) = (name(NAMES[which]), PORTS[port]);
    let address = address_of(name.as_str());
    let asked = match way {
        Way::Asked | Way::AskedWithSni => Asked::Name(name.clone().into()),
        Way::Leased | Way::LeasedWithSni | Way::LeasedHidden | Way::Bare => Asked::Address {
            address,
            owners: vec![name.clone()].into(),
        },
        Way::Synthetic => made_up(&name).into_owned(),
    };
    let target = Target {
        asked,
        port,
        ftp_control: None,
        written: None,
    };
    let ruling = match way {
        Way::Asked | Way::Leased | Way::Synthetic => ctx.decider.decide(&target),
        Way::AskedWithSni | Way::LeasedWithSni => {
            (ctx.decider).decide_shown(&target, Shown::sni(name.as_ref()))
        }
        Way::LeasedHidden => ctx.decider.decide_shown(&target, Shown::Hidden),
        Way::Bare => ctx.decider.decide_request(
            &target,
            Shown::Bare,
            Asks {
                method: "GET",
                path: "/",
            },
        ),
    };
    (target, ruling)
}

/// A synthetic address that stands for this name.
fn made_up(name: &Name) -> Asked<'_> {
    Asked::Synthetic {
        address: "100.64.0.9".parse().unwrap(),
        name: Some(name.as_ref().into()),
    }
}

/// What the policy itself says, without any of the code under test.
fn allowed(policy: &Policy, (way, which, port): Came) -> bool {
    let (name, port) = (name(NAMES[which]), PORTS[port]);
    let names = [name.clone()];
    let (address, shown) = (address_of(name.as_str()), name.as_ref());
    let to = match way {
        Way::Asked => Destination::name(shown),
        Way::AskedWithSni => Destination::name(shown).showing(Shown::sni(shown)),
        Way::Leased => Destination::leased(address, &names),
        Way::LeasedWithSni => Destination::leased(address, &names).showing(Shown::sni(shown)),
        Way::LeasedHidden => Destination::leased(address, &names).showing(Shown::Hidden),
        Way::Bare => Destination::address(address),
        Way::Synthetic => made_up(&name).unshown(),
    };
    policy.decide(&Request::connect(&to, port)).permits() && policy.guard(address, port).is_ok()
}

/// A file for each of these rules that is in, with its verdict.
fn rules(picks: &[u8]) -> Vec<String> {
    let lines = [
        ("domains", "a.example"),
        ("domains", "a.example:5432"),
        ("domains", "b.example:443"),
        ("domains", "**.example:80"),
        ("domains", "*.a.example"),
        ("domains", "private.example:*"),
        ("addresses", "10.0.0.0/8:5432"),
        ("addresses", "192.0.2.0/24:80"),
        ("addresses", "192.0.2.2/32"),
    ];
    let picked = lines.iter().zip(picks);
    picked
        .filter_map(|((table, rule), pick)| {
            let verdict = ["", "allow", "deny"][usize::from(*pick)];
            (*pick > 0).then(|| format!("[network.{table}]\n\"{rule}\" = \"{verdict}\"\n"))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_change_cuts_exactly_what_is_no_longer_allowed(
        before in prop::collection::vec(0u8..3, 9),
        after in prop::collection::vec(0u8..3, 9),
    ) {
        let ctx = context(policy_of(&rules(&before)));
        let mut open = Vec::new();
        for came in everything() {
            let (target, ruling) = ask(&ctx, came);
            let at = SocketAddr::new(address_of(NAMES[came.1]), PORTS[came.2]);
            let guarded = ctx.policy.load().guard(at.ip(), at.port()).is_err();
            if ruling.permit.is_some() && !guarded {
                open.push((came, ctx.flows.enter(&target, None, &ruling, &Peer::standing(at))));
            }
        }
        prop_assert_eq!(ctx.flows.len(), open.len());
        prop_assert!(open.iter().all(|(_, flow)| !flow.is_cut()));
        ctx.policy.store(Arc::new(policy_of(&rules(&after))));
        let now = ctx.policy.load_full();
        let cut = ctx.flows.recheck(&now);
        for (came, flow) in &open {
            prop_assert_eq!(flow.is_cut(), !allowed(&now, *came), "{:?}", came);
        }
        prop_assert_eq!(cut, open.iter().filter(|(_, flow)| flow.is_cut()).count());
        // Once more changes nothing, and nobody is left behind.
        prop_assert_eq!(ctx.flows.recheck(&now), 0);
        drop(open);
        prop_assert_eq!(ctx.flows.len(), 0);
    }
}

#[test]
fn a_flow_that_another_rule_allows_lives_on() {
    let ctx = context(policy("[network.domains]\n\"a.example\" = \"allow\""));
    let (target, ruling) = ask(&ctx, (Way::LeasedWithSni, 0, 1));
    let peer = Peer::standing("192.0.2.1:443".parse().unwrap());
    let flow = ctx.flows.enter(&target, None, &ruling, &peer);
    for other in ["\"*.example\"", "\"a.example:443\"", "\"**.a.example:*\""] {
        let now = policy(&format!("[network.domains]\n{other} = \"allow\""));
        ctx.policy.store(Arc::new(now.clone()));
        assert_eq!(
            (ctx.flows.recheck(&now), flow.is_cut()),
            (0, false),
            "{other}"
        );
    }
    ctx.policy.store(Arc::new(Policy::deny_all()));
    assert_eq!(ctx.flows.recheck(&Policy::deny_all()), 1);
    assert!(flow.is_cut());
}

#[test]
fn a_flow_that_was_decided_on_under_an_earlier_policy_is_cut_as_it_enters() {
    let ctx = context(policy("[network.domains]\n\"a.example\" = \"allow\""));
    let (target, ruling) = ask(&ctx, (Way::Asked, 0, 1));
    let peer = Peer::standing("192.0.2.1:443".parse().unwrap());
    // The policy changes between the decision and the end of the dial.
    ctx.policy.store(Arc::new(policy(
        "[network.domains]\n\"b.example\" = \"allow\"",
    )));
    assert!(ctx.flows.enter(&target, None, &ruling, &peer).is_cut());
    ctx.policy.store(Arc::new(policy(
        "[network.domains]\n\"*.example\" = \"allow\"",
    )));
    assert!(!ctx.flows.enter(&target, None, &ruling, &peer).is_cut());
}

#[test]
fn a_name_that_is_sent_elsewhere_now_has_no_flows_at_its_old_place() {
    let plain = "[network.domains]\n\"a.example\" = \"allow\"";
    let mocked =
        "[network.domains]\n\"a.example\" = { verdict = \"allow\", to = \"192.0.2.9:8443\" }";
    let elsewhere =
        "[network.domains]\n\"a.example\" = { verdict = \"allow\", to = \"192.0.2.9:9999\" }";
    for (before, at, after, lives) in [
        (plain, "192.0.2.1:443", mocked, false),
        (mocked, "192.0.2.9:8443", plain, false),
        (mocked, "192.0.2.9:8443", elsewhere, false),
        (mocked, "192.0.2.9:8443", mocked, true),
    ] {
        let ctx = context(policy(before));
        let (target, ruling) = ask(&ctx, (Way::Asked, 0, 1));
        let flow = ctx
            .flows
            .enter(&target, None, &ruling, &Peer::standing(at.parse().unwrap()));
        let now = policy(after);
        ctx.policy.store(Arc::new(now.clone()));
        ctx.flows.recheck(&now);
        assert_eq!(!flow.is_cut(), lives, "{before} -> {after}");
    }
}

#[test]
fn what_passes_untouched_is_cut_where_it_is_to_be_looked_into() {
    let plain = "[network.domains]\n\"a.example\" = \"allow\"";
    let looked_into = "[network.domains]\n\"a.example\" = { verdict = \"allow\", inspect = true }";
    for (carries, lives) in [
        (Carries::Tls, false),
        (Carries::Other, false),
        (Carries::Http, true),
        (Carries::Changed(Change::WebSocket), true),
        // On a plain connection; nothing there was looked into.
        (Carries::Changed(Change::Other), true),
        (Carries::Unknown, false),
    ] {
        let ctx = context(policy(plain));
        let (target, ruling) = ask(&ctx, (Way::Asked, 0, 1));
        let peer = Peer::standing("192.0.2.1:443".parse().unwrap());
        let flow = ctx.flows.enter(&target, None, &ruling, &peer);
        ctx.flows.carries(&flow, carries, &ruling);
        let now = policy(looked_into);
        ctx.policy.store(Arc::new(now.clone()));
        ctx.flows.recheck(&now);
        assert_eq!(!flow.is_cut(), lives, "{carries:?}");
    }
}

#[test]
fn a_request_that_a_narrower_rule_refuses_is_cut_with_the_connection_it_is_on() {
    let rule = |more: &str| {
        policy(&format!(
            "[network.domains]\n\"a.example\" = {{ verdict = \"allow\", {more} }}"
        ))
    };
    for (carries, narrower, lives) in [
        (Carries::Http, "methods = [\"POST\"]", true),
        (Carries::Http, "methods = [\"GET\"]", false),
        (Carries::Http, "paths = [\"/up/**\"]", true),
        (Carries::Http, "paths = [\"/other\"]", false),
        (
            Carries::Changed(Change::WebSocket),
            "paths = [\"/up/**\"]",
            true,
        ),
        (
            Carries::Changed(Change::WebSocket),
            "methods = [\"POST\"]",
            false,
        ),
        (
            Carries::Changed(Change::Other),
            "paths = [\"/up/**\"]",
            false,
        ),
        (
            Carries::Changed(Change::Other),
            "methods = [\"POST\"]",
            false,
        ),
    ] {
        let ctx = context(rule("inspect = true"));
        let (target, ruling) = ask(&ctx, (Way::Asked, 0, 1));
        let peer = Peer::standing("192.0.2.1:443".parse().unwrap());
        let connection = ctx.flows.enter(&target, None, &ruling, &peer);
        ctx.flows.carries(&connection, Carries::Http, &ruling);
        let asks = Asks {
            method: "POST",
            path: "/up/load",
        };
        let flow = ctx.flows.enter(&target, Some(asks), &ruling, &peer);
        flow.is_part_of(&connection);
        ctx.flows.carries(&flow, carries, &ruling);
        let now = rule(&format!("inspect = true, {narrower}"));
        ctx.policy.store(Arc::new(now.clone()));
        ctx.flows.recheck(&now);
        assert_eq!(!flow.is_cut(), lives, "{carries:?} {narrower}");
        assert_eq!(!connection.is_cut(), lives, "{carries:?} {narrower}");
    }
}

#[test]
fn the_guard_is_asked_again_about_the_address_that_was_dialled() {
    let lifted = "[network.domains]\n\"private.example:5432\" = \"allow\"\n\
                  [network.addresses]\n\"10.0.0.0/8:5432\" = \"allow\"";
    let ctx = context(policy(lifted));
    let (target, ruling) = ask(&ctx, (Way::Asked, 3, 2));
    let flow = ctx.flows.enter(
        &target,
        None,
        &ruling,
        &Peer::standing("10.9.9.9:5432".parse().unwrap()),
    );
    let now = policy("[network.domains]\n\"private.example:5432\" = \"allow\"");
    ctx.policy.store(Arc::new(now.clone()));
    assert_eq!(
        now.guard("10.9.9.9".parse().unwrap(), 5432),
        Err(Reason::PrivateAddress)
    );
    assert_eq!(ctx.flows.recheck(&now), 1);
    assert!(flow.is_cut());
}

#[tokio::test]
async fn whoever_waits_is_told_at_once_and_whoever_comes_later_too() {
    let ctx = context(policy("[network.domains]\n\"a.example\" = \"allow\""));
    let (target, ruling) = ask(&ctx, (Way::Asked, 0, 1));
    let peer = Peer::standing("192.0.2.1:443".parse().unwrap());
    let flow = ctx.flows.enter(&target, None, &ruling, &peer);
    let standing = (*flow).clone();
    let waiting = tokio::spawn(async move { standing.until_cut().await });
    tokio::task::yield_now().await;
    ctx.policy.store(Arc::new(Policy::deny_all()));
    assert_eq!(ctx.flows.recheck(&Policy::deny_all()), 1);
    waiting.await.unwrap();
    until_cut(Some(&flow)).await;
}

#[test]
fn places_are_used_again() {
    let ctx = context(policy("[network.domains]\n\"a.example\" = \"allow\""));
    let (target, ruling) = ask(&ctx, (Way::Asked, 0, 1));
    let peer = Peer::standing("192.0.2.1:443".parse().unwrap());
    let mut kept = Vec::new();
    for round in 0..4 {
        let more: Vec<_> = (0..200)
            .map(|_| ctx.flows.enter(&target, None, &ruling, &peer))
            .collect();
        assert_eq!(ctx.flows.len(), kept.len() + 200);
        let half = more
            .into_iter()
            .enumerate()
            .filter(|(n, _)| n % 2 == round % 2);
        kept.extend(half.map(|(_, flow)| flow));
        assert_eq!(ctx.flows.len(), kept.len());
    }
    let places: usize = ctx.flows.shards.iter().map(|s| lock(s).places.len()).sum();
    assert!(
        places <= 600,
        "{places} places for at most 600 flows at once"
    );
}

/// What a flow costs while it stands, besides the texts of its names.
#[test]
fn a_flow_s_entry_is_small() {
    let size = size_of::<Standing>() + 2 * size_of::<usize>() + size_of::<Place>();
    assert!(size <= 208, "{size} bytes");
}
