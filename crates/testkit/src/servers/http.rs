//! HTTP/1.1 as small as the tests need it. The paths are listed in the crate's documentation.

use super::conn::{Conn, pattern};
use super::{Meta, World, git, websocket};
use crate::log::hex;
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// The largest request head.
const MAX_HEAD_BYTES: usize = 128 * 1024;
/// The largest request head, in fields.
const MAX_FIELDS: usize = 200;
/// The largest request body.
const MAX_BODY_BYTES: usize = 256 * 1024 * 1024;
/// The pieces in which long bodies are sent.
const PIECE_BYTES: u64 = 64 * 1024;

/// A request head.
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: u8,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) raw: Vec<u8>,
}

impl Head {
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        self.fields
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    fn has(&self, name: &str, word: &str) -> bool {
        self.field(name)
            .is_some_and(|v| v.to_ascii_lowercase().contains(word))
    }

    fn keep_alive(&self) -> bool {
        if self.version == 0 {
            self.has("connection", "keep-alive")
        } else {
            !self.has("connection", "close")
        }
    }
}

/// Reads one head; `None` is an orderly end.
pub(crate) async fn read_head<S: AsyncRead + AsyncWrite + Unpin>(
    conn: &mut Conn<S>,
) -> Result<Option<Head>> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        if let httparse::Status::Complete(length) = request.parse(&conn.buffer)? {
            let mut head = Head {
                method: request.method.unwrap_or("").to_owned(),
                target: request.path.unwrap_or("").to_owned(),
                version: request.version.unwrap_or(1),
                fields: (request.headers.iter())
                    .map(|f| (f.name.to_owned(), f.value.to_vec()))
                    .collect(),
                raw: Vec::new(),
            };
            head.raw = conn.take(length).await?;
            return Ok(Some(head));
        }
        if conn.buffer.len() > MAX_HEAD_BYTES {
            bail!("the request head is too long");
        }
        if conn.fill().await? == 0 {
            if conn.buffer.is_empty() {
                return Ok(None);
            }
            bail!("the request head was cut off");
        }
    }
}

/// Writes a request to the log.
pub(crate) fn log_request(world: &World, meta: &Meta, head: &Head) {
    let mut event = meta.event("request");
    let line = head.raw.split(|b| *b == b'\r').next().unwrap_or(&[]);
    event.line = Some(String::from_utf8_lossy(line).into_owned());
    event.head = Some(hex(&head.raw));
    world.events.write(&event);
}

/// Serves requests until the connection ends.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    world: &Arc<World>,
    conn: &mut Conn<S>,
    meta: &Meta,
) -> Result<()> {
    while let Some(head) = read_head(conn).await? {
        log_request(world, meta, &head);
        if head.has("upgrade", "websocket") {
            return websocket::serve(conn, &head).await;
        }
        if head.has("expect", "100-continue") {
            conn.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = read_body(conn, &head).await?;
        if !answer(world, conn, meta, &head, body).await? || !head.keep_alive() {
            break;
        }
    }
    Ok(())
}

async fn read_body<S: AsyncRead + AsyncWrite + Unpin>(
    conn: &mut Conn<S>,
    head: &Head,
) -> Result<Vec<u8>> {
    if head.has("transfer-encoding", "chunked") {
        let mut body = Vec::new();
        loop {
            let line = conn.line().await?.context("the chunked body was cut off")?;
            let text = String::from_utf8_lossy(&line);
            let size =
                usize::from_str_radix(text.split([';', '\r', '\n']).next().unwrap_or(""), 16)
                    .context("bad chunk size")?;
            if body.len() + size > MAX_BODY_BYTES {
                bail!("the body is too long");
            }
            if size == 0 {
                while conn.line().await?.is_some_and(|l| l.len() > 2) {}
                return Ok(body);
            }
            body.extend(conn.take(size).await?);
            conn.take(2).await?;
        }
    }
    match head.field("content-length") {
        None => Ok(Vec::new()),
        Some(text) => {
            let length: usize = text.trim().parse().context("bad Content-Length")?;
            if length > MAX_BODY_BYTES {
                bail!("the body is too long");
            }
            Ok(conn.take(length).await?)
        }
    }
}

/// Answers one request; `false` ends the connection.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    world: &Arc<World>,
    conn: &mut Conn<S>,
    meta: &Meta,
    head: &Head,
    body: Vec<u8>,
) -> Result<bool> {
    let path = head.target.split('?').next().unwrap_or("");
    let mut parts = path.trim_start_matches('/').split('/');
    let (word, one, two) = (
        parts.next().unwrap_or(""),
        parts.next().unwrap_or(""),
        parts.next().unwrap_or(""),
    );
    let number = one.parse::<u64>().unwrap_or(0);
    match word {
        "bytes" => {
            reply_head(conn, meta, head, 200, number, "").await?;
            if head.method != "HEAD" {
                send_pattern(conn, number).await?;
            }
        }
        "chunked" => {
            let start = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            conn.send(start.as_bytes()).await?;
            let pause = two.parse::<u64>().unwrap_or(0);
            for piece in 0..number {
                let text = format!("piece {piece}\n");
                conn.send(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
                    .await?;
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            conn.send(b"0\r\n\r\n").await?;
        }
        "cut" => {
            // Promises twice what it sends.
            reply_head(conn, meta, head, 200, number * 2, "").await?;
            send_pattern(conn, number).await?;
            return Ok(false);
        }
        "close" => return Ok(false),
        "until-close" => {
            conn.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                .await?;
            send_pattern(conn, number).await?;
            return Ok(false);
        }
        "slow" => {
            tokio::time::sleep(Duration::from_millis(number)).await;
            reply(conn, meta, head, 200, b"slept\n", "").await?;
        }
        "status" => {
            let status = u16::try_from(number).unwrap_or(500);
            reply(conn, meta, head, status, b"as you asked\n", "").await?;
        }
        "redirect" => {
            let to = format!("Location: https://{one}/\r\n");
            reply(conn, meta, head, 302, b"", &to).await?;
        }
        "upload" => {
            let text = format!("received {}\n", body.len());
            reply(conn, meta, head, 200, text.as_bytes(), "").await?;
        }
        "echo" => reply(conn, meta, head, 200, &body, "").await?,
        "negotiate" if head.has("authorization", "negotiate") => {
            reply(conn, meta, head, 200, b"welcome\n", "").await?;
        }
        "negotiate" => {
            reply(
                conn,
                meta,
                head,
                401,
                b"",
                "WWW-Authenticate: Negotiate\r\n",
            )
            .await?;
        }
        "repo.git" => match git::file(world, path).await {
            Ok(bytes) => reply(conn, meta, head, 200, &bytes, "").await?,
            Err((status, text)) => {
                reply(conn, meta, head, status, text.as_bytes(), "").await?;
            }
        },
        _ => reply(conn, meta, head, 200, &head.raw, "").await?,
    }
    Ok(true)
}

async fn send_pattern<S: AsyncRead + AsyncWrite + Unpin>(
    conn: &mut Conn<S>,
    count: u64,
) -> Result<()> {
    let mut sent = 0;
    while sent < count {
        let piece = PIECE_BYTES.min(count - sent);
        conn.send(&pattern(sent, piece as usize)).await?;
        sent += piece;
    }
    Ok(())
}

async fn reply<S: AsyncRead + AsyncWrite + Unpin>(
    conn: &mut Conn<S>,
    meta: &Meta,
    head: &Head,
    status: u16,
    body: &[u8],
    more: &str,
) -> Result<()> {
    reply_head(conn, meta, head, status, body.len() as u64, more).await?;
    if head.method != "HEAD" && status != 204 && status != 304 {
        conn.send(body).await?;
    }
    Ok(())
}

async fn reply_head<S: AsyncRead + AsyncWrite + Unpin>(
    conn: &mut Conn<S>,
    meta: &Meta,
    head: &Head,
    status: u16,
    length: u64,
    more: &str,
) -> Result<()> {
    let connection = if head.keep_alive() {
        "keep-alive"
    } else {
        "close"
    };
    let text = format!(
        "HTTP/1.1 {status} World\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\nX-World-Address: {}\r\nX-World-Sni: {}\r\n\
         X-World-Service: {}\r\n{more}\r\n",
        meta.local,
        meta.sni.as_deref().unwrap_or("-"),
        meta.service,
    );
    conn.send(text.as_bytes()).await?;
    Ok(())
}
