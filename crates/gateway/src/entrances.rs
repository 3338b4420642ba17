//! The sockets that a gateway serves, and why one of them stopped being served.
//!
//! Answers *failing open* (docs/threats.md): a gateway with a dead entrance ends
//! as a whole, leaves a record, and tells its embedder which entrance it was and what failed.

use portcullis_dns::{DnsService, StartupName};
use portcullis_policy::Reason;
use portcullis_proxy::Proxy;
use portcullis_record::{Event, Layer, Protocol, Recorder};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// DNS over UDP.
    DnsUdp,
    /// DNS over TCP.
    DnsTcp,
    /// HTTP proxy.
    Http,
    /// SOCKS5 proxy.
    Socks5,
    /// Catch-all for TCP.
    Transparent,
    /// Datagrams of a rule.
    Datagrams,
}

impl fmt::Display for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Entrance::DnsUdp => "DNS (UDP)",
            Entrance::DnsTcp => "DNS (TCP)",
            Entrance::Http => "HTTP proxy",
            Entrance::Socks5 => "SOCKS5 proxy",
            Entrance::Transparent => "transparent TCP",
            Entrance::Datagrams => "datagram",
        })
    }
}

/// Why an entrance cannot be served, or not any more.
#[derive(Debug, thiserror::Error)]
#[error("the {entrance} entrance{} failed: {error}", at(.address))]
pub struct EntranceError {
    /// Which kind.
    pub entrance: Entrance,
    /// Its address, where the socket tells one.
    pub address: Option<SocketAddr>,
    /// What failed.
    #[source]
    pub error: io::Error,
}

fn at(address: &Option<SocketAddr>) -> String {
    match address {
        Some(address) => format!(" at {address}"),
        None => String::new(),
    }
}

/// Entrances that the runtime has taken.
pub(crate) struct Opened {
    udp: Vec<(Entrance, tokio::net::UdpSocket)>,
    tcp: Vec<(Entrance, tokio::net::TcpListener)>,
}

impl Entrances {
    /// Gives all sockets to the runtime, before any is served.
    pub(crate) fn open(self) -> Result<Opened, EntranceError> {
        let mut opened = Opened {
            udp: Vec::new(),
            tcp: Vec::new(),
        };
        for (entrance, sockets) in [
            (Entrance::DnsUdp, self.dns_udp),
            (Entrance::Datagrams, self.datagrams),
        ] {
            for socket in sockets {
                let address = socket.local_addr().ok();
                let taken = socket
                    .set_nonblocking(true)
                    .and_then(|()| tokio::net::UdpSocket::from_std(socket));
                let taken = taken.map_err(|error| failed(entrance, address, error))?;
                opened.udp.push((entrance, taken));
            }
        }
        for (entrance, listeners) in [
            (Entrance::DnsTcp, self.dns_tcp),
            (Entrance::Http, self.http),
            (Entrance::Socks5, self.socks5),
            (Entrance::Transparent, self.transparent),
        ] {
            for listener in listeners {
                let address = listener.local_addr().ok();
                let taken = listener
                    .set_nonblocking(true)
                    .and_then(|()| tokio::net::TcpListener::from_std(listener));
                let taken = taken.map_err(|error| failed(entrance, address, error))?;
                opened.tcp.push((entrance, taken));
            }
        }
        Ok(opened)
    }
}

fn failed(entrance: Entrance, address: Option<SocketAddr>, error: io::Error) -> EntranceError {
    EntranceError {
        entrance,
        address,
        error,
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
        for (entrance, socket) in self.udp {
            let (dns, proxy, token) = (dns.clone(), proxy.clone(), serving.token.clone());
            let address = socket.local_addr().ok();
            serving.watch(entrance, address, tracker, async move {
                match entrance {
                    Entrance::DnsUdp => dns.serve_udp(socket, token).await,
                    _ => portcullis_proxy::serve_datagrams(proxy, socket, token).await,
                }
            });
        }
        for (entrance, listener) in self.tcp {
            let (dns, proxy, token) = (dns.clone(), proxy.clone(), serving.token.clone());
            let address = listener.local_addr().ok();
            serving.watch(entrance, address, tracker, async move {
                match entrance {
                    Entrance::DnsTcp => dns.serve_tcp(listener, token).await,
                    Entrance::Http => portcullis_proxy::serve_http(proxy, listener, token).await,
                    Entrance::Socks5 => {
                        portcullis_proxy::serve_socks5(proxy, listener, token).await
                    }
                    _ => portcullis_proxy::serve_transparent(proxy, listener, token).await,
                }
            });
        }
    }
}

/// A gateway that serves.
#[derive(Clone)]
pub struct Serving {
    names: Arc<[StartupName]>,
    recorder: Recorder,
    token: CancellationToken,
    failure: Arc<OnceLock<EntranceError>>,
}

impl Serving {
    pub(crate) fn new(
        names: Vec<StartupName>,
        recorder: Recorder,
        token: CancellationToken,
    ) -> Serving {
        Serving {
            names: names.into(),
            recorder,
            token,
            failure: Arc::default(),
        }
    }

    /// The names that were resolved before anything was served, sorted; none unless the policy says
    /// `resolve = "startup"`.
    pub fn names(&self) -> &[StartupName] {
        &self.names
    }

    /// Waits until the gateway's token is cancelled.
    ///
    /// # Errors
    /// The entrance that failed first, where one did: that is why the token is cancelled.
    pub async fn ended(&self) -> Result<(), &EntranceError> {
        self.token.cancelled().await;
        match self.failure.get() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Runs an entrance on a task; where it fails, the whole gateway ends, and says why.
    fn watch(
        &self,
        entrance: Entrance,
        address: Option<SocketAddr>,
        tracker: &TaskTracker,
        served: impl Future<Output = io::Result<()>> + Send + 'static,
    ) {
        debug!(%entrance, ?address, "entrance opened");
        let serving = self.clone();
        tracker.spawn(async move {
            if let Err(error) = served.await {
                serving.fail(failed(entrance, address, error));
            }
        });
    }

    fn fail(&self, failure: EntranceError) {
        error!(entrance = %failure.entrance, error = %failure.error, "entrance failed");
        let reason = Reason::Internal;
        let event = Event::new(Layer::Gateway, Protocol::Startup, reason.verdict(), reason);
        let detail = failure.to_string();
        self.recorder.decision(event.detail(&detail));
        // The first is the cause; the others end with it.
        let _ = self.failure.set(failure);
        self.token.cancel();
    }
}
