//! The resolver from outside: bytes in, bytes out, with an upstream that logs what it hears.
#![forbid(unsafe_code)]

mod chain;
mod health;
mod hostile_answers;
mod https;
mod memory;
mod repeated;
mod scenarios;
mod secure_world;
mod signatures;
mod sockets;
mod spoofing;
mod startup;
mod synthetic;
mod tls;
mod upstreams;
mod way_out;
mod world;
mod zones;
