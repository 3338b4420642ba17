//! The request core: what is decided on an HTTP request, whatever protocol it came in.
//!
//! Plain HTTP/1.1 (the proxy port, direct connections, inside CONNECT and SOCKS), inspected HTTP/1.1
//! and HTTP/2 are codecs on it: they read requests, hand them to [`Request::decide`], and write what
//! it says. Whether a request is for its connection, what the policy says to it, which path, `Host`,
//! fields and trailers go on, whether it may change to another protocol, and what a refusal says is written
//! here once, so that no way in has a gap that another one lacks.

mod asked;
mod change;
mod decide;
mod fields;
mod head_error;
mod other_name;
mod refusal;

pub(crate) use asked::asked;
pub(crate) use change::{Change, was_asked_for};
pub(crate) use decide::{Core, Form, Permitted, Place, Refused, Request, malformed};
pub(crate) use fields::{Passing, Section};
pub(crate) use head_error::HeadError;
pub(crate) use other_name::other_name;
pub(crate) use refusal::{Format, GATEWAY, PROXY_WANTS_CREDENTIALS, Refusal, WRONG_CREDENTIALS};
