//! The one way out: whoever wants a connection to the world asks here, with a permit.
//!
//! Answers *addresses* and *decision and destination differ* (docs/threats.md) at the last possible
//! moment: each address is checked by the policy's guard, against the host's own interfaces and
//! against the gateway's own listeners, right before it is connected to, whatever was checked
//! earlier and however the address was found. A name that turns to a private address between two
//! lookups, an answer that mixes public and private addresses, an IPv6 form of an internal IPv4
//! address: they all meet the same check.
//!
//! Invariant: `socket::connect` and, for datagrams, `socket::connect_datagrams` are the only functions
//! that call connect(2) towards the world, and `guard::Guard` is asked about the very address that they are given, with
//! nothing in between.
//!
//! A server of the sandbox's own is no part of the world: [`Inside`] makes the socket for it in the
//! sandbox, from where only the sandbox can be reached (`inside::connect_inside`).
//!
//! Invariant: nothing is dialled without a [`ConnectPermit`](portcullis_policy::ConnectPermit).
#![forbid(unsafe_code)]

mod datagrams;
mod dialed;
mod dialer;
mod direct;
mod error;
mod eyeballs;
#[cfg(fuzzing)]
pub mod fuzzing;
mod guard;
mod host;
mod inside;
mod socket;
mod stream;
mod system_names;
mod upstream_proxy;

pub use datagrams::Datagrams;
pub use dialed::{AbsoluteForm, Dialed};
pub use dialer::{DIAL_TIMEOUT, DialConfig, Dialer, MAX_EXTRA_ATTEMPTS};
pub use error::DialError;
pub use host::{Host, HostAddresses, LOOPBACK, reaches};
pub use inside::{Inside, connect_inside};
pub use socket::ATTEMPT_TIMEOUT;
pub use stream::{ReadHalf, Stream, WriteHalf};
pub use upstream_proxy::Tickets;

#[cfg(test)]
mod dialer_tests;
#[cfg(test)]
mod testing;
