//! Tests of the query guard.

use std::net::IpAddr;

use portcullis_names::NameError;
use proptest::prelude::*;

use super::*;

const A: u16 = 1;
const IN: u16 = 1;
const RD: u16 = 0x0100;

fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    [id, flags]
        .iter()
        .chain(&counts)
        .flat_map(|n| n.to_be_bytes())
        .collect()
}

fn question(labels: &[&[u8]], qtype: u16, qclass: u16) -> Vec<u8> {
    let mut out = Vec::new();
    for label in labels {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend(*label);
    }
    out.push(0);
    out.extend(qtype.to_be_bytes());
    out.extend(qclass.to_be_bytes());
    out
}

fn opt(udp: u16, version: u8, flags: u16, options: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 41];
    out.extend(udp.to_be_bytes());
    out.extend([0, version]);
    out.extend(flags.to_be_bytes());
    out.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
    out.extend(options);
    out
}

fn query(labels: &[&[u8]]) -> Vec<u8> {
    [header(0x1234, RD, [1, 0, 0, 0]), question(labels, A, IN)].concat()
}

fn example() -> Vec<u8> {
    query(&[b"wWw", b"Example", b"com"])
}

#[track_caller]
fn refused(message: &[u8]) -> (QueryErrorKind, Answer) {
    let error = guard_query(message).unwrap_err();
    (error.kind, error.answer)
}

#[test]
fn a_plain_query() {
    let message = example();
    let query = guard_query(&message).unwrap();
    assert_eq!(query.name.as_str(), "www.example.com");
    assert_eq!((query.qtype.number(), query.qclass), (A, IN));
    assert_eq!(
        query.header,
        Header {
            id: 0x1234,
            rd: true,
            ..Header::default()
        }
    );
    assert_eq!(query.edns, None);
    // The client's mixture of cases can be echoed byte by byte.
    assert_eq!(
        &message[query.question],
        question(&[b"wWw", b"Example", b"com"], A, IN)
    );
}

#[test]
fn edns_is_read() {
    let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let message = |opt: Vec<u8>| {
        [
            header(1, RD | 0x30, [1, 0, 0, 1]),
            question(&[b"a", b"example"], 28, IN),
            opt,
        ]
        .concat()
    };
    let query = guard_query(&message(opt(1232, 0, 0x8000, &cookie))).unwrap();
    assert_eq!(
        query.edns,
        Some(Edns {
            udp_bytes: 1232,
            dnssec_ok: true
        })
    );
    assert!(query.header.ad && query.header.cd);
    let query = guard_query(&message(opt(0, 0, 0, &[]))).unwrap();
    assert_eq!(
        query.edns,
        Some(Edns {
            udp_bytes: 512,
            dnssec_ok: false
        })
    );

    let error = guard_query(&message(opt(1232, 1, 0, &[]))).unwrap_err();
    assert_eq!(
        (error.kind, error.answer),
        (QueryErrorKind::EdnsVersion, Answer::BadVers)
    );
    assert!(error.edns.is_some() && error.question.is_some());
    assert_eq!(error.answer.rcode(), Some(16));

    // options that run over, or stop short
    for options in [&[0, 10, 0, 9, 1][..], &[0], &[0, 10, 0]] {
        assert_eq!(
            refused(&message(opt(1232, 0, 0, options))).0,
            QueryErrorKind::Additional
        );
    }
    // an OPT whose owner is not the root
    let mut named = opt(1232, 0, 0, &[]);
    named.splice(0..1, [1, b'a', 0]);
    assert_eq!(refused(&message(named)).0, QueryErrorKind::Additional);
}

#[test]
fn every_prefix_is_refused_without_panic() {
    let message = [
        header(1, RD, [1, 0, 0, 1]),
        question(&[b"a", b"example"], A, IN),
        opt(1232, 0, 0, &[0, 3, 0, 0]),
    ]
    .concat();
    for len in 0..message.len() {
        let error = guard_query(&message[..len]).unwrap_err();
        assert_eq!(error.answer == Answer::Drop, len < 12, "{len}");
    }
    guard_query(&message).unwrap();
}

#[test]
fn answers_and_fragments_are_dropped() {
    assert_eq!(refused(&[0; 11]), (QueryErrorKind::Short, Answer::Drop));
    let mut answer = example();
    answer[2] |= 0x80;
    assert_eq!(refused(&answer), (QueryErrorKind::NotAQuery, Answer::Drop));
    assert_eq!(Answer::Drop.rcode(), None);
}

#[test]
fn other_opcodes_are_not_implemented() {
    for opcode in 1..16u8 {
        let mut message = example();
        message[2] |= opcode << 3;
        let error = guard_query(&message).unwrap_err();
        assert_eq!(
            (error.kind, error.answer),
            (QueryErrorKind::Opcode, Answer::NotImp)
        );
        assert_eq!(error.header.opcode, opcode);
    }
}

#[test]
fn extra_questions_and_records_are_refused() {
    let one = question(&[b"a", b"example"], A, IN);
    let formerr = (QueryErrorKind::Counts, Answer::FormErr);
    for counts in [
        [0, 0, 0, 0],
        [2, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 0, 1, 0],
        [0xffff; 4],
    ] {
        let message = [header(1, RD, counts), one.clone(), one.clone()].concat();
        assert_eq!(refused(&message), formerr, "{counts:?}");
    }
    let two_opts = [
        header(1, RD, [1, 0, 0, 2]),
        one.clone(),
        opt(512, 0, 0, &[]),
        opt(512, 0, 0, &[]),
    ];
    assert_eq!(refused(&two_opts.concat()).0, QueryErrorKind::Additional);
    let smuggled = [
        header(1, RD, [1, 0, 0, 0]),
        one.clone(),
        b"payload".to_vec(),
    ];
    assert_eq!(refused(&smuggled.concat()).0, QueryErrorKind::Additional);
    let not_opt = [
        header(1, RD, [1, 0, 0, 1]),
        one,
        vec![0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0],
    ];
    assert_eq!(refused(&not_opt.concat()).0, QueryErrorKind::Additional);
    let truncated = [
        header(1, RD | 0x0200, [1, 0, 0, 0]),
        question(&[b"a"], A, IN),
    ]
    .concat();
    assert_eq!(refused(&truncated), formerr);
}

/// An SOA with these names in its data.
fn soa(owner: &[u8], names: &[u8]) -> Vec<u8> {
    let data = [names, &[0; 20]].concat();
    let len = u16::try_from(data.len()).unwrap().to_be_bytes();
    [owner, &[0, 6, 0, 1, 0, 0, 0, 0], &len, &data].concat()
}

#[test]
fn an_incremental_transfer_is_read_for_what_it_is() {
    const IXFR: u16 = 251;
    let labels: &[&[u8]] = &[b"a", b"example"];
    let start = |qtype| [header(1, RD, [1, 0, 1, 0]), question(labels, qtype, IN)].concat();
    let spelled = b"\x01A\x07example\0";
    let mut good = vec![
        soa(&[0xc0, 12], &[0, 0]),
        soa(spelled, b"\x02ns\xc0\x0c\x01h\x07example\0"),
    ];
    for soa in &good {
        let message = [start(IXFR), soa.clone()].concat();
        let query = guard_query(&message).unwrap();
        assert_eq!(
            (query.name.as_str(), query.qtype.number()),
            ("a.example", IXFR)
        );
        assert_eq!(query.question, 12..message.len() - soa.len());
        let with_opt = [
            header(1, RD, [1, 0, 1, 1]),
            message[12..].to_vec(),
            opt(1232, 0, 0, &[]),
        ];
        assert!(guard_query(&with_opt.concat()).unwrap().edns.is_some());
        for len in 12..message.len() {
            guard_query(&message[..len]).unwrap_err();
        }
        for qtype in [A, 252, 255] {
            let other = [start(qtype), soa.clone()].concat();
            assert_eq!(refused(&other), (QueryErrorKind::Counts, Answer::FormErr));
        }
        let more = [message, b"payload".to_vec()].concat();
        assert_eq!(refused(&more).0, QueryErrorKind::Additional);
    }
    let mut not_soa = good.remove(0);
    not_soa[3] = 16;
    for bad in [
        not_soa,
        soa(b"\x01b\x07example\0", &[0, 0]),
        soa(&[0xc0, 14], &[0, 0]),
        soa(&[0xc0, 12], &[0]),
        soa(&[0xc0, 12], b"\0\0payload"),
        soa(&[0xc0, 12], &[0x40, 0, 0]),
        soa(&[0xc0, 12], &[[9; 10].as_slice(), &[9; 300]].concat()),
    ] {
        let message = [start(IXFR), bad].concat();
        assert_eq!(
            refused(&message),
            (QueryErrorKind::Authority, Answer::FormErr)
        );
    }
}

#[test]
fn compression_in_a_question_is_refused() {
    // a pointer to itself, one into the header, one behind a label; an extended label type
    for name in [
        &[0xc0, 12][..],
        &[0xc0, 0],
        &[1, b'a', 0xc0, 12],
        &[0x41, b'a', 0],
        &[64, 0],
    ] {
        let message = [&header(1, RD, [1, 0, 0, 0]), name, &[0, 1, 0, 1]].concat();
        assert_eq!(
            refused(&message),
            (QueryErrorKind::Question, Answer::FormErr),
            "{name:?}"
        );
    }
}

#[test]
fn names_that_could_never_be_listed_do_not_exist() {
    let name = |labels: &[&[u8]]| refused(&query(labels));
    let nxdomain = |why| (QueryErrorKind::Name(why), Answer::NxDomain);
    assert_eq!(
        name(&[b"a\0b", b"example"]),
        nxdomain(NameError::BadByte { byte: 0, at: 1 })
    );
    assert_eq!(
        name(&[b"a.b", b"example"]),
        nxdomain(NameError::BadByte { byte: b'.', at: 1 })
    );
    assert_eq!(
        name(&[b"a\r\n", b"example"]),
        nxdomain(NameError::BadByte { byte: b'\r', at: 1 })
    );
    assert_eq!(
        name(&[b"a b"]),
        nxdomain(NameError::BadByte { byte: b' ', at: 1 })
    );
    assert_eq!(
        name(&[&[0xc3, 0xbc]]),
        nxdomain(NameError::BadByte { byte: 0xc3, at: 0 })
    );
    assert_eq!(
        name(&[b"127", b"0", b"0", b"1"]),
        nxdomain(NameError::EndsInNumber)
    );
    assert_eq!(name(&[b"2130706433"]), nxdomain(NameError::EndsInNumber));
    assert_eq!(
        name(&[]),
        (QueryErrorKind::Name(NameError::Root), Answer::Refused)
    );
    // The answer still echoes the question.
    assert!(
        guard_query(&query(&[b"a b"]))
            .unwrap_err()
            .question
            .is_some()
    );
}

#[test]
fn names_of_255_bytes_pass_and_256_are_malformed() {
    let longest: Vec<&[u8]> = vec![&[b'a'; 63], &[b'a'; 63], &[b'a'; 63], &[b'a'; 61]];
    assert_eq!(
        guard_query(&query(&longest)).unwrap().name.as_str().len(),
        253
    );
    let mut longer = longest.clone();
    longer[3] = &[b'a'; 62];
    assert_eq!(refused(&query(&longer)).0, QueryErrorKind::Question);
    let single: Vec<&[u8]> = vec![b"a"; 127];
    assert_eq!(
        guard_query(&query(&single)).unwrap().name.as_str().len(),
        253
    );
    assert_eq!(
        refused(&query(&vec![b"a".as_slice(); 128])).0,
        QueryErrorKind::Question
    );
}

#[test]
fn other_classes_are_refused() {
    for qclass in [0, 3, 4, 254, 255] {
        let message = [
            header(1, RD, [1, 0, 0, 0]),
            question(&[b"version", b"bind"], 16, qclass),
        ];
        assert_eq!(
            refused(&message.concat()),
            (QueryErrorKind::Class, Answer::Refused)
        );
    }
}

#[test]
fn frames_over_tcp() {
    let message = example();
    let framed = [
        &u16::try_from(message.len()).unwrap().to_be_bytes(),
        message.as_slice(),
    ]
    .concat();
    for len in 0..framed.len() {
        assert_eq!(read_frame(&framed[..len]), Frame::NeedMore);
    }
    let used = framed.len();
    assert_eq!(
        read_frame(&framed),
        Frame::Message {
            message: &message,
            used
        }
    );
    let two = [framed.as_slice(), &framed].concat();
    assert_eq!(
        read_frame(&two),
        Frame::Message {
            message: &message,
            used
        }
    );
    // A bad length ends the connection rather than being read on from.
    for bad in [&[0, 0][..], &[0, 11, 0], &[0xff, 0xff], &[0x10, 0x01]] {
        assert_eq!(read_frame(bad), Frame::Bad);
    }
}

#[test]
fn reverse_names() {
    let address = |text: &str| {
        let name = portcullis_names::NameBuf::from_program(text.as_bytes()).unwrap();
        ptr_address(name.as_ref()).map(|a| a.to_string())
    };
    assert_eq!(address("7.2.0.192.in-addr.arpa").unwrap(), "192.0.2.7");
    assert_eq!(
        ptr_name("192.0.2.7".parse().unwrap()).as_str(),
        "7.2.0.192.in-addr.arpa"
    );
    let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
    assert_eq!(address(v6).unwrap(), "2001:db8::1");
    assert_eq!(ptr_name("2001:db8::1".parse().unwrap()).as_str(), v6);
    for text in [
        "2.0.192.in-addr.arpa",
        "1.7.2.0.192.in-addr.arpa",
        "07.2.0.192.in-addr.arpa",
        "256.2.0.192.in-addr.arpa",
        "0x7.2.0.192.in-addr.arpa",
        "in-addr.arpa",
        "ip6.arpa",
        "1.0.0.2.ip6.arpa",
        "7.2.0.192.in-addr.arpa.evil.example",
        "x.7.2.0.192.in-addr.arpa",
        "a.example",
    ] {
        assert_eq!(address(text), None, "{text}");
    }
    assert_eq!(address(&format!("0.{v6}")), None);
    assert_eq!(address(&v6.replace("8.b", "8.bb")), None);
}

proptest! {
    #[test]
    fn any_message_is_read_or_refused(
        front in prop_oneof![Just(vec![]), Just(header(1, RD, [1, 0, 0, 0])), Just(header(1, RD, [1, 0, 0, 1]))],
        rest in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let message = [front, rest].concat();
        let range = match guard_query(&message) {
            Ok(query) => {
                prop_assert!(query.question.end <= message.len());
                Some(query.question)
            }
            Err(error) => error.question,
        };
        if let Some(range) = range {
            prop_assert_eq!(range.start, 12);
            prop_assert!(message.get(range).is_some());
        }
        let _ = read_frame(&message);
    }

    #[test]
    fn every_good_name_is_read(labels in proptest::collection::vec("[a-zA-Z0-9_-]{1,20}", 1..8), id: u16, qtype: u16) {
        let mut labels: Vec<&[u8]> = labels.iter().map(|l| l.as_bytes()).collect();
        labels.push(b"example");
        let message = [header(id, RD, [1, 0, 0, 0]), question(&labels, qtype, IN)].concat();
        let query = guard_query(&message).unwrap();
        let text = labels.iter().map(|l| String::from_utf8(l.to_ascii_lowercase()).unwrap()).collect::<Vec<_>>().join(".");
        prop_assert_eq!(query.name.as_str(), text);
        prop_assert_eq!((query.header.id, query.qtype.number()), (id, qtype));
    }

    #[test]
    fn every_address_has_a_reverse_name(v4 in any::<u32>(), v6 in any::<u128>()) {
        for address in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())] {
            prop_assert_eq!(ptr_address(ptr_name(address).as_ref()), Some(address));
        }
    }
}
