//! Servers without a protocol, or with a very small one.

use super::conn::{Conn, pattern};
use super::{Meta, World};
use crate::log::{hex, unhex};
use crate::spec::ServiceKind;
use anyhow::Result;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};

/// The pieces in which `Source` sends.
const PIECE_BYTES: u64 = 64 * 1024;

pub(crate) async fn serve(conn: &mut Conn<TcpStream>, kind: ServiceKind) -> Result<()> {
    match kind {
        ServiceKind::Banner(text) => {
            conn.send(text.as_bytes()).await?;
            echo(conn).await
        }
        ServiceKind::Smtp => smtp(conn).await,
        ServiceKind::Echo => echo(conn).await,
        ServiceKind::Sink => {
            while conn.fill().await? > 0 {
                conn.buffer.clear();
            }
            let line = format!("received {}\n", conn.account().bytes_in);
            conn.send(line.as_bytes()).await?;
            conn.close().await;
            Ok(())
        }
        ServiceKind::Source(count) => {
            let mut sent = 0;
            while sent < count {
                let piece = PIECE_BYTES.min(count - sent);
                conn.send(&pattern(sent, piece as usize)).await?;
                sent += piece;
            }
            conn.close().await;
            Ok(())
        }
        ServiceKind::Reply(bytes) => {
            conn.fill().await?;
            conn.send(&unhex(&bytes)).await?;
            conn.close().await;
            Ok(())
        }
        ServiceKind::Reset => reset(&conn.stream),
        _ => {
            // Mute: the connection stays until the other side goes away.
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                let mut one = [0];
                if matches!(conn.stream.peek(&mut one).await, Ok(0) | Err(_)) {
                    return Ok(());
                }
            }
        }
    }
}

/// The next close sends a reset instead of an end.
pub(crate) fn reset(stream: &TcpStream) -> Result<()> {
    Ok(socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))?)
}

async fn echo(conn: &mut Conn<TcpStream>) -> Result<()> {
    while conn.fill().await? > 0 {
        let bytes = std::mem::take(&mut conn.buffer);
        conn.send(&bytes).await?;
    }
    conn.close().await;
    Ok(())
}

async fn smtp(conn: &mut Conn<TcpStream>) -> Result<()> {
    conn.send(b"220 smtp.example.com ESMTP testkit\r\n").await?;
    let mut in_data = false;
    while let Some(line) = conn.line().await? {
        let word = line.to_ascii_uppercase();
        if in_data {
            if line == b".\r\n" || line == b".\n" {
                in_data = false;
                conn.send(b"250 2.0.0 taken\r\n").await?;
            }
        } else if word.starts_with(b"DATA") {
            in_data = true;
            conn.send(b"354 go on\r\n").await?;
        } else if word.starts_with(b"QUIT") {
            conn.send(b"221 2.0.0 bye\r\n").await?;
            break;
        } else {
            conn.send(b"250 2.0.0 ok\r\n").await?;
        }
    }
    conn.close().await;
    Ok(())
}

pub(crate) async fn udp_echo(world: Arc<World>, socket: UdpSocket, local: SocketAddr) {
    let mut buffer = vec![0; 65535];
    loop {
        let Ok((count, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let meta = Meta {
            service: "udp-echo",
            local,
            peer,
            sni: None,
        };
        let mut event = meta.event("datagram");
        event.received = Some(hex(&buffer[..count]));
        event.bytes_in = count as u64;
        world.events.write(&event);
        let _ = socket.send_to(&buffer[..count], peer).await;
    }
}
