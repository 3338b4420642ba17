//! Writes replies: the header, the question as it was asked, a prepared body, the OPT record.
//!
//! Replies are written straight into the caller's buffer, so that an answer from the cache costs a
//! copy and a few patched bytes. Nothing the client sent but its id, its RD bit and its question
//! (same spelling, RFC 1035 4.1.2 and "0x20") comes back.

use std::fmt::{self, Write as _};
use std::time::Duration;

use portcullis_names::RecordType;
use portcullis_wire::dns::Edns;

/// Length of a message header, bytes (RFC 1035 4.1.1).
pub(crate) const HEADER_BYTES: usize = 12;

/// The UDP payload size that the gateway announces and the most it sends, bytes: what passes
/// everywhere without fragments (DNS flag day 2020).
pub(crate) const EDNS_BYTES: u16 = 1232;

/// What a client without EDNS takes over UDP, bytes (RFC 1035 2.3.4).
const PLAIN_UDP_BYTES: usize = 512;

/// The largest message over TCP, bytes.
pub(crate) const MAX_MESSAGE_BYTES: usize = u16::MAX as usize;

/// The longest extra text of an extended error, bytes.
const MAX_EDE_TEXT_BYTES: usize = 200;

/// How long a negative answer of our own may be cached, seconds: brief, since the policy may change
/// under the program's feet.
pub(crate) const OWN_NEGATIVE_TTL: u32 = 5;

/// An OPT record without options, bytes.
const OPT_BYTES: usize = 11;

/// Response codes (RFC 1035 4.1.1, RFC 6895).
pub(crate) mod rcode {
    pub(crate) const NO_ERROR: u8 = 0;
    pub(crate) const SERV_FAIL: u8 = 2;
    pub(crate) const NX_DOMAIN: u8 = 3;
    pub(crate) const REFUSED: u8 = 5;
}

/// The class IN.
const CLASS_IN: u16 = 1;

/// A pointer to the question's name, which always stands right behind the header.
const QUESTION_NAME: [u8; 2] = [0xC0, HEADER_BYTES as u8];

/// What of a query its reply needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplyContext<'q> {
    /// The client's message id.
    pub id: u16,
    /// The client's RD bit.
    pub recursion_desired: bool,
    /// The bytes of the question as asked; empty where there was none to read.
    pub question: &'q [u8],
    /// The client's EDNS.
    pub edns: Option<Edns>,
    /// Whether the reply goes over TCP.
    pub stream: bool,
}

impl ReplyContext<'_> {
    fn limit(&self) -> usize {
        match (self.stream, self.edns) {
            (true, _) => MAX_MESSAGE_BYTES,
            (false, None) => PLAIN_UDP_BYTES,
            (false, Some(edns)) => {
                usize::from(edns.udp_bytes).clamp(PLAIN_UDP_BYTES, usize::from(EDNS_BYTES))
            }
        }
    }

    fn opt_bytes(&self) -> usize {
        if self.edns.is_some() { OPT_BYTES } else { 0 }
    }
}

/// An extended error (RFC 8914) with its text.
pub(crate) struct Ede<'t> {
    /// The registered code: 15 Blocked, 21 Not Supported, ...
    pub code: u16,
    /// The text for the person who debugs.
    pub text: fmt::Arguments<'t>,
}

/// The sections behind the question, ready to be copied into any reply to the same question.
///
/// Pointers to the question's name stay right because the question's length is that of its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    pub rcode: u8,
    pub answers: u16,
    pub authorities: u16,
    /// The records of both sections.
    pub bytes: Box<[u8]>,
    /// Where in `bytes` each TTL stands.
    pub ttls: Box<[u16]>,
}

impl Body {
    /// The same records with another TTL, seconds.
    pub(crate) fn with_ttl(&self, ttl: u32) -> Body {
        let mut body = self.clone();
        for at in &self.ttls {
            let at = usize::from(*at);
            if let Some(slot) = body.bytes.get_mut(at..at + 4) {
                slot.copy_from_slice(&ttl.to_be_bytes());
            }
        }
        body
    }
}

/// Starts a reply: header and question. `counts` are the answer's and the authority's.
fn begin(out: &mut Vec<u8>, to: &ReplyContext<'_>, code: u8, counts: [u16; 2], truncated: bool) {
    const QR: u8 = 0x80;
    const TC: u8 = 0x02;
    const RD: u8 = 0x01;
    const RA: u8 = 0x80;
    out.clear();
    out.extend_from_slice(&to.id.to_be_bytes());
    let tc = if truncated { TC } else { 0 };
    let rd = if to.recursion_desired { RD } else { 0 };
    out.extend_from_slice(&[QR | tc | rd, RA | (code & 0x0F)]);
    let questions = u16::from(!to.question.is_empty());
    for count in [
        questions,
        counts[0],
        counts[1],
        u16::from(to.edns.is_some()),
    ] {
        out.extend_from_slice(&count.to_be_bytes());
    }
    out.extend_from_slice(to.question);
}

/// Writes the OPT record, with the extended error where one is given and fits.
fn finish(out: &mut Vec<u8>, to: &ReplyContext<'_>, high_code: u8, ede: Option<&Ede<'_>>) {
    const EDE_OPTION: u16 = 15;
    let Some(edns) = to.edns else {
        return;
    };
    out.push(0);
    out.extend_from_slice(&RecordType::OPT.number().to_be_bytes());
    out.extend_from_slice(&EDNS_BYTES.to_be_bytes());
    out.extend_from_slice(&[high_code, 0, if edns.dnssec_ok { 0x80 } else { 0 }, 0]);
    let length_at = out.len();
    out.extend_from_slice(&[0, 0]);
    let Some(ede) = ede else { return };
    let option_at = out.len();
    out.extend_from_slice(&EDE_OPTION.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&ede.code.to_be_bytes());
    let text_at = out.len();
    // The sink cuts at the limit; it never fails otherwise.
    let _ = Text {
        out,
        end: text_at + MAX_EDE_TEXT_BYTES,
    }
    .write_fmt(ede.text);
    if out.len() > to.limit() {
        out.truncate(text_at);
    }
    if out.len() > to.limit() {
        out.truncate(option_at);
        return;
    }
    let option = (out.len() - option_at - 4) as u16;
    out[option_at + 2..option_at + 4].copy_from_slice(&option.to_be_bytes());
    let length = (out.len() - option_at) as u16;
    out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
}

/// Writes text into a buffer up to a position.
struct Text<'b> {
    out: &'b mut Vec<u8>,
    end: usize,
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.end.saturating_sub(self.out.len());
        let mut cut = text.len().min(room);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        self.out.extend_from_slice(&text.as_bytes()[..cut]);
        Ok(())
    }
}

/// A reply without records: FORMERR, REFUSED, SERVFAIL. Codes above 15 stand in the OPT record.
pub(crate) fn bare(out: &mut Vec<u8>, to: &ReplyContext<'_>, code: u16, ede: Option<&Ede<'_>>) {
    begin(out, to, (code & 0x0F) as u8, [0, 0], false);
    finish(out, to, (code >> 4) as u8, ede);
}

/// A negative reply of our own, with an SOA so that it is cached briefly (RFC 2308).
pub(crate) fn negative(out: &mut Vec<u8>, to: &ReplyContext<'_>, code: u8, ede: Option<&Ede<'_>>) {
    begin(out, to, code, [0, 1], false);
    out.extend_from_slice(&QUESTION_NAME);
    own_soa(out);
    finish(out, to, 0, ede);
}

/// A positive reply with one record of our own.
pub(crate) fn one(
    out: &mut Vec<u8>,
    to: &ReplyContext<'_>,
    kind: RecordType,
    ttl: u32,
    data: &[u8],
) {
    begin(out, to, rcode::NO_ERROR, [1, 0], false);
    out.extend_from_slice(&QUESTION_NAME);
    record_tail(out, kind, ttl, data);
    finish(out, to, 0, None);
}

/// A prepared answer of the given age, its TTLs counted down; truncated to nothing (TC) where the
/// client cannot take it.
pub(crate) fn prepared(
    out: &mut Vec<u8>,
    to: &ReplyContext<'_>,
    body: &Body,
    age: Duration,
    ede: Option<&Ede<'_>>,
) {
    let total = HEADER_BYTES + to.question.len() + body.bytes.len() + to.opt_bytes();
    if total > to.limit() {
        begin(out, to, body.rcode, [0, 0], true);
        finish(out, to, 0, ede);
        return;
    }
    begin(out, to, body.rcode, [body.answers, body.authorities], false);
    let start = out.len();
    out.extend_from_slice(&body.bytes);
    let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
    if age > 0 {
        for at in &body.ttls {
            let at = start + usize::from(*at);
            if let Some(Ok(ttl)) = out.get(at..at + 4).map(<[u8; 4]>::try_from) {
                let left = u32::from_be_bytes(ttl).saturating_sub(age);
                out[at..at + 4].copy_from_slice(&left.to_be_bytes());
            }
        }
    }
    finish(out, to, 0, ede);
}

/// Type, class, TTL and data of a record whose owner is already written.
fn record_tail(out: &mut Vec<u8>, kind: RecordType, ttl: u32, data: &[u8]) {
    out.extend_from_slice(&kind.number().to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out.extend_from_slice(&ttl.to_be_bytes());
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(data);
}

/// The tail of the SOA record that stands in our own negative answers.
fn own_soa(out: &mut Vec<u8>) {
    const NAMES: &[u8] = b"\x07gateway\x0aportcullis\x08internal\x00\
                           \x0ahostmaster\x0aportcullis\x08internal\x00";
    let mut data = [0u8; NAMES.len() + 20];
    data[..NAMES.len()].copy_from_slice(NAMES);
    let numbers = [1u32, 3600, 600, 86_400, OWN_NEGATIVE_TTL];
    for (slot, number) in data[NAMES.len()..].chunks_exact_mut(4).zip(numbers) {
        slot.copy_from_slice(&number.to_be_bytes());
    }
    record_tail(out, RecordType::SOA, OWN_NEGATIVE_TTL, &data);
}

/// Splits an encoded message into the [`Body`] behind its question.
///
/// `None` for anything that is not a whole message with one question; this gateway wrote the
/// message itself, so that never happens, but a wrong offset would corrupt replies.
pub(crate) fn body_of(message: &[u8], code: u8, answers: u16, authorities: u16) -> Option<Body> {
    let start = skip_name(message, HEADER_BYTES)? + 4;
    let mut ttls = Vec::with_capacity(usize::from(answers) + usize::from(authorities));
    let mut at = start;
    for _ in 0..usize::from(answers) + usize::from(authorities) {
        at = skip_name(message, at)?;
        ttls.push(u16::try_from(at + 4 - start).ok()?);
        let length: [u8; 2] = message.get(at + 8..at + 10)?.try_into().ok()?;
        at += 10 + usize::from(u16::from_be_bytes(length));
    }
    if at != message.len() {
        return None;
    }
    Some(Body {
        rcode: code,
        answers,
        authorities,
        bytes: message.get(start..)?.into(),
        ttls: ttls.into(),
    })
}

/// The position behind the name at `at`.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xC0 == 0xC0 => return Some(at + 2),
            length if length & 0xC0 == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Message, ResponseCode};

    const QUESTION: &[u8] = b"\x01a\x07Example\x00\x00\x01\x00\x01";

    fn context(edns: Option<Edns>) -> ReplyContext<'static> {
        ReplyContext {
            id: 0xBEEF,
            recursion_desired: true,
            question: QUESTION,
            edns,
            stream: false,
        }
    }

    fn edns(udp_bytes: u16, dnssec_ok: bool) -> Option<Edns> {
        Some(Edns {
            udp_bytes,
            dnssec_ok,
        })
    }

    #[test]
    fn a_denial_carries_soa_and_ede_and_is_read_back_by_another_parser() {
        let mut out = Vec::new();
        let ede = Ede {
            code: 15,
            text: format_args!("not-in-allowlist; id={}", 7),
        };
        negative(
            &mut out,
            &context(edns(1232, true)),
            rcode::NX_DOMAIN,
            Some(&ede),
        );
        let message = Message::from_vec(&out).unwrap();
        assert_eq!(message.metadata.id, 0xBEEF);
        assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
        assert!(message.metadata.recursion_desired && message.metadata.recursion_available);
        assert!(!message.metadata.authoritative && !message.metadata.authentic_data);
        assert_eq!(message.authorities.len(), 1);
        assert_eq!(message.authorities[0].ttl, OWN_NEGATIVE_TTL);
        let echoed = message.edns.expect("EDNS is echoed");
        assert_eq!(echoed.max_payload(), EDNS_BYTES);
        let text = b"not-in-allowlist; id=7";
        assert!(out.windows(text.len()).any(|w| w == text));
    }

    #[test]
    fn no_edns_in_the_query_means_none_in_the_reply() {
        let mut out = Vec::new();
        let ede = Ede {
            code: 15,
            text: format_args!("x"),
        };
        negative(&mut out, &context(None), rcode::NX_DOMAIN, Some(&ede));
        let message = Message::from_vec(&out).unwrap();
        assert!(message.edns.is_none());
        assert_eq!(
            &out[HEADER_BYTES..HEADER_BYTES + QUESTION.len()],
            QUESTION,
            "same spelling"
        );
    }

    #[test]
    fn extra_text_is_cut_at_its_limit() {
        let mut out = Vec::new();
        let long = "ü".repeat(500);
        let ede = Ede {
            code: 15,
            text: format_args!("{long}"),
        };
        bare(
            &mut out,
            &context(edns(512, false)),
            rcode::SERV_FAIL.into(),
            Some(&ede),
        );
        assert!(out.len() <= 512);
        assert!(Message::from_vec(&out).is_ok());
    }

    #[test]
    fn an_answer_too_large_for_the_client_is_truncated_to_nothing() {
        let mut out = Vec::new();
        let mut data = [b'x'; 100];
        data[0] = 99;
        one(&mut out, &context(None), RecordType::TXT, 60, &data);
        let body = body_of(&out, rcode::NO_ERROR, 1, 0).unwrap();
        let big = Body {
            bytes: body.bytes.repeat(10).into(),
            answers: 10,
            ..body.clone()
        };
        prepared(&mut out, &context(None), &big, Duration::ZERO, None);
        let message = Message::from_vec(&out).unwrap();
        assert!(message.metadata.truncation && message.answers.is_empty());
        let stream = ReplyContext {
            stream: true,
            ..context(None)
        };
        prepared(&mut out, &stream, &big, Duration::ZERO, None);
        assert!(!Message::from_vec(&out).unwrap().metadata.truncation);
    }

    #[test]
    fn ttls_count_down_and_never_below_zero() {
        let mut out = Vec::new();
        one(&mut out, &context(None), RecordType::A, 60, &[192, 0, 2, 1]);
        let body = body_of(&out, rcode::NO_ERROR, 1, 0).unwrap();
        for (age, left) in [(0, 60), (25, 35), (61, 0), (u64::MAX, 0)] {
            prepared(
                &mut out,
                &context(None),
                &body,
                Duration::from_secs(age),
                None,
            );
            assert_eq!(Message::from_vec(&out).unwrap().answers[0].ttl, left);
        }
    }

    #[test]
    fn another_ttl_leaves_the_records_as_they_are() {
        let mut out = Vec::new();
        one(&mut out, &context(None), RecordType::A, 60, &[192, 0, 2, 1]);
        let body = body_of(&out, rcode::NO_ERROR, 1, 0).unwrap();
        let again = body.with_ttl(30);
        assert_eq!(again.with_ttl(60), body);
        prepared(&mut out, &context(None), &again, Duration::ZERO, None);
        let message = Message::from_vec(&out).unwrap();
        assert_eq!((message.answers.len(), message.answers[0].ttl), (1, 30));
    }

    #[test]
    fn a_cut_message_has_no_body() {
        let mut out = Vec::new();
        one(&mut out, &context(None), RecordType::A, 60, &[192, 0, 2, 1]);
        for end in 0..out.len() {
            assert_eq!(body_of(&out[..end], 0, 1, 0), None, "prefix of {end} bytes");
        }
        assert!(body_of(&out, 0, 1, 0).is_some());
    }
}
