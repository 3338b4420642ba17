//! Inspection of HTTPS, for names whose rule says `inspect = true` and for no other.
//!
//! The program's TLS ends here, with a certificate of an authority that only this sandbox trusts;
//! another TLS connection leads to upstream, whose certificate is verified as the program would
//! have done. In between, each request is decided on by its method and path, which is what rules
//! with `methods` and `paths` need.
//!
//! Answers "decision and destination differ" inside TLS, and keeps what inspection costs small: the
//! authority's key never leaves this process's memory, its certificate holds for the inspected
//! names alone, and everything not listed passes without being looked into.
//!
//! Invariant: nothing is dialled, and no TLS is answered, before the name was decided on.
//! Invariant: a program is only shown a certificate for the name that was decided on.
//! Invariant: nothing but HTTP passes on an inspected connection, each request decided on by itself, and what
//! such a request has changed to.

mod accept;
mod alpn;
mod answer;
mod authority;
mod body;
mod cleartext;
mod conclude;
mod ended;
mod error;
mod exchange;
mod fields;
mod frames;
mod heads;
mod hpack;
mod inspector;
mod io;
mod leaves;
mod limits;
mod sender;
mod serve;
mod tasks;
mod upstream;
mod websocket;

pub(crate) use self::accept::{ToInspect, inspect};
pub(crate) use self::cleartext::cleartext;
pub use self::error::InspectError;
pub(crate) use self::inspector::by_name;
pub use self::inspector::{Inspector, covers};

/// What stands between a program's bytes and hyper.
#[cfg(fuzzing)]
pub(crate) fn checked(
    stream: tokio::io::DuplexStream,
    http2: bool,
) -> impl tokio::io::AsyncRead + Unpin {
    let activity = io::Activity::new();
    match http2 {
        true => heads::Checked::http2(stream, activity, true),
        false => heads::Checked::http1(stream, activity),
    }
}
