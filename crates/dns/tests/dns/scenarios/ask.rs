//! What a program asks in a scenario, and what it is answered.

use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;

use super::resolver::code_of;
use super::rr;
use super::tree::{Line, bytes, duration, quoted};
use crate::world::{ede, query};

/// How an OPT record begins: the root, and its type.
const OPT: [u8; 3] = [0, 0, 41];

/// A message on its way in.
pub struct Ask {
    pub message: Vec<u8>,
    pub tcp: bool,
    /// Whether it has EDNS: its reply must have it too, and otherwise must not.
    edns: bool,
}

impl Ask {
    /// What a line `ask TYPE NAME FLAGS` or `send BYTES` asks. `, N times` at its end repeats it
    /// with `#` in the name replaced by 1 to N.
    pub fn all_of(line: &Line) -> Vec<Ask> {
        let (text, times) = match line.text.split_once(", ") {
            None => (line.text.as_str(), None),
            Some((text, times)) => match times.strip_suffix(" times").map(str::parse) {
                Some(Ok(times)) => (text, Some(times)),
                _ => line.wrong("`, N times` was expected"),
            },
        };
        let one = |number: usize| {
            let text = text.replace('#', &number.to_string());
            Ask::new(line, &text.split_whitespace().collect::<Vec<_>>())
        };
        (1..=times.unwrap_or(1)).map(one).collect()
    }

    fn new(line: &Line, words: &[&str]) -> Ask {
        match words {
            ["send", rest @ ..] => {
                let (tcp, words) = match rest {
                    ["over", "TCP", words @ ..] => (true, words),
                    words => (false, words),
                };
                let message: Vec<u8> = bytes(line, words)
                    .into_iter()
                    .map(|byte| byte.known(line))
                    .collect();
                let edns = message.windows(3).any(|window| window == OPT);
                Ask { message, tcp, edns }
            }
            ["ask", kind, name, flags @ ..] => Ask::plain(line, (kind, name), flags),
            _ => line.wrong("ask TYPE NAME, or send BYTES"),
        }
    }

    fn plain(line: &Line, (kind, name): (&str, &str), flags: &[&str]) -> Ask {
        let tcp = flags.ends_with(&["over", "TCP"]);
        let flags = if tcp {
            &flags[..flags.len() - 2]
        } else {
            flags
        };
        let mut size = None;
        for flag in flags {
            match flag.strip_prefix("+edns") {
                Some("") => size = Some(1232),
                Some(rest) => match rest.strip_prefix('=').map(str::parse) {
                    Some(Ok(bytes)) => size = Some(bytes),
                    _ => line.wrong("+edns or +edns=BYTES"),
                },
                None => {}
            }
        }
        let mut message = query(name, kind_of(line, kind), size);
        for flag in flags {
            match *flag {
                "-rd" => message[2] &= !1,
                "+ad" => message[3] |= 0x20,
                "+cd" => message[3] |= 0x10,
                "+do" if size.is_some() => {
                    let at = message.len() - 4;
                    message[at] |= 0x80;
                }
                "+cookie" if size.is_some() => option(&mut message, 10, b"COOKIE-8"),
                "+subnet" if size.is_some() => option(&mut message, 8, b"\0\x01\x18\0\xC0\0\x02"),
                "+unknown" if size.is_some() => option(&mut message, 65_001, b"UNKNOWN8"),
                edns if edns.starts_with("+edns") => {}
                _ => line.wrong(format!("{flag}: no such flag, or it needs +edns before it")),
            }
        }
        Ask {
            message,
            tcp,
            edns: size.is_some(),
        }
    }
}

/// A type by its mnemonic, or `TYPE1234` (RFC 3597).
fn kind_of(line: &Line, text: &str) -> u16 {
    if let Some(Ok(number)) = text.strip_prefix("TYPE").map(str::parse) {
        return number;
    }
    match text.parse::<RecordType>() {
        Ok(kind) => kind.into(),
        Err(_) => line.wrong("no such record type"),
    }
}

/// Adds an EDNS option to a message that ends with its OPT record.
fn option(message: &mut Vec<u8>, code: u16, data: &[u8]) {
    // The OPT record begins at its root name: find the length of its data from there.
    let opt = message
        .windows(3)
        .rposition(|window| window == OPT)
        .expect("the message has an OPT record");
    message.extend_from_slice(&code.to_be_bytes());
    message.extend_from_slice(&(data.len() as u16).to_be_bytes());
    message.extend_from_slice(data);
    let length = (message.len() - opt - 11) as u16;
    message[opt + 9..opt + 11].copy_from_slice(&length.to_be_bytes());
}

/// What a scenario says about a reply.
#[derive(Default)]
struct Expected {
    code: Option<ResponseCode>,
    answers: Vec<String>,
    authorities: Option<Vec<String>>,
    ede: Option<(u16, String)>,
    truncated: bool,
    none: bool,
}

/// Compares a reply with the lines below its question. What they do not mention must not be there:
/// answers, an extended error, truncation.
pub fn check(line: &Line, ask: &Ask, reply: &[u8], took: Duration) {
    let mut expected = Expected::default();
    for part in &line.below {
        match part.words().as_slice() {
            ["answer", record @ ..] => {
                expected.answers.push(rr::show(&rr::parse(part, record)));
            }
            ["authority", rest @ ..] => {
                let all = expected.authorities.get_or_insert_default();
                all.push(rest.join(" "));
            }
            ["EDE", code, text @ ..] => match code.parse() {
                Ok(code) => expected.ede = Some((code, text.join(" "))),
                Err(_) => part.wrong("EDE NUMBER TEXT"),
            },
            ["truncated"] => expected.truncated = true,
            ["no", "reply"] => expected.none = true,
            ["after", time @ ..] => {
                if duration(part, time) != took {
                    part.wrong(format!("it took {} ms", took.as_millis()));
                }
            }
            ["nowhere", word] => {
                let text = quoted(word, '\'').unwrap_or_else(|| part.wrong("nowhere 'text'"));
                if reply.windows(text.len()).any(|w| w == text.as_bytes()) {
                    part.wrong("it stands in the reply");
                }
            }
            [code] => expected.code = Some(code_of(part, code)),
            _ => part.wrong("nothing that a reply could have"),
        }
    }
    if expected.none {
        if !reply.is_empty() {
            line.wrong("it was answered");
        }
        return;
    }
    let message = match Message::from_vec(reply) {
        Ok(message) => message,
        Err(error) => line.wrong(format!(
            "the reply {reply:02x?} is not well formed: {error}"
        )),
    };
    sections(line, &expected, &message);
    always(line, ask, reply, &message);
    let told = ede(reply);
    let fits = match (&expected.ede, &told) {
        (None, None) => true,
        (Some((code, text)), Some((their_code, their_text))) => {
            code == their_code && their_text.starts_with(text)
        }
        _ => false,
    };
    if !fits {
        line.wrong(format!("its extended error is {told:?}"));
    }
}

fn sections(line: &Line, expected: &Expected, message: &Message) {
    let code = message.metadata.response_code;
    match expected.code {
        // By number: 16 is BADVERS here, and another's BADSIG.
        Some(expected) if u16::from(expected) == u16::from(code) => {}
        Some(_) => line.wrong(format!("it was answered {code}")),
        None => line.wrong("say what it is answered: NOERROR, NXDOMAIN, ..."),
    }
    let answers: Vec<String> = message.answers.iter().map(rr::show).collect();
    if answers != expected.answers {
        line.wrong(format!("it was answered {answers:#?}"));
    }
    if message.metadata.truncation != expected.truncated {
        line.wrong(format!("TC is {}", message.metadata.truncation));
    }
    if let Some(expected) = &expected.authorities {
        let shown: Vec<String> = message.authorities.iter().map(rr::show).collect();
        let fits = shown.len() == expected.len()
            && shown
                .iter()
                .zip(expected)
                .all(|(s, e)| s.starts_with(e.as_str()));
        if !fits {
            line.wrong(format!("its authority section is {shown:#?}"));
        }
    }
    if !message.additionals.is_empty() {
        line.wrong("it has an additional section");
    }
}

/// What holds for every reply.
fn always(line: &Line, ask: &Ask, reply: &[u8], message: &Message) {
    let header = &message.metadata;
    if reply[..2] != ask.message[..2] {
        line.wrong("the reply has another id");
    }
    if reply[2] & 0x80 == 0 || header.authoritative || header.authentic_data {
        line.wrong("a forwarder answers with QR, and without AA and AD");
    }
    if !header.recursion_available || header.recursion_desired != (ask.message[2] & 1 == 1) {
        line.wrong("RA is set, and RD comes back as it was");
    }
    // A query that could not be read is answered without (RFC 6891 6.1.1).
    let unread = header.response_code == ResponseCode::FormErr && message.edns.is_none();
    if message.edns.is_some() != ask.edns && !unread {
        line.wrong("a reply has EDNS exactly if its query had (RFC 6891 7)");
    }
    let question = 12..12 + question_bytes(&ask.message);
    if message.queries.len() == 1 && reply.get(question.clone()) != ask.message.get(question) {
        line.wrong("the question does not come back as it was spelt");
    }
}

/// Length of the question behind the header: an uncompressed name, type and class.
fn question_bytes(message: &[u8]) -> usize {
    let mut at = 12;
    while let Some(&length) = message.get(at) {
        at += 1 + usize::from(length);
        if length == 0 {
            break;
        }
    }
    at + 4 - 12
}
