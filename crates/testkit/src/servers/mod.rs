//! Every server of the world. Each connection is logged when it is accepted and when it closes,
//! each request before it is answered.

mod conn;
mod dns;
mod git;
mod http;
mod raw;
mod tls;
mod upstream_proxy;
mod websocket;
mod zone;

use crate::log::{Lines, ServerEvent, hex, now_us};
use crate::spec::{DnsSpec, Service, ServiceKind, WorldSpec};
use anyhow::{Context, Result};
use conn::Conn;
pub use conn::pattern;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
pub(crate) use tls::{create_authority, issue};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use zone::Zone;

/// Connections that wait to be accepted, for each server.
const BACKLOG: u32 = 1024;

/// What all servers share.
pub(crate) struct World {
    pub(crate) folder: PathBuf,
    pub(crate) zone: RwLock<Arc<Zone>>,
    pub(crate) queries: Lines,
    pub(crate) events: Lines,
    pub(crate) tls: tls::Certificates,
    pub(crate) git: tokio::sync::OnceCell<Result<(), String>>,
}

impl World {
    pub(crate) fn new(spec: &WorldSpec, folder: &Path) -> Result<World> {
        Ok(World {
            folder: folder.to_owned(),
            zone: RwLock::new(Arc::new(Zone::new(&spec.dns)?)),
            queries: Lines::open(&folder.join("dns.jsonl"))?,
            events: Lines::open(&folder.join("server.jsonl"))?,
            tls: tls::Certificates::load(folder)?,
            git: tokio::sync::OnceCell::new(),
        })
    }

    pub(crate) fn zone(&self) -> Arc<Zone> {
        self.zone.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub(crate) fn set_dns(&self, dns: &DnsSpec) -> Result<()> {
        let zone = Arc::new(Zone::new(dns)?);
        *self.zone.write().unwrap_or_else(|e| e.into_inner()) = zone;
        Ok(())
    }
}

/// Who talks to whom: the part of an event that stays the same over a connection.
#[derive(Clone)]
pub(crate) struct Meta {
    pub(crate) service: &'static str,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) sni: Option<String>,
}

impl Meta {
    pub(crate) fn event(&self, event: &str) -> ServerEvent {
        ServerEvent {
            time_us: now_us(),
            event: event.to_owned(),
            service: self.service.to_owned(),
            local: self.local.to_string(),
            peer: self.peer.to_string(),
            sni: self.sni.clone(),
            ..ServerEvent::default()
        }
    }
}

/// Binds the DNS servers and serves them.
pub(crate) async fn start_dns(world: &Arc<World>, dns: &DnsSpec) -> Result<()> {
    for server in &dns.servers {
        dns::start(world, server).await?;
    }
    Ok(())
}

/// Binds every service, then serves them in the background.
pub(crate) async fn start(world: &Arc<World>, services: &[Service]) -> Result<()> {
    for service in services {
        let at = SocketAddr::new(service.address, service.port);
        if service.kind == ServiceKind::UdpEcho {
            let socket = UdpSocket::bind(at)
                .await
                .with_context(|| format!("UDP {at}"))?;
            tokio::spawn(raw::udp_echo(world.clone(), socket, at));
            continue;
        }
        let listener = listen(at).with_context(|| format!("cannot listen at TCP {at}"))?;
        tokio::spawn(accept(world.clone(), listener, service.kind.clone()));
    }
    Ok(())
}

pub(crate) fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if at.is_ipv4() {
        tokio::net::TcpSocket::new_v4()
    } else {
        tokio::net::TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

async fn accept(world: Arc<World>, listener: TcpListener, kind: ServiceKind) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            continue;
        };
        let Ok(local) = stream.local_addr() else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let meta = Meta {
            service: word(&kind),
            local,
            peer,
            sni: None,
        };
        world.events.write(&meta.event("accept"));
        tokio::spawn(serve(world.clone(), stream, meta, kind.clone()));
    }
}

fn word(kind: &ServiceKind) -> &'static str {
    match kind {
        ServiceKind::Http => "http",
        ServiceKind::Https => "https",
        ServiceKind::HttpsExpired => "https-expired",
        ServiceKind::HttpsWrongName => "https-wrong-name",
        ServiceKind::HttpsUntrusted => "https-untrusted",
        ServiceKind::Banner(_) => "banner",
        ServiceKind::Smtp => "smtp",
        ServiceKind::Echo => "echo",
        ServiceKind::Sink => "sink",
        ServiceKind::Source(_) => "source",
        ServiceKind::Mute => "mute",
        ServiceKind::Reset => "reset",
        ServiceKind::Reply(_) => "reply",
        ServiceKind::UdpEcho => "udp-echo",
        ServiceKind::UpstreamProxy(_) => "upstream-proxy",
        ServiceKind::DnsTls => "dns-tls",
        ServiceKind::DnsHttps => "dns-https",
    }
}

async fn serve(world: Arc<World>, stream: TcpStream, mut meta: Meta, kind: ServiceKind) {
    use ServiceKind as K;
    let result = match kind {
        K::Https | K::HttpsExpired | K::HttpsWrongName | K::HttpsUntrusted => {
            match world.tls.accept(stream, &mut meta, &kind).await {
                Ok(stream) => {
                    world.events.write(&meta.event("tls"));
                    let mut conn = Conn::new(stream);
                    let result = http::serve(&world, &mut conn, &meta).await;
                    conn.close().await;
                    Some((conn.account(), result))
                }
                Err(error) => {
                    let mut event = meta.event("tls-failed");
                    event.error = Some(format!("{error:#}"));
                    world.events.write(&event);
                    None
                }
            }
        }
        K::DnsTls | K::DnsHttps => match world.tls.accept(stream, &mut meta, &kind).await {
            Ok(stream) => {
                world.events.write(&meta.event("tls"));
                let mut conn = Conn::new(stream);
                let result = match kind {
                    K::DnsTls => dns::over_tls(&world, &mut conn.stream, &meta).await,
                    _ => dns::over_https(&world, &mut conn, &meta).await,
                };
                Some((conn.account(), result))
            }
            Err(error) => {
                let mut event = meta.event("tls-failed");
                event.error = Some(format!("{error:#}"));
                world.events.write(&event);
                None
            }
        },
        K::Http => {
            let mut conn = Conn::new(stream);
            let result = http::serve(&world, &mut conn, &meta).await;
            conn.close().await;
            Some((conn.account(), result))
        }
        K::UpstreamProxy(credentials) => {
            let mut conn = Conn::new(stream);
            let result = upstream_proxy::serve(&world, &mut conn, &meta, credentials).await;
            conn.close().await;
            Some((conn.account(), result))
        }
        kind => {
            let mut conn = Conn::new(stream);
            let result = raw::serve(&mut conn, kind).await;
            Some((conn.account(), result))
        }
    };
    if let Some((account, result)) = result {
        let mut event = meta.event("close");
        event.received = Some(hex(&account.first));
        event.bytes_in = account.bytes_in;
        event.bytes_out = account.bytes_out;
        event.error = result.err().map(|e| format!("{e:#}"));
        world.events.write(&event);
    }
}
