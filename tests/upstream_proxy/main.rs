//! The upstream proxy behind the gateway, judged by real programs: a real `squid` in the
//! world's internet, with and without credentials, over TLS, and proxies that hang, talk nonsense or
//! close.
#![forbid(unsafe_code)]

#[path = "../support/processes.rs"]
mod processes;
#[path = "../support/mod.rs"]
mod support;

mod broken;
mod secrets;
mod squid;
mod ways;
