//! An upstream proxy: CONNECT and absolute form, with Basic authentication where wanted.
//! It resolves names in the world's zone by itself and leaves no DNS query behind.

use super::conn::Conn;
use super::http::{Head, log_request, read_head};
use super::websocket::base64;
use super::{Meta, World};
use anyhow::Result;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// How long the proxy tries one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn serve(
    world: &Arc<World>,
    conn: &mut Conn<TcpStream>,
    meta: &Meta,
    credentials: Option<String>,
) -> Result<()> {
    let Some(head) = read_head(conn).await? else {
        return Ok(());
    };
    log_request(world, meta, &head);
    if let Some(credentials) = credentials {
        let wanted = format!("Basic {}", base64(credentials.as_bytes()));
        if head.field("proxy-authorization").as_deref() != Some(wanted.as_str()) {
            let text = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic \
                        realm=\"company\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            return Ok(conn.send(text.as_bytes()).await?);
        }
    }
    let connect = head.method == "CONNECT";
    let (authority, path) = if connect {
        (head.target.clone(), String::new())
    } else {
        let Some(rest) = head.target.strip_prefix("http://") else {
            return refuse(conn, 400).await;
        };
        let end = rest.find('/').unwrap_or(rest.len());
        (rest[..end].to_owned(), rest[end..].to_owned())
    };
    let Some(mut upstream) = dial(world, &authority, if connect { 443 } else { 80 }).await else {
        return refuse(conn, 502).await;
    };
    if connect {
        conn.send(b"HTTP/1.1 200 Connection established\r\nX-Company: yes\r\n\r\n")
            .await?;
    } else {
        upstream.write_all(&origin_form(&head, &path)).await?;
    }
    let early = std::mem::take(&mut conn.buffer);
    upstream.write_all(&early).await?;
    let (from_client, to_client) =
        tokio::io::copy_bidirectional(&mut conn.stream, &mut upstream).await?;
    conn.count(from_client, to_client);
    Ok(())
}

async fn refuse(conn: &mut Conn<TcpStream>, status: u16) -> Result<()> {
    let text = format!(
        "HTTP/1.1 {status} Upstream proxy says no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    Ok(conn.send(text.as_bytes()).await?)
}

fn origin_form(head: &Head, path: &str) -> Vec<u8> {
    let path = if path.is_empty() { "/" } else { path };
    let mut out = format!("{} {path} HTTP/1.1\r\n", head.method).into_bytes();
    for (name, value) in &head.fields {
        let lower = name.to_ascii_lowercase();
        if lower != "connection" && !lower.starts_with("proxy-") {
            out.extend(name.as_bytes());
            out.extend(b": ");
            out.extend(value);
            out.extend(b"\r\n");
        }
    }
    out.extend(b"Via: 1.1 company\r\nConnection: close\r\n\r\n");
    out
}

async fn dial(world: &World, authority: &str, port: u16) -> Option<TcpStream> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, text)) if !text.ends_with(']') => (host, text.parse().ok()?),
        _ => (authority, port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => world.zone().addresses(host),
    };
    for address in addresses {
        let connect = TcpStream::connect(SocketAddr::new(address, port));
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            return Some(stream);
        }
    }
    None
}
