//! SOCKS5 (RFC 1928), the server's side, without authentication.
//!
//! The sandbox is the trust boundary, so a password would prove nothing; what matters is that the
//! destination is read once, as a canonical name or an address (*names*, docs/threats.md).

use std::net::{Ipv4Addr, Ipv6Addr};

use portcullis_names::Host;

use crate::cursor::Cursor;

/// Longest greeting or request, in bytes: a request with a domain of 255 bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 + 1 + 255 + 2;

const VERSION: u8 = 5;

/// Answer to the greeting: go on without authentication.
pub const METHOD_NONE: [u8; 2] = [VERSION, 0x00];
/// Answer to the greeting: none of the client's methods will do; close.
pub const METHOD_REFUSED: [u8; 2] = [VERSION, 0xff];

/// The outcome of reading one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<T> {
    /// Bytes are missing.
    NeedMore,
    /// A whole message.
    Done {
        /// The message.
        value: T,
        /// How many bytes it took.
        used: usize,
    },
    /// Not a message that can be served.
    Malformed(MessageError),
}

/// Why a message cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageError {
    /// A few words for the record.
    pub why: &'static str,
    /// Whether the client speaks SOCKS5 far enough to be answered before the connection closes.
    pub answer: bool,
}

const fn malformed<T>(why: &'static str, answer: bool) -> Step<T> {
    Step::Malformed(MessageError { why, answer })
}

/// The client's first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// Whether it offers to go without authentication; if not, answer [`METHOD_REFUSED`].
    pub no_auth: bool,
}

/// Reads the greeting (RFC 1928 section 3).
pub fn read_greeting(stream: &[u8]) -> Step<Greeting> {
    let mut at = Cursor::new(stream);
    match at.u8() {
        None => return Step::NeedMore,
        Some(VERSION) => {}
        Some(4) => return malformed("SOCKS version 4", false),
        Some(_) => return malformed("not SOCKS version 5", false),
    }
    match at.vec8() {
        // The count has arrived, or may still come: only a count of zero is an error.
        None => Step::NeedMore,
        Some([]) => malformed("a SOCKS greeting without methods", false),
        Some(methods) => Step::Done {
            value: Greeting {
                no_auth: methods.contains(&METHOD_NONE[1]),
            },
            used: stream.len() - at.remaining(),
        },
    }
}

/// What the client wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// An outgoing TCP connection.
    Connect,
    /// Wait for an incoming one; not served.
    Bind,
    /// Relay datagrams; not served.
    UdpAssociate,
    /// A number of no meaning; not served.
    Other(u8),
}

/// The client's second message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// Where to.
    pub destination: Host,
    /// On which port; 0 is the client's business until a rule refuses it.
    pub port: u16,
}

/// Reads the request (RFC 1928 section 4).
///
/// A domain that is an address literal (dotted quad or IPv6) counts as that address; a domain
/// that is neither that nor a canonical name is malformed.
pub fn read_request(stream: &[u8]) -> Step<Request> {
    let mut at = Cursor::new(stream);
    let (Some(version), Some(command)) = (at.u8(), at.u8()) else {
        return match stream.first() {
            Some(&v) if v != VERSION => malformed("not SOCKS version 5", true),
            _ => Step::NeedMore,
        };
    };
    if version != VERSION {
        return malformed("not SOCKS version 5", true);
    }
    let command = match command {
        1 => Command::Connect,
        2 => Command::Bind,
        3 => Command::UdpAssociate,
        other => Command::Other(other),
    };
    match at.u8() {
        None => return Step::NeedMore,
        Some(0) => {}
        Some(_) => return malformed("a reserved SOCKS byte is set", true),
    }
    let destination = match at.u8() {
        None => None,
        Some(1) => at
            .take(4)
            .and_then(|a| <[u8; 4]>::try_from(a).ok())
            .map(|a| Ok(Host::Address(Ipv4Addr::from(a).into()))),
        Some(4) => at
            .take(16)
            .and_then(|a| <[u8; 16]>::try_from(a).ok())
            .map(|a| Ok(Host::Address(Ipv6Addr::from(a).into()))),
        Some(3) => at.vec8().map(Host::from_bare),
        Some(_) => return malformed("an unknown SOCKS address type", true),
    };
    let (Some(destination), Some(port)) = (destination, at.u16()) else {
        return Step::NeedMore;
    };
    match destination {
        Ok(destination) => Step::Done {
            value: Request {
                command,
                destination,
                port,
            },
            used: stream.len() - at.remaining(),
        },
        Err(_) => malformed("the SOCKS domain is not a valid host name", true),
    }
}

/// The server's answer (RFC 1928 section 6), with an unspecified bound address: the sandbox learns
/// no address of the host. The codes are the business of the table of reasons.
pub const fn reply(code: u8) -> [u8; 10] {
    [VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
#[path = "socks5_tests.rs"]
mod tests;
