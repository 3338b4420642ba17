//! Tests of the ClientHello reader: real hellos, and every known way of hiding a name.

use proptest::prelude::*;

use super::*;
use crate::prefixes::{Reading, check_every_prefix};

const TLS13: &[u8] = include_bytes!("../../testdata/hello-openssl-tls13.bin");
const TLS12: &[u8] = include_bytes!("../../testdata/hello-openssl-tls12.bin");
const NO_SNI: &[u8] = include_bytes!("../../testdata/hello-openssl-no-sni.bin");

type Extension = (u16, Vec<u8>);

fn vec16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn sni(names: &[&[u8]]) -> Extension {
    let entries: Vec<u8> = names
        .iter()
        .flat_map(|n| [&[0], vec16(n).as_slice()].concat())
        .collect();
    (0, vec16(&entries))
}

/// A ClientHello's body from its extensions.
fn body(extensions: &[Extension]) -> Vec<u8> {
    let mut out = vec![3, 3];
    out.extend([7; 32]);
    out.push(32);
    out.extend([9; 32]);
    out.extend(vec16(&[0x0a, 0x0a, 0x13, 0x01, 0x13, 0x02]));
    out.extend([1, 0]);
    let all: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, data)| [kind.to_be_bytes().to_vec(), vec16(data)].concat())
        .collect();
    out.extend(vec16(&all));
    out
}

fn message(body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, len[1], len[2], len[3]], body].concat()
}

/// The message in records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size)
        .flat_map(|c| [&[22, 3, 1], vec16(c).as_slice()].concat())
        .collect()
}

fn hello(extensions: &[Extension]) -> Vec<u8> {
    records(&message(&body(extensions)), 16_384)
}

fn grease() -> Extension {
    (0x1a1a, vec![0])
}

fn read(stream: &[u8]) -> Hello {
    read_client_hello(stream)
}

#[track_caller]
fn good(stream: &[u8]) -> ClientHello {
    match read(stream) {
        Hello::ClientHello(hello) => hello,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn sni_of(stream: &[u8]) -> Option<String> {
    good(stream).sni.map(|n| n.to_string())
}

#[track_caller]
fn malformed(stream: &[u8]) -> &'static str {
    match read(stream) {
        Hello::Malformed(why) => why,
        other => panic!("{other:?}"),
    }
}

fn every_prefix(stream: &[u8]) -> Option<usize> {
    check_every_prefix(stream, |prefix| match read(prefix) {
        Hello::NeedMore => Reading::NeedMore,
        verdict => Reading::Verdict(verdict),
    })
}

#[test]
fn real_hellos() {
    let hello = good(TLS13);
    assert_eq!(hello.sni.as_ref().unwrap().as_str(), "api.github.com");
    assert_eq!(
        hello.alpn,
        Alpn {
            h2: true,
            http1: true,
            other: false
        }
    );
    assert!(hello.tls13 && !hello.ech);
    assert_eq!(hello.wire_bytes, TLS13.len());
    let hello = good(TLS12);
    assert_eq!(hello.sni.as_ref().unwrap().as_str(), "allowed.example");
    assert!(!hello.tls13);
    assert_eq!(hello.alpn, Alpn::default());
    assert_eq!(sni_of(NO_SNI), None);
}

#[test]
fn every_prefix_of_a_hello_asks_for_more() {
    for stream in [TLS13, TLS12, NO_SNI] {
        assert_eq!(every_prefix(stream), Some(stream.len()));
        // Early data behind the hello changes nothing.
        let early = [stream, &[23, 3, 3, 0, 5, 1, 2, 3, 4, 5]].concat();
        assert_eq!(read(&early), read(stream));
    }
}

#[test]
fn names_become_canonical() {
    assert_eq!(
        sni_of(&hello(&[sni(&[b"Allowed.Example"])])).unwrap(),
        "allowed.example"
    );
    assert_eq!(
        sni_of(&hello(&[sni(&[b"allowed.example."])])).unwrap(),
        "allowed.example"
    );
}

#[test]
fn hello_split_over_records_of_any_size() {
    let message = message(&body(&[grease(), sni(&[b"allowed.example"])]));
    for size in 1..=message.len() {
        let stream = records(&message, size);
        let hello = good(&stream);
        assert_eq!(hello.sni.unwrap().as_str(), "allowed.example");
        assert_eq!(hello.wire_bytes, stream.len());
    }
    let stream = records(&message, 1);
    assert_eq!(every_prefix(&stream), Some(stream.len()));
    let stream = records(&message, 7);
    assert_eq!(every_prefix(&stream), Some(stream.len()));
}

#[test]
fn post_quantum_hello_longer_than_a_packet() {
    // X25519MLKEM768 beside X25519, between grease, as browsers send it.
    let shares = [
        vec![0x2a, 0x2a, 0, 1, 0],
        vec![0x11, 0xec],
        vec16(&[5; 1216]),
        vec![0, 0x1d],
        vec16(&[6; 32]),
    ]
    .concat();
    let stream = hello(&[
        grease(),
        (51, vec16(&shares)),
        sni(&[b"allowed.example"]),
        (0x3a3a, vec![]),
    ]);
    assert!(stream.len() > 1300);
    assert_eq!(sni_of(&stream).unwrap(), "allowed.example");
    assert_eq!(every_prefix(&stream), Some(stream.len()));
}

#[test]
fn hello_of_16_kib_and_more() {
    for padding in [16_000, 16_384, 40_000, 60_000] {
        let message = message(&body(&[(21, vec![0; padding]), sni(&[b"allowed.example"])]));
        for size in [16_384, 1_000, 100] {
            assert_eq!(sni_of(&records(&message, size)).unwrap(), "allowed.example");
        }
    }
}

#[test]
fn hello_over_64_kib_is_refused_as_soon_as_it_says_so() {
    assert!(malformed(&[22, 3, 1, 0, 4, 1, 1, 0, 0]).contains("64 KiB"));
    // Under the limit by itself, over it with its record headers.
    let message = message(&body(&[(21, vec![0; 60_000]), sni(&[b"allowed.example"])]));
    let stream = records(&message, 40);
    assert!(stream.len() > MAX_CLIENT_HELLO_BYTES);
    assert!(malformed(&stream).contains("64 KiB"));
    assert_eq!(read(&stream[..MAX_CLIENT_HELLO_BYTES]), read(&stream));
    assert_eq!(read(&stream[..MAX_CLIENT_HELLO_BYTES - 1]), Hello::NeedMore);
}

#[test]
fn too_many_records() {
    let message = message(&body(&[(21, vec![0; 6_000]), sni(&[b"allowed.example"])]));
    assert!(malformed(&records(&message, 1)).contains("records"));
}

#[test]
fn two_server_names_are_refused() {
    assert_eq!(
        malformed(&hello(&[
            sni(&[b"allowed.example"]),
            grease(),
            sni(&[b"evil.example"])
        ])),
        "two server_name extensions"
    );
    assert_eq!(
        malformed(&hello(&[sni(&[b"allowed.example", b"evil.example"])])),
        "two server names"
    );
    // a second name of another type
    let mut entries = [&[0], vec16(b"allowed.example").as_slice(), &[1]].concat();
    entries.extend(vec16(b"evil.example"));
    assert_eq!(
        malformed(&hello(&[(0, vec16(&entries))])),
        "two server names"
    );
}

#[test]
fn two_extensions_of_one_type_are_refused() {
    let versions = || (43, vec![2, 3, 4]);
    assert_eq!(
        malformed(&hello(&[versions(), versions()])),
        "two extensions of one type"
    );
    let many: Vec<Extension> = (1000..1257).map(|kind| (kind, vec![])).collect();
    assert_eq!(malformed(&hello(&many)), "too many extensions");
    good(&hello(&many[1..]));
}

#[test]
fn names_that_are_not_host_names_are_refused() {
    for name in [
        b"allowed.example\0.evil.example".as_slice(),
        b"",
        b".",
        b"127.1",
        b"192.0.2.7",
        b"[::1]",
        b"::1",
        b"a b.example",
        b"a..example",
        b"*.example",
        b"allowed.example\r\n",
        "b\u{fc}cher.example".as_bytes(),
        &[b'a'; 300],
    ] {
        malformed(&hello(&[sni(&[name])]));
    }
}

#[test]
fn garbage_behind_every_part_is_refused() {
    // behind the name list
    let (_, mut data) = sni(&[b"allowed.example"]);
    data.push(0);
    assert_eq!(
        malformed(&hello(&[(0, data)])),
        "bytes behind the list of server names"
    );
    // inside the list
    let entries = [&[0], vec16(b"allowed.example").as_slice(), &[0]].concat();
    malformed(&hello(&[(0, vec16(&entries))]));
    // behind the extensions
    let mut long = body(&[sni(&[b"allowed.example"])]);
    long.extend([0, 0]);
    assert_eq!(
        malformed(&records(&message(&long), 16_384)),
        "bytes behind the ClientHello's extensions"
    );
    // behind the message, in its record, and in its last record
    let mut two = message(&body(&[sni(&[b"allowed.example"])]));
    two.extend(message(&body(&[sni(&[b"evil.example"])])));
    assert_eq!(
        malformed(&records(&two, 16_384)),
        "bytes behind the ClientHello in its record"
    );
    assert_eq!(
        malformed(&records(&two, 50)),
        "bytes behind the ClientHello in its record"
    );
    // and refused before those bytes have even arrived
    every_prefix(&records(&two, 16_384));
}

#[test]
fn cut_fields_are_refused() {
    let whole = body(&[sni(&[b"allowed.example"]), (16, vec16(&[2, b'h', b'2']))]);
    for len in 0..whole.len() {
        let verdict = read(&records(&message(&whole[..len]), 16_384));
        // The one place where a hello may end early: behind the compression methods, in TLS 1.2.
        if let Hello::ClientHello(hello) = verdict {
            assert_eq!((len, hello.sni), (2 + 32 + 33 + 8 + 2, None));
        } else {
            assert!(matches!(verdict, Hello::Malformed(_)), "{len}: {verdict:?}");
        }
    }
}

#[test]
fn bad_fields_are_refused() {
    let base = body(&[sni(&[b"allowed.example"])]);
    let with = |at: usize, byte: u8| {
        let mut changed = base.clone();
        changed[at] = byte;
        records(&message(&changed), 16_384)
    };
    malformed(&with(0, 2)); // version 2.3
    malformed(&with(34, 33)); // session id of 33 bytes
    malformed(&with(68, 5)); // odd length of cipher suites
    malformed(&hello(&[(0, vec![])])); // an empty server_name is the server's form
    malformed(&hello(&[(0, vec![0, 0])]));
    malformed(&hello(&[(16, vec![0, 1, 0])])); // an empty protocol
    malformed(&hello(&[(16, vec![0, 3, 2, b'h'])]));
}

#[test]
fn ech_and_its_grease_are_noted() {
    let outer = hello(&[(0xfe0d, vec![0; 100]), sni(&[b"allowed.example"])]);
    assert!(good(&outer).ech);
    assert_eq!(sni_of(&outer).unwrap(), "allowed.example");
    assert!(good(&hello(&[(0xffce, vec![1])])).ech);
    assert!(!good(&hello(&[grease(), sni(&[b"allowed.example"])])).ech);
}

/// Servers ignore the version of a record, as they should (RFC 8446 section 5.1): rustls takes any.
#[test]
fn a_hello_in_a_record_of_any_version_is_tls() {
    for version in [
        [0, 0],
        [2, 0],
        [0x10, 1],
        [0x7f, 0xff],
        [0xfe, 0xfc],
        [0xfe, 0xfd],
        [0xff, 0xff],
    ] {
        let mut stream = hello(&[sni(&[b"other.example"])]);
        stream[1..3].copy_from_slice(&version);
        assert!(matches!(read(&stream), Hello::Malformed(_)), "{version:x?}");
        assert_eq!(looks_like_tls(&stream), Sniff::Yes);
    }
}

#[test]
fn other_protocols_are_not_tls() {
    for stream in [
        b"GET / HTTP/1.1\r\n".as_slice(),
        b"SSH-2.0-x\r\n",
        b"\x05\x01\x00",
        &[0x16, 0xfe, 0xfd, 0, 0],                 // DTLS
        &[0x16, 0, 0, 1, 0x85, 0xa6, 0],           // a MySQL packet of 22 bytes
        &[0x16, 0, 0xff, 5, 15, b'm', b'c', b'.'], // a Minecraft handshake
        &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f],        // PostgreSQL's SSLRequest
        &[0x80, 0x2e, 0x01, 0x05, 0, 0, 0, 0, 0, 0, 0],
        &[0x80, 0x2e, 0x02],
        &[0xff, 0xfb, 0x01],
    ] {
        assert_eq!(read(stream), Hello::NotTls, "{stream:?}");
        assert_eq!(looks_like_tls(stream), Sniff::No);
        every_prefix(stream);
    }
}

/// Servers differ in what they accept first; whatever one of them would answer must not pass as an
/// unknown protocol.
#[test]
fn odd_first_records_are_refused_not_relayed() {
    let hello = hello(&[sni(&[b"evil.example"])]);
    // OpenSSL skips warning alerts in front of the hello.
    assert!(malformed(&[[21, 3, 1, 0, 2, 1, 0].as_slice(), &hello].concat()).contains("handshake"));
    malformed(&[[20, 3, 3, 0, 1, 1].as_slice(), &hello].concat());
    malformed(&[[23, 3, 3, 0, 1, 1].as_slice(), &hello].concat());
    // Go reads a hello in a record of any version.
    for major in [0, 1, 2, 4, 15] {
        let mut odd = hello.clone();
        odd[1] = major;
        assert!(malformed(&odd).contains("version"), "{major}");
        every_prefix(&odd);
    }
    // a record of another kind in the middle of the hello
    let split = records(&message(&body(&[sni(&[b"evil.example"])])), 60);
    let middle = [&split[..65], &[21, 3, 1, 0, 2, 1, 0], &split[65..]].concat();
    malformed(&middle);
    // empty records, oversized ones, other handshake messages
    malformed(&[22, 3, 1, 0, 0]);
    malformed(&[22, 3, 1, 0x40, 1]);
    malformed(&[22, 3, 1, 0, 4, 2]);
    good(&[&[22, 3, 4], &hello[3..]].concat());
}

#[test]
fn sslv2_compatible_hello_is_refused_not_relayed() {
    let mut v2 = vec![0x80, 0, 1, 3, 3, 0, 6, 0, 0, 0, 16];
    v2.extend([1; 6 + 16]);
    v2[1] = u8::try_from(v2.len() - 2).unwrap();
    assert_eq!(looks_like_tls(&v2), Sniff::Yes);
    malformed(&v2);
    every_prefix(&v2);
}

#[test]
fn alerts() {
    assert_eq!(
        fatal_alert(Alert::UnrecognizedName),
        [21, 3, 3, 0, 2, 2, 112]
    );
    assert_eq!(fatal_alert(Alert::AccessDenied), [21, 3, 3, 0, 2, 2, 49]);
}

fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    let extension = (
        prop_oneof![Just(0u16), Just(16), Just(43), Just(0xfe0d), any::<u16>()],
        bytes.clone(),
    );
    let made = (proptest::collection::vec(extension, 0..6), 1usize..300)
        .prop_map(|(e, size)| records(&message(&body(&e)), size));
    let mutated = (
        Just(TLS13.to_vec()),
        proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    )
        .prop_map(|(mut stream, changes)| {
            for (at, byte) in changes {
                let at = at.index(stream.len());
                stream[at] = byte;
            }
            stream
        });
    prop_oneof![bytes, made, mutated]
}

proptest! {
    #[test]
    fn any_stream_is_judged_once_and_for_all(stream in any_stream()) {
        every_prefix(&stream);
    }

    #[test]
    fn how_it_is_split_does_not_matter(name in "[a-z]{1,20}\\.example", size in 1usize..400, extra in 0usize..3000) {
        let message = message(&body(&[(21, vec![0; extra]), sni(&[name.as_bytes()])]));
        prop_assert_eq!(sni_of(&records(&message, size)), Some(name));
    }
}
