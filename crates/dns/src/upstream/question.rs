//! A question as it goes out, and which messages answer it.
//!
//! Answers *resolution as a way out* (docs/threats.md): the message is new, made from the canonical
//! name and type and from nothing else; its id, and the case of its letters where the server bears
//! that ("0x20"), come from the operating system's randomness, and an answer must bring both back.

use std::io;

use portcullis_names::{NameRef, RecordType};

use crate::reply::{EDNS_BYTES, HEADER_BYTES};

/// Encrypted questions are padded to a multiple of this, bytes (RFC 8467 section 4.1): their length
/// says nothing of the name.
const PADDING_BLOCK_BYTES: usize = 128;

/// The padding option of EDNS (RFC 7830).
const PADDING_OPTION: u16 = 12;

/// The bit that tells upper from lower case in ASCII.
const CASE_BIT: u8 = 0x20;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub name: NameRef<'a>,
    pub qtype: RecordType,
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// Whether to announce EDNS; a server that answered FORMERR is asked again without.
    pub edns: bool,
    /// Whether to choose the case of each letter at random.
    pub mixed_case: bool,
    /// Whether to pad (needs EDNS).
    pub padded: bool,
}

/// How a message relates to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// It does not answer it.
    No,
    /// It answers it, but spells the name in another case.
    OtherCase,
    /// It answers it.
    Exact,
}

impl Question<'_> {
    /// A new query: random id, RD, one question.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub(super) fn write(self, form: Form) -> io::Result<Vec<u8>> {
        // An id, and a bit for each letter that a name can have.
        let mut random = [0u8; 2 + 32];
        let wanted = if form.mixed_case { random.len() } else { 2 };
        getrandom::fill(&mut random[..wanted]).map_err(io::Error::other)?;
        let (id, cases) = random.split_at(2);
        let mut out = Vec::with_capacity(2 * PADDING_BLOCK_BYTES);
        out.extend_from_slice(id);
        out.extend_from_slice(&[0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, u8::from(form.edns)]);
        let mut letter = 0;
        for label in self.name.labels() {
            // A canonical name's labels are at most 63 bytes, all of them at most 253.
            out.push(label.len() as u8);
            for byte in label.bytes() {
                let flip = form.mixed_case
                    && byte.is_ascii_lowercase()
                    && cases[letter / 8 % cases.len()] >> (letter % 8) & 1 == 1;
                out.push(if flip { byte ^ CASE_BIT } else { byte });
                letter += 1;
            }
        }
        out.push(0);
        out.extend_from_slice(&self.qtype.number().to_be_bytes());
        out.extend_from_slice(&[0, 1]);
        if form.edns {
            write_opt(&mut out, form.padded);
        }
        Ok(out)
    }
}

fn write_opt(out: &mut Vec<u8>, padded: bool) {
    out.push(0);
    out.extend_from_slice(&RecordType::OPT.number().to_be_bytes());
    out.extend_from_slice(&EDNS_BYTES.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    if !padded {
        out.extend_from_slice(&[0; 2]);
        return;
    }
    let bare = out.len() + 2 + 4;
    let padding = bare.next_multiple_of(PADDING_BLOCK_BYTES) - bare;
    out.extend_from_slice(&(padding as u16 + 4).to_be_bytes());
    out.extend_from_slice(&PADDING_OPTION.to_be_bytes());
    out.extend_from_slice(&(padding as u16).to_be_bytes());
    out.resize(out.len() + padding, 0);
}

/// How `answer` relates to the query `sent`: id, QR, opcode, and the same one question.
///
/// FORMERR and the like may come without the question (RFC 1035 does not ask for it); such an
/// error carries nothing, so the id alone is enough for it.
pub(super) fn matches(answer: &[u8], sent: &[u8]) -> Match {
    const QR: u8 = 0x80;
    const OPCODE: u8 = 0x78;
    if answer.len() < HEADER_BYTES || answer[..2] != sent[..2] {
        return Match::No;
    }
    if answer[2] & QR == 0 || answer[2] & OPCODE != 0 {
        return Match::No;
    }
    let code = answer[3] & 0x0F;
    let matched = match answer[4..6] {
        [0, 0] if code != 0 && code != 3 && answer[6..8] == [0, 0] => Some(Match::Exact),
        [0, 1] => same_question(answer, question_bytes(sent)),
        _ => None,
    };
    matched.unwrap_or(Match::No)
}

fn same_question(answer: &[u8], ours: &[u8]) -> Option<Match> {
    let theirs = answer.get(HEADER_BYTES..HEADER_BYTES + ours.len())?;
    if theirs == ours {
        return Some(Match::Exact);
    }
    // Type and class are numbers: no byte of theirs has a case.
    let split = ours.len().checked_sub(4)?;
    let same =
        theirs[..split].eq_ignore_ascii_case(&ours[..split]) && theirs[split..] == ours[split..];
    same.then_some(Match::OtherCase)
}

/// Whether a query's name has letters in upper case: an answer in lower case can be told from it.
pub(super) fn has_upper_case(sent: &[u8]) -> bool {
    let question = question_bytes(sent);
    let name = &question[..question.len().saturating_sub(4)];
    // Length bytes are at most 63, below the letters.
    name.iter().any(u8::is_ascii_uppercase)
}

/// The question of a query that [`Question::write`] made.
fn question_bytes(sent: &[u8]) -> &[u8] {
    let mut end = HEADER_BYTES;
    while let Some(&length) = sent.get(end) {
        end += 1 + usize::from(length);
        if length == 0 {
            break;
        }
    }
    sent.get(HEADER_BYTES..end + 4).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Message;
    use hickory_proto::rr;
    use portcullis_names::Name;

    const PLAIN: Form = Form {
        edns: true,
        mixed_case: false,
        padded: false,
    };

    fn query_for(name: &str, form: Form) -> Vec<u8> {
        let name = Name::from_policy(name).unwrap();
        let question = Question {
            name: name.as_ref(),
            qtype: RecordType::AAAA,
        };
        question.write(form).unwrap()
    }

    fn query(form: Form) -> Vec<u8> {
        query_for("www.example.org", form)
    }

    fn response(sent: &[u8]) -> Vec<u8> {
        let mut answer = sent.to_vec();
        answer[2] |= 0x80;
        answer
    }

    #[test]
    fn the_query_is_new_and_minimal() {
        let sent = query(PLAIN);
        let message = Message::from_vec(&sent).unwrap();
        assert_eq!(message.queries.len(), 1);
        assert_eq!(message.queries[0].query_type(), rr::RecordType::AAAA);
        assert_eq!(message.queries[0].name().to_ascii(), "www.example.org.");
        assert!(message.metadata.recursion_desired && !message.metadata.checking_disabled);
        let edns = message.edns.unwrap();
        assert_eq!(edns.max_payload(), EDNS_BYTES);
        assert!(edns.options().as_ref().is_empty());
        let bare = Form {
            edns: false,
            ..PLAIN
        };
        assert!(Message::from_vec(&query(bare)).unwrap().edns.is_none());
    }

    #[test]
    fn ids_are_fresh() {
        let ids: std::collections::HashSet<_> =
            (0..64).map(|_| query(PLAIN)[..2].to_vec()).collect();
        assert!(ids.len() > 50);
    }

    #[test]
    fn mixed_case_changes_letters_alone_and_each_time_anew() {
        let mixed = Form {
            mixed_case: true,
            ..PLAIN
        };
        let plain = query_for("a-1.b2.example.org", PLAIN);
        let mut spelt = std::collections::HashSet::new();
        for _ in 0..64 {
            let sent = query_for("a-1.b2.example.org", mixed);
            assert_eq!(sent.len(), plain.len());
            assert!(sent[HEADER_BYTES..].eq_ignore_ascii_case(&plain[HEADER_BYTES..]));
            assert_eq!(matches(&response(&sent), &sent), Match::Exact);
            spelt.insert(sent[HEADER_BYTES..].to_vec());
        }
        // 15 letters: 64 spellings, of 32,768.
        assert!(spelt.len() > 50, "{}", spelt.len());
        assert!(!has_upper_case(&plain));
    }

    #[test]
    fn rfc_8467_encrypted_queries_are_padded_to_128_bytes() {
        let padded = Form {
            padded: true,
            ..PLAIN
        };
        let long = format!("{0}.{0}.{0}.example", "x".repeat(60));
        for name in ["a.example", "www.example.org", &long] {
            let sent = query_for(name, padded);
            assert_eq!(sent.len() % PADDING_BLOCK_BYTES, 0, "{name}");
            let message = Message::from_vec(&sent).unwrap();
            assert_eq!(message.queries[0].name().to_ascii(), format!("{name}."));
            assert_eq!(message.edns.unwrap().options().as_ref().len(), 1);
        }
    }

    #[test]
    fn an_answer_must_match_id_question_and_opcode() {
        let sent = query(PLAIN);
        assert_eq!(matches(&response(&sent), &sent), Match::Exact);
        assert_eq!(matches(&sent, &sent), Match::No, "a query is no answer");
        for at in [0, 1] {
            let mut wrong = response(&sent);
            wrong[at] ^= 1;
            assert_eq!(matches(&wrong, &sent), Match::No, "id byte {at}");
        }
        let mut wrong = response(&sent);
        wrong[HEADER_BYTES + 1] = b'x';
        assert_eq!(matches(&wrong, &sent), Match::No, "another name");
        let mut wrong = response(&sent);
        wrong[2] |= 0x10;
        assert_eq!(matches(&wrong, &sent), Match::No, "another opcode");
        let mut upper = response(&sent);
        upper[HEADER_BYTES + 1] = b'W';
        assert_eq!(matches(&upper, &sent), Match::OtherCase);
        let mut wrong = response(&sent);
        let end = HEADER_BYTES + question_bytes(&sent).len();
        wrong[end - 3] = 1;
        assert_eq!(matches(&wrong, &sent), Match::No, "another type");
        for end in 0..end {
            let prefix = &response(&sent)[..end];
            assert_eq!(matches(prefix, &sent), Match::No, "prefix of {end} bytes");
        }
    }

    #[test]
    fn only_an_error_may_come_without_the_question() {
        let sent = query(PLAIN);
        let mut answer = response(&sent)[..HEADER_BYTES].to_vec();
        answer[4..12].fill(0);
        assert_eq!(matches(&answer, &sent), Match::No);
        answer[3] = 1;
        assert_eq!(matches(&answer, &sent), Match::Exact);
        answer[3] = 3;
        let said = matches(&answer, &sent);
        assert_eq!(said, Match::No, "an NXDOMAIN must say for what");
    }
}
