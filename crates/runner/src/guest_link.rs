//! A guest's frames between a Unix socket and the TAP of its sandbox.
//!
//! Answers *exhaustion* and *around the gateway* (docs/threats.md). Frames are only moved: what they hold is
//! the kernel's to judge, behind the device, as for every other TAP. Each direction has a buffer of a fixed
//! size. A guest that does not read is not waited for by anybody else: the kernel drops what its device has
//! no room for. There is one guest at a time.

use portcullis_gateway::CancellationToken;
use portcullis_guest::framing::{Framer, MAX_FRAME_BYTES, MIN_FRAME_BYTES, Unframer};
use portcullis_guest::{DEFAULT_MTU, MAX_MTU, MIN_MTU};
use portcullis_policy::{Reason, Verdict};
use portcullis_record::{Event, Layer, Protocol, Recorder};
use portcullis_sandbox::KernelSet;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, listen};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener as StdUnixListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

/// How long a guest that comes waits for the one before to be gone: it may be the same, started again.
const GRACE: Duration = Duration::from_millis(500);
/// How often it is looked whether a guest that sends datagrams is still there.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long to leave a socket alone that has an error.
const PAUSE: Duration = Duration::from_millis(100);
/// The most frames that are moved before others have their turn.
const MAX_BATCH: usize = 64;
/// What vfkit sends first, so that its peer knows where it is.
const VFKIT_MAGIC: &[u8] = b"VFKT";

/// The guest behind a TAP.
#[derive(Debug)]
pub struct GuestConfig {
    /// The largest packet, in bytes, that it is told to use.
    pub mtu: u16,
    /// Where its frames come and go, where no program inside moves them.
    pub socket: Option<GuestSocket>,
}

impl GuestConfig {
    /// The smallest and the largest value of [`GuestConfig::mtu`].
    pub const MTU: (u16, u16) = (MIN_MTU, MAX_MTU);
    /// The usual value of [`GuestConfig::mtu`].
    pub const DEFAULT_MTU: u16 = DEFAULT_MTU;
}

impl Default for GuestConfig {
    fn default() -> Self {
        Self {
            mtu: Self::DEFAULT_MTU,
            socket: None,
        }
    }
}

/// A Unix socket on which a guest's frames come and go.
#[derive(Debug)]
pub enum GuestSocket {
    /// Frames on a stream, each behind its length in four bytes (QEMU's `-netdev stream`, passt, libkrun).
    Stream(StdUnixListener),
    /// A connection on which one message is one frame (a listener of type `SOCK_SEQPACKET`).
    Packets(OwnedFd),
    /// One datagram is one frame (libkrun, vfkit, QEMU's `-netdev dgram`).
    Datagrams(UnixDatagram),
}

/// Guests that may wait to be accepted.
const BACKLOG: i32 = 4;

impl GuestSocket {
    /// A bound socket of one of three types: `STREAM`, `SEQPACKET`, `DGRAM`.
    ///
    /// # Errors
    /// It is of another type, or cannot listen.
    pub fn listening(kind: SocketType, socket: OwnedFd) -> io::Result<GuestSocket> {
        match kind {
            SocketType::DGRAM => return Ok(GuestSocket::Datagrams(socket.into())),
            SocketType::STREAM | SocketType::SEQPACKET => listen(&socket, BACKLOG)?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(match kind {
            SocketType::STREAM => GuestSocket::Stream(socket.into()),
            _ => GuestSocket::Packets(socket),
        })
    }
}

/// Where guests connect.
enum Listener {
    Stream(UnixListener),
    Packets(AsyncFd<OwnedFd>),
}

/// A guest that has connected.
enum Guest {
    Stream(UnixStream),
    Packets(Arc<AsyncFd<OwnedFd>>),
}

impl Listener {
    async fn accept(&self) -> io::Result<Guest> {
        match self {
            Listener::Stream(listener) => {
                let (guest, _) = listener.accept().await?;
                Ok(Guest::Stream(guest))
            }
            Listener::Packets(listener) => {
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let accept = |from: &OwnedFd| Ok(rustix::net::accept_with(from, flags)?);
                let guest = listener.async_io(Interest::READABLE, accept).await?;
                Ok(Guest::Packets(Arc::new(watched(guest)?)))
            }
        }
    }
}

/// The way of frames to one TAP and back.
pub(crate) struct GuestLink {
    device: Arc<AsyncFd<OwnedFd>>,
    kernel: Arc<KernelSet>,
    recorder: Recorder,
}

/// What a message without a byte means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    /// The end of a connection.
    Ends,
    /// A datagram like any other that is no frame.
    IsDropped,
}

/// Why a guest's connection ended.
type Ended = io::Result<()>;

impl GuestLink {
    pub(crate) fn new(
        device: OwnedFd,
        kernel: Arc<KernelSet>,
        recorder: Recorder,
    ) -> io::Result<Self> {
        Ok(Self {
            device: Arc::new(watched(device)?),
            kernel,
            recorder,
        })
    }

    /// Serves one guest after another until `token` is cancelled.
    pub(crate) async fn serve(
        self,
        socket: GuestSocket,
        token: CancellationToken,
    ) -> io::Result<()> {
        tokio::select! {
            served = self.guests(socket) => served,
            () = token.cancelled() => Ok(()),
        }
    }

    async fn guests(&self, socket: GuestSocket) -> io::Result<()> {
        match socket {
            GuestSocket::Stream(listener) => {
                listener.set_nonblocking(true)?;
                let listener = UnixListener::from_std(listener)?;
                self.connections(Listener::Stream(listener)).await
            }
            GuestSocket::Packets(listener) => {
                self.connections(Listener::Packets(watched(listener)?))
                    .await
            }
            GuestSocket::Datagrams(socket) => {
                socket.set_nonblocking(true)?;
                let socket = Arc::new(watched(OwnedFd::from(socket))?);
                loop {
                    let guest = first_sender(&socket).await?;
                    self.begin();
                    let ended = tokio::select! {
                        ended = self.packets(&socket, Empty::IsDropped) => ended,
                        ended = while_there(&socket, &guest) => ended,
                    };
                    info!(?ended, "a guest is gone");
                    // Others may send now.
                    let _ = rustix::net::connect_unspec(socket.get_ref());
                }
            }
        }
    }

    /// Serves one connection at a time.
    async fn connections(&self, listener: Listener) -> io::Result<()> {
        let mut next = None;
        loop {
            let guest = match next.take() {
                Some(guest) => guest,
                None => match listener.accept().await {
                    Ok(guest) => guest,
                    Err(error) => {
                        debug!(%error, "cannot accept a guest");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            self.begin();
            let mut serving = std::pin::pin!(self.connection(guest));
            let ended = loop {
                let other = tokio::select! {
                    ended = &mut serving => break ended,
                    other = listener.accept() => other,
                };
                let Ok(other) = other else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                if let Ok(ended) = tokio::time::timeout(GRACE, &mut serving).await {
                    next = Some(other);
                    break ended;
                }
                drop(other);
                self.record_second();
            };
            info!(?ended, "a guest is gone");
        }
    }

    /// A guest has come: nothing is left of the one before.
    fn begin(&self) {
        let mut frame = [0; MIN_FRAME_BYTES];
        // A read takes a whole frame, however little room it is given. The device's queue is bounded.
        while rustix::io::read(self.device.get_ref(), &mut frame).is_ok() {}
        if let Err(error) = self.kernel.forget_guest() {
            debug!(%error, "the earlier guest's addresses are not forgotten");
        }
        info!("a guest is connected");
    }

    async fn connection(&self, guest: Guest) -> Ended {
        match guest {
            Guest::Stream(guest) => self.stream(guest).await,
            Guest::Packets(guest) => self.packets(&guest, Empty::Ends).await,
        }
    }

    async fn stream(&self, guest: UnixStream) -> Ended {
        let guest = Arc::new(guest);
        let down = stream_down(self.device.clone(), guest.clone());
        let down = AbortOnDropHandle::new(tokio::spawn(down));
        tokio::select! {
            ended = self.stream_up(&guest) => ended,
            ended = down => ended?,
        }
    }

    async fn stream_up(&self, guest: &UnixStream) -> Ended {
        let mut frames = Unframer::default();
        loop {
            guest.readable().await?;
            match guest.try_read(frames.space()) {
                Ok(0) => return Ok(()),
                Ok(bytes) => frames.filled(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            let mut dropped = 0;
            let broken = loop {
                match frames.frame() {
                    Ok(Some(frame)) => dropped += self.to_device(frame),
                    Ok(None) => break false,
                    Err(_) => break true,
                }
            };
            self.record_dropped(dropped + frames.take_dropped() + u32::from(broken));
            if broken {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }

    async fn packets(&self, guest: &Arc<AsyncFd<OwnedFd>>, empty: Empty) -> Ended {
        let down = packets_down(self.device.clone(), guest.clone());
        let down = AbortOnDropHandle::new(tokio::spawn(down));
        tokio::select! {
            ended = self.packets_up(guest, empty) => ended,
            ended = down => ended?,
        }
    }

    async fn packets_up(&self, guest: &AsyncFd<OwnedFd>, empty: Empty) -> Ended {
        // One byte more, by which a frame that is too long shows.
        let mut buffer = vec![0; MAX_FRAME_BYTES + 1].into_boxed_slice();
        loop {
            let mut ready = guest.readable().await?;
            let mut dropped = 0;
            for _ in 0..MAX_BATCH {
                match rustix::net::recv(guest.get_ref(), &mut *buffer, RecvFlags::DONTWAIT) {
                    Ok((0, _)) if empty == Empty::Ends => return Ok(()),
                    Ok((length, _)) if &buffer[..length] == VFKIT_MAGIC => {}
                    Ok((length, _)) if (MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&length) => {
                        dropped += self.to_device(&buffer[..length]);
                    }
                    Ok(_) => dropped += 1,
                    Err(Errno::AGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => {
                        self.record_dropped(dropped);
                        return Err(error.into());
                    }
                }
            }
            self.record_dropped(dropped);
        }
    }

    /// Gives the device a frame; how many were dropped.
    fn to_device(&self, frame: &[u8]) -> u32 {
        u32::from(rustix::io::write(self.device.get_ref(), frame).is_err())
    }

    fn record_dropped(&self, frames: u32) {
        if frames > 0 {
            let detail = "frames of a guest that are too short, too long, or no frames";
            let event = event(Layer::Udp, Reason::Malformed);
            self.recorder.decisions(&event.detail(detail), frames);
        }
    }

    fn record_second(&self) {
        let event = event(Layer::Gateway, Reason::TooManyConnections);
        let detail = "another guest is connected to the socket";
        let _id = self.recorder.decision(event.detail(detail));
    }
}

fn event<'a>(layer: Layer, reason: Reason) -> Event<'a> {
    Event::new(layer, Protocol::Kernel, Verdict::Deny, reason)
}

#[expect(
    deprecated,
    reason = "the descriptor is owned for life, which is what the unsafe constructor asks for"
)]
fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(descriptor)
}

/// Moves frames from the device to a stream, as many at a time as there are.
async fn stream_down(device: Arc<AsyncFd<OwnedFd>>, guest: Arc<UnixStream>) -> Ended {
    let mut frames = Framer::default();
    loop {
        let mut ready = device.readable().await?;
        while let Some(space) = frames.space() {
            match rustix::io::read(device.get_ref(), &mut *space) {
                Ok(length) => frames.filled(length),
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        while !frames.pending().is_empty() {
            guest.writable().await?;
            match guest.try_write(frames.pending()) {
                Ok(bytes) => frames.sent(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Moves frames from the device to a socket, one message each.
async fn packets_down(device: Arc<AsyncFd<OwnedFd>>, guest: Arc<AsyncFd<OwnedFd>>) -> Ended {
    let mut buffer = vec![0; MAX_FRAME_BYTES].into_boxed_slice();
    loop {
        let mut ready = device.readable().await?;
        for _ in 0..MAX_BATCH {
            let length = match rustix::io::read(device.get_ref(), &mut *buffer) {
                Ok(length) => length,
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let send = |to: &OwnedFd| match rustix::net::send(to, &buffer[..length], flags) {
                // Too long for the guest's socket, or no memory for it now: as on any network.
                Ok(_) | Err(Errno::MSGSIZE | Errno::NOBUFS) => Ok(()),
                Err(error) => Err(error.into()),
            };
            guest.async_io(Interest::WRITABLE, send).await?;
        }
    }
}

/// Waits for a datagram, and answers its sender alone from then on.
async fn first_sender(socket: &AsyncFd<OwnedFd>) -> io::Result<SocketAddrUnix> {
    loop {
        let peek = |from: &OwnedFd| {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let (_, _, sender) = rustix::net::recvfrom(from, &mut [0; 1], flags)?;
            Ok(sender)
        };
        let sender = socket.async_io(Interest::READABLE, peek).await?;
        let sender = sender.and_then(|sender| SocketAddrUnix::try_from(sender).ok());
        if let Some(sender) = sender
            && rustix::net::connect(socket, &sender).is_ok()
        {
            return Ok(sender);
        }
        // It has no address, or is gone: nobody is there to be answered.
        let _ = rustix::net::recv(socket.as_fd(), &mut [0; 1], RecvFlags::DONTWAIT);
    }
}

/// Ends when nobody is at the guest's address any more. Somebody else who is there is the guest now.
async fn while_there(socket: &AsyncFd<OwnedFd>, guest: &SocketAddrUnix) -> Ended {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        rustix::net::connect(socket, guest)?;
    }
}
