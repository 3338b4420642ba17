//! Tests of hosts: odd spellings of addresses (*names*, docs/threats.md).

use proptest::prelude::*;

use super::*;

fn address(text: &str) -> Host {
    Host::Address(text.parse().unwrap())
}

fn named(text: &str) -> Host {
    Host::Name(NameBuf::from_program(text.as_bytes()).unwrap())
}

#[test]
fn addresses_have_one_spelling() {
    assert_eq!(
        Host::from_program(b"192.0.2.7").unwrap(),
        address("192.0.2.7")
    );
    assert_eq!(
        Host::from_program(b"[2001:db8::1]").unwrap(),
        address("2001:db8::1")
    );
    assert_eq!(
        Host::from_program(b"[::ffff:10.0.0.1]").unwrap(),
        address("::ffff:10.0.0.1")
    );
    for text in [
        "127.1",
        "0177.0.0.1",
        "0x7f.1",
        "2130706433",
        "192.0.2.07",
        "192.0.2.7.",
        "1.2.3.4.5",
        "256.1.1.1",
        "[evil.com]",
        "[::1%25eth0]",
        "[::1%eth0]",
        "[::1",
        "::1]",
        "[]",
        "[192.0.2.7]",
        "[[::1]]",
        "::1",
        "2001:db8::1",
        "+1.2.3.4",
        " 1.2.3.4",
        "",
        "[::1].",
        "1.2.3.4\0",
    ] {
        assert!(Host::from_program(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn bare_ipv6_only_where_nothing_else_can_stand() {
    assert_eq!(
        Host::from_bare(b"2001:db8::1").unwrap(),
        address("2001:db8::1")
    );
    assert_eq!(
        Host::from_bare(b"[2001:db8::1]").unwrap(),
        address("2001:db8::1")
    );
    assert_eq!(Host::from_bare(b"a.example").unwrap(), named("a.example"));
    assert!(Host::from_bare(b"fe80::1%eth0").is_err());
    assert!(Host::from_bare(b"a.example:80").is_err());
}

#[test]
fn hosts_with_ports() {
    let with_port = |text: &str| Host::with_port(text.as_bytes());
    assert_eq!(
        with_port("A.example:443").unwrap(),
        (named("a.example"), Some(443))
    );
    assert_eq!(with_port("a.example").unwrap(), (named("a.example"), None));
    assert_eq!(
        with_port("[2001:db8::1]:8443").unwrap(),
        (address("2001:db8::1"), Some(8443))
    );
    assert_eq!(
        with_port("[2001:db8::1]").unwrap(),
        (address("2001:db8::1"), None)
    );
    assert_eq!(
        with_port("192.0.2.7:1").unwrap(),
        (address("192.0.2.7"), Some(1))
    );
    for text in [
        "a:",
        "a:0",
        "a:080",
        "a:65536",
        "a:+80",
        "a:-1",
        "a:80:80",
        "a:8o",
        "a: 80",
        ":80",
        "",
        "[::1]80",
        "[::1]:",
        "[::1",
        "2001:db8::1",
        "a.example:80 ",
        "a:18446744073709551696",
    ] {
        assert!(with_port(text).is_err(), "{text}");
    }
    assert_eq!(with_port("a:65535").unwrap().1, Some(65535));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = Host::from_program(&text);
        let _ = Host::from_bare(&text);
        let _ = Host::with_port(&text);
    }

    #[test]
    fn what_is_printed_is_read_again(text in "[0-9a-f:.x\\[\\]-]{1,20}") {
        if let Ok(host) = Host::from_bare(text.as_bytes()) {
            prop_assert_eq!(Host::from_program(host.to_string().as_bytes()).unwrap(), host);
        }
    }

    #[test]
    fn every_address_is_read_from_its_standard_form(bits in any::<u128>(), v4 in any::<u32>()) {
        for host in [Host::Address(Ipv6Addr::from(bits).into()), Host::Address(Ipv4Addr::from(v4).into())] {
            prop_assert_eq!(Host::from_program(host.to_string().as_bytes()).unwrap(), host.clone());
            let (again, port) = Host::with_port(format!("{host}:443").as_bytes()).unwrap();
            prop_assert_eq!((again, port), (host, Some(443)));
        }
    }
}
