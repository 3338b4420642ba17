//! The entrances with real sockets: a gateway outside, programs in a namespace of their own, raw
//! bytes on both sides. Each test runs in a throw-away user and network namespace, so that names,
//! addresses and ports are those of the real thing.

mod alone;
mod asked;
mod cancelled;
mod captured;
mod cleartext;
mod connect;
mod forward;
mod framing;
mod ftp;
mod hello;
mod http2;
mod inspect;
mod limits;
mod live;
mod narrow;
mod relay;
mod requests;
mod sloppy;
mod socks;
mod synthetic;
mod talk;
mod transparent;
mod tunnelled;
mod upgrades;
mod upstream_proxy;
mod waiting;
mod world;
