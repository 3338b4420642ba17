//! Synthetic addresses: one name each, stable, taken back when nobody can hold them any more.

use super::*;

/// The smallest range that the policy takes: 254 addresses can be given out.
const RANGE: &str = "198.18.7.0/24";
const PLACES: usize = 254;

fn pool() -> (Leases, Clock) {
    let (leases, clock) = leases();
    assert!(leases.use_synthetic_range(RANGE.parse().unwrap()));
    (leases, clock)
}

fn give(leases: &Leases, owner: &str) -> IpAddr {
    let granted = leases.grant_synthetic(&name(owner), &PortSet::WEB);
    let SyntheticGrant { address, ttl } = granted.unwrap();
    assert!(ttl >= SYNTHETIC_RENEWAL && ttl <= SYNTHETIC_TTL);
    address.into()
}

fn owner(leases: &Leases, address: IpAddr) -> Option<String> {
    match leases.owner(address) {
        Owner::Synthetic(name) => name.map(|name| name.to_string()),
        Owner::Names(names) => panic!("{address} is not synthetic: {names:?}"),
    }
}

/// How long nobody else gets an address that was given out now.
const REST: Duration = Duration::from_secs(60 + 300 + 300);

#[test]
fn each_name_has_an_address_of_its_own_and_keeps_it() {
    let (leases, clock) = pool();
    let first = give(&leases, "a.example");
    let second = give(&leases, "b.example");
    assert_ne!(first, second);
    for _ in 0..1_000 {
        clock.advance(Duration::from_secs(59));
        assert_eq!(give(&leases, "a.example"), first);
    }
    assert_eq!(owner(&leases, first).as_deref(), Some("a.example"));
    assert_eq!(
        owner(&leases, second),
        None,
        "nobody asked for it for 16 hours"
    );
    assert_eq!(give(&leases, "b.example"), second, "and it is still b's");
}

#[test]
fn the_same_names_get_the_same_addresses_in_another_run() {
    let names: Vec<String> = (0..20).map(|n| format!("n{n}.example")).collect();
    let run = |names: &[String]| -> Vec<IpAddr> {
        let (leases, _) = leases();
        leases.use_synthetic_range(SYNTHETIC_RANGE);
        names.iter().map(|name| give(&leases, name)).collect()
    };
    let mut backwards: Vec<String> = names.clone();
    backwards.reverse();
    let mut again = run(&backwards);
    again.reverse();
    assert_eq!(run(&names), again);
}

#[test]
fn the_ends_of_the_range_are_not_given_out_and_nothing_twice() {
    let (leases, _) = pool();
    let mut given: Vec<IpAddr> = (0..PLACES)
        .map(|n| give(&leases, &format!("n{n}.example")))
        .collect();
    given.sort();
    given.dedup();
    assert_eq!(given.len(), PLACES);
    assert_eq!(given[0].to_string(), "198.18.7.1");
    assert_eq!(given[PLACES - 1].to_string(), "198.18.7.254");
}

#[test]
fn a_full_range_refuses_rather_than_answer_with_anothers_address() {
    let (leases, clock) = pool();
    for n in 0..PLACES {
        give(&leases, &format!("n{n}.example"));
    }
    let one_more = || leases.grant_synthetic(&name("one-more.example"), &PortSet::WEB);
    let refused = one_more().unwrap_err();
    assert!(matches!(refused, GrantError::RangeFull(_)));
    assert_eq!(
        refused.to_string(),
        "every address of the synthetic range 198.18.7.0/24 is in use"
    );
    // The TTL and the grace are over: programs may hold the address all the same, for a while.
    clock.advance(REST - Duration::from_secs(1));
    assert!(one_more().is_err());
    clock.advance(Duration::from_secs(1));
    let address = one_more().unwrap().address;
    assert_eq!(
        owner(&leases, address.into()).as_deref(),
        Some("one-more.example")
    );
}

#[test]
fn a_long_life_does_not_exhaust_the_range() {
    let (leases, clock) = pool();
    let mut last: std::collections::HashMap<IpAddr, Instant> = Default::default();
    let kept = give(&leases, "kept.example");
    // 20 names a minute, each once: 220 are within their rest at any time.
    for n in 0..20_000 {
        clock.advance(Duration::from_secs(3));
        assert_eq!(give(&leases, "kept.example"), kept);
        let address = give(&leases, &format!("n{n}.example"));
        assert_ne!(address, kept);
        let now = clock.now();
        if let Some(before) = last.insert(address, now) {
            assert!(now - before >= REST, "{address} after {:?}", now - before);
        }
    }
    assert_eq!(last.len(), PLACES - 1, "all of the range was used");
    assert!(leases.len() <= PLACES);
}

#[test]
fn the_least_recently_used_address_is_taken_back_first() {
    let (leases, clock) = pool();
    let given: Vec<IpAddr> = (0..PLACES)
        .map(|n| {
            clock.advance(Duration::from_millis(1));
            give(&leases, &format!("n{n}.example"))
        })
        .collect();
    clock.advance(Duration::from_secs(40));
    give(&leases, "n0.example");
    clock.advance(REST);
    assert_eq!(give(&leases, "new1.example"), given[1]);
    assert_eq!(give(&leases, "new2.example"), given[2]);
}

#[test]
fn an_address_with_a_live_connection_is_not_taken_back() {
    let (leases, clock) = pool();
    let given: Vec<IpAddr> = (0..PLACES)
        .map(|n| give(&leases, &format!("n{n}.example")))
        .collect();
    let holds: Vec<Hold> = (0..PLACES)
        .map(|n| {
            leases
                .hold(given[n], &name(&format!("n{n}.example")))
                .unwrap()
        })
        .collect();
    for _ in 0..50 {
        clock.advance(REST);
        assert!(
            leases
                .grant_synthetic(&name("new.example"), &PortSet::WEB)
                .is_err()
        );
    }
    assert_eq!(owner(&leases, given[9]).as_deref(), Some("n9.example"));
    drop(holds);
    clock.advance(REST);
    give(&leases, "new.example");
}

#[test]
fn an_address_outside_its_lease_stands_for_nothing() {
    let (leases, clock) = pool();
    let unassigned: IpAddr = "198.18.7.77".parse().unwrap();
    let address = give(&leases, "a.example");
    assert_eq!(owner(&leases, address).as_deref(), Some("a.example"));
    assert!(address != unassigned);
    assert_eq!(owner(&leases, unassigned), None);
    clock.advance(SYNTHETIC_TTL + LEASE_GRACE);
    assert_eq!(owner(&leases, address), None);
    let outside: IpAddr = "198.18.8.1".parse().unwrap();
    assert_eq!(leases.owner(outside), Owner::Names(Vec::new()));
}

#[test]
fn a_real_answer_cannot_own_an_address_of_the_range() {
    let (leases, _) = pool();
    let spoofed = give(&leases, "a.example");
    let granted = leases.grant(spoofed, &name("evil.example"), &PortSet::WEB, TTL);
    assert!(matches!(granted, Err(GrantError::Synthetic)));
    assert_eq!(owner(&leases, spoofed).as_deref(), Some("a.example"));
}

#[test]
fn the_gate_is_opened_before_each_answer_that_says_more_than_the_last() {
    let (clock, noted) = (Clock::manual(), RecordingGate::default());
    let leases = Leases::new(Box::new(noted.clone()), clock.clone());
    leases.use_synthetic_range(RANGE.parse().unwrap());
    let opened = || noted.0.lock().unwrap().len();
    let address = give(&leases, "a.example");
    assert_eq!(
        noted.0.lock().unwrap()[0],
        (address, PortSet::WEB, SYNTHETIC_TTL + LEASE_GRACE)
    );
    clock.advance(Duration::from_secs(20));
    let granted = leases.grant_synthetic(&name("a.example"), &PortSet::WEB);
    let ttl = granted.unwrap().ttl;
    assert_eq!((ttl, opened()), (Duration::from_secs(40), 1));
    clock.advance(Duration::from_secs(11));
    give(&leases, "a.example");
    assert_eq!(opened(), 2);
    // Other ports, after a reload.
    leases
        .grant_synthetic(&name("a.example"), &PortSet::HTTPS)
        .unwrap();
    assert_eq!(opened(), 3);
}

#[test]
fn without_a_range_there_are_no_synthetic_addresses() {
    let (leases, _) = leases();
    let refused = leases.grant_synthetic(&name("a.example"), &PortSet::WEB);
    assert!(matches!(refused, Err(GrantError::NoRange)));
    assert!(!leases.is_synthetic("198.18.0.1".parse().unwrap()));
    assert!(leases.use_synthetic_range(SYNTHETIC_RANGE));
    assert!(
        !leases.use_synthetic_range(RANGE.parse().unwrap()),
        "programs hold addresses of the first"
    );
    assert!(leases.is_synthetic("::ffff:198.19.255.255".parse().unwrap()));
}

#[test]
fn a_kernel_that_refuses_leaves_nothing_that_is_taken_for_open() {
    let leases = Leases::new(Box::new(ClosedGate), Clock::manual());
    leases.use_synthetic_range(RANGE.parse().unwrap());
    for _ in 0..2 {
        let refused = leases.grant_synthetic(&name("a.example"), &PortSet::WEB);
        assert!(matches!(refused, Err(GrantError::Gate(_))));
    }
}
