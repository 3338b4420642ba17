//! The resolver from outside: bytes in, bytes out, with an upstream that logs what it hears.
#![forbid(unsafe_code)]

mod chain;
mod signatures;
mod sockets;
mod upstreams;
mod way_out;
mod world;
