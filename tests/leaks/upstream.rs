//! What a resolver received, held byte by byte against the one message that the gateway may send: a
//! header, the question of a canonical name and type, and an OPT record of its own.

use portcullis_testkit::{DnsQuery, World, unhex};

/// EDNS as the gateway announces it: 1232 bytes, version 0, no flags, no options.
const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];
/// RD and nothing else; one question and one additional record.
const HEADER: [u8; 10] = [0x01, 0, 0, 1, 0, 0, 0, 0, 0, 1];
/// Bytes of the transaction id, the one part that chance decides.
const ID_BYTES: usize = 2;

/// The message for a name and type, behind its id.
fn canonical(name: &str, qtype: u16) -> Vec<u8> {
    let mut message = HEADER.to_vec();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).expect("a label"));
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(qtype.to_be_bytes());
    message.extend([0, 1]);
    message.extend(OPT);
    message
}

/// Fails the test unless this query is exactly the canonical message for its name and type. The
/// letters' case is the gateway's to choose (it may mix it, so that answers are harder to forge);
/// that the client's does not come along is for [`assert_case_is_not_the_client_s`].
#[track_caller]
pub fn assert_canonical(query: &DnsQuery) {
    let raw = unhex(&query.raw);
    let name = query.name.to_ascii_lowercase();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    assert!(name.bytes().all(plain), "no name of a policy: {query:?}");
    let expected = canonical(&name, query.qtype);
    let sent = raw.get(ID_BYTES..).unwrap_or_default();
    let letters = HEADER.len()..HEADER.len() + name.len() + 2;
    let mut lower = sent.to_vec();
    if let Some(spelled) = lower.get_mut(letters) {
        spelled.make_ascii_lowercase();
    }
    assert_eq!(
        lower, expected,
        "more or less than was to be said: {query:?}"
    );
}

/// The queries for names that contain `part`, each of them canonical; fails the test where there
/// is none, since then nothing was shown.
#[track_caller]
pub fn assert_all_canonical(world: &World, part: &str) -> Vec<DnsQuery> {
    let mine: Vec<DnsQuery> = world
        .dns_log()
        .into_iter()
        .filter(|query| query.name.to_ascii_lowercase().contains(part))
        .collect();
    assert!(!mine.is_empty(), "no query for {part} was sent");
    mine.iter().for_each(assert_canonical);
    mine
}

/// Fails the test if the names upstream are spelled as the client spelled them. Chance may spell one
/// or the other alike, so there must be a number of them.
#[track_caller]
pub fn assert_case_is_not_the_client_s(queries: &[DnsQuery], client: impl Fn(&str) -> String) {
    let alike = queries
        .iter()
        .filter(|query| query.name == client(&query.name.to_ascii_lowercase()))
        .count();
    assert!(queries.len() >= 20, "{} are too few to tell", queries.len());
    assert!(
        alike * 2 < queries.len(),
        "{alike} of {} are the client's",
        queries.len()
    );
}
