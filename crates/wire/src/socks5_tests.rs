//! Tests of the SOCKS5 reader.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::prefixes::{Reading, check_every_prefix};

fn said<T>(step: Step<T>) -> Reading<Step<T>> {
    match step {
        Step::NeedMore => Reading::NeedMore,
        verdict => Reading::Verdict(verdict),
    }
}

fn every_prefix(stream: &[u8]) -> (Option<usize>, Option<usize>) {
    (
        check_every_prefix(stream, |s| said(read_greeting(s))),
        check_every_prefix(stream, |s| said(read_request(s))),
    )
}

fn request(kind: u8, address: &[u8], port: u16) -> Vec<u8> {
    [&[5, 1, 0, kind], address, &port.to_be_bytes()].concat()
}

fn domain(name: &[u8]) -> Vec<u8> {
    request(
        3,
        &[&[u8::try_from(name.len()).unwrap()], name].concat(),
        443,
    )
}

#[track_caller]
fn destination(stream: &[u8]) -> (String, u16) {
    match read_request(stream) {
        Step::Done { value, used } => {
            assert_eq!(used, stream.len());
            assert_eq!(value.command, Command::Connect);
            (value.destination.to_string(), value.port)
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(stream: &[u8]) -> bool {
    match read_request(stream) {
        Step::Malformed(error) => error.answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn greetings() {
    let done = |no_auth, used| Step::Done {
        value: Greeting { no_auth },
        used,
    };
    assert_eq!(read_greeting(&[5, 1, 0]), done(true, 3));
    assert_eq!(read_greeting(&[5, 2, 0, 2, 99]), done(true, 4));
    assert_eq!(read_greeting(&[5, 1, 2]), done(false, 3));
    assert_eq!(every_prefix(&[5, 3, 2, 1, 0]).0, Some(5));
    for bad in [[4, 1, 0].as_slice(), b"GET", &[5, 0], &[0], &[22, 3, 1]] {
        assert!(matches!(read_greeting(bad), Step::Malformed(_)), "{bad:?}");
    }
}

#[test]
fn names_and_addresses() {
    assert_eq!(
        destination(&domain(b"API.Example.")),
        ("api.example".into(), 443)
    );
    assert_eq!(
        destination(&request(1, &[192, 0, 2, 7], 80)),
        ("192.0.2.7".into(), 80)
    );
    let v6 = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
    assert_eq!(
        destination(&request(4, &v6, 65535)),
        ("[2001:db8::1]".into(), 65535)
    );
    // A domain that is an address is that address, and meets the address rules.
    assert_eq!(destination(&domain(b"10.0.0.1")).0, "10.0.0.1");
    assert_eq!(
        destination(&domain(b"::ffff:10.0.0.1")).0,
        "[::ffff:10.0.0.1]"
    );
}

#[test]
fn every_prefix_of_a_request_asks_for_more() {
    for stream in [
        domain(b"api.example"),
        request(1, &[1, 2, 3, 4], 80),
        request(4, &[9; 16], 80),
    ] {
        assert_eq!(every_prefix(&stream).1, Some(stream.len()));
        let with_data = [stream.as_slice(), b"data of the client"].concat();
        assert_eq!(read_request(&with_data), read_request(&stream));
    }
}

#[test]
fn control_bytes_in_a_domain_are_refused() {
    for name in [
        b"allowed.com\0.evil.com".as_slice(),
        b"allowed.com\r\n",
        b"a b",
        b"",
        b".",
        b"127.1",
        b"0x7f.1",
        b"2130706433",
        b"0177.0.0.1",
        b"[evil.com]",
        b"[::1%25eth0]",
        b"fe80::1%eth0",
        b"user@evil.com",
        b"evil.com:80",
        b"a..b",
        &[0xff, 0xfe],
        &[b'a'; 255],
    ] {
        assert!(refused(&domain(name)), "{name:?}");
    }
}

#[test]
fn what_is_not_served_is_said_so() {
    for (number, command) in [
        (2, Command::Bind),
        (3, Command::UdpAssociate),
        (9, Command::Other(9)),
    ] {
        let mut stream = domain(b"api.example");
        stream[1] = number;
        let Step::Done { value, .. } = read_request(&stream) else {
            panic!()
        };
        assert_eq!(value.command, command);
    }
    assert!(refused(&request(2, &[0; 4], 80)));
    assert!(refused(&[5, 1, 1, 1]));
    assert!(refused(&[4, 1, 0, 80]));
    assert!(refused(&[4]));
}

#[test]
fn replies() {
    assert_eq!(reply(2), [5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
}

proptest! {
    #[test]
    fn any_stream_is_judged_once_and_for_all(
        kind in 0u8..6,
        mut stream in proptest::collection::vec(any::<u8>(), 0..300),
        real in any::<bool>(),
    ) {
        if real {
            stream.splice(0..0, [5, 1, 0, kind]);
        }
        every_prefix(&stream);
    }

    #[test]
    fn what_is_written_is_read_again(name in "[a-z]{1,9}(\\.[a-z]{1,9}){0,3}", v4 in any::<u32>(), v6 in any::<u128>(), port: u16) {
        for host in [
            Host::from_program(name.as_bytes()).unwrap(),
            Host::Address(Ipv4Addr::from(v4).into()),
            Host::Address(Ipv6Addr::from(v6).into()),
        ] {
            let stream = connect_request(&host, port).unwrap();
            let value = Request { command: Command::Connect, destination: host, port };
            prop_assert_eq!(read_request(&stream), Step::Done { value, used: stream.len() });
            prop_assert!(stream.len() <= MAX_MESSAGE_BYTES);
        }
    }
}

/// A client's CONNECT request as bytes; `None` if the name is longer than a SOCKS domain can be.
fn connect_request(destination: &Host, port: u16) -> Option<Vec<u8>> {
    let mut out = vec![VERSION, 1, 0];
    match destination {
        Host::Name(name) => {
            out.extend([3, u8::try_from(name.as_str().len()).ok()?]);
            out.extend(name.as_str().as_bytes());
        }
        Host::Address(address) => match SocketAddr::new(*address, port) {
            SocketAddr::V4(v4) => {
                out.push(1);
                out.extend(v4.ip().octets());
            }
            SocketAddr::V6(v6) => {
                out.push(4);
                out.extend(v6.ip().octets());
            }
        },
    }
    out.extend(port.to_be_bytes());
    Some(out)
}
