//! The DNS forwarder: service, cache, upstreams, leases.
#![forbid(unsafe_code)]
