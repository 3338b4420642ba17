//! The entrances for TCP: an HTTP proxy, a SOCKS5 proxy and the transparent catch-all; and the
//! relay behind all three.
//!
//! A connection's way is one line, and [`listen`] walks it: an entrance (`http`, `socks`,
//! `transparent`) finds the destination, the `decider` asks the policy about it, the `connector`
//! dials, `identify` decides on what the first bytes show, a `tunnel` relays, and `records` says
//! what happened. Nothing here decides anything itself: what may pass is the policy's word, and the only
//! way to an outbound socket is the dialler, which wants the policy's permit.
//!
//! Answers *decision and destination differ* and *HTTP framing* (docs/threats.md): the destination
//! that is decided on is the one that is dialled, what a program shows later (SNI, Host) is decided
//! on again before a byte of it leaves, and every request of a connection is framed by our own
//! strict reading, never by the client's.
//!
//! Invariant: no byte from the program reaches upstream before the destination it belongs to was
//! decided on.
//! Invariant: every denial leaves one record, every opened flow one decision and one close.
#![forbid(unsafe_code)]
// What only inspection uses of the rooms that it shares.
#![cfg_attr(not(feature = "inspect"), allow(dead_code))]

mod admission;
mod connector;
mod datagram_flows;
mod datagrams;
mod decider;
mod early_timer;
mod flows;
mod ftp;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hint;
mod http;
mod http_only;
mod identify;
mod inbound;
#[cfg(feature = "inspect")]
mod inspect;
mod limits;
mod listen;
mod meter;
mod open_error;
mod opened;
mod proxy;
mod records;
mod relay;
mod request;
mod services;
mod sniff;
mod socket;
mod socks;
mod stop;
mod target;
mod transparent;
mod tunnel;
#[cfg(not(feature = "inspect"))]
mod uninspected;

pub use admission::{OpenFlows, Room};
pub use datagram_flows::{DatagramClients, DatagramEnds, Untaken};
pub use datagrams::serve_datagrams;
pub use decider::Own;
#[cfg(feature = "inspect")]
pub use inspect::{InspectError, Inspector, covers};
pub use limits::{MAX_CONNECTIONS, MAX_DATAGRAM_FLOWS, MAX_REFUSALS};
pub use listen::{serve_http, serve_socks5, serve_transparent};
pub use proxy::Proxy;
pub use relay::{Relayed, relay_between};
#[cfg(not(feature = "inspect"))]
pub use uninspected::{InspectError, Inspector, covers};
