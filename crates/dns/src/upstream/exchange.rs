//! One question to one upstream resolver, over UDP and, where the answer is too long, TCP.
//!
//! Answers "resolution as a way out" and answer spoofing: the message is new, made from the
//! canonical name and type; each goes out from its own socket on a port the kernel picks at random,
//! connected to the server so that nobody else's datagrams arrive, with an id from the operating
//! system's randomness. Only a response from that socket with that id for that question counts.

use std::io;
use std::net::SocketAddr;

use hickory_proto::op::{Message, ResponseCode};
use portcullis_names::NameRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::network::Network;
use crate::reply::{EDNS_BYTES, HEADER_BYTES, rtype};

/// Room for an answer over UDP, bytes: more than we announce, since some servers ignore it.
const UDP_BUFFER_BYTES: usize = 4096;

/// Wrong datagrams read on one socket before the attempt is given up: somebody is guessing.
const MAX_WRONG_DATAGRAMS: usize = 32;

/// Why one exchange brought no usable answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// The socket failed; ECONNREFUSED is the server's port unreachable.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server answered with an error.
    #[error("it answered {0}")]
    Code(ResponseCode),
    /// The answer could not be read.
    #[error("its answer is not well formed")]
    Malformed,
    /// Datagrams kept arriving that did not answer the question.
    #[error("its answers did not match the question")]
    Mismatch,
}

/// A question as it goes out; written anew for each exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub name: NameRef<'a>,
    pub qtype: u16,
    /// Whether to announce EDNS; a server that answered FORMERR is asked again without.
    pub edns: bool,
}

/// Asks `server` and waits for its answer; the caller sets the time limit by dropping the future.
pub(super) async fn ask(
    network: &dyn Network,
    server: SocketAddr,
    question: Question<'_>,
) -> Result<Message, ExchangeError> {
    let answer = over_udp(network, server, question).await?;
    let message = match Message::from_vec(&answer) {
        Ok(message) if !message.metadata.truncation => message,
        // What is left of a truncated answer need not be readable.
        _ if answer[2] & 0x02 != 0 => over_tcp(network, server, question).await?,
        Ok(message) => message,
        Err(_) => return Err(ExchangeError::Malformed),
    };
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(message),
        code => Err(ExchangeError::Code(code)),
    }
}

async fn over_udp(
    network: &dyn Network,
    server: SocketAddr,
    question: Question<'_>,
) -> Result<Vec<u8>, ExchangeError> {
    let socket = network.udp(server).await?;
    let sent = write_query(question)?;
    socket.send(&sent).await?;
    let mut answer = vec![0; UDP_BUFFER_BYTES];
    for _ in 0..MAX_WRONG_DATAGRAMS {
        let length = socket.recv(&mut answer).await?;
        if answers(&answer[..length], &sent) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
    Err(ExchangeError::Mismatch)
}

async fn over_tcp(
    network: &dyn Network,
    server: SocketAddr,
    question: Question<'_>,
) -> Result<Message, ExchangeError> {
    let mut stream = network.stream(server).await?;
    let sent = write_query(question)?;
    let mut frame = Vec::with_capacity(sent.len() + 2);
    frame.extend_from_slice(&(sent.len() as u16).to_be_bytes());
    frame.extend_from_slice(&sent);
    stream.write_all(&frame).await?;
    let length = usize::from(stream.read_u16().await?);
    if length < HEADER_BYTES {
        return Err(ExchangeError::Malformed);
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    if !answers(&answer, &sent) {
        return Err(ExchangeError::Mismatch);
    }
    Message::from_vec(&answer).map_err(|_| ExchangeError::Malformed)
}

/// A new query: random id, RD, one question, EDNS without options.
fn write_query(question: Question<'_>) -> io::Result<Vec<u8>> {
    let mut id = [0u8; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let mut out = Vec::with_capacity(HEADER_BYTES + question.name.as_str().len() + 17);
    out.extend_from_slice(&id);
    out.extend_from_slice(&[0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, u8::from(question.edns)]);
    for label in question.name.labels() {
        // A canonical name's labels are at most 63 bytes.
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&question.qtype.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    if question.edns {
        out.push(0);
        out.extend_from_slice(&rtype::OPT.to_be_bytes());
        out.extend_from_slice(&EDNS_BYTES.to_be_bytes());
        out.extend_from_slice(&[0; 6]);
    }
    Ok(out)
}

/// Whether `answer` is a response to the query `sent`: id, QR, opcode, and the same one question.
///
/// FORMERR and the like may come without the question (RFC 1035 does not ask for it); such an
/// error carries nothing, so the id alone is enough for it.
fn answers(answer: &[u8], sent: &[u8]) -> bool {
    const QR: u8 = 0x80;
    const OPCODE: u8 = 0x78;
    if answer.len() < HEADER_BYTES || answer[..2] != sent[..2] {
        return false;
    }
    if answer[2] & QR == 0 || answer[2] & OPCODE != 0 {
        return false;
    }
    let code = answer[3] & 0x0F;
    match answer[4..6] {
        [0, 0] => code != 0 && code != 3 && answer[6..8] == [0, 0],
        [0, 1] => {
            let question_bytes = question_bytes(sent);
            let theirs = answer.get(HEADER_BYTES..HEADER_BYTES + question_bytes.len());
            // Servers may change the case of the name; type and class bytes are no letters that
            // case could confuse (types of this gateway's questions are below 0x41 or have a zero
            // high byte and are compared below).
            theirs.is_some_and(|theirs| {
                let split = question_bytes.len() - 4;
                theirs[..split].eq_ignore_ascii_case(&question_bytes[..split])
                    && theirs[split..] == question_bytes[split..]
            })
        }
        _ => false,
    }
}

/// The question of a query that [`write_query`] made.
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
    use hickory_proto::rr::RecordType;
    use portcullis_names::Name;

    fn query(edns: bool) -> Vec<u8> {
        let name = Name::from_policy("www.example.org").unwrap();
        write_query(Question {
            name: name.as_ref(),
            qtype: rtype::AAAA,
            edns,
        })
        .unwrap()
    }

    fn response(sent: &[u8]) -> Vec<u8> {
        let mut answer = sent.to_vec();
        answer[2] |= 0x80;
        answer
    }

    #[test]
    fn the_query_is_new_and_minimal() {
        let sent = query(true);
        let message = Message::from_vec(&sent).unwrap();
        assert_eq!(message.queries.len(), 1);
        assert_eq!(message.queries[0].query_type(), RecordType::AAAA);
        assert_eq!(message.queries[0].name().to_ascii(), "www.example.org.");
        assert!(message.metadata.recursion_desired && !message.metadata.checking_disabled);
        let edns = message.edns.unwrap();
        assert_eq!(edns.max_payload(), EDNS_BYTES);
        assert!(edns.options().as_ref().is_empty());
        assert!(Message::from_vec(&query(false)).unwrap().edns.is_none());
    }

    #[test]
    fn ids_are_fresh() {
        let ids: std::collections::HashSet<_> =
            (0..64).map(|_| query(true)[..2].to_vec()).collect();
        assert!(ids.len() > 50);
    }

    #[test]
    fn an_answer_must_match_id_question_and_opcode() {
        let sent = query(true);
        assert!(answers(&response(&sent), &sent));
        assert!(!answers(&sent, &sent), "a query is no answer");
        for at in [0, 1] {
            let mut wrong = response(&sent);
            wrong[at] ^= 1;
            assert!(!answers(&wrong, &sent), "id byte {at}");
        }
        let mut wrong = response(&sent);
        wrong[HEADER_BYTES + 1] = b'x';
        assert!(!answers(&wrong, &sent), "another name");
        let mut wrong = response(&sent);
        wrong[2] |= 0x10;
        assert!(!answers(&wrong, &sent), "another opcode");
        let mut upper = response(&sent);
        upper[HEADER_BYTES + 1] = b'W';
        assert!(answers(&upper, &sent), "case is no difference");
        let mut wrong = response(&sent);
        let end = HEADER_BYTES + question_bytes(&sent).len();
        wrong[end - 3] = 1;
        assert!(!answers(&wrong, &sent), "another type");
        for end in 0..end {
            assert!(
                !answers(&response(&sent)[..end], &sent),
                "prefix of {end} bytes"
            );
        }
    }

    #[test]
    fn only_an_error_may_come_without_the_question() {
        let sent = query(true);
        let mut answer = response(&sent)[..HEADER_BYTES].to_vec();
        answer[4..12].fill(0);
        assert!(!answers(&answer, &sent));
        answer[3] = 1;
        assert!(answers(&answer, &sent));
        answer[3] = 3;
        assert!(!answers(&answer, &sent), "an NXDOMAIN must say for what");
    }
}
