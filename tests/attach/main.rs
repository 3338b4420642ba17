//! `portcullis attach`: sandboxes that others have started, of each kind; what is left when it ends; and
//! programs inside that attack it.
#![forbid(unsafe_code)]

mod attacks;
mod containers;
mod detached;
mod files;
#[path = "../support/inside.rs"]
mod inside;
mod kinds;
mod places;
#[path = "../support/processes.rs"]
mod processes;
mod refused;
#[path = "../support/mod.rs"]
mod support;
