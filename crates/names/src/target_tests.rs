//! Tests of TARGET.

use proptest::prelude::*;

use super::*;

fn target(text: &str) -> Target {
    Target::from_policy(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn named(text: &str) -> (String, String, bool) {
    match target(text) {
        Target::Name {
            pattern,
            ports,
            explicit_ports,
            ..
        } => (pattern.to_string(), ports.to_string(), explicit_ports),
        net @ Target::Net { .. } => panic!("{net:?}"),
    }
}

fn net(text: &str) -> (String, String) {
    match target(text) {
        Target::Net { net, ports, .. } => (net.to_string(), ports.to_string()),
        name @ Target::Name { .. } => panic!("{name:?}"),
    }
}

#[test]
fn a_bare_name_means_the_web() {
    assert_eq!(
        named("Api.GitHub.com"),
        ("api.github.com".into(), "80,443".into(), false)
    );
    assert_eq!(
        named("*.example.org"),
        ("*.example.org".into(), "80,443".into(), false)
    );
    assert_eq!(
        named("db.corp.example:5432"),
        ("db.corp.example".into(), "5432".into(), true)
    );
    assert_eq!(named("x.example:*"), ("x.example".into(), "*".into(), true));
    assert_eq!(named("**.x.example:22").0, "**.x.example");
    assert_eq!(named("host.portcullis.internal:8080").1, "8080");
}

#[test]
fn ranges_and_addresses() {
    assert_eq!(net("10.20.0.0/16"), ("10.20.0.0/16".into(), "*".into()));
    assert_eq!(
        net("10.20.0.0/16:5432"),
        ("10.20.0.0/16".into(), "5432".into())
    );
    assert_eq!(net("10.20.0.1"), ("10.20.0.1/32".into(), "*".into()));
    assert_eq!(
        net("10.20.0.1:5432"),
        ("10.20.0.1/32".into(), "5432".into())
    );
    assert_eq!(net("10.20.0.0/16:*"), ("10.20.0.0/16".into(), "*".into()));
    assert_eq!(net("fd00::/8"), ("fd00::/8".into(), "*".into()));
    assert_eq!(net("fd00::/8:443"), ("fd00::/8".into(), "443".into()));
    assert_eq!(net("[fd00::/8]:443"), ("fd00::/8".into(), "443".into()));
    assert_eq!(net("[fd00::/8]"), ("fd00::/8".into(), "*".into()));
    assert_eq!(net("fd00::1"), ("fd00::1/128".into(), "*".into()));
    assert_eq!(net("[fd00::1]:443"), ("fd00::1/128".into(), "443".into()));
    // Without brackets the last group is part of the address, not a port.
    assert_eq!(net("fd00::1:443").0, "fd00::1:443/128");
    assert_eq!(net("0.0.0.0/0").0, "0.0.0.0/0");
}

#[test]
fn mistakes_are_refused_with_a_hint() {
    let hint = |text: &str| {
        Target::from_policy(text)
            .unwrap_err()
            .hint()
            .unwrap_or_default()
    };
    assert!(hint("10.20.0.5/16").contains("10.20.0.0/16"));
    assert!(hint("https://api.github.com/repos").contains("`api.github.com`"));
    assert!(hint("https://api.github.com:8443/").contains("`api.github.com:8443`"));
    assert_eq!(hint("http://allowed.com@evil.com/"), "");
    // What was probably meant.
    for (text, meant) in [
        ("https://bücher.example/", "write `xn--bcher-kva.example`"),
        ("wss://a.example/socket", "write `a.example`"),
        ("ssh://git@a.example/o/r.git", "write `a.example:22`"),
        ("ssh://git@a.example:2222/o/r", "write `a.example:2222`"),
        ("ssh://git@a.example:o/r", "write `a.example:22`"),
        ("git+ssh://git@a.example/o/r", "write `a.example:22`"),
        ("git://a.example/o/r", "write `a.example:9418`"),
        ("postgres://u:p@db.example/x", "write `db.example:5432`"),
        ("rediss://:p@r.example:6380/0", "write `r.example:6380`"),
        ("ldaps://[fd00::1]/", "write `[fd00::1/128]:636`"),
        ("https://*.a.example", "write `*.a.example`"),
        ("//a.example/x.js", "write `a.example`"),
        ("git@a.example:o/r.git", "write `a.example:22`"),
        ("git@a.example:22", "write `a.example:22`"),
        ("user@a.example", "write `a.example:22`"),
        ("a.example:o/r.git", "write `a.example:22`;"),
        ("a.example/o/r", "write `a.example`;"),
        ("a.example/", "write `a.example`;"),
        ("a.example:8443/x", "write `a.example:8443`;"),
        (
            ".a.example",
            "write `**.a.example` for the name and its subdomains, `*.a.example`",
        ),
        (".a.example:443", "write `**.a.example:443`"),
        (".bücher.example", "write `**.xn--bcher-kva.example`"),
        ("a.example:ssh", "write the port's number, 22"),
        ("a.example:", "add the port, or remove the colon"),
    ] {
        assert!(hint(text).starts_with(meant), "{text}: {}", hint(text));
    }
    for text in [
        "..a.example",
        ".",
        "..",
        "@",
        "a@",
        "://",
        "ssh://",
        "/",
        "a..b/c",
        "127.1/x",
    ] {
        assert!(Target::from_policy(text).is_err(), "{text}");
    }
    for text in [
        "",
        ":443",
        "a.example:",
        "a.example:0",
        "a.example:99999",
        "a.example:https",
        "a.example:080",
        "a.example:80:80",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/08",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "10.0.0/8",
        "10/8",
        "127.1",
        "0x7f.1",
        "2130706433",
        "[fd00::/8",
        "[fd00::/8]443",
        "[a.example]:443",
        "[10.0.0.0/8]:443",
        "fe80::1%eth0",
        "a.example/path",
        "a.example:443/tcp",
        "user@a.example",
        "*:443",
        "*.com:443",
        "a b.example",
        "10.0.0.0/8:x",
    ] {
        assert!(Target::from_policy(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
        let _ = Target::from_policy(&text);
    }

    #[test]
    fn what_is_printed_is_read_again(text in "[a-c0-9:./*\\[\\]-]{1,24}") {
        if let Ok(target) = Target::from_policy(&text) {
            prop_assert_eq!(Target::from_policy(&target.to_string()).unwrap(), target);
        }
    }

    #[test]
    fn every_range_is_read_again(v4 in any::<u32>(), v6 in any::<u128>(), len in 0u8..=32, port in 1u16..) {
        let v4 = IpNet::new(Ipv4Addr::from(v4).into(), len).unwrap().trunc();
        let v6 = IpNet::new(Ipv6Addr::from(v6).into(), len * 4).unwrap().trunc();
        for net in [v4, v6] {
            for ports in [PortSet::ANY, PortSet::single(port)] {
                let target = Target::Net { net, ports, transport: Transport::Tcp };
                prop_assert_eq!(Target::from_policy(&target.to_string()).unwrap(), target);
            }
        }
    }
}

#[test]
fn datagrams_have_ports_that_are_written() {
    for (text, base, ports) in [
        ("time.example:123/udp", "time.example", "123"),
        ("*.time.example:123/udp", "*.time.example", "123"),
        ("time.example:*/udp", "time.example", "*"),
        ("192.0.2.0/24:123/udp", "192.0.2.0/24", "123"),
        ("192.0.2.7:123/udp", "192.0.2.7/32", "123"),
        ("192.0.2.0/24:*/udp", "192.0.2.0/24", "*"),
        ("[2001:db8::/32]:123/udp", "2001:db8::/32", "123"),
    ] {
        let read = target(text);
        assert_eq!(read.transport(), Transport::Udp, "{text}");
        assert_eq!(read.ports().to_string(), ports, "{text}");
        let (of, shown) = match &read {
            Target::Name { pattern, .. } => (pattern.to_string(), text.to_owned()),
            Target::Net { net, .. } => (net.to_string(), read.to_string()),
        };
        assert_eq!(of, base, "{text}");
        assert_eq!(target(&shown), read, "{text}");
    }
    for text in [
        "time.example/udp",
        "192.0.2.0/24/udp",
        "[2001:db8::/32]/udp",
    ] {
        let error = Target::from_policy(text).unwrap_err();
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains(":PORT/udp`"), "{text}: {error} ({hint})");
    }
    for text in [
        "time.example:123/UDP",
        "time.example:123/tcp",
        "time.example:123/sctp",
        "time.example:0/udp",
        "time.example:123/udp/udp",
        "/udp",
    ] {
        assert!(Target::from_policy(text).is_err(), "{text}");
    }
    assert_eq!(target("time.example:123").transport(), Transport::Tcp);
}

/// Policy files may be long; a reload reads them in a thread with a usual stack.
#[test]
fn a_text_of_any_length_is_refused_without_going_deeper() {
    for text in [".", "@", "//", "a@", "x://", "./"] {
        assert!(
            Target::from_policy(&text.repeat(200_000)).is_err(),
            "{text}"
        );
    }
}
