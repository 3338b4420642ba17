//! The authoritative DNS server, UDP and TCP. Every query is in the log before anything else
//! happens to it, the ones that cannot be read included.

use super::{Conn, Meta, World, listen, zone::Zone};
use crate::log::{DnsQuery, hex, now_us};
use crate::spec::{DnsServer, Fault};
use anyhow::{Context, Result};
use hickory_proto::op::{Edns, Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// The longest DNS message.
const MAX_MESSAGE_BYTES: usize = 65535;
/// What a client without EDNS takes over UDP (RFC 1035).
const PLAIN_UDP_BYTES: usize = 512;
/// Idle TCP connections are closed after this long.
const TCP_IDLE: Duration = Duration::from_secs(20);
/// How long after a forgery the true answer follows.
const FORGERY_LEAD: Duration = Duration::from_millis(20);

pub(crate) async fn start(world: &Arc<World>, server: &DnsServer) -> Result<()> {
    let at = SocketAddr::new(server.address, 53);
    let socket = UdpSocket::bind(at)
        .await
        .with_context(|| format!("UDP {at}"))?;
    let listener = listen(at).with_context(|| format!("TCP {at}"))?;
    let side = Side {
        world: world.clone(),
        at,
        fault: server.fault.clone(),
    };
    tokio::spawn(udp(side.clone(), Arc::new(socket)));
    tokio::spawn(tcp(side, listener));
    Ok(())
}

#[derive(Clone)]
struct Side {
    world: Arc<World>,
    at: SocketAddr,
    fault: Option<Fault>,
}

/// Messages to send, each after a pause.
type Replies = Vec<(Duration, Vec<u8>)>;

async fn udp(side: Side, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    loop {
        let Ok((count, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let query = buffer[..count].to_vec();
        let replies = side.replies(&query, peer, "udp");
        let forged = side.forged(&query);
        let (socket, at) = (socket.clone(), side.at);
        tokio::spawn(async move {
            if let Some(message) = forged
                && let Ok(other) = UdpSocket::bind((at.ip(), 0)).await
            {
                let _ = other.send_to(&message, peer).await;
            }
            for (pause, message) in replies {
                tokio::time::sleep(pause).await;
                let _ = socket.send_to(&message, peer).await;
            }
        });
    }
}

async fn tcp(side: Side, listener: TcpListener) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            continue;
        };
        let side = side.clone();
        tokio::spawn(async move {
            let _ =
                tokio::time::timeout(TCP_IDLE, serve_stream(&side, stream, (peer, "tcp"))).await;
        });
    }
}

/// Answers questions over a stream: TCP, or TLS (RFC 7858) where the log says `transport`.
async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin>(
    side: &Side,
    mut stream: S,
    (peer, transport): (SocketAddr, &str),
) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await?;
        let replies = side.replies(&query, peer, transport);
        if replies.is_empty() {
            return Ok(());
        }
        for (pause, message) in replies {
            tokio::time::sleep(pause).await;
            let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend(message);
            stream.write_all(&framed).await?;
            stream.flush().await?;
        }
    }
}

/// The same zone and faults over an encrypted stream.
fn encrypted(world: &Arc<World>, meta: &Meta) -> Side {
    Side {
        world: world.clone(),
        at: meta.local,
        fault: None,
    }
}

/// DNS over TLS (RFC 7858) on a stream whose handshake is done.
pub(crate) async fn over_tls<S: AsyncRead + AsyncWrite + Unpin>(
    world: &Arc<World>,
    stream: S,
    meta: &Meta,
) -> Result<()> {
    let side = encrypted(world, meta);
    match serve_stream(&side, stream, (meta.peer, "tls")).await {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error.into()),
        _ => Ok(()),
    }
}

/// DNS over HTTPS (RFC 8484), POST over HTTP/1.1, on a stream whose handshake is done.
pub(crate) async fn over_https<S: AsyncRead + AsyncWrite + Unpin>(
    world: &Arc<World>,
    conn: &mut Conn<S>,
    meta: &Meta,
) -> Result<()> {
    let side = encrypted(world, meta);
    while let Some(head) = super::http::read_head(conn).await? {
        let length = head
            .field("content-length")
            .and_then(|text| text.parse().ok());
        let length: usize = length.unwrap_or(0);
        let fits = head.method == "POST" && length <= MAX_MESSAGE_BYTES;
        if !fits || head.field("content-type").as_deref() != Some("application/dns-message") {
            let refusal =
                b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            conn.send(refusal).await?;
            return Ok(());
        }
        let query = conn.take(length).await?;
        let replies = side.replies(&query, meta.peer, "https");
        let Some((pause, message)) = replies.into_iter().last() else {
            return Ok(());
        };
        tokio::time::sleep(pause).await;
        let mut response = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/dns-message\r\ncontent-length: {}\r\n\r\n",
            message.len()
        )
        .into_bytes();
        response.extend(message);
        conn.send(&response).await?;
    }
    Ok(())
}

impl Side {
    fn replies(&self, raw: &[u8], peer: SocketAddr, transport: &str) -> Replies {
        let (name, qtype) = question(raw).unwrap_or_default();
        let id = raw.first_chunk().map_or(0, |b| u16::from_be_bytes(*b));
        self.world.queries.write(&DnsQuery {
            time_us: now_us(),
            transport: transport.to_owned(),
            server: self.at,
            peer,
            id,
            name: name.clone(),
            qtype,
            qtype_name: RecordType::from(qtype).to_string(),
            raw: hex(raw),
        });
        let Ok(query) = Message::from_vec(raw) else {
            return Vec::new();
        };
        if query.metadata.message_type != MessageType::Query || query.queries.is_empty() {
            return Vec::new();
        }
        let zone = self.world.zone();
        let count = zone.count(&name);
        let fault = self.fault.as_ref().or_else(|| zone.fault(&name));
        let asked = Asked {
            zone: &zone,
            query: &query,
            udp: transport == "udp",
        };
        asked.with_fault(fault, count)
    }

    /// What is sent from elsewhere, before the answer, where the fault says so.
    fn forged(&self, raw: &[u8]) -> Option<Vec<u8>> {
        let query = Message::from_vec(raw).ok()?;
        let zone = self.world.zone();
        let Some(Fault::ForgedSource(address)) = zone.fault(&question(raw)?.0) else {
            return None;
        };
        let asked = Asked {
            zone: &zone,
            query: &query,
            udp: true,
        };
        let name = &query.queries.first()?.name;
        let mut message = asked.start(ResponseCode::NoError);
        message.answers.push(address_record(name.clone(), *address));
        Some(asked.finish(message))
    }
}

struct Asked<'a> {
    zone: &'a Zone,
    query: &'a Message,
    udp: bool,
}

impl Asked<'_> {
    fn with_fault(&self, fault: Option<&Fault>, count: u32) -> Replies {
        let now = Duration::ZERO;
        let code = |code| vec![(now, self.finish(self.start(code)))];
        match fault {
            Some(Fault::Drop) => Vec::new(),
            Some(Fault::DropFirst(n)) if count < *n => Vec::new(),
            Some(Fault::ServFail) => code(ResponseCode::ServFail),
            Some(Fault::ServFailFirst(n)) if count < *n => code(ResponseCode::ServFail),
            Some(Fault::Refused) => code(ResponseCode::Refused),
            Some(Fault::NxDomain) => {
                let mut message = self.start(ResponseCode::NXDomain);
                let found = self.zone.find(
                    &Name::from_ascii("nothing.invalid.").unwrap_or_default(),
                    RecordType::A,
                );
                message.authorities.extend(found.soa);
                vec![(now, self.finish(message))]
            }
            Some(Fault::Truncate) if self.udp => vec![(now, self.truncated())],
            Some(Fault::TcpClose) if self.udp => vec![(now, self.truncated())],
            Some(Fault::TcpClose) => Vec::new(),
            Some(Fault::Delay(ms)) => vec![(Duration::from_millis(*ms), self.truth())],
            Some(Fault::WrongId) => vec![(now, wrong_id(self.truth()))],
            Some(Fault::ForgedFirst) => {
                vec![(now, wrong_id(self.truth())), (FORGERY_LEAD, self.truth())]
            }
            Some(Fault::WrongQuestion) => {
                let mut message = self.message();
                let other = Name::from_ascii("other.invalid.").unwrap_or_default();
                for question in &mut message.queries {
                    question.name = other.clone();
                }
                vec![(now, self.finish(message))]
            }
            Some(Fault::Garbage) => {
                let mut bytes = self.query.metadata.id.to_be_bytes().to_vec();
                bytes.extend([0x81, 0x80, 0, 9, 0xc0, 0x0c, 0xff, 0xff, 0xc0]);
                vec![(now, bytes)]
            }
            Some(Fault::Rebind(list)) => vec![(now, self.rebind(list, count))],
            Some(Fault::ForgedSource(_)) if self.udp => vec![(FORGERY_LEAD, self.truth())],
            Some(Fault::Beside(name, address)) => {
                let mut message = self.message();
                let name = Name::from_ascii(format!("{name}.")).unwrap_or_default();
                let record = address_record(name, *address);
                message.answers.push(record.clone());
                message.authorities.push(record.clone());
                message.additionals.push(record);
                vec![(now, self.finish(message))]
            }
            _ => vec![(now, self.truth())],
        }
    }

    fn start(&self, code: ResponseCode) -> Message {
        let asked = &self.query.metadata;
        let mut message = Message::response(asked.id, asked.op_code);
        message.metadata.response_code = code;
        message.metadata.authoritative = true;
        message.metadata.recursion_desired = asked.recursion_desired;
        message.metadata.recursion_available = true;
        message.queries = self.query.queries.clone();
        if self.query.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(1232);
            message.edns = Some(edns);
        }
        message
    }

    fn message(&self) -> Message {
        let Some(question) = self.query.queries.first() else {
            return self.start(ResponseCode::FormErr);
        };
        let found = self.zone.find(&question.name, question.query_type);
        let code = if found.exists {
            ResponseCode::NoError
        } else {
            ResponseCode::NXDomain
        };
        let mut message = self.start(code);
        message.answers = found.answers;
        message.authorities.extend(found.soa);
        message
    }

    fn truth(&self) -> Vec<u8> {
        self.finish(self.message())
    }

    fn truncated(&self) -> Vec<u8> {
        let mut message = self.start(ResponseCode::NoError);
        message.metadata.truncation = true;
        message.to_vec().unwrap_or_default()
    }

    fn rebind(&self, list: &[IpAddr], count: u32) -> Vec<u8> {
        let Some(question) = self.query.queries.first() else {
            return self.truth();
        };
        // A and AAAA usually come in pairs: both see the same side of the coin.
        let usable: Vec<&IpAddr> = list
            .iter()
            .filter(|a| a.is_ipv4() == (question.query_type == RecordType::A))
            .collect();
        let mut message = self.start(ResponseCode::NoError);
        if usable.is_empty() {
            return self.finish(message);
        }
        let address = *usable[(count as usize) % usable.len()];
        let record = address_record(question.name.clone(), address);
        message.answers.push(record);
        self.finish(message)
    }

    fn finish(&self, message: Message) -> Vec<u8> {
        let bytes = message.to_vec().unwrap_or_default();
        let limit = match &self.query.edns {
            _ if !self.udp => MAX_MESSAGE_BYTES,
            Some(edns) => usize::from(edns.max_payload()).max(PLAIN_UDP_BYTES),
            None => PLAIN_UDP_BYTES,
        };
        if bytes.len() > limit {
            self.truncated()
        } else {
            bytes
        }
    }
}

/// An address of a name, not to be kept.
fn address_record(name: Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(a) => RData::A(A(a)),
        IpAddr::V6(a) => RData::AAAA(AAAA(a)),
    };
    Record::from_rdata(name, 0, data)
}

fn wrong_id(mut message: Vec<u8>) -> Vec<u8> {
    if let Some(byte) = message.first_mut() {
        *byte ^= 0x55;
    }
    message
}

/// The first question as it stands: odd bytes as `\DDD`, letters in the case they came in.
fn question(raw: &[u8]) -> Option<(String, u16)> {
    let mut at = 12;
    let mut name = String::new();
    loop {
        let length = usize::from(*raw.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if length > 63 {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        for byte in raw.get(at..at + length)? {
            match byte {
                b'.' | b'\\' => name.push_str(&format!("\\{}", char::from(*byte))),
                0x21..=0x7e => name.push(char::from(*byte)),
                other => name.push_str(&format!("\\{other:03}")),
            }
        }
        at += length;
    }
    let kind = raw.get(at..at + 2)?;
    Some((name, u16::from_be_bytes([kind[0], kind[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logged_name_keeps_case_and_odd_bytes() {
        let mut raw = vec![0; 12];
        raw.extend(b"\x03AbC\x03a.\xff\x00\x00\x1c\x00\x01");
        assert_eq!(question(&raw), Some(("AbC.a\\.\\255".to_owned(), 28)));
        for end in 0..raw.len() - 2 {
            assert_eq!(question(&raw[..end]), None, "{end}");
        }
    }
}
