//! The ClientHello's own fields: the server name, and what else a record of it needs.

use portcullis_names::NameBuf;

use crate::cursor::Cursor;

/// Most extensions in one ClientHello; real ones have about twenty.
pub const MAX_EXTENSIONS: usize = 256;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
/// RFC 9849; its predecessor ESNI had the other number.
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const ENCRYPTED_SERVER_NAME: u16 = 0xffce;

const TLS_1_3: [u8; 2] = [3, 4];

/// What a client says in its first message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientHello {
    /// The server name (RFC 6066 section 3), canonical; `None` if the client sent none.
    pub sni: Option<NameBuf>,
    /// Whether there is an encrypted ClientHello beside it; browsers send a meaningless one often.
    pub ech: bool,
    /// The application protocols on offer.
    pub alpn: Alpn,
    /// Whether TLS 1.3 is offered.
    pub tls13: bool,
    /// Length of the hello on the wire, record headers included, in bytes.
    pub wire_bytes: usize,
}

/// Application protocols on offer (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Alpn {
    /// `h2`.
    pub h2: bool,
    /// `http/1.1` or `http/1.0`.
    pub http1: bool,
    /// Any other.
    pub other: bool,
}

/// Reads the message's body. Every vector must end where its parent does.
pub(super) fn parse(body: &[u8], wire_bytes: usize) -> Result<ClientHello, &'static str> {
    let short = "the ClientHello ends in the middle of a field";
    let mut hello = ClientHello {
        sni: None,
        ech: false,
        alpn: Alpn::default(),
        tls13: false,
        wire_bytes,
    };
    let mut body = Cursor::new(body);
    let version = body.u16().ok_or(short)?;
    if version >> 8 != 3 {
        return Err("the ClientHello has an unknown version");
    }
    body.take(32).ok_or(short)?;
    if body.vec8().ok_or(short)?.len() > 32 {
        return Err("the ClientHello has a session id longer than 32 bytes");
    }
    let suites = body.vec16().ok_or(short)?;
    if suites.is_empty() || suites.len() % 2 != 0 {
        return Err("the ClientHello has a bad list of cipher suites");
    }
    if body.vec8().ok_or(short)?.is_empty() {
        return Err("the ClientHello has no compression method");
    }
    if body.is_empty() {
        return Ok(hello); // no extensions at all: TLS 1.2 and before
    }
    let mut extensions = Cursor::new(body.vec16().ok_or(short)?);
    if !body.is_empty() {
        return Err("bytes behind the ClientHello's extensions");
    }
    let mut seen = SeenExtensions::new();
    while !extensions.is_empty() {
        let kind = extensions.u16().ok_or(short)?;
        let data = extensions.vec16().ok_or(short)?;
        seen.add(kind)?;
        match kind {
            SERVER_NAME => hello.sni = Some(server_name(data)?),
            ALPN => hello.alpn = alpn(data)?,
            SUPPORTED_VERSIONS => hello.tls13 = offers_tls13(data),
            ENCRYPTED_CLIENT_HELLO | ENCRYPTED_SERVER_NAME => hello.ech = true,
            _ => {}
        }
    }
    Ok(hello)
}

/// The extension types seen so far: a second one of a kind is what one reader takes and another
/// ignores (RFC 8446 section 4.2 forbids it).
struct SeenExtensions {
    kinds: [u16; MAX_EXTENSIONS],
    len: usize,
}

impl SeenExtensions {
    fn new() -> SeenExtensions {
        SeenExtensions {
            kinds: [0; MAX_EXTENSIONS],
            len: 0,
        }
    }

    fn add(&mut self, kind: u16) -> Result<(), &'static str> {
        if self.kinds.iter().take(self.len).any(|k| *k == kind) {
            return Err(if kind == SERVER_NAME {
                "two server_name extensions"
            } else {
                "two extensions of one type"
            });
        }
        let slot = self.kinds.get_mut(self.len).ok_or("too many extensions")?;
        *slot = kind;
        self.len += 1;
        Ok(())
    }
}

/// The list of server names, which must be exactly one host name.
fn server_name(data: &[u8]) -> Result<NameBuf, &'static str> {
    const HOST_NAME: u8 = 0;
    let bad = "a malformed server_name extension";
    let mut data = Cursor::new(data);
    let mut list = Cursor::new(data.vec16().ok_or(bad)?);
    if !data.is_empty() {
        return Err("bytes behind the list of server names");
    }
    if list.u8().ok_or("an empty list of server names")? != HOST_NAME {
        return Err("a server name that is not a host name");
    }
    let name = list.vec16().ok_or(bad)?;
    if !list.is_empty() {
        return Err("two server names");
    }
    NameBuf::from_program(name).map_err(|_| "the server name is not a valid host name")
}

fn alpn(data: &[u8]) -> Result<Alpn, &'static str> {
    let bad = "a malformed ALPN extension";
    let mut data = Cursor::new(data);
    let mut list = Cursor::new(data.vec16().ok_or(bad)?);
    if !data.is_empty() {
        return Err(bad);
    }
    let mut found = Alpn::default();
    while !list.is_empty() {
        match list.vec8().ok_or(bad)? {
            [] => return Err(bad),
            b"h2" => found.h2 = true,
            b"http/1.1" | b"http/1.0" => found.http1 = true,
            _ => found.other = true,
        }
    }
    Ok(found)
}

/// Only recorded, so a malformed list is the server's business.
fn offers_tls13(data: &[u8]) -> bool {
    Cursor::new(data)
        .vec8()
        .unwrap_or_default()
        .chunks_exact(2)
        .any(|v| v == TLS_1_3)
}
