//! The gateway's side of a sandbox: the sockets it serves and the channel that says when to stop.
//!
//! A socket belongs to the namespace it was made in, whoever holds it: the gateway stays outside
//! and these descriptors are its only doors to the inside. When the sandbox ends, or is killed,
//! the channel reports the end of file, so that no gateway outlives its sandbox.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::channel::{Channel, FromInit, ToInit};
use crate::error::{At, SandboxError, Step};
use crate::guest::{GuestSockets, RouterSocket};
use crate::kernel_set::KernelSet;
use crate::listeners::DNS_PORT;
use crate::process::{Members, Processes};
use crate::refused::RefusedLog;
use crate::socket_diag::SocketDiag;
use crate::sockets::{Family, NamedSockets, SocketName};
use crate::trust::TrustFiles;
use crate::unix_refusals::UnixRefusals;
use crate::unreachable::DatagramErrors;

/// How long [`Control::new_tcp_socket`] waits for the sandbox's first process.
const NEW_SOCKET_TIMEOUT: Duration = Duration::from_secs(2);
/// How long [`GatewaySide::receive`] waits for the sandbox to be built.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// What the gateway's process is given.
#[derive(Debug)]
pub struct GatewaySide {
    /// Tells the sandbox how the gateway's start went and when the sandbox is gone.
    pub control: Control,
    /// The sandbox's first process, as the host sees it.
    init: u32,
}

impl GatewaySide {
    pub(crate) fn new(requests: Channel, lifeline: OwnedFd, init: u32) -> Self {
        Self {
            control: Control::new(requests, lifeline),
            init,
        }
    }

    /// Waits for the sockets made inside. Call it once, after everything that can be done before.
    ///
    /// # Errors
    /// The sandbox could not be built (its own error reaches the caller of `run`), or this has
    /// been called before.
    pub fn receive(&mut self) -> Result<Sockets, SandboxError> {
        let channel = self
            .control
            .requests
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        NamedSockets::receive(channel.as_fd(), RECEIVE_TIMEOUT)
            .and_then(|sockets| Sockets::of(sockets, self.init))
            .at(Step::HandOver, "waiting for the sandbox's sockets")
    }
}

/// The channel between the gateway and the sandbox's first process. May be shared by threads.
#[derive(Debug)]
pub struct Control {
    requests: Mutex<Channel>,
    /// How many sockets were asked for: the number of the next question.
    asked: AtomicU32,
    lifeline: OwnedFd,
}

impl Control {
    pub(crate) fn new(requests: Channel, lifeline: OwnedFd) -> Self {
        Self {
            requests: Mutex::new(requests),
            asked: AtomicU32::new(0),
            lifeline,
        }
    }

    /// Has a holder take the doors away: the lifeline ends when that is done.
    ///
    /// # Errors
    /// The holder is gone.
    pub fn detach(&self) -> io::Result<()> {
        self.lock().send(&[ToInit::Detach as u8], &[])
    }

    /// Becomes readable (end of file) when the sandbox is over: nothing is ever sent on it.
    pub fn lifeline(&self) -> BorrowedFd<'_> {
        self.lifeline.as_fd()
    }

    /// The gateway serves its sockets: the start-up check and the command may follow.
    ///
    /// # Errors
    /// The sandbox is gone.
    pub fn ready(&self) -> io::Result<()> {
        self.lock().send(&[ToInit::Ready as u8], &[])
    }

    /// The gateway cannot start: `run` fails with this text, and with what helps against the kernel's
    /// error that was the cause, if one was (0 otherwise).
    ///
    /// # Errors
    /// The sandbox is gone.
    pub fn failed(&self, text: &str, errno: i32) -> io::Result<()> {
        let mut message = vec![ToInit::Failed as u8];
        message.extend_from_slice(&errno.to_ne_bytes());
        message.extend_from_slice(crate::channel::cut(text).as_bytes());
        self.lock().send(&message, &[])
    }

    /// Hands over what programs inside are to trust; once, before [`Control::ready`], where
    /// [`crate::Spec::trust`] says that it comes.
    ///
    /// # Errors
    /// The sandbox is gone, or there is no memory for the files.
    pub fn trust(&self, files: &TrustFiles<'_>) -> io::Result<()> {
        let files = files.descriptors()?;
        let files = files.each_ref().map(AsFd::as_fd);
        self.lock().send(&[ToInit::Trust as u8], &files)
    }

    /// A new, unconnected, non-blocking TCP socket that lives inside the sandbox.
    ///
    /// # Errors
    /// The sandbox is gone, has no free descriptor, or did not answer in 2 s.
    pub fn new_tcp_socket(&self, family: Family) -> io::Result<OwnedFd> {
        let channel = self.lock();
        let number = self.asked.fetch_add(1, Ordering::Relaxed).to_ne_bytes();
        let [a, b, c, d] = number;
        let request = [ToInit::NewTcpSocket as u8, family.number(), a, b, c, d];
        channel.send(&request, &[])?;
        let until = Instant::now() + NEW_SOCKET_TIMEOUT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut message = channel.receive(left)?;
            let Some((code, answered)) = message.bytes.split_first() else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            // An answer that came too late for its own question is none to this one.
            if answered != number {
                continue;
            }
            return match message.fds.pop() {
                Some(fd) if *code == FromInit::TcpSocket as u8 => Ok(fd),
                _ => Err(io::Error::other("the sandbox could not make a socket")),
            };
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Channel> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sockets made inside the sandbox. All are non-blocking and close on exec.
#[derive(Debug)]
pub struct Sockets {
    /// UDP `0.0.0.0:53`: any resolver's address lands here; `IP_PKTINFO` is set, and a reply may
    /// leave from any address.
    pub dns_udp4: OwnedFd,
    /// UDP `[::]:53`, IPv6 only; `IPV6_RECVPKTINFO` is set.
    pub dns_udp6: OwnedFd,
    /// TCP listener `0.0.0.0:53`.
    pub dns_tcp4: OwnedFd,
    /// TCP listener `[::]:53`.
    pub dns_tcp6: OwnedFd,
    /// TCP listener of the HTTP proxy.
    pub http: OwnedFd,
    /// TCP listener of the SOCKS5 proxy.
    pub socks: OwnedFd,
    /// Every other IPv4 destination: an accepted socket's local address is the original one.
    pub catch_all4: OwnedFd,
    /// Every other IPv6 destination.
    pub catch_all6: OwnedFd,
    /// UDP sockets for [`crate::OpenRules::datagram_ports`], made like the resolver's.
    pub datagrams: Vec<OwnedFd>,
    /// Errors for programs whose datagrams were not taken.
    pub datagram_errors: DatagramErrors,
    /// Which process inside holds a socket.
    pub processes: Processes,
    /// The kernel's set of open destinations.
    pub kernel: KernelSet,
    /// What the kernel refused.
    pub refused: RefusedLog,
    /// What tells the guest of its network, where there is a TAP.
    pub guest: Option<GuestSockets>,
    /// What was refused of the host's Unix sockets, where anybody tells.
    pub unix_refusals: Option<UnixRefusals>,
}

impl Sockets {
    /// Takes each socket by its name. `first_process` is the process, as this one sees it, below
    /// which the holders of sockets are looked for: the sandbox's first one.
    ///
    /// # Errors
    /// A socket that every sandbox has is missing.
    pub fn of(named: NamedSockets, first_process: u32) -> io::Result<Self> {
        Self::with_members(named, Members::Below(first_process))
    }

    pub(crate) fn with_members(mut named: NamedSockets, members: Members) -> io::Result<Self> {
        let datagrams = named.take_datagrams();
        let unix_refusals = named.take(SocketName::UnixRefusals).ok();
        let guest = named.take(SocketName::GuestDhcp).ok();
        let guest = guest
            .map(|dhcp| {
                let router = named.take(SocketName::GuestRouter)?;
                io::Result::Ok(GuestSockets {
                    dhcp: dhcp.into(),
                    router: RouterSocket::new(router),
                    device: named.take(SocketName::GuestDevice).ok(),
                })
            })
            .transpose()?;
        let mut take = |name| named.take(name);
        // The resolver's.
        let known = SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT));
        Ok(Self {
            dns_udp4: take(SocketName::DnsUdp(Family::V4))?,
            dns_udp6: take(SocketName::DnsUdp(Family::V6))?,
            dns_tcp4: take(SocketName::DnsTcp(Family::V4))?,
            dns_tcp6: take(SocketName::DnsTcp(Family::V6))?,
            http: take(SocketName::HttpProxy)?,
            socks: take(SocketName::SocksProxy)?,
            catch_all4: take(SocketName::CatchAll(Family::V4))?,
            catch_all6: take(SocketName::CatchAll(Family::V6))?,
            datagrams,
            datagram_errors: DatagramErrors::new(
                take(SocketName::DatagramErrors(Family::V4))?,
                take(SocketName::DatagramErrors(Family::V6))?,
            ),
            processes: Processes::new(
                members,
                SocketDiag::new(take(SocketName::SocketDiag)?),
                known,
            ),
            kernel: KernelSet::new(take(SocketName::PacketRules)?),
            refused: RefusedLog::new(take(SocketName::RefusalLog)?),
            guest,
            unix_refusals: unix_refusals.map(|fd| UnixRefusals::new(fd.into())),
        })
    }
}
