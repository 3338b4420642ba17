//! What sets up a guest's network by itself: answers to DHCPv4 clients, IPv6 router advertisements, and the
//! pages that a guest without files of ours is set up from.
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
mod pac;
mod pages;
mod rate;
mod setup;
mod status_page;

pub use network::{DEFAULT_MTU, GuestNetwork, MAX_MTU, MIN_MTU};
pub use pages::{Page, Reader, answer};
pub use rate::Rate;
pub use setup::{AUTHORITY_VARIABLES, NO_PROXY, PROXY_VARIABLES};
pub use status_page::StatusPage;
