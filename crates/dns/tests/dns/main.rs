//! The resolver from outside: bytes in, bytes out, with an upstream that logs what it hears.
#![forbid(unsafe_code)]

mod chain;
mod hostile_answers;
mod made_up;
mod memory;
mod repeated;
mod scenarios;
mod signatures;
mod sockets;
mod startup;
mod upstreams;
mod virtual_time;
mod way_out;
mod world;
