//! Reading one query (RFC 1035 section 4, RFC 6891).

use std::ops::Range;

use portcullis_names::{NameBuf, NameError, RecordType};

use crate::cursor::Cursor;

const HEADER_BYTES: usize = 12;
/// Longest name on the wire, in bytes, with its length bytes and root (RFC 1035 section 2.3.4).
const MAX_WIRE_NAME_BYTES: usize = 255;
/// Most labels that fit: 127 of one byte each.
const MAX_LABELS: usize = 127;
const CLASS_IN: u16 = 1;
/// The smallest UDP size that is believed (RFC 6891 section 6.2.3).
const MIN_UDP_BYTES: u16 = 512;

/// A query that may be decided on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Query {
    /// What the answer's header echoes.
    pub header: Header,
    /// The name, canonical.
    pub name: NameBuf,
    /// The type asked for.
    pub qtype: RecordType,
    /// The class; always IN (1), others are refused.
    pub qclass: u16,
    /// Where the question stands in the message: to be echoed byte by byte, since clients check
    /// that their mixture of cases comes back.
    pub question: Range<usize>,
    /// EDNS, if the query has it.
    pub edns: Option<Edns>,
}

/// Fields of a query's header that its answer echoes or obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// The client's transaction id; only for the answer, never for a query upstream.
    pub id: u16,
    /// The opcode; 0 in a [`Query`].
    pub opcode: u8,
    /// Recursion desired.
    pub rd: bool,
    /// Checking disabled.
    pub cd: bool,
    /// Authentic data understood (RFC 6840 section 5.7).
    pub ad: bool,
}

/// What the client says by EDNS(0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// Largest UDP answer it takes, in bytes, at least 512.
    pub udp_bytes: u16,
    /// DNSSEC OK.
    pub dnssec_ok: bool,
}

/// Why a message is not decided on, and how to answer it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct QueryError {
    /// What is wrong with it.
    pub kind: QueryErrorKind,
    /// What to answer the client.
    pub answer: Answer,
    /// What the answer's header echoes, as far as it was read.
    pub header: Header,
    /// Where the question stands, if it could be read; else the answer has none.
    pub question: Option<Range<usize>>,
    /// EDNS, if it could be read: an answer carries an OPT record exactly if the query did.
    pub edns: Option<Edns>,
}

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryErrorKind {
    /// Under twelve bytes.
    #[error("the message is shorter than a DNS header")]
    Short,
    /// An answer, not a query; answering it could start a loop.
    #[error("the message is an answer, not a query")]
    NotAQuery,
    /// UPDATE, NOTIFY, STATUS and the like.
    #[error("the opcode is not QUERY")]
    Opcode,
    /// None or several, or answer or authority records in a query.
    #[error("the query does not have exactly one question and nothing else")]
    Counts,
    /// An IXFR query whose authority section is not the SOA of the zone asked for (RFC 1995
    /// section 3).
    #[error("the authority section of an IXFR query is malformed")]
    Authority,
    /// The question does not parse, or its name is compressed.
    #[error("the question is malformed")]
    Question,
    /// The name is not one that can be listed.
    #[error("the question's name is refused: {0}")]
    Name(NameError),
    /// CHAOS, HESIOD, ANY.
    #[error("the class is not IN")]
    Class,
    /// Something other than one good OPT record behind the question.
    #[error("the additional section is malformed")]
    Additional,
    /// A version of EDNS that nobody has defined.
    #[error("the EDNS version is not 0")]
    EdnsVersion,
}

/// How to answer a message that is not decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Not at all.
    Drop,
    /// RCODE 1.
    FormErr,
    /// RCODE 3.
    NxDomain,
    /// RCODE 4.
    NotImp,
    /// RCODE 5.
    Refused,
    /// Extended RCODE 16 (RFC 6891 section 6.1.3).
    BadVers,
}

impl Answer {
    /// The RCODE; its upper eight bits belong in the OPT record. `None` for no answer at all.
    pub fn rcode(self) -> Option<u16> {
        match self {
            Answer::Drop => None,
            Answer::FormErr => Some(1),
            Answer::NxDomain => Some(3),
            Answer::NotImp => Some(4),
            Answer::Refused => Some(5),
            Answer::BadVers => Some(16),
        }
    }
}

/// Reads one message from a client.
///
/// # Errors
/// [`QueryError`] for whatever is not a plain query for one name; it carries all that is needed to
/// answer it.
pub fn guard_query(message: &[u8]) -> Result<Query, QueryError> {
    let mut at = Cursor::new(message);
    let mut refused = QueryError {
        kind: QueryErrorKind::Short,
        answer: Answer::Drop,
        header: Header::default(),
        question: None,
        edns: None,
    };
    let Some(counts) = read_header(&mut at, &mut refused.header) else {
        return Err(refused);
    };
    let header = refused.header;
    let fail = |kind, answer| {
        Err(QueryError {
            kind,
            answer,
            header,
            question: None,
            edns: None,
        })
    };
    if counts.answer {
        return fail(QueryErrorKind::NotAQuery, Answer::Drop);
    }
    if refused.header.opcode != 0 {
        return fail(QueryErrorKind::Opcode, Answer::NotImp);
    }
    if counts.questions != 1 || counts.truncated || counts.answers != 0 || counts.authorities > 1 {
        return fail(QueryErrorKind::Counts, Answer::FormErr);
    }
    let Some(question) = read_question(&mut at) else {
        return fail(QueryErrorKind::Question, Answer::FormErr);
    };
    if counts.authorities == 1 && question.qtype != RecordType::IXFR {
        return fail(QueryErrorKind::Counts, Answer::FormErr);
    }
    let range = HEADER_BYTES..message.len() - at.remaining();
    refused.question = Some(range.clone());
    if counts.authorities == 1 && read_soa(&mut at, &question).is_none() {
        return Err(QueryError {
            kind: QueryErrorKind::Authority,
            answer: Answer::FormErr,
            ..refused
        });
    }
    let opt = match read_additional(&mut at, counts.additionals) {
        Ok(opt) => opt,
        Err(kind) => {
            return Err(QueryError {
                kind,
                answer: Answer::FormErr,
                ..refused
            });
        }
    };
    refused.edns = opt.map(|opt| opt.edns);
    if opt.is_some_and(|opt| opt.version != 0) {
        return Err(QueryError {
            kind: QueryErrorKind::EdnsVersion,
            answer: Answer::BadVers,
            ..refused
        });
    }
    if question.qclass != CLASS_IN {
        return Err(QueryError {
            kind: QueryErrorKind::Class,
            answer: Answer::Refused,
            ..refused
        });
    }
    let name = match NameBuf::from_wire(question.labels()) {
        Ok(name) => name,
        Err(why) => {
            // The root is a name that exists; we do not speak for it. Others could never be
            // listed, so for the client they do not exist.
            let answer = match why {
                NameError::Root => Answer::Refused,
                _ => Answer::NxDomain,
            };
            return Err(QueryError {
                kind: QueryErrorKind::Name(why),
                answer,
                ..refused
            });
        }
    };
    Ok(Query {
        header: refused.header,
        name,
        qtype: question.qtype,
        qclass: question.qclass,
        question: range,
        edns: refused.edns,
    })
}

/// The header's flags and counts that decide whether to read on.
struct Counts {
    answer: bool,
    truncated: bool,
    questions: u16,
    answers: u16,
    authorities: u16,
    additionals: u16,
}

fn read_header(at: &mut Cursor<'_>, header: &mut Header) -> Option<Counts> {
    let mut fields = Cursor::new(at.take(HEADER_BYTES)?);
    header.id = fields.u16()?;
    let flags = fields.u16()?;
    header.opcode = ((flags >> 11) & 0x0f) as u8;
    header.rd = flags & 0x0100 != 0;
    header.ad = flags & 0x0020 != 0;
    header.cd = flags & 0x0010 != 0;
    Some(Counts {
        answer: flags & 0x8000 != 0,
        truncated: flags & 0x0200 != 0,
        questions: fields.u16()?,
        answers: fields.u16()?,
        authorities: fields.u16()?,
        additionals: fields.u16()?,
    })
}

struct Question<'a> {
    /// The labels with their length bytes, without the root.
    wire: &'a [u8],
    qtype: RecordType,
    qclass: u16,
}

impl<'a> Question<'a> {
    fn labels(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut at = Cursor::new(self.wire);
        std::iter::from_fn(move || at.vec8())
    }
}

/// Reads the question. A compression pointer would have nothing to point at but itself or the
/// header: it is malformed.
fn read_question<'a>(at: &mut Cursor<'a>) -> Option<Question<'a>> {
    let start = *at;
    let mut bytes = 0;
    for _ in 0..=MAX_LABELS {
        let len = usize::from(at.u8()?);
        if len == 0 {
            let wire = { start }.take(bytes)?;
            return Some(Question {
                wire,
                qtype: at.u16()?.into(),
                qclass: at.u16()?,
            });
        }
        if len > 63 {
            return None; // a pointer, or a label type that nobody uses
        }
        at.take(len)?;
        bytes += 1 + len;
        if bytes + 1 > MAX_WIRE_NAME_BYTES {
            return None;
        }
    }
    None
}

/// Reads the one record that a query may carry besides OPT: the SOA of the zone that IXFR asks for
/// (RFC 1995 section 3). Nothing of it is used; it is read so that the query is known for what it
/// is, and is refused as a transfer.
fn read_soa(at: &mut Cursor<'_>, question: &Question<'_>) -> Option<()> {
    /// Serial, refresh, retry, expire, minimum.
    const NUMBERS_BYTES: usize = 5 * 4;
    if at.peek() == Some(POINTER) {
        // To the question: there is no other name in front of it.
        (usize::from(at.u16()? & 0x3fff) == HEADER_BYTES).then_some(())?;
    } else {
        let owner = at.take(question.wire.len())?;
        (owner.eq_ignore_ascii_case(question.wire) && at.u8()? == 0).then_some(())?;
    }
    (at.u16()? == RecordType::SOA.number() && at.u16()? == CLASS_IN).then_some(())?;
    let _ttl = at.take(4)?;
    let mut data = Cursor::new(at.vec16()?);
    skip_name(&mut data)?;
    skip_name(&mut data)?;
    data.take(NUMBERS_BYTES)?;
    data.is_empty().then_some(())
}

/// The first byte of a compression pointer to the beginning of a message.
const POINTER: u8 = 0xc0;

/// Steps over a name that may end in a compression pointer; the pointer is not followed.
fn skip_name(at: &mut Cursor<'_>) -> Option<()> {
    let mut bytes = 1;
    while bytes <= MAX_WIRE_NAME_BYTES {
        match at.u8()? {
            0 => return Some(()),
            len @ 1..=63 => {
                at.take(usize::from(len))?;
                bytes += 1 + usize::from(len);
            }
            POINTER.. => return at.u8().map(|_| ()),
            _ => return None,
        }
    }
    None
}

/// An OPT record.
#[derive(Clone, Copy)]
struct Opt {
    edns: Edns,
    version: u8,
}

/// Reads what stands behind the question: nothing, or one OPT record.
fn read_additional(at: &mut Cursor<'_>, count: u16) -> Result<Option<Opt>, QueryErrorKind> {
    let opt = match count {
        0 => None,
        1 => Some(read_opt(at).ok_or(QueryErrorKind::Additional)?),
        _ => return Err(QueryErrorKind::Additional),
    };
    match at.is_empty() {
        true => Ok(opt),
        false => Err(QueryErrorKind::Additional),
    }
}

/// An OPT record (RFC 6891 section 6.1.2); its options are walked over, not used.
fn read_opt(at: &mut Cursor<'_>) -> Option<Opt> {
    if at.u8()? != 0 || at.u16()? != RecordType::OPT.number() {
        return None;
    }
    let udp_bytes = at.u16()?.max(MIN_UDP_BYTES);
    let _extended_rcode = at.u8()?;
    let version = at.u8()?;
    let flags = at.u16()?;
    let mut options = Cursor::new(at.vec16()?);
    while !options.is_empty() {
        options.u16()?;
        options.vec16()?;
    }
    let edns = Edns {
        udp_bytes,
        dnssec_ok: flags & 0x8000 != 0,
    };
    Some(Opt { edns, version })
}
