//! The gateway of one sandbox, wired: DNS, HTTP, SOCKS5 and transparent entrances, the dialler, the
//! recorder, and what the kernel refused. Also the embeddable library: [`Gateway::builder`] makes a
//! gateway on sockets the embedder hands in, ended by a cancellation token.
//!
//! An embedder's program keeps its own signals, and ends a start that takes too long with a token:
//!
//! ```
//! use portcullis_gateway::{Entrances, Gateway, StartError};
//! use portcullis_policy::{Input, Policy, Resolve};
//! use tokio_util::{sync::CancellationToken, task::TaskTracker};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let inputs = [Input::Allow("api.example.com".into()), Input::Resolve(Resolve::Startup)];
//! let loaded = Policy::load(&inputs, &mut |path| std::fs::read_to_string(path));
//! let policy = loaded.map_err(|errors| format!("{errors:?}"))?.policy;
//! let gateway = Gateway::builder().policy(policy).build();
//! let entrances = Entrances {
//!     dns_udp: vec![std::net::UdpSocket::bind("127.0.0.1:0")?],
//!     ..Entrances::default()
//! };
//! let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
//! // Cancel `token` from anywhere: `start` returns at once, and so does what it has started.
//! match gateway.start(entrances, &tracker, &token).await {
//!     Ok(names) => println!("serving; {} names are resolved", names.len()),
//!     // No resolver was given here, so the name fails, and nothing is served.
//!     Err(StartError::Names(error)) => eprintln!("{error}"),
//!     Err(StartError::Socket(error)) => return Err(error.into()),
//! }
//! token.cancel();
//! tracker.close();
//! tracker.wait().await;
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here touches signal handlers or parses command lines. A request's way is one line:
//! accept → identify destination → `policy.decide` → dial → relay → record.
#![forbid(unsafe_code)]

mod files;
mod gate;
mod gateway;
mod guarded;
mod host;
mod plain;
mod publish;
mod refused;
mod reload;
mod replace;
mod report;
mod sandboxed;
mod startup;
mod synthetic;
mod trust;
mod watch;

pub use files::{PolicyFiles, is_nameless};
pub use gateway::{Builder, Entrances, Gateway};
pub use host::host_resolvers;
pub use plain::{PlainConfig, serve_plain};
pub use portcullis_dns::{OwnNames, StartupError, StartupFailure, StartupName, StartupSchedule};
pub use portcullis_proxy::{InspectError, Inspector};
pub use portcullis_record::open_file as open_records;
pub use publish::Publish;
pub use reload::{Load, Outcome, Reload, Tell};
pub use replace::{Acceptable, Networks, ReplaceError, Replaced};
pub use report::{Denied, Failed, LookedUp, Report, Used};
pub use sandboxed::{RunConfig, prepare, run_in_sandbox};
pub use startup::{StartError, Unresolved, UnresolvedName};
pub use synthetic::{RangeError, check_synthetic_range};
