//! HTTP, SOCKS5 and transparent entrances, and the relay.
#![forbid(unsafe_code)]
