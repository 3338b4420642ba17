//! The start-up check: before the command starts, one probe must be refused and one answered.
//!
//! Answers *failing open* (docs/threats.md): rules that were not applied, a gateway that does not
//! serve. Both probes are in flight at once and nothing sleeps.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType, connect, recv, send, sockopt};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{At, SandboxError, Step};
use crate::listeners::{self, DNS_PORT};
use crate::spec::Addresses;
use crate::sys;

/// How long the resolver may take to answer the probe.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a refusal may take; it is the kernel's and takes microseconds.
const REFUSAL_TIMEOUT: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// Random bytes in the probe's name; the name has two characters for each.
const NONCE_BYTES: usize = 8;
/// The length of a DNS header, in bytes.
const DNS_HEADER_BYTES: usize = 12;
/// Room for the answer, in bytes.
const ANSWER_BYTES: usize = 1232;
/// The parent of every probe's name.
const PROBE_LABELS: [&str; 3] = ["probe", "portcullis", "internal"];
const TYPE_TXT: u8 = 16;
const CLASS_IN: u8 = 1;

/// A question under way.
pub(crate) struct Question {
    socket: OwnedFd,
    query: Vec<u8>,
}

/// Asks the resolver inside for a fresh name below `probe.portcullis.internal`.
///
/// It can be sent before the gateway serves: the datagram waits at the listener.
pub(crate) fn ask(addresses: &Addresses) -> Result<Question, SandboxError> {
    let mut random = [0_u8; NONCE_BYTES + 2];
    getrandom(&mut random, GetRandomFlags::empty()).at(Step::ProbeAnswered, "random bytes")?;
    let query = query(&random);
    let socket = listeners::open(true, SocketType::DGRAM).at(Step::ProbeAnswered, "socket")?;
    let resolver = SocketAddr::new(IpAddr::V4(addresses.resolver4), DNS_PORT);
    connect(&socket, &resolver).at(Step::ProbeAnswered, "connect")?;
    send(&socket, &query, SendFlags::NOSIGNAL).at(Step::ProbeAnswered, "send")?;
    Ok(Question { socket, query })
}

impl Question {
    /// Waits for the answer.
    pub(crate) fn answered(self) -> Result<(), SandboxError> {
        let mut answer = [0_u8; ANSWER_BYTES];
        if !sys::poll_readable(self.socket.as_fd(), Some(ANSWER_TIMEOUT))
            .at(Step::ProbeAnswered, "poll")?
        {
            return Err(SandboxError::refused(
                Step::ProbeAnswered,
                "no answer within 2 s",
            ));
        }
        let (got, _) = recv(&self.socket, &mut answer, RecvFlags::empty())
            .at(Step::ProbeAnswered, "receive")?;
        if answers(&self.query, &answer[..got]) {
            Ok(())
        } else {
            Err(SandboxError::refused(
                Step::ProbeAnswered,
                "the answer does not match the question",
            ))
        }
    }
}

/// Connects to an address that must be refused.
pub(crate) fn refused(destination: SocketAddr) -> Result<(), SandboxError> {
    let socket = listeners::open(destination.is_ipv4(), SocketType::STREAM)
        .at(Step::ProbeRefused, "socket")?;
    let error = match connect(&socket, &destination) {
        Err(Errno::INPROGRESS) => {
            let mut set = [PollFd::new(&socket, PollFlags::OUT)];
            poll(&mut set, Some(&REFUSAL_TIMEOUT)).at(Step::ProbeRefused, "poll")?;
            sockopt::socket_error(&socket).at(Step::ProbeRefused, "status")?
        }
        result => result,
    };
    match error {
        Err(Errno::CONNREFUSED) => Ok(()),
        Err(error) => Err(SandboxError::refused(
            Step::ProbeRefused,
            format!("connecting to {destination} failed with: {error}"),
        )),
        Ok(()) => Err(SandboxError::refused(
            Step::ProbeRefused,
            format!("a connection to {destination} was not refused"),
        )),
    }
}

/// A query for `<16 hex digits>.probe.portcullis.internal TXT`; two random bytes are its id.
fn query(random: &[u8; NONCE_BYTES + 2]) -> Vec<u8> {
    let mut out = vec![random[0], random[1], 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let mut nonce = String::with_capacity(NONCE_BYTES * 2);
    for byte in &random[2..] {
        nonce.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        nonce.push(char::from_digit(u32::from(byte & 0xf), 16).unwrap_or('0'));
    }
    for label in [nonce.as_str()].into_iter().chain(PROBE_LABELS) {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.extend_from_slice(&[0, 0, TYPE_TXT, 0, CLASS_IN]);
    out
}

/// Whether these bytes are an answer without error to the query: its id, its question.
fn answers(query: &[u8], answer: &[u8]) -> bool {
    let (Some(header), Some(question)) = (
        answer.get(..DNS_HEADER_BYTES),
        answer.get(DNS_HEADER_BYTES..query.len()),
    ) else {
        return false;
    };
    let response = header[2] & 0x80 != 0;
    let code = header[3] & 0x0f;
    header[..2] == query[..2]
        && response
        && code == 0
        && header[4..6] == [0, 1]
        && question.eq_ignore_ascii_case(&query[DNS_HEADER_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_to_the_very_question_counts() {
        let query = query(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 0xab]);
        assert!(query.windows(16).any(|part| part == b"03040506070809ab"));
        let mut answer = query.clone();
        assert!(!answers(&query, &answer), "the query itself is no answer");
        answer[2] |= 0x80;
        assert!(answers(&query, &answer));
        for end in 0..answer.len() {
            assert!(!answers(&query, &answer[..end]), "{end}");
        }
        let mut wrong = answer.clone();
        wrong[0] ^= 1;
        assert!(!answers(&query, &wrong), "another id");
        let mut wrong = answer.clone();
        wrong[3] |= 3;
        assert!(!answers(&query, &wrong), "an error");
        let mut wrong = answer;
        wrong[14] ^= 1;
        assert!(!answers(&query, &wrong), "another name");
    }
}
