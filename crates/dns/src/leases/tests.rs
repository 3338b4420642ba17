//! Leases: bounds, grace, renewal, several owners.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

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

#[derive(Clone, Default)]
struct Noted(Arc<Mutex<Vec<(IpAddr, PortSet, Duration)>>>);
impl AddressGate for Noted {
    fn open(&self, address: IpAddr, ports: &PortSet, ttl: Duration) -> io::Result<()> {
        self.0.lock().unwrap().push((address, ports.clone(), ttl));
        Ok(())
    }
}

struct Shut;
impl AddressGate for Shut {
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
    let ports = leases.ports_for(address(1)).unwrap();
    assert!(ports.contains(443) && ports.contains(5432) && !ports.contains(22));
    assert!(leases.names_for(address(2)).is_empty());
    assert!(leases.ports_for(address(2)).is_none());
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
    let noted = Noted::default();
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
    let leases = Leases::new(Box::new(Shut), Clock::manual());
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
    assert_eq!(owners.as_slice(), &[(b, None), (a, Some(end))]);
}
