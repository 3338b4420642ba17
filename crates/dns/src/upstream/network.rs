//! The sockets towards upstream resolvers, behind a trait.
//!
//! Everything else in this crate asks a [`Network`]; only [`SystemNetwork`] opens real sockets. Tests
//! put a network in memory in its place and pause tokio's clock: retries, failover and expiry then
//! run in virtual time, to the millisecond.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use futures_util::future::BoxFuture;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, UdpSocket};

/// What opens sockets towards upstream resolvers.
pub trait Network: fmt::Debug + Send + Sync {
    /// A datagram socket on a fresh port that nobody can guess, connected to `server`: datagrams of
    /// others do not arrive on it.
    fn udp(&self, server: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>>;

    /// A connected stream to `server`.
    fn stream(&self, server: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>>;
}

/// A datagram socket that is connected to one server.
pub trait Datagrams: Send + Sync {
    /// Sends one datagram.
    fn send<'a>(&'a self, datagram: &'a [u8]) -> BoxFuture<'a, io::Result<()>>;

    /// Waits for a datagram and returns its length; what does not fit `buffer` is lost. May be
    /// dropped at any time without losing one.
    fn recv<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>>;
}

/// A connected byte stream.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// The sockets of the namespace that the gateway lives in.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNetwork {
    /// A mark for every socket (`SO_MARK`), where rules of the namespace let out no others.
    pub mark: Option<u32>,
}

impl SystemNetwork {
    fn mark(self, socket: SockRef<'_>) -> io::Result<()> {
        self.mark.map_or(Ok(()), |mark| socket.set_mark(mark))
    }
}

impl Network for SystemNetwork {
    fn udp(&self, server: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>> {
        Box::pin(async move {
            let any = match server.ip() {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
            self.mark(SockRef::from(&socket))?;
            socket.connect(server).await?;
            Ok(Box::new(socket) as Box<dyn Datagrams>)
        })
    }

    fn stream(&self, server: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            let socket = match server {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            self.mark(SockRef::from(&socket))?;
            let stream = socket.connect(server).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }
}

/// The number of a network interface of this namespace, while it is there.
pub fn interface_index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

impl Datagrams for UdpSocket {
    fn send<'a>(&'a self, datagram: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { UdpSocket::send(self, datagram).await.map(drop) })
    }

    fn recv<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>> {
        Box::pin(UdpSocket::recv(self, buffer))
    }
}
