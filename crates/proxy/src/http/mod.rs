//! HTTP: the proxy port, and plain HTTP on direct connections.
//!
//! The codec of HTTP/1.1 without TLS on the request core: one loop reads request heads, strictly, one
//! after the other, and has every single one decided on, whatever the connection did before. A refusal
//! ends the connection. Answers *decision and destination differ* and *HTTP framing*
//! (docs/threats.md).

mod body;
mod connect;
mod exchange;
mod forward;
mod head;
mod metered;
mod request_head;
mod response;
mod serve;
mod session;
mod status;
mod upstream;

#[cfg(fuzzing)]
pub(crate) use self::response::{Answers, Parsed, read as read_response};
pub(crate) use self::serve::{at_page, behind, open};
pub(crate) use self::status::means_page;
