//! The world's two logs: every DNS query, and everything the servers met. Written before the
//! answer is sent, so that whoever has the answer finds the line.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

/// One query as it arrived at the authoritative server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DnsQuery {
    /// Microseconds since 1970.
    pub time_us: u64,
    /// `udp`, `tcp`, `tls` or `https`.
    pub transport: String,
    /// The server's address that was asked.
    pub server: SocketAddr,
    /// Who asked.
    pub peer: SocketAddr,
    /// The transaction id.
    pub id: u16,
    /// The name exactly as received: case kept, no trailing dot, odd bytes as `\DDD`.
    pub name: String,
    /// The type, as a number.
    pub qtype: u16,
    /// The type, as text.
    pub qtype_name: String,
    /// The whole message, hexadecimal.
    pub raw: String,
}

/// Something a server met.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ServerEvent {
    /// Microseconds since 1970.
    pub time_us: u64,
    /// `accept`, `tls`, `tls-failed`, `request`, `datagram`, `close`.
    pub event: String,
    /// The kind of service, as in the spec.
    pub service: String,
    /// The address and port that was reached.
    pub local: String,
    /// Who came.
    pub peer: String,
    /// The name in the TLS handshake.
    pub sni: Option<String>,
    /// `request`: the first line.
    pub line: Option<String>,
    /// `request`: the whole head, byte-exact, hexadecimal.
    pub head: Option<String>,
    /// `datagram`, `close`: what was received (in plain), its first 64 KiB, hexadecimal.
    pub received: Option<String>,
    /// `close`: bytes received, in plain.
    pub bytes_in: u64,
    /// `close`: bytes sent, in plain.
    pub bytes_out: u64,
    /// What went wrong, where something did.
    pub error: Option<String>,
}

impl ServerEvent {
    /// The request head as text.
    pub fn head_text(&self) -> String {
        self.head.as_deref().map(text).unwrap_or_default()
    }

    /// The received bytes as text.
    pub fn received_text(&self) -> String {
        self.received.as_deref().map(text).unwrap_or_default()
    }
}

fn text(hex: &str) -> String {
    String::from_utf8_lossy(&unhex(hex)).into_owned()
}

/// Bytes as hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
            let _ = write!(out, "{b:02x}");
            out
        })
}

/// Hexadecimal as bytes; stops at the first thing that is none.
pub fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks_exact(2)
        .map_while(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// Now, in microseconds since 1970.
pub fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
        .unwrap_or(0)
}

/// A JSON-lines file, shared by several writers (each line is one `write` on an append-only file).
pub(crate) struct Lines(Mutex<File>);

impl Lines {
    pub(crate) fn open(path: &Path) -> Result<Lines> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Lines(Mutex::new(file)))
    }

    pub(crate) fn write<T: Serialize>(&self, entry: &T) {
        let Ok(mut line) = serde_json::to_vec(entry) else {
            return;
        };
        line.push(b'\n');
        let mut file = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Err(error) = file.write_all(&line) {
            // A log with a hole would let a test pass that must not.
            eprintln!("portcullis-world: the log cannot be written: {error}");
            std::process::exit(1);
        }
    }
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("in the log: {line}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_goes_both_ways() {
        assert_eq!(hex(b"\x00\xffA"), "00ff41");
        assert_eq!(unhex("00ff41"), b"\x00\xffA");
        assert_eq!(unhex("00zz41"), b"\x00");
    }

    #[test]
    fn a_line_being_written_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "{\"a\":1}\n{\"a\":2").unwrap();
        let lines: Vec<serde_json::Value> = read(&path).unwrap();
        assert_eq!(lines.len(), 1);
    }
}
