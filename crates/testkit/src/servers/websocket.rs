//! A WebSocket (RFC 6455) that echoes; it stays as long as the client does.

use super::conn::Conn;
use super::http::Head;
use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncWrite};

/// The longest frame.
const MAX_FRAME_BYTES: u64 = 16 * 1024 * 1024;
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    conn: &mut Conn<S>,
    head: &Head,
) -> Result<()> {
    let key = head
        .field("sec-websocket-key")
        .context("no Sec-WebSocket-Key")?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept_key(&key)
    );
    conn.send(answer.as_bytes()).await?;
    // `/ws/hello`: the server speaks first, as Slack's Socket Mode does.
    if head.target.starts_with("/ws/hello") {
        conn.send(&frame(0x81, b"{\"type\":\"hello\"}")).await?;
    }
    loop {
        let start = conn.take(2).await?;
        let (opcode, masked) = (start[0] & 0x0f, start[1] & 0x80 != 0);
        let length = match start[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes(array(&conn.take(2).await?)?)),
            127 => u64::from_be_bytes(array(&conn.take(8).await?)?),
            short => u64::from(short),
        };
        if !masked || length > MAX_FRAME_BYTES {
            bail!("a frame that is not masked, or too long");
        }
        let mask: [u8; 4] = array(&conn.take(4).await?)?;
        let mut payload = conn.take(length as usize).await?;
        payload
            .iter_mut()
            .zip(mask.iter().cycle())
            .for_each(|(b, m)| *b ^= m);
        match opcode {
            CLOSE => {
                conn.send(&frame(0x80 | CLOSE, &payload)).await?;
                return Ok(());
            }
            PING => conn.send(&frame(0x80 | PONG, &payload)).await?,
            PONG => {}
            _ => conn.send(&frame(start[0] & 0x8f, &payload)).await?,
        }
    }
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().context("short read")
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        short @ 0..=125 => out.push(short as u8),
        medium @ 126..=65535 => {
            out.push(126);
            out.extend((medium as u16).to_be_bytes());
        }
        long => {
            out.push(127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend(payload);
    out
}

fn accept_key(key: &str) -> String {
    let text = format!("{}{GUID}", key.trim());
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        text.as_bytes(),
    );
    base64(digest.as_ref())
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word =
            three.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for place in 0..4 {
            if place <= three.len() {
                let index = (word >> (18 - 6 * place)) & 63;
                out.push(char::from(ALPHABET[index as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6455_section_1_3_accept_key() {
        assert_eq!(
            accept_key("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn rfc_4648_base64() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn frames_of_every_length_form() {
        assert_eq!(frame(0x81, b"hi"), b"\x81\x02hi");
        assert_eq!(frame(0x82, &[0; 126])[..4], [0x82, 126, 0, 126]);
        assert_eq!(frame(0x82, &[0; 65536])[..4], [0x82, 127, 0, 0]);
    }
}
