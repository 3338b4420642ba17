//! Containers of real engines: `portcullis hook` under runc, crun and podman.
#![forbid(unsafe_code)]

mod bundle;
mod cni;
mod daemon;
mod hook;
#[path = "../support/processes.rs"]
mod processes;
mod sidecar;
#[path = "../support/mod.rs"]
mod support;
