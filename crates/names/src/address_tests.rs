//! Tests of the guard's table: the first and last address of each range, and their neighbours.

use proptest::prelude::*;

use super::*;

#[track_caller]
fn class(text: &str) -> AddressClass {
    classify(text.parse().unwrap())
}

#[test]
fn ipv4_ranges_end_where_they_should() {
    use AddressClass::*;
    for (first, last, expected) in [
        ("0.0.0.0", "0.255.255.255", ThisNetwork),
        ("10.0.0.0", "10.255.255.255", Private),
        ("100.64.0.0", "100.127.255.255", Cgnat),
        ("127.0.0.0", "127.255.255.255", Loopback),
        ("169.254.0.0", "169.254.255.255", LinkLocal),
        ("172.16.0.0", "172.31.255.255", Private),
        ("192.0.0.0", "192.0.0.255", IetfProtocol),
        ("192.0.2.0", "192.0.2.255", Documentation),
        ("192.88.99.0", "192.88.99.255", IetfProtocol),
        ("192.168.0.0", "192.168.255.255", Private),
        ("198.18.0.0", "198.19.255.255", Benchmark),
        ("198.51.100.0", "198.51.100.255", Documentation),
        ("203.0.113.0", "203.0.113.255", Documentation),
        ("224.0.0.0", "239.255.255.255", Multicast),
        ("240.0.0.0", "255.255.255.255", Reserved),
    ] {
        assert_eq!(class(first), expected, "{first}");
        assert_eq!(class(last), expected, "{last}");
    }
    for public in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.0.3.0",
        "192.88.98.255",
        "192.88.100.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "8.8.8.8",
        "168.63.129.15",
        "168.63.129.17",
    ] {
        assert_eq!(class(public), Public, "{public}");
    }
}

#[test]
fn metadata_services_are_guarded() {
    for address in [
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
    ] {
        assert_eq!(class(address), AddressClass::Metadata, "{address}");
        assert!(is_guarded(address.parse().unwrap()));
    }
}

#[test]
fn every_ipv6_form_that_carries_ipv4_is_guarded() {
    for address in [
        "::ffff:8.8.8.8",
        "::ffff:127.0.0.1",
        "::8.8.8.8",
        "::127.0.0.1",
        "::2",
        "::ffff:0:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "64:ff9b:1:ffff::1",
        "2002:7f00:1::",
        "2002::",
        "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001::1",
        "2001:0:ffff:ffff:ffff:ffff:ffff:ffff",
        "2606:4700::5efe:10.0.0.1",
        "2606:4700::200:5efe:10.0.0.1",
        "fe80::5efe:10.0.0.1",
    ] {
        assert_eq!(class(address), AddressClass::CarriesIpv4, "{address}");
        assert!(is_guarded(address.parse().unwrap()));
    }
}

#[test]
fn ipv6_ranges_end_where_they_should() {
    use AddressClass::*;
    for (address, expected) in [
        ("::", ThisNetwork),
        ("::1", Loopback),
        ("64:ff9b:2::", Reserved),
        ("100::1", Reserved),
        ("1fff:ffff::", Reserved),
        ("2000::1", Public),
        ("2001:1::1", IetfProtocol),
        ("2001:2::1", Benchmark),
        ("2001:2:1::1", IetfProtocol),
        ("2001:20::1", IetfProtocol),
        ("2001:1ff:ffff::", IetfProtocol),
        ("2001:200::1", Public),
        ("2001:db7:ffff::", Public),
        ("2001:db8::", Documentation),
        ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", Documentation),
        ("2001:db9::", Public),
        ("2003::1", Public),
        ("2606:4700::1111", Public),
        ("3fff:fff::1", Documentation),
        ("3fff:1000::1", Public),
        ("4000::1", Reserved),
        ("5f00::1", Reserved),
        ("fbff::1", Reserved),
        ("fc00::1", UniqueLocal),
        ("fdff::1", UniqueLocal),
        ("fe00::1", Reserved),
        ("fe80::1", LinkLocal),
        ("febf::1", LinkLocal),
        ("fec0::1", UniqueLocal),
        ("ff02::1", Multicast),
    ] {
        assert_eq!(class(address), expected, "{address}");
    }
}

#[test]
fn only_public_and_documentation_pass() {
    assert!(!AddressClass::Public.is_guarded());
    assert!(!AddressClass::Documentation.is_guarded());
    assert!(!is_guarded("203.0.113.7".parse().unwrap()));
    assert!(AddressClass::Reserved.is_guarded());
}

proptest! {
    /// The standard library's own predicates are a second opinion on some of the ranges.
    #[test]
    fn agrees_with_the_standard_library_on_ipv4(bits in any::<u32>(), near in 0u32..3, top in prop_oneof![Just(10u32), Just(127), Just(169), Just(172), Just(192), Just(224), Just(255), Just(0)]) {
        for v4 in [Ipv4Addr::from(bits), Ipv4Addr::from(top << 24 | (bits >> 8).wrapping_add(near) & 0xff_ffff)] {
            let odd = v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.is_multicast()
                || v4.is_broadcast() || v4.is_unspecified();
            if odd {
                prop_assert!(is_guarded(v4.into()), "{v4}");
            }
            if v4.is_documentation() {
                prop_assert_eq!(classify(v4.into()), AddressClass::Documentation);
            }
            prop_assert!(is_guarded(v4.to_ipv6_mapped().into()));
            prop_assert!(is_guarded(v4.to_ipv6_compatible().into()));
        }
    }

    #[test]
    fn agrees_with_the_standard_library_on_ipv6(bits in any::<u128>()) {
        let v6 = Ipv6Addr::from(bits);
        if v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unique_local()
            || v6.is_unicast_link_local() || v6.to_ipv4().is_some() {
            prop_assert!(is_guarded(v6.into()), "{v6}");
        }
    }
}
