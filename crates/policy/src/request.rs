//! What a program asks for, and how the gateway knows the name of the destination.
//!
//! THREATS, "decision and destination differ": the ways to know a name are one enum, so that every
//! path says which it has and the policy weighs them in one place.

use std::net::IpAddr;

use portcullis_names::{Name, NameRef, RecordType};

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
        how: Destination<'a>,
        /// The destination's port.
        port: u16,
    },
    /// A request on a connection whose bytes are HTTP.
    Http {
        /// Where to, and how that is known.
        how: Destination<'a>,
        /// The destination's port.
        port: u16,
        /// The method, as it stands in the request.
        method: &'a str,
        /// The path, without its query; `*` for a request about the server.
        path: &'a str,
    },
    /// Datagrams between a program and a destination.
    Datagrams {
        /// Where to, and how that is known.
        how: Destination<'a>,
        /// The destination's port.
        port: u16,
    },
}

/// How the destination of a connection is known.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'a> {
    /// A name was asked for: CONNECT, SOCKS5 with a domain, a request in absolute form.
    Asked(NameRef<'a>),
    /// An address was asked for, or connected to, that no lease knows.
    Address(IpAddr),
    /// A direct connection to an address that DNS gave out for these names.
    Leased {
        /// The address connected to.
        address: IpAddr,
        /// The listed names that own it.
        names: &'a [Name],
    },
    /// A direct connection on which the program then showed a name.
    Shown {
        /// The address connected to.
        address: IpAddr,
        /// The listed names that own it; empty where no lease knows it.
        names: &'a [Name],
        /// The name shown.
        shown: NameRef<'a>,
        /// Where it was shown.
        by: ShownBy,
    },
    /// A name was asked for, and a name shown inside (TLS under CONNECT).
    AskedAndShown {
        /// The name asked for.
        asked: NameRef<'a>,
        /// The name shown.
        shown: NameRef<'a>,
        /// Where it was shown.
        by: ShownBy,
    },
    /// TLS without a server name on a direct connection.
    Hidden {
        /// The address connected to.
        address: IpAddr,
        /// The listed names that own it.
        names: &'a [Name],
    },
    /// A direct connection to a synthetic address, which stands for one name and is dialled by it.
    Synthetic {
        /// The name that the address was made up for.
        name: &'a Name,
        /// What the connection has shown so far.
        seen: Seen<'a>,
    },
}

/// What a direct connection has shown of its destination's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// Nothing yet, or a protocol that shows none.
    Nothing,
    /// A name.
    Name(NameRef<'a>, ShownBy),
    /// TLS without a server name.
    Hidden,
}

/// Where a program showed the name of its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShownBy {
    /// The server name of a TLS handshake.
    Sni,
    /// The Host of an HTTP request.
    Host,
}

impl<'a> Request<'a> {
    /// A connection to a name that was asked for.
    pub fn to_name(name: NameRef<'a>, port: u16) -> Request<'a> {
        Request::Connect {
            how: Destination::Asked(name),
            port,
        }
    }

    /// A connection to an address.
    pub fn to_address(address: IpAddr, port: u16) -> Request<'a> {
        Request::Connect {
            how: Destination::Address(address),
            port,
        }
    }
}
