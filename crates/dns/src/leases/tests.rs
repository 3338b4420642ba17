//! Leases: bounds, grace, renewal, several owners.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use super::table::{MAX_ADDRESSES_PER_NAME, MAX_LEASES, MAX_NAMES_PER_ADDRESS, SWEEP_TO};
use super::*;

const TTL: Duration = Duration::from_secs(60);

fn name(text: &str) -> Name {
    Name::from_policy(text).unwrap()
}

fn address(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0xC633_6400 + n))
}

fn leases() -> (Leases, Clock) {
    let clock = Clock::manual();
    (Leases::new(Box::new(NoGate), clock.clone()), clock)
}

/// The ports on which the names that own `address` were given out, joined.
fn ports_for(leases: &Leases, address: IpAddr) -> Option<PortSet> {
    let now = leases.clock.now();
    let table = leases.read();
    let ports = table.live(address, now).map(|lease| lease.ports.clone());
    ports.reduce(|all, ports| all.union(&ports))
}

/// What the gate was told to open.
#[derive(Clone, Default)]
struct RecordingGate(Arc<Mutex<Vec<(IpAddr, PortSet, Duration)>>>);
impl AddressGate for RecordingGate {
    fn open(&self, address: IpAddr, ports: &PortSet, ttl: Duration) -> io::Result<()> {
        self.0.lock().unwrap().push((address, ports.clone(), ttl));
        Ok(())
    }
}

struct ClosedGate;
impl AddressGate for ClosedGate {
    fn open(&self, _: IpAddr, _: &PortSet, _: Duration) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(1))
    }
}

#[test]
fn two_names_on_one_address_are_both_owners_on_their_own_ports() {
    let (leases, _) = leases();
    leases
        .grant(address(1), &name("a.example"), &PortSet::WEB, TTL)
        .unwrap();
    leases
        .grant(address(1), &name("b.example"), &PortSet::single(5432), TTL)
        .unwrap();
    assert_eq!(
        leases.names_for(address(1)),
        vec![name("a.example"), name("b.example")]
    );
    let ports = ports_for(&leases, address(1)).unwrap();
    assert!(ports.contains(443) && ports.contains(5432) && !ports.contains(22));
    assert!(leases.names_for(address(2)).is_empty());
    assert!(ports_for(&leases, address(2)).is_none());
}

#[test]
fn a_lease_outlives_its_ttl_by_the_grace_and_no_longer() {
    let (leases, clock) = leases();
    leases
        .grant(address(1), &name("a.example"), &PortSet::WEB, TTL)
        .unwrap();
    clock.advance(TTL + LEASE_GRACE - Duration::from_millis(1));
    assert!(leases.is_leased(address(1)));
    clock.advance(Duration::from_millis(1));
    assert!(!leases.is_leased(address(1)));
    assert!(leases.names_for(address(1)).is_empty());
    assert!(leases.owners(address(1)).is_empty());
}

#[test]
fn a_renewal_never_shortens_and_renews_the_kernels_timeout() {
    let clock = Clock::manual();
    let noted = RecordingGate::default();
    let leases = Leases::new(Box::new(noted.clone()), clock.clone());
    leases
        .grant(address(1), &name("a.example"), &PortSet::WEB, TTL * 10)
        .unwrap();
    leases
        .grant(address(1), &name("a.example"), &PortSet::WEB, TTL)
        .unwrap();
    clock.advance(TTL * 10 + LEASE_GRACE - Duration::from_secs(1));
    assert!(leases.is_leased(address(1)));
    assert_eq!(leases.len(), 1);
    let opened = noted.0.lock().unwrap();
    assert_eq!(opened.len(), 2);
    assert_eq!(
        opened[0],
        (address(1), PortSet::WEB, TTL * 10 + LEASE_GRACE)
    );
}

#[test]
fn an_address_that_the_kernel_refuses_is_not_granted() {
    let leases = Leases::new(Box::new(ClosedGate), Clock::manual());
    let refused = leases.grant(address(1), &name("a.example"), &PortSet::WEB, TTL);
    assert!(matches!(refused, Err(GrantError::Gate(_))));
}

#[test]
fn rebinding_name_holds_a_bounded_number_of_addresses_and_fresh_ones_stay() {
    let (leases, clock) = leases();
    let hostile = name("rebind.example");
    for n in 0..MAX_ADDRESSES_PER_NAME as u32 {
        leases
            .grant(address(n), &hostile, &PortSet::WEB, TTL)
            .unwrap();
    }
    let full = leases.grant(address(60_000), &hostile, &PortSet::WEB, TTL);
    assert!(
        matches!(full, Err(GrantError::Full)),
        "fresh leases are never evicted"
    );
    assert!(leases.is_leased(address(0)));
    // Another name is not harmed.
    leases
        .grant(address(60_000), &name("good.example"), &PortSet::WEB, TTL)
        .unwrap();
    let before = leases.evictions();
    clock.advance(TTL);
    leases
        .grant(address(60_001), &hostile, &PortSet::WEB, TTL)
        .unwrap();
    assert_ne!(
        leases.evictions(),
        before,
        "cached answers must be leased again"
    );
    assert_eq!(leases.len(), MAX_ADDRESSES_PER_NAME + 1);
}

#[test]
fn names_on_one_address_are_bounded() {
    let (leases, clock) = leases();
    for n in 0..MAX_NAMES_PER_ADDRESS {
        leases
            .grant(
                address(1),
                &name(&format!("n{n}.example")),
                &PortSet::WEB,
                TTL,
            )
            .unwrap();
    }
    let extra = name("extra.example");
    assert!(
        leases
            .grant(address(1), &extra, &PortSet::WEB, TTL)
            .is_err()
    );
    clock.advance(TTL);
    leases
        .grant(address(1), &extra, &PortSet::WEB, TTL)
        .unwrap();
    assert_eq!(leases.names_for(address(1)).len(), MAX_NAMES_PER_ADDRESS);
}

#[test]
fn a_million_addresses_keep_the_table_bounded() {
    let (leases, clock) = leases();
    let mut refused = 0;
    for n in 0..(MAX_LEASES as u32 + 1_000) {
        let owner = name(&format!("n{}.example", n / 256));
        refused += usize::from(
            leases
                .grant(address(n), &owner, &PortSet::WEB, TTL)
                .is_err(),
        );
    }
    assert_eq!(leases.len(), MAX_LEASES);
    assert_eq!(refused, 1_000);
    clock.advance(TTL);
    leases
        .grant(address(70_000), &name("late.example"), &PortSet::WEB, TTL)
        .unwrap();
    assert_eq!(leases.len(), SWEEP_TO + 1);
    assert!(leases.is_leased(address(70_000)));
}

#[test]
fn the_latest_chain_names_the_owner() {
    let (leases, clock) = leases();
    let (a, b, end) = (name("a.example"), name("b.example"), name("end.example"));
    let grant = |name, canonical| Grant {
        name,
        canonical,
        ports: &PortSet::WEB,
        ttl: TTL,
    };
    leases
        .grant_chain(address(1), grant(&a, Some(&end)))
        .unwrap();
    clock.advance(Duration::from_secs(1));
    leases.grant_chain(address(1), grant(&b, None)).unwrap();
    let owners = leases.owners(address(1));
    let owner = |listed, canonical| LeasedName { listed, canonical };
    assert_eq!(owners.as_slice(), &[owner(b, None), owner(a, Some(end))]);
}

#[test]
fn a_lease_lives_while_a_connection_uses_it() {
    let (leases, clock) = leases();
    let owner = name("a.example");
    leases
        .grant(address(1), &owner, &PortSet::WEB, TTL)
        .unwrap();
    let first = leases.hold(address(1), &owner).unwrap();
    let second = leases.hold(address(1), &owner).unwrap();
    clock.advance(TTL + LEASE_GRACE * 10);
    assert_eq!(leases.names_for(address(1)), std::slice::from_ref(&owner));
    drop(first);
    assert!(leases.is_leased(address(1)), "another connection uses it");
    drop(second);
    assert!(!leases.is_leased(address(1)));
    assert!(leases.hold(address(1), &owner).is_none());
    assert!(leases.hold(address(2), &owner).is_none());
}

#[test]
fn the_gate_stays_open_for_as_long_as_a_connection_uses_it() {
    let (clock, noted) = (Clock::manual(), RecordingGate::default());
    let leases = Leases::new(Box::new(noted.clone()), clock.clone());
    let owner = name("a.example");
    leases
        .grant(address(1), &owner, &PortSet::WEB, TTL)
        .unwrap();
    leases
        .grant(address(2), &owner, &PortSet::WEB, TTL)
        .unwrap();
    let opened = || noted.0.lock().unwrap().len();
    let hold = leases.hold(address(1), &owner).unwrap();
    assert_eq!(opened(), 2, "the lease is long enough yet");
    for _ in 0..100 {
        clock.advance(LEASE_GRACE / RENEWALS_PER_GRACE);
        leases.renew_held().unwrap();
    }
    let last = noted.0.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last, (address(1), PortSet::WEB, LEASE_GRACE));
    assert!(
        noted.0.lock().unwrap()[2..]
            .iter()
            .all(|o| o.0 == address(1))
    );
    drop(hold);
    let before = opened();
    leases.renew_held().unwrap();
    clock.advance(LEASE_GRACE);
    leases.renew_held().unwrap();
    assert_eq!(opened(), before, "nothing is renewed that nobody uses");
    assert!(!leases.is_leased(address(1)));
}

#[test]
fn a_connection_late_in_a_lease_renews_it_at_once() {
    let (clock, noted) = (Clock::manual(), RecordingGate::default());
    let leases = Leases::new(Box::new(noted.clone()), clock.clone());
    let owner = name("a.example");
    leases
        .grant(address(1), &owner, &PortSet::WEB, TTL)
        .unwrap();
    clock.advance(TTL + LEASE_GRACE - Duration::from_secs(1));
    let _hold = leases.hold(address(1), &owner).unwrap();
    let opened = noted.0.lock().unwrap().clone();
    assert_eq!(
        opened.last(),
        Some(&(address(1), PortSet::WEB, LEASE_GRACE))
    );
}

#[test]
fn a_held_lease_is_never_evicted() {
    let (leases, clock) = leases();
    let hostile = name("rebind.example");
    leases
        .grant(address(0), &hostile, &PortSet::WEB, TTL)
        .unwrap();
    let _hold = leases.hold(address(0), &hostile).unwrap();
    for n in 1..MAX_LEASES as u32 {
        let owner = if n < MAX_ADDRESSES_PER_NAME as u32 {
            hostile.clone()
        } else {
            name(&format!("n{}.example", n / 256))
        };
        leases
            .grant(address(n), &owner, &PortSet::WEB, TTL)
            .unwrap();
    }
    clock.advance(TTL + LEASE_GRACE);
    // The name's oldest address makes room within the name, and the oldest lease in the table.
    leases
        .grant(address(70_000), &hostile, &PortSet::WEB, TTL)
        .unwrap();
    leases
        .grant(address(70_001), &name("late.example"), &PortSet::WEB, TTL)
        .unwrap();
    leases
        .grant(address(70_002), &name("later.example"), &PortSet::WEB, TTL)
        .unwrap();
    assert!(leases.len() < MAX_LEASES, "it was swept");
    assert_eq!(leases.names_for(address(0)), [hostile]);
    assert!(leases.names_for(address(1)).is_empty());
}

#[test]
fn the_kernels_timeout_is_the_longest_that_any_name_has_there() {
    let (clock, noted) = (Clock::manual(), RecordingGate::default());
    let leases = Leases::new(Box::new(noted.clone()), clock);
    let long = Duration::from_secs(3_600);
    leases
        .grant(address(1), &name("long.example"), &PortSet::WEB, long)
        .unwrap();
    leases
        .grant(address(1), &name("short.example"), &PortSet::HTTPS, TTL)
        .unwrap();
    let opened = noted.0.lock().unwrap().clone();
    assert_eq!(opened[1].2, long + LEASE_GRACE, "443 is the long one's too");
}

/// A gate that keeps what is open.
#[derive(Clone, Default)]
struct TrackingGate(Arc<Mutex<std::collections::BTreeMap<IpAddr, PortSet>>>);
impl AddressGate for TrackingGate {
    fn open(&self, address: IpAddr, ports: &PortSet, _: Duration) -> io::Result<()> {
        let mut doors = self.0.lock().unwrap();
        let open = doors.entry(address).or_insert(PortSet::EMPTY);
        *open = open.union(ports);
        Ok(())
    }

    fn close(&self, address: IpAddr, ports: &PortSet) -> io::Result<()> {
        let mut doors = self.0.lock().unwrap();
        let open = doors.entry(address).or_insert(PortSet::EMPTY);
        *open = open.difference(ports);
        Ok(())
    }
}

fn policy(rules: &[&str]) -> Policy {
    let inputs: Vec<_> = rules
        .iter()
        .map(|rule| portcullis_policy::Input::Allow((*rule).to_owned()))
        .collect();
    let mut no_files = |_: &std::path::Path| Err(io::ErrorKind::NotFound.into());
    Policy::load(&inputs, &mut no_files).unwrap().policy
}

#[test]
fn a_reload_keeps_leases_with_the_ports_of_the_new_policy() {
    let doors = TrackingGate::default();
    let leases = Leases::new(Box::new(doors.clone()), Clock::manual());
    let grant = |at, owner: &str, ports: &PortSet| {
        leases.grant(address(at), &name(owner), ports, TTL).unwrap();
    };
    let ports = |list: &[u16]| PortSet::from_ranges(list.iter().map(|port| *port..=*port));
    grant(1, "stays.example", &PortSet::WEB);
    grant(1, "shared.example", &ports(&[80, 5432]));
    grant(2, "gone.example", &PortSet::WEB);
    let _hold = leases.hold(address(2), &name("gone.example")).unwrap();
    leases
        .follow(&policy(&["stays.example:443", "stays.example:8443"]))
        .unwrap();
    assert_eq!(ports_for(&leases, address(1)), Some(ports(&[443, 8443])));
    assert_eq!(ports_for(&leases, address(2)), Some(PortSet::EMPTY));
    let open = doors.0.lock().unwrap().clone();
    assert_eq!(open[&address(1)], ports(&[443, 8443]));
    assert_eq!(open[&address(2)], PortSet::EMPTY, "held or not");
    // The refusal of a connection still knows whose address it was.
    assert_eq!(leases.names_for(address(2)), [name("gone.example")]);
    leases.follow(&policy(&["gone.example"])).unwrap();
    assert_eq!(ports_for(&leases, address(2)), Some(PortSet::WEB));
    assert_eq!(doors.0.lock().unwrap()[&address(2)], PortSet::WEB);
}

mod synthetic;
