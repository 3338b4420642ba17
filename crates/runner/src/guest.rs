//! Sets up a TAP's guest: answers it by DHCPv4, and advertises a router and a network in IPv6.
//!
//! Answers *exhaustion* (docs/threats.md): a guest that floods is answered at a bounded rate, from two
//! buffers of a fixed size, and a guest that does not read is not waited for.

use portcullis_gateway::CancellationToken;
use portcullis_guest::{GuestNetwork, Rate, dhcp, router};
use portcullis_names::Name;
use portcullis_sandbox::{Addresses, GuestSockets, RouterSocket};
use std::io::{self, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::debug;

/// The length of the guest's IPv4 prefix, in bits.
const PREFIX: u8 = 24;
/// The host's part of an IPv6 address.
const HOST_BITS6: u32 = 64;
/// How long to leave a socket alone that has an error.
const PAUSE: Duration = Duration::from_millis(100);

/// What the guest of a sandbox with these addresses is told.
pub(crate) fn network(addresses: &Addresses, mtu: u16, search: Vec<Name>) -> GuestNetwork {
    let prefix6 = addresses.gateway6.to_bits() >> HOST_BITS6 << HOST_BITS6;
    GuestNetwork {
        address: addresses.guest4(),
        prefix: PREFIX,
        router: addresses.gateway4,
        resolver: addresses.resolver4,
        prefix6: Ipv6Addr::from_bits(prefix6),
        resolver6: addresses.gateway6,
        mtu,
        search,
    }
}

/// Serves both until `token` is cancelled.
pub(crate) async fn serve(
    sockets: GuestSockets,
    network: GuestNetwork,
    token: CancellationToken,
) -> io::Result<()> {
    let network = Arc::new(network);
    tokio::select! {
        ended = answer(sockets.dhcp, &network) => ended,
        ended = advertise(sockets.router, &network) => ended,
        () = token.cancelled() => Ok(()),
    }
}

async fn answer(socket: UdpSocket, network: &GuestNetwork) -> io::Result<()> {
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut rate = Rate::new(Instant::now());
    // One byte more, by which a message that is too long shows.
    let mut buffer = [0; dhcp::MAX_MESSAGE_BYTES + 1];
    loop {
        let Ok((length, _)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if !rate.take(Instant::now()) {
            continue;
        }
        if let Some(reply) = dhcp::answer(network, &buffer[..length]) {
            let to = SocketAddr::new(reply.to.into(), dhcp::CLIENT_PORT);
            let sent = socket.try_send_to(&reply.bytes, to);
            debug!(%to, ?sent, "answered a guest's DHCP message");
        }
    }
}

async fn advertise(socket: RouterSocket, network: &GuestNetwork) -> io::Result<()> {
    let advertisement = router::advertisement(network);
    #[expect(
        deprecated,
        reason = "RouterSocket owns one descriptor for life, which is what the unsafe constructor asks for"
    )]
    let socket = AsyncFd::with_interest(socket, Interest::READABLE)?;
    let mut rate = Rate::new(Instant::now());
    let mut unasked = tokio::time::interval(router::INTERVAL);
    let mut buffer = [0; router::MAX_MESSAGE_BYTES + 1];
    loop {
        let is_due = tokio::select! {
            _ = unasked.tick() => true,
            ready = socket.readable() => {
                let mut ready = ready?;
                match socket.get_ref().receive(&mut buffer) {
                    Ok((length, from)) => {
                        router::is_solicitation(&buffer[..length], from) && rate.take(Instant::now())
                    }
                    Err(error) => {
                        ready.clear_ready();
                        if error.kind() != ErrorKind::WouldBlock {
                            tokio::time::sleep(PAUSE).await;
                        }
                        false
                    }
                }
            }
        };
        if is_due {
            let sent = socket.get_ref().send_to_all(&advertisement);
            debug!(?sent, "sent a router advertisement");
        }
    }
}
