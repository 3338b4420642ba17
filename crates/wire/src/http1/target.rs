//! The request target (RFC 9112 section 3.2): which host and port a request is for.
//!
//! `http://allowed.com@evil.com/`, `http://evil.com\@allowed.com` and percent-encoded hosts have
//! no meaning here: an authority is a host and perhaps a port, or the request is malformed.

use std::fmt;

use portcullis_names::Host;

/// How a request names what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // one value on the stack of one request
pub enum RequestForm {
    /// `CONNECT host:port`.
    Connect {
        /// Where the tunnel goes.
        host: Host,
        /// Its port, which is never left out.
        port: u16,
    },
    /// `GET http://host/path`: a request to a proxy.
    Absolute {
        /// http or https.
        scheme: Scheme,
        /// The target's host; a Host field does not change it.
        host: Host,
        /// The port, the scheme's own if none was written.
        port: u16,
        /// The path, `/` if none was written.
        path: PathAndQuery,
    },
    /// `GET /path`: a request to a server.
    Origin {
        /// The path, starting with a slash.
        path: PathAndQuery,
    },
    /// `OPTIONS *`.
    Asterisk,
}

/// The schemes that a request to a proxy may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// http, port 80.
    Http,
    /// https, port 443: the proxy would have to speak TLS itself.
    Https,
}

impl Scheme {
    /// The port that a URL without one means.
    pub const fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    /// As in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// A path and its query. Printing it prints the path alone, since queries never get into records.
#[derive(Clone, PartialEq, Eq)]
pub struct PathAndQuery(Box<str>);

impl PathAndQuery {
    /// The path, without query.
    pub fn path(&self) -> &str {
        self.0.split('?').next().unwrap_or_default()
    }

    /// All of it, for the upstream only.
    pub fn with_query(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PathAndQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}

impl fmt::Debug for PathAndQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathAndQuery({:?})", self.path())
    }
}

/// Reads the target of a request with this method.
pub(super) fn read(method: &str, target: &str) -> Result<RequestForm, &'static str> {
    if !target.bytes().all(|b| matches!(b, 0x21..=0x7e)) {
        return Err("a byte in the request target that is not printable ASCII");
    }
    if target.contains('#') {
        return Err("a fragment in the request target");
    }
    if method == "CONNECT" {
        let (host, port) = authority(target)?;
        let port = port.ok_or("CONNECT without a port")?;
        return Ok(RequestForm::Connect { host, port });
    }
    if target.starts_with('/') {
        return Ok(RequestForm::Origin {
            path: PathAndQuery(target.into()),
        });
    }
    if target == "*" {
        return if method == "OPTIONS" {
            Ok(RequestForm::Asterisk)
        } else {
            Err("a request target of * without OPTIONS")
        };
    }
    let (scheme, rest) = target
        .split_once("://")
        .ok_or("a request target of no known form")?;
    let scheme = if scheme.eq_ignore_ascii_case("http") {
        Scheme::Http
    } else if scheme.eq_ignore_ascii_case("https") {
        Scheme::Https
    } else {
        return Err("a request target with a scheme other than http or https");
    };
    let split = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(split);
    let (host, port) = authority(host)?;
    let path = if path.starts_with('/') {
        path.into()
    } else {
        format!("/{path}").into()
    };
    Ok(RequestForm::Absolute {
        scheme,
        host,
        port: port.unwrap_or(scheme.default_port()),
        path: PathAndQuery(path),
    })
}

/// A host and perhaps a port; says what is wrong in the words of the attack, for the record.
pub(super) fn authority(text: &str) -> Result<(Host, Option<u16>), &'static str> {
    if text.contains('@') {
        return Err("a user name in the request's authority");
    }
    if text.contains('\\') {
        return Err("a backslash in the request's authority");
    }
    if text.contains('%') {
        return Err("a percent sign in the request's authority");
    }
    Host::with_port(text.as_bytes()).map_err(|_| "the request's authority is not a valid host")
}
