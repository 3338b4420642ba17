//! Tests of port sets against plain sets of numbers.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn numbers(set: &PortSet) -> BTreeSet<u16> {
    set.iter().flatten().collect()
}

#[test]
fn the_common_sets() {
    assert_eq!(PortSet::WEB.to_string(), "80,443");
    assert_eq!(PortSet::ANY.to_string(), "*");
    assert_eq!(PortSet::EMPTY.to_string(), "");
    assert!(PortSet::WEB.contains(80) && PortSet::WEB.contains(443) && !PortSet::WEB.contains(81));
    assert!(PortSet::ANY.contains(1) && PortSet::ANY.contains(65535));
    assert!(PortSet::ANY.is_any() && !PortSet::WEB.is_any() && PortSet::EMPTY.is_empty());
    assert_eq!(PortSet::ANY.len(), 65535);
    assert_eq!(
        PortSet::single(80).union(&PortSet::single(443)),
        PortSet::WEB
    );
    assert_eq!(PortSet::default(), PortSet::EMPTY);
}

#[test]
fn port_zero_is_in_no_set() {
    assert!(!PortSet::ANY.contains(0));
    assert!(PortSet::single(0).is_empty());
    assert!(PortSet::from_ranges([0..=u16::MAX]).is_any());
}

#[test]
fn touching_ranges_become_one() {
    let set = PortSet::from_ranges([8010..=8019, 8000..=8009, 9000..=9000]);
    assert_eq!(set.to_string(), "8000-8019,9000");
    #[allow(clippy::reversed_empty_ranges)]
    let empty = PortSet::from_ranges([9..=8]);
    assert_eq!(empty, PortSet::EMPTY);
}

#[test]
fn denied_ports_are_taken_out() {
    let set = PortSet::ANY.difference(&PortSet::WEB);
    assert_eq!(set.to_string(), "1-79,81-442,444-65535");
    assert_eq!(PortSet::WEB.difference(&PortSet::ANY), PortSet::EMPTY);
    assert_eq!(set.union(&PortSet::WEB), PortSet::ANY);
}

fn any_set() -> impl Strategy<Value = PortSet> {
    // Small numbers meet often, the ends of the range are where arithmetic breaks.
    let port = prop_oneof![0u16..40, 65500u16..=65535];
    proptest::collection::vec((port.clone(), port), 0..6)
        .prop_map(|r| PortSet::from_ranges(r.into_iter().map(|(a, b)| a..=b)))
}

proptest! {
    #[test]
    fn sets_behave_as_sets(a in any_set(), b in any_set(), port in prop_oneof![0u16..40, 65500u16..=65535]) {
        let (x, y) = (numbers(&a), numbers(&b));
        prop_assert_eq!(numbers(&a.union(&b)), &x | &y);
        prop_assert_eq!(numbers(&a.intersection(&b)), &x & &y);
        prop_assert_eq!(numbers(&a.difference(&b)), &x - &y);
        prop_assert_eq!(a.overlaps(&b), !x.is_disjoint(&y));
        prop_assert_eq!(a.contains_all(&b), x.is_superset(&y));
        prop_assert_eq!(a.contains(port), x.contains(&port));
        prop_assert_eq!(a == b, x == y);
        prop_assert_eq!(a.len(), x.len());
        prop_assert!(a.ranges().windows(2).all(|w| w[0].last < w[1].first - 1));
    }
}
