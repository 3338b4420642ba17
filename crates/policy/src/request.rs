//! The questions that the policy answers.

use portcullis_names::{NameRef, RecordType};

use crate::destination::Destination;

/// One question to the policy.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// A DNS question.
    Lookup {
        /// The name asked for.
        name: NameRef<'a>,
        /// The record type's number (1 is A, 28 is AAAA).
        qtype: RecordType,
    },
    /// A TCP connection.
    Connect {
        /// Where to, and how that is known.
        to: &'a Destination<'a>,
        /// The destination's port.
        port: u16,
    },
    /// A request on a connection whose bytes are HTTP.
    Http {
        /// Where to, and how that is known.
        to: &'a Destination<'a>,
        /// The destination's port.
        port: u16,
        /// The method, as it stands in the request.
        method: &'a str,
        /// The path, without its query; `*` for a request about the server.
        path: &'a str,
    },
    /// The data connection of an FTP session in passive mode: to the port that the server named on its
    /// control connection (RFC 959, RFC 2428).
    FtpData {
        /// The server, by its address.
        to: &'a Destination<'a>,
        /// The port of the control connection.
        control: u16,
        /// The port that the server named.
        port: u16,
    },
    /// Datagrams between a program and a destination.
    Datagrams {
        /// Where to, and how that is known.
        to: &'a Destination<'a>,
        /// The destination's port.
        port: u16,
    },
}

impl<'a> Request<'a> {
    /// A TCP connection.
    pub fn connect(to: &'a Destination<'a>, port: u16) -> Request<'a> {
        Request::Connect { to, port }
    }
}
