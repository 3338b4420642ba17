//! What sets up a guest's network by itself: answers to DHCPv4 clients, and IPv6 router advertisements.
//!
//! A guest is hostile (*exhaustion* and *around the gateway*, docs/threats.md). What it sends is read
//! here by parsers that do no I/O and never panic. There is one guest and one address, so nothing
//! that a guest sends is remembered, and a message that is not understood in full is not answered.
//! ARP, neighbour discovery and TCP are the kernel's.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod dhcp;
pub mod framing;
pub mod router;

mod network;
mod rate;

pub use network::{DEFAULT_MTU, GuestNetwork, MAX_MTU, MIN_MTU};
pub use rate::Rate;
