//! The guard against a second reader, hickory-proto's, as oracle: on a corpus of messages, on every
//! prefix of each, and on what chance makes of them.
//!
//! What the guard takes, hickory must take and understand alike: two readers that disagree on a
//! message are how a name is decided on that is not the name resolved. What the guard refuses and
//! hickory takes is refused on purpose, and each refusal must show in what hickory read.

#![forbid(unsafe_code)]

mod corpus;

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use proptest::prelude::*;

use corpus::{IN, IXFR, RD, corpus, header, opt};
use portcullis_wire::dns::{Answer, Query, QueryError, QueryErrorKind, guard_query};

/// The UDP size below which nobody means what he says (RFC 6891 section 6.2.3).
const MIN_UDP_BYTES: u16 = 512;

/// hickory's name in the guard's canonical spelling.
fn canonical(message: &Message) -> Option<String> {
    let name = message.queries.first()?.name().to_lowercase();
    let labels: Option<Vec<String>> = name
        .iter()
        .map(|label| String::from_utf8(label.to_vec()).ok())
        .collect();
    Some(labels?.join("."))
}

/// One message to both.
fn compare(message: &[u8]) -> Result<(), TestCaseError> {
    let theirs = Message::from_vec(message);
    match (guard_query(message), theirs) {
        (Ok(query), Ok(theirs)) => agree(&query, &theirs),
        (Ok(query), Err(error)) => {
            prop_assert!(
                !hickory_alone_refuses(message, &query),
                "the guard takes what hickory does not: {error}: {message:02x?}"
            );
            Ok(())
        }
        (Err(error), Ok(theirs)) => {
            prop_assert!(
                on_purpose(&error, &theirs, message),
                "{error:?} does not show in {theirs:?}: {message:02x?}"
            );
            Ok(())
        }
        (Err(_), Err(_)) => Ok(()),
    }
}

/// Whether hickory has no good reason to refuse what the guard took. Its reasons that are none of
/// the guard's business, because it reads nothing of what they are about:
/// - an option whose inside is wrong (a client subnet of no known family): options are walked over;
/// - the names in the data of the SOA that IXFR carries: a pointer there is not followed.
fn hickory_alone_refuses(message: &[u8], query: &Query) -> bool {
    if query.qtype.number() == IXFR && message.get(8..10) == Some(&[0, 1]) {
        return false;
    }
    // Without its options it is taken.
    let Some(edns) = query.edns else {
        return true;
    };
    let mut bare = message
        .get(..query.question.end)
        .unwrap_or_default()
        .to_vec();
    let flags = if edns.dnssec_ok { 0x8000 } else { 0 };
    bare.extend(opt(edns.udp_bytes, 0, flags, &[]));
    !Message::from_vec(&bare).is_ok_and(|theirs| agree(query, &theirs).is_ok())
}

fn agree(query: &Query, theirs: &Message) -> Result<(), TestCaseError> {
    let metadata = &theirs.metadata;
    prop_assert_eq!(metadata.message_type, MessageType::Query);
    prop_assert_eq!(metadata.op_code, OpCode::Query);
    let flags = (
        metadata.id,
        metadata.recursion_desired,
        metadata.authentic_data,
        metadata.checking_disabled,
    );
    let header = query.header;
    prop_assert_eq!(flags, (header.id, header.rd, header.ad, header.cd));
    prop_assert!(!metadata.truncation);
    prop_assert_eq!((theirs.queries.len(), theirs.answers.len()), (1, 0));
    let soas = theirs
        .authorities
        .iter()
        .filter(|one| one.record_type() == RecordType::SOA);
    prop_assert_eq!(soas.count(), theirs.authorities.len());
    prop_assert!(theirs.authorities.is_empty() || query.qtype.number() == IXFR);
    prop_assert!(theirs.additionals.is_empty(), "{:?}", theirs.additionals);
    prop_assert_eq!(canonical(theirs), Some(query.name.as_str().to_owned()));
    prop_assert_eq!(
        u16::from(theirs.queries[0].query_type()),
        query.qtype.number()
    );
    prop_assert_eq!(u16::from(theirs.queries[0].query_class()), query.qclass);
    let edns = theirs.edns.as_ref().map(|edns| {
        (
            edns.max_payload().max(MIN_UDP_BYTES),
            edns.flags().dnssec_ok,
            edns.version(),
        )
    });
    prop_assert_eq!(
        edns,
        query.edns.map(|edns| (edns.udp_bytes, edns.dnssec_ok, 0))
    );
    Ok(())
}

/// Whether a refusal of the guard shows in what hickory read.
fn on_purpose(error: &QueryError, theirs: &Message, message: &[u8]) -> bool {
    let question = theirs.queries.first();
    match &error.kind {
        QueryErrorKind::Short => message.len() < 12,
        QueryErrorKind::NotAQuery => theirs.metadata.message_type == MessageType::Response,
        QueryErrorKind::Opcode => theirs.metadata.op_code != OpCode::Query,
        QueryErrorKind::Counts => {
            theirs.queries.len() != 1
                || theirs.metadata.truncation
                || !theirs.answers.is_empty()
                || !theirs.authorities.is_empty()
        }
        QueryErrorKind::Authority => theirs.authorities.len() == 1,
        // hickory follows a pointer into the header, and reads numbers there as a name.
        QueryErrorKind::Question => {
            let name = message.get(12..).unwrap_or_default();
            let mut at = 0;
            while let Some(len @ 1..=63) = name.get(at) {
                at += 1 + usize::from(*len);
            }
            name.get(at).is_some_and(|len| *len >= 0xc0)
        }
        QueryErrorKind::Name(_) => {
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
            question.is_some_and(|question| {
                let name = question.name();
                let numeric = name.iter().next_back().is_some_and(|label| {
                    label.iter().all(u8::is_ascii_digit)
                        || label.to_ascii_lowercase().starts_with(b"0x")
                });
                let ace = name.iter().any(|label| {
                    label.to_ascii_lowercase().starts_with(b"xn--")
                        || label.get(2..4) == Some(b"--")
                });
                let hyphen = name
                    .iter()
                    .any(|label| label.starts_with(b"-") || label.ends_with(b"-"));
                name.is_root() || numeric || ace || hyphen || !name.iter().flatten().all(plain)
            })
        }
        QueryErrorKind::Class => question.is_some_and(|one| u16::from(one.query_class()) != IN),
        QueryErrorKind::EdnsVersion => theirs.edns.as_ref().is_some_and(|edns| edns.version() != 0),
        // Other records, two OPTs, bytes behind the message (which hickory leaves unread), an OPT
        // with a name of its own or options that do not add up (which it overlooks).
        QueryErrorKind::Additional => {
            let mut unread = BinDecoder::new(message);
            let read = Message::read(&mut unread).is_ok();
            let others = !theirs.additionals.is_empty() || theirs.signature.is_some();
            others || theirs.edns.is_some() || (read && !unread.is_empty())
        }
        // An error of a later version has to be thought of here first.
        _ => false,
    }
}

#[test]
fn both_read_every_message_of_the_corpus_alike() {
    for (name, message) in corpus() {
        if let Err(error) = compare(&message) {
            panic!("{name}: {error}");
        }
    }
}

#[test]
fn every_prefix_of_every_message_is_read_alike_and_none_of_a_good_one_is_taken() {
    for (name, message) in corpus() {
        let good = guard_query(&message).is_ok();
        for len in 0..message.len() {
            let prefix = &message[..len];
            if let Err(error) = compare(prefix) {
                panic!("{name}, {len} bytes: {error}");
            }
            match guard_query(prefix) {
                Ok(_) => assert!(!good, "{name}: {len} of {} bytes are taken", message.len()),
                Err(error) => assert_eq!(
                    error.answer == Answer::Drop,
                    len < 12 || message[2] & 0x80 != 0,
                    "{name}, {len} bytes"
                ),
            }
        }
    }
}

/// What happens to a message on its way: `(where, what, with which byte)`.
type Change = (prop::sample::Index, u8, u8);

fn changed(mut message: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for (index, what, byte) in changes {
        let at = index.index(message.len() + 1);
        match what % 6 {
            0 if at < message.len() => message[at] = *byte,
            1 if at < message.len() => message[at] ^= 1 << (byte % 8),
            2 => message.insert(at, *byte),
            3 if at < message.len() => drop(message.remove(at)),
            4 => message.truncate(at),
            _ => {
                let end = (at + usize::from(*byte)).min(message.len());
                message.extend_from_within(at.min(end)..end);
            }
        }
    }
    message
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn both_read_whatever_chance_makes_of_them_alike(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 0..6),
    ) {
        thread_local! {
            static CORPUS: Vec<Vec<u8>> = corpus().into_values().collect();
        }
        let message = CORPUS.with(|corpus| which.get(corpus).clone());
        compare(&changed(message, &changes))?;
    }

    #[test]
    fn both_read_arbitrary_bytes_alike(
        front in prop_oneof![Just(vec![]), Just(header(1, RD, [1, 0, 0, 0])), Just(header(1, RD, [1, 0, 0, 1]))],
        rest in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        compare(&[front, rest].concat())?;
    }
}
