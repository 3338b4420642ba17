//! Wire formats: bytes in, typed values out.
//!
//! Everything that a sandboxed program sends is read here first, by parsers that do no I/O, never
//! panic, look at a bounded number of bytes and are strict where two readers of the same bytes
//! could disagree (*decision and destination differ* and *HTTP framing*, docs/threats.md). They are
//! incremental: a prefix of a good message asks for more, and a verdict once given does not change
//! when further bytes arrive.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod dns;
pub mod http1;
pub mod socks5;
pub mod tls;

mod cursor;
#[cfg(test)]
mod prefixes;
