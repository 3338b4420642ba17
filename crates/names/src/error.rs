//! Why a name, pattern or target was refused, as sentences for the person who wrote it.
//!
//! Errors from program input carry no text of the program, only a byte and its position, so that
//! they can be put in a record as they are.

use std::fmt;

use crate::limits::{MAX_LABEL_BYTES, MAX_NAME_BYTES};
use crate::services::port_of;

/// Why a name has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing was written.
    #[error("the name is empty")]
    Empty,
    /// Only the root, `.`.
    #[error("the root of the DNS is not a host name")]
    Root,
    /// Over [`MAX_NAME_BYTES`].
    #[error("the name is longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// Two dots in a row, or a leading dot.
    #[error("the name has an empty label: it starts with a dot, or has two dots in a row")]
    EmptyLabel,
    /// A label over [`MAX_LABEL_BYTES`].
    #[error("the name has a label longer than {MAX_LABEL_BYTES} bytes")]
    LabelTooLong,
    /// A byte that no host name has.
    #[error("the name contains {}, at byte {at}", Shown(*.byte))]
    BadByte {
        /// The offending byte.
        byte: u8,
        /// Its offset, in bytes.
        at: usize,
    },
    /// The last label is a number, so that resolvers would read the name as an IPv4 address
    /// (`127.1`, `0x7f.1`, `2130706433`).
    #[error("the name ends in a number, so programs could read it as an IP address")]
    EndsInNumber,
    /// Square brackets around something that is not an IPv6 address, or with a zone.
    #[error("the text in square brackets is not an IPv6 address")]
    BadBrackets,
    /// The port is not a number from 1 to 65535 in its shortest form.
    #[error("the port is not a number from 1 to 65535")]
    BadPort,
    /// Not valid under IDNA (UTS 46), for example a broken `xn--` label.
    #[error("the name is not a valid internationalised name")]
    BadIdna,
    /// The text means another name than the one it looks like (full-width letters or dots,
    /// superscript digits, invisible characters).
    #[error("the name contains characters that look like others; its plain form is `{plain}`")]
    NotPlain {
        /// The name that IDNA makes of it.
        plain: Box<str>,
    },
}

impl NameError {
    /// What the writer can do about it, where there is something to say beyond the error.
    pub fn hint(&self) -> Option<String> {
        match self {
            NameError::BadByte { byte: b'*', .. } => Some(
                "write the wildcard in front: `*.example.org` (subdomains) or \
                 `**.example.org` (the name and its subdomains)"
                    .into(),
            ),
            NameError::BadByte { byte: b'/', .. } => {
                Some("write only the host name, without a scheme or path".into())
            }
            NameError::BadByte { byte: b'@', .. } => {
                Some("write only the host name, without a user name".into())
            }
            NameError::BadByte {
                byte: b' ' | b'\t', ..
            } => Some("remove the white space".into()),
            NameError::EndsInNumber => {
                Some("write an IPv4 address as four decimal numbers, such as 192.0.2.7".into())
            }
            NameError::BadBrackets => {
                Some("write an IPv6 address as `[2001:db8::1]`, without a zone".into())
            }
            NameError::NotPlain { plain } => Some(format!("write `{plain}`")),
            NameError::BadIdna => Some("check the spelling of the `xn--` labels".into()),
            NameError::EmptyLabel => Some("remove the extra dot".into()),
            _ => None,
        }
    }
}

/// A byte shown so that it can neither break a line nor hide.
struct Shown(u8);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b' ' => f.write_str("a space"),
            b @ 0x21..=0x7e => write!(f, "`{}`", char::from(b)),
            b @ 0x80.. => write!(f, "the non-ASCII byte 0x{b:02x}"),
            b => write!(f, "the control byte 0x{b:02x}"),
        }
    }
}

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The name in it has no canonical form.
    #[error(transparent)]
    Name(#[from] NameError),
    /// `*`, `*.com`, `**.co.uk`: names that anyone can register.
    #[error("`{pattern}` is too broad: it would match {what}")]
    TooBroad {
        /// The pattern as it would be printed.
        pattern: Box<str>,
        /// What it would match.
        what: &'static str,
    },
    /// A `*` that is not alone in front.
    #[error("`*` may stand only in front, as in `*.example.org` or `**.example.org`")]
    MisplacedWildcard,
}

impl PatternError {
    /// What the writer can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            PatternError::Name(e) => e.hint(),
            PatternError::TooBroad { .. } => {
                Some("name the organisation, as in `*.example.org`, or list each name".into())
            }
            PatternError::MisplacedWildcard => {
                Some("`*.x` matches every name below x; `**.x` matches x as well".into())
            }
        }
    }
}

/// Why a TARGET (`NAME`, `NAME:PORT`, `NAME:*`, `CIDR`, `CIDR:PORT`) was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The pattern in it was refused.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// What stands after the last colon is neither a port nor `*`.
    #[error("`{text}` is not a port: a port is a number from 1 to 65535, or `*`")]
    BadPort {
        /// What was written, cut to a few characters.
        text: Box<str>,
    },
    /// An address range that does not parse.
    #[error("`{text}` is not an address range")]
    BadNet {
        /// What was written, cut to a few characters.
        text: Box<str>,
    },
    /// An address range with bits set behind its prefix: did its writer mean the one address?
    #[error("`{text}` has bits set beyond its prefix")]
    HostBits {
        /// What was written.
        text: Box<str>,
        /// The range with those bits cleared.
        net: ipnet::IpNet,
    },
    /// A whole URL.
    #[error("a target is a name or an address range, not a URL")]
    Url {
        /// The target to write instead, if the URL has one.
        instead: Option<Box<str>>,
    },
    /// A name with a dot in front, as some lists have it, for a name with its subdomains or for those alone.
    #[error("a target does not begin with a dot")]
    LeadingDot {
        /// The target without the dot.
        name: Box<str>,
    },
    /// A user's name in front of a host, as git's addresses have it.
    #[error("a target has no user name or repository in it")]
    User {
        /// The target to write instead, if there is one.
        instead: Option<Box<str>>,
    },
    /// A host with a path behind it.
    #[error("a target has no path")]
    Path {
        /// The target without it.
        instead: Box<str>,
    },
    /// `NAME/udp` or `CIDR/udp`: datagrams pass on the ports that are named, and on no other.
    #[error("a UDP target must name a port")]
    UdpWithoutPort {
        /// The target without the transport, cut to a few characters.
        text: Box<str>,
    },
}

impl TargetError {
    /// What the writer can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            TargetError::Pattern(e) => e.hint(),
            TargetError::BadPort { text } => match port_of(text) {
                Some(port) => Some(format!("write the port's number, {port}")),
                None if text.is_empty() => Some("add the port, or remove the colon".into()),
                None => None,
            },
            TargetError::BadNet { .. } => {
                Some("write `10.20.0.0/16`, `10.20.0.0/16:5432` or `[fd00::/8]:5432`".into())
            }
            TargetError::HostBits { text, net } => {
                let address = text.split('/').next().unwrap_or(text);
                Some(format!(
                    "write `{net}` for the range, or `{address}` for the one address"
                ))
            }
            TargetError::Url { instead } => instead.as_ref().map(|t| format!("write `{t}`")),
            TargetError::LeadingDot { name } => Some(format!(
                "write `**.{name}` for the name and its subdomains, `*.{name}` for its subdomains alone"
            )),
            TargetError::User { instead } => instead.as_ref().map(|t| format!("write `{t}`")),
            TargetError::Path { instead } => Some(format!(
                "write `{instead}`; to allow some paths only, give its rule `paths` in a policy file"
            )),
            TargetError::UdpWithoutPort { text } => Some(format!(
                "write `{text}:PORT/udp`, as in `time.example.com:123/udp`"
            )),
        }
    }
}
