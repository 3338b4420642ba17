//! The sockets made inside, each under a name, and their way to the process that serves them.
//!
//! A socket is known by its name, never by its place in a list: whoever receives the sockets takes
//! each by what it is for, and a socket that is missing, unknown or sent twice is an error that
//! names it. So the maker may be the sandbox's first process or one that entered a namespace made
//! by somebody else.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::channel::{self, FromInit};

/// The address family of a socket made inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family's number, as it stands in names and messages.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

/// What a socket made inside is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketName {
    /// UDP, port 53 of every address. It tells the address that was asked, and a reply may leave
    /// from any address.
    DnsUdp(Family),
    /// TCP listener, port 53 of every address.
    DnsTcp(Family),
    /// TCP listener of the HTTP proxy.
    HttpProxy,
    /// TCP listener of the SOCKS5 proxy.
    SocksProxy,
    /// TCP listener for every other destination: an accepted socket's local address is the
    /// original destination.
    CatchAll(Family),
    /// UDP, this port of every address, made like [`SocketName::DnsUdp`].
    Datagrams(Family, u16),
    /// Raw IP socket that sends errors to programs whose datagrams were not taken.
    DatagramErrors(Family),
    /// Netlink socket that looks up which socket a connection belongs to (sock_diag(7)).
    SocketDiag,
    /// Netlink socket through which the packet rules are changed.
    PacketRules,
    /// Netlink socket on which the kernel reports refused packets (NFLOG).
    RefusalLog,
    /// UDP, the DHCP server's port on a TAP ([`crate::GuestSockets`]).
    GuestDhcp,
    /// A TAP itself, where the gateway moves its frames.
    GuestDevice,
    /// Raw ICMPv6 socket on a TAP, for router solicitations and advertisements.
    GuestRouter,
    /// Channel on which refused Unix sockets are told ([`crate::UnixRefusals`]); only where `connect` is
    /// supervised.
    UnixRefusals,
    /// Pipe that ends when the process is gone that made the sockets; only where it is a holder
    /// ([`crate::attach`]).
    Lifeline,
}

/// The names of all sockets that a sandbox has once at most.
const SINGLE: [(SocketName, &str); 18] = [
    (SocketName::DnsUdp(Family::V4), "dns-udp4"),
    (SocketName::DnsUdp(Family::V6), "dns-udp6"),
    (SocketName::DnsTcp(Family::V4), "dns-tcp4"),
    (SocketName::DnsTcp(Family::V6), "dns-tcp6"),
    (SocketName::HttpProxy, "http-proxy"),
    (SocketName::SocksProxy, "socks-proxy"),
    (SocketName::CatchAll(Family::V4), "catch-all4"),
    (SocketName::CatchAll(Family::V6), "catch-all6"),
    (SocketName::DatagramErrors(Family::V4), "datagram-errors4"),
    (SocketName::DatagramErrors(Family::V6), "datagram-errors6"),
    (SocketName::SocketDiag, "socket-diag"),
    (SocketName::PacketRules, "packet-rules"),
    (SocketName::RefusalLog, "refusal-log"),
    (SocketName::GuestDhcp, "guest-dhcp"),
    (SocketName::GuestDevice, "guest-device"),
    (SocketName::GuestRouter, "guest-router"),
    (SocketName::UnixRefusals, "unix-refusals"),
    (SocketName::Lifeline, "lifeline"),
];
const DATAGRAMS4: &str = "datagrams4-";
const DATAGRAMS6: &str = "datagrams6-";

impl fmt::Display for SocketName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Datagrams(Family::V4, port) => write!(out, "{DATAGRAMS4}{port}"),
            Self::Datagrams(Family::V6, port) => write!(out, "{DATAGRAMS6}{port}"),
            name => {
                let known = SINGLE.iter().find(|(known, _)| known == name);
                out.write_str(known.map_or("", |(_, text)| text))
            }
        }
    }
}

impl SocketName {
    fn parse(text: &str) -> Option<Self> {
        let known = SINGLE.iter().find(|(_, known)| *known == text);
        let datagrams = |prefix, family| {
            let port = text.strip_prefix(prefix)?.parse().ok()?;
            Some(Self::Datagrams(family, port))
        };
        known
            .map(|(name, _)| *name)
            .or_else(|| datagrams(DATAGRAMS4, Family::V4))
            .or_else(|| datagrams(DATAGRAMS6, Family::V6))
    }
}

/// A socket and what it is for.
#[derive(Debug)]
struct NamedSocket {
    name: SocketName,
    socket: OwnedFd,
}

/// Sockets made in one namespace, by name.
#[derive(Debug, Default)]
pub struct NamedSockets(Vec<NamedSocket>);

impl NamedSockets {
    pub(crate) fn add(&mut self, name: SocketName, socket: OwnedFd) {
        self.0.push(NamedSocket { name, socket });
    }

    /// The socket of this name, if it is there.
    #[must_use]
    pub fn get(&self, name: SocketName) -> Option<BorrowedFd<'_>> {
        let found = self.0.iter().find(|socket| socket.name == name);
        found.map(|found| found.socket.as_fd())
    }

    /// The TCP listeners.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listens = |socket: &&NamedSocket| {
            use SocketName::{CatchAll, DnsTcp, HttpProxy, SocksProxy};
            matches!(
                socket.name,
                CatchAll(_) | DnsTcp(_) | HttpProxy | SocksProxy
            )
        };
        self.0.iter().filter(listens).map(|one| one.socket.as_fd())
    }

    /// Takes the socket of this name out.
    ///
    /// # Errors
    /// There is no such socket.
    pub(crate) fn take(&mut self, name: SocketName) -> io::Result<OwnedFd> {
        let at = self.0.iter().position(|socket| socket.name == name);
        let at = at.ok_or_else(|| io::Error::other(format!("the socket {name} is missing")))?;
        Ok(self.0.swap_remove(at).socket)
    }

    /// Takes all sockets for datagrams out.
    pub(crate) fn take_datagrams(&mut self) -> Vec<OwnedFd> {
        let of_datagrams =
            |socket: &mut NamedSocket| matches!(socket.name, SocketName::Datagrams(..));
        let taken = self.0.extract_if(.., of_datagrams);
        taken.map(|taken| taken.socket).collect()
    }

    /// Sends all sockets as one message over a connected Unix socket of type `SOCK_SEQPACKET`.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn send(&self, to: BorrowedFd<'_>) -> io::Result<()> {
        let mut message = vec![FromInit::Sockets as u8];
        for socket in &self.0 {
            message.extend_from_slice(socket.name.to_string().as_bytes());
            message.push(b'\n');
        }
        let sockets: Vec<_> = self.0.iter().map(|one| one.socket.as_fd()).collect();
        channel::send(to, &message, &sockets)
    }

    /// Receives what [`NamedSockets::send`] sent.
    ///
    /// # Errors
    /// Nothing came within `wait`, the other end is gone, or it sent something else.
    pub fn receive(from: BorrowedFd<'_>, wait: Duration) -> io::Result<Self> {
        let message = channel::receive(from, wait)?;
        match message.bytes.split_first() {
            Some((kind, names)) if *kind == FromInit::Sockets as u8 => Self::of(names, message.fds),
            Some(_) => Err(io::Error::other("something other than sockets came")),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Gives each socket its name, one name a line.
    fn of(names: &[u8], sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let names = String::from_utf8_lossy(names);
        let names: Vec<&str> = names.lines().collect();
        if names.len() != sockets.len() {
            return Err(io::Error::other("there is not one name for each socket"));
        }
        let mut found = Self::default();
        for (text, socket) in names.into_iter().zip(sockets) {
            let name = SocketName::parse(text)
                .filter(|name| found.get(*name).is_none())
                .ok_or_else(|| io::Error::other(format!("unexpected socket {text:?}")))?;
            found.add(name, socket);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::channel::Channel;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn every_name_reads_back_and_others_do_not() {
        let datagrams = [
            SocketName::Datagrams(Family::V4, 443),
            SocketName::Datagrams(Family::V6, 65_535),
        ];
        let always = SINGLE.map(|(name, _)| name);
        for name in always.into_iter().chain(datagrams) {
            assert_eq!(SocketName::parse(&name.to_string()), Some(name));
        }
        for other in ["", "dns", "datagrams4-", "datagrams4-65536", "datagrams5-1"] {
            assert_eq!(SocketName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn sockets_arrive_by_name_in_any_order() {
        let (maker, server) = Channel::pair().unwrap();
        let pipe = rustix::pipe::pipe().unwrap();
        let mut sockets = NamedSockets::default();
        sockets.add(SocketName::RefusalLog, null());
        sockets.add(SocketName::Datagrams(Family::V6, 443), null());
        sockets.add(SocketName::HttpProxy, pipe.1);
        sockets.send(maker.as_fd()).unwrap();
        let wait = Duration::from_secs(1);
        let mut found = NamedSockets::receive(server.as_fd(), wait).unwrap();
        let http = found.take(SocketName::HttpProxy).unwrap();
        io::Write::write_all(&mut File::from(http), b"x").unwrap();
        let mut heard = [0];
        io::Read::read_exact(&mut File::from(pipe.0), &mut heard).unwrap();
        assert_eq!(heard, *b"x");
        assert_eq!(found.take_datagrams().len(), 1);
        let error = found.take(SocketName::SocksProxy).unwrap_err();
        assert_eq!(error.to_string(), "the socket socks-proxy is missing");
    }

    #[test]
    fn unknown_repeated_and_unnamed_sockets_are_refused() {
        for (names, sockets) in [
            ("http-proxy\nhttp-proxy\n", 2),
            ("backdoor\n", 1),
            ("http-proxy\n", 2),
            ("http-proxy\nsocks-proxy\n", 1),
        ] {
            let sockets = (0..sockets).map(|_| null()).collect();
            assert!(
                NamedSockets::of(names.as_bytes(), sockets).is_err(),
                "{names}"
            );
        }
    }
}
