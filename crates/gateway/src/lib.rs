//! The gateway of one sandbox, wired: DNS, HTTP, SOCKS5 and transparent entrances, the dialler, the
//! recorder, and what the kernel refused. Also the embeddable library: [`Gateway::builder`] makes a
//! gateway on sockets the embedder hands in, ended by a cancellation token.
//!
//! Nothing here touches signal handlers or parses command lines. A request's way is one line:
//! accept → identify destination → `policy.decide` → dial → relay → record.
#![forbid(unsafe_code)]

mod gate;
mod gateway;
mod guarded;
mod host;
mod plain;
mod publish;
mod refused;
mod report;
mod sandboxed;

pub use gateway::{Builder, Entrances, Gateway};
pub use host::host_resolvers;
pub use plain::{PlainConfig, serve_plain};
pub use portcullis_dns::OwnNames;
pub use portcullis_record::open_file as open_records;
pub use publish::Publish;
pub use report::{Denied, Failed, LookedUp, Report, Used};
pub use sandboxed::{RunConfig, prepare, run_in_sandbox};
