//! ClientHellos of real clients, cut and split and damaged in every way, with rustls' `Acceptor` as
//! the other reader: whatever a real server makes of a stream, ours reads the same name or refuses.
//!
//! Answers *decision and destination differ* (docs/threats.md): a split hello, two names, a hello of 16 KiB.
//! The hellos were made by `testdata/capture.py`.

use portcullis_wire::tls::{Hello, MAX_CLIENT_HELLO_BYTES, read_client_hello};
use proptest::prelude::*;
use rustls::server::Acceptor;

/// What every one of them asks for.
const NAME: &str = "a.example";

const CAPTURED: [(&str, &[u8]); 6] = [
    ("curl", include_bytes!("../../testdata/hello-curl.bin")),
    (
        "openssl",
        include_bytes!("../../testdata/hello-openssl.bin"),
    ),
    ("node", include_bytes!("../../testdata/hello-node.bin")),
    ("java", include_bytes!("../../testdata/hello-java.bin")),
    ("go", include_bytes!("../../testdata/hello-go.bin")),
    ("python", include_bytes!("../../testdata/hello-python.bin")),
];

/// Record and handshake header.
const HEADERS: usize = 5 + 4;

/// What rustls makes of a stream.
#[derive(Debug, PartialEq, Eq)]
enum Oracle {
    Accepts(Option<String>),
    NeedsMore,
    Refuses,
}

fn oracle(mut stream: &[u8]) -> Oracle {
    let mut acceptor = Acceptor::default();
    loop {
        // It takes a piece at a time.
        if !matches!(acceptor.read_tls(&mut stream), Ok(1..)) {
            return Oracle::NeedsMore;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return Oracle::Accepts(name);
            }
            Ok(None) => {}
            Err(_) => return Oracle::Refuses,
        }
    }
}

/// The name that ours reads in a stream that is a whole hello.
#[track_caller]
fn name_in(stream: &[u8]) -> Option<String> {
    match read_client_hello(stream) {
        Hello::ClientHello(hello) => hello.sni.map(|name| name.to_string()),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn both_read(stream: &[u8], name: &str) {
    assert_eq!(name_in(stream).as_deref(), Some(name));
    assert_eq!(oracle(stream), Oracle::Accepts(Some(name.to_owned())));
}

/// Where a server would go on, ours reads the same name or refuses.
#[track_caller]
fn never_another_name(stream: &[u8]) {
    let Oracle::Accepts(theirs) = oracle(stream) else {
        return;
    };
    match read_client_hello(stream) {
        Hello::Malformed(_) => {}
        Hello::ClientHello(ours) => {
            let ours = ours.sni.map(|name| name.to_string());
            let theirs = theirs.map(|name| name.trim_end_matches('.').to_ascii_lowercase());
            assert_eq!(ours, theirs, "{stream:02x?}");
        }
        other => panic!("rustls goes on with {theirs:?}, ours says {other:?}: {stream:02x?}"),
    }
}

/// The handshake message in a captured hello, which is one record.
fn message(hello: &[u8]) -> &[u8] {
    &hello[5..]
}

fn record(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[22, 3, 1], &length[..], payload].concat()
}

fn in_records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(record).collect()
}

/// The message with one more extension of `bytes` zeros (RFC 7685: padding is to be ignored; a second
/// padding would not be, so the kind is one that nobody uses).
fn grown(hello: &[u8], bytes: usize) -> Vec<u8> {
    const KIND: u16 = 0xfafa;
    let mut body = hello[HEADERS..].to_vec();
    let mut at = 2 + 32;
    at += 1 + usize::from(body[at]);
    at += 2 + usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
    at += 1 + usize::from(body[at]);
    let all = usize::from(u16::from_be_bytes([body[at], body[at + 1]])) + 4 + bytes;
    let all = u16::try_from(all).unwrap().to_be_bytes();
    body[at..at + 2].copy_from_slice(&all);
    body.extend(KIND.to_be_bytes());
    body.extend(u16::try_from(bytes).unwrap().to_be_bytes());
    body.resize(body.len() + bytes, 0);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, length[1], length[2], length[3]], &body[..]].concat()
}

#[test]
fn every_client_is_read_as_a_server_reads_it() {
    for (client, hello) in CAPTURED {
        eprintln!("{client}");
        both_read(hello, NAME);
        match read_client_hello(hello) {
            Hello::ClientHello(read) => assert_eq!(read.wire_bytes, hello.len()),
            other => panic!("{other:?}"),
        }
        // What follows the hello is not looked at.
        both_read(&[hello, b"\x14\x03\x03\x00\x01\x01"].concat(), NAME);
    }
}

#[test]
fn every_prefix_asks_for_more() {
    for (client, hello) in CAPTURED {
        for end in 0..hello.len() {
            let prefix = &hello[..end];
            assert_eq!(read_client_hello(prefix), Hello::NeedMore, "{client} {end}");
            assert_eq!(oracle(prefix), Oracle::NeedsMore, "{client} {end}");
        }
    }
}

#[test]
fn split_over_two_records_at_each_byte() {
    for (client, hello) in CAPTURED {
        let message = message(hello);
        for at in 1..message.len() {
            let stream = [record(&message[..at]), record(&message[at..])].concat();
            eprintln!("{client} {at}");
            both_read(&stream, NAME);
            // And each of its prefixes at the edges of the records.
            for end in [at + 4, at + 5, at + 6, at + 9, at + 10, stream.len() - 1] {
                let prefix = &stream[..end.min(stream.len() - 1)];
                assert_eq!(
                    read_client_hello(prefix),
                    Hello::NeedMore,
                    "{client} {at} {end}"
                );
            }
        }
    }
}

#[test]
fn spread_over_records_of_every_size() {
    for (_, hello) in CAPTURED {
        let message = message(hello);
        for size in 1..=message.len() {
            let stream = in_records(message, size);
            assert_eq!(name_in(&stream).as_deref(), Some(NAME), "{size}");
            never_another_name(&stream);
        }
    }
}

#[test]
fn hellos_of_16_kib_and_up_to_the_limit() {
    for (client, hello) in CAPTURED {
        // Around the edges of a record, of rustls' buffers, and of ours.
        for size in [15_000, 16_383, 16_384, 16_385, 17_000, 40_000, 60_000] {
            let message = grown(hello, size - message(hello).len() - 4);
            assert_eq!(message.len(), size);
            for record in [16_384, 4_096, 1_000] {
                let stream = in_records(&message, record);
                eprintln!("{client} {size} {record}");
                assert_eq!(name_in(&stream).as_deref(), Some(NAME));
                never_another_name(&stream);
                let short = &stream[..stream.len() - 1];
                assert_eq!(read_client_hello(short), Hello::NeedMore);
            }
        }
        let longest = in_records(&grown(hello, 64_800), 16_384);
        let verdict = read_client_hello(&longest);
        assert!(longest.len() <= MAX_CLIENT_HELLO_BYTES, "{}", longest.len());
        assert!(matches!(verdict, Hello::ClientHello(_)), "{verdict:?}");
    }
}

#[test]
fn each_byte_set_to_each_value_never_shows_another_name() {
    // The shortest of them whole; of the others, what is not random.
    for (client, hello) in CAPTURED {
        let mut stream = hello.to_vec();
        for at in 0..hello.len() {
            let random = (HEADERS + 2..HEADERS + 34).contains(&at);
            if random || (client != "go" && at > HEADERS + 36 && at % 7 != 0) {
                continue;
            }
            for value in [
                0, 1, 2, 3, 4, 5, 16, 20, 21, 22, 23, 43, 65, 127, 128, 254, 255,
            ] {
                stream[at] = value;
                never_another_name(&stream);
            }
            stream[at] = hello[at].wrapping_add(1);
            never_another_name(&stream);
            stream[at] = hello[at].wrapping_sub(1);
            never_another_name(&stream);
            stream[at] = hello[at];
        }
    }
}

/// Changes to a hello: bytes set, taken out, put in, repeated.
#[derive(Debug, Clone)]
enum Damage {
    Set(prop::sample::Index, u8),
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, to)| Damage::Set(at, to)),
        (place(), 1usize..40).prop_map(|(at, n)| Damage::Remove(at, n)),
        (place(), prop::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (place(), 1usize..60).prop_map(|(at, n)| Damage::Repeat(at, n)),
    ]
}

fn apply(stream: &mut Vec<u8>, damage: &Damage) {
    let within = |at: &prop::sample::Index, n: usize, len: usize| {
        let at = at.index(len);
        at..(at + n).min(len)
    };
    if stream.is_empty() {
        return;
    }
    match damage {
        Damage::Set(at, to) => {
            let at = at.index(stream.len());
            stream[at] = *to;
        }
        Damage::Remove(at, n) => drop(stream.drain(within(at, *n, stream.len()))),
        Damage::Insert(at, bytes) => {
            let at = at.index(stream.len());
            stream.splice(at..at, bytes.iter().copied());
        }
        Damage::Repeat(at, n) => {
            let range = within(at, *n, stream.len());
            let again = stream[range.clone()].to_vec();
            stream.splice(range.start..range.start, again);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_a_hello_no_other_name_is_read(
        client in 0..CAPTURED.len(),
        inside in prop::collection::vec(damage(), 0..3),
        outside in prop::collection::vec(damage(), 0..2),
        size in prop_oneof![Just(16_384usize), 1usize..600],
        right_length in any::<bool>(),
    ) {
        let mut message = message(CAPTURED[client].1).to_vec();
        for damage in &inside {
            apply(&mut message, damage);
        }
        if right_length && message.len() > 4 {
            let length = u32::try_from(message.len() - 4).unwrap().to_be_bytes();
            message[1..4].copy_from_slice(&length[1..]);
        }
        let mut stream = in_records(&message, size);
        for damage in &outside {
            apply(&mut stream, damage);
        }
        never_another_name(&stream);
    }
}
