//! The sockets that a gateway serves, each on a task of its own.

use crate::serving::{PartError, Serving};
use portcullis_dns::DnsService;
use portcullis_proxy::{Proxy, serve_datagrams, serve_http, serve_socks5, serve_transparent};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use tokio_util::task::TaskTracker;

/// The sockets that a gateway serves. Any may be missing; all are made non-blocking here.
#[derive(Debug, Default)]
pub struct Entrances {
    /// DNS over UDP.
    pub dns_udp: Vec<UdpSocket>,
    /// DNS over TCP.
    pub dns_tcp: Vec<TcpListener>,
    /// HTTP proxy.
    pub http: Vec<TcpListener>,
    /// SOCKS5 proxy.
    pub socks5: Vec<TcpListener>,
    /// Catch-all listeners whose accepted sockets carry the original destination.
    pub transparent: Vec<TcpListener>,
    /// Wildcard UDP sockets of the sandbox, one for each port (and family) that a rule lets datagrams
    /// through on: they tell the address that was asked, and answer from it.
    pub datagrams: Vec<UdpSocket>,
}

/// The kinds of entrances.
#[derive(Clone, Copy, Debug)]
enum Entrance {
    DnsUdp,
    DnsTcp,
    Http,
    Socks5,
    Transparent,
    Datagrams,
}

impl Entrance {
    /// What the part is called that serves it.
    fn part(self, address: io::Result<SocketAddr>) -> String {
        let kind = match self {
            Entrance::DnsUdp => "DNS (UDP)",
            Entrance::DnsTcp => "DNS (TCP)",
            Entrance::Http => "HTTP proxy",
            Entrance::Socks5 => "SOCKS5 proxy",
            Entrance::Transparent => "transparent TCP",
            Entrance::Datagrams => "datagram",
        };
        match address {
            Ok(address) => format!("the {kind} entrance at {address}"),
            Err(_) => format!("the {kind} entrance"),
        }
    }
}

/// An entrance that the runtime has taken.
struct OpenEntrance<S> {
    entrance: Entrance,
    part: String,
    socket: S,
}

/// Entrances that the runtime has taken.
pub(crate) struct Opened {
    udp: Vec<OpenEntrance<tokio::net::UdpSocket>>,
    tcp: Vec<OpenEntrance<tokio::net::TcpListener>>,
}

impl Entrances {
    /// Gives all sockets to the runtime, before any is served.
    pub(crate) fn open(self) -> Result<Opened, PartError> {
        let mut opened = Opened {
            udp: Vec::new(),
            tcp: Vec::new(),
        };
        for (entrance, sockets) in [
            (Entrance::DnsUdp, self.dns_udp),
            (Entrance::Datagrams, self.datagrams),
        ] {
            for socket in sockets {
                let part = entrance.part(socket.local_addr());
                let taken = (socket.set_nonblocking(true))
                    .and_then(|()| tokio::net::UdpSocket::from_std(socket));
                opened.udp.push(OpenEntrance::new(entrance, part, taken)?);
            }
        }
        for (entrance, listeners) in [
            (Entrance::DnsTcp, self.dns_tcp),
            (Entrance::Http, self.http),
            (Entrance::Socks5, self.socks5),
            (Entrance::Transparent, self.transparent),
        ] {
            for listener in listeners {
                let part = entrance.part(listener.local_addr());
                let taken = (listener.set_nonblocking(true))
                    .and_then(|()| tokio::net::TcpListener::from_std(listener));
                opened.tcp.push(OpenEntrance::new(entrance, part, taken)?);
            }
        }
        Ok(opened)
    }
}

impl<S> OpenEntrance<S> {
    fn new(
        entrance: Entrance,
        part: String,
        taken: io::Result<S>,
    ) -> Result<OpenEntrance<S>, PartError> {
        match taken {
            Ok(socket) => Ok(OpenEntrance {
                entrance,
                part,
                socket,
            }),
            Err(error) => Err(PartError { part, error }),
        }
    }
}

impl Opened {
    /// Serves each on a task of its own.
    pub(crate) fn serve(
        self,
        dns: &Arc<DnsService>,
        proxy: &Arc<Proxy>,
        serving: &Serving,
        tracker: &TaskTracker,
    ) {
        for OpenEntrance {
            entrance,
            part,
            socket,
        } in self.udp
        {
            let (dns, proxy, token) = (dns.clone(), proxy.clone(), serving.token.clone());
            serving.keep(part, tracker, async move {
                match entrance {
                    Entrance::DnsUdp => dns.serve_udp(socket, token).await,
                    _ => serve_datagrams(proxy, socket, token).await,
                }
            });
        }
        for OpenEntrance {
            entrance,
            part,
            socket,
        } in self.tcp
        {
            let (dns, proxy, token) = (dns.clone(), proxy.clone(), serving.token.clone());
            serving.keep(part, tracker, async move {
                match entrance {
                    Entrance::DnsTcp => dns.serve_tcp(socket, token).await,
                    Entrance::Http => serve_http(proxy, socket, token).await,
                    Entrance::Socks5 => serve_socks5(proxy, socket, token).await,
                    _ => serve_transparent(proxy, socket, token).await,
                }
            });
        }
    }
}
