//! Upstream resolvers for real: over TLS and HTTPS, in the test world and by unbound; split horizon.
#![forbid(unsafe_code)]

#[path = "../support/processes.rs"]
mod processes;
#[path = "../support/mod.rs"]
mod support;

mod encrypted;
mod horizon;
mod link;
