//! The gateway of a sandbox as a library: sockets and a policy in, decision records out, a token to
//! end it.
//!
//! [`Gateway::builder`] takes the policy and where records go; [`Gateway::start`] takes the sockets
//! that were made inside the sandbox, whoever made it. Everything that this needs is exported here,
//! so that an embedder depends on this one crate. Nothing here starts a process, watches a file,
//! touches a signal handler or knows of a namespace.
//!
//! ```
//! use portcullis_gateway::{
//!     CancellationToken, Entrances, Gateway, Input, Policy, Resolve, StartError, TaskTracker,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let inputs = [Input::Allow("api.example.com".into()), Input::Resolve(Resolve::Startup)];
//! let loaded = Policy::load(&inputs, &mut |path| std::fs::read_to_string(path));
//! let policy = loaded.map_err(|errors| format!("{errors:?}"))?.policy;
//! let gateway = Gateway::builder().policy(policy).build()?;
//! let entrances = Entrances {
//!     dns_udp: vec![std::net::UdpSocket::bind("127.0.0.1:0")?],
//!     ..Entrances::default()
//! };
//! let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
//! // Cancel `token` from anywhere: `start` returns at once, and so does what it has started.
//! match gateway.start(entrances, &tracker, &token).await {
//!     // `serving.ended()` waits for the end, and says which part failed if one did.
//!     Ok(serving) => println!("serving; {} names are resolved", serving.names().len()),
//!     // No resolver was given here, so the name fails, and nothing is served.
//!     Err(StartError::Names(error)) => eprintln!("{error}"),
//!     Err(error) => return Err(error.into()),
//! }
//! token.cancel();
//! tracker.close();
//! tracker.wait().await;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/embed.rs` is a small sandbox: a namespace, listeners in it, a command inside.
//!
//! One process can serve a thousand sandboxes, each by a gateway of its own on one runtime. Nothing is
//! shared but what is handed to several: there is no global state, no logger is installed, and a token ends
//! each. For so many, give each its share of descriptors ([`Builder::descriptors`]) and let one thread write
//! all records ([`WriterThread`]). Decisions come out as records ([`Recorder`]), live
//! ([`Subscription::recv`]) and as numbers ([`Gateway::metrics`], [`openmetrics`]).
//!
//! Two features are on by default. Without `inspect`, HTTPS cannot be inspected; without `doh`, no
//! resolver can be asked over HTTPS. A policy that needs what was left out is refused.
//!
//! A request's way is one line: accept → identify destination → `policy.decide` → dial → relay →
//! record.
#![forbid(unsafe_code)]

mod descriptors;
mod entrances;
mod gateway;
mod host;
mod metrics;
mod replace;
mod serving;
mod startup;
mod synthetic;

pub use entrances::Entrances;
pub use gateway::{Builder, Gateway};
pub use host::{HostNetwork, callers_search, host_resolv_conf, resolv_conf_in, usable_resolvers};
pub use metrics::{Metrics, OPENMETRICS_CONTENT_TYPE, SandboxMetrics, openmetrics};
pub use replace::{Networks, ReplaceError, Replaced};
pub use serving::{PartError, Serving};
pub use startup::{Acceptable, BuildError, ResolverError, StartError};
pub use synthetic::{RangeError, check_synthetic_range};

// What an embedder needs of the crates below.
pub use portcullis_dial::{Inside, LOOPBACK, Tickets, connect_inside};
pub use portcullis_dns::{
    AddressGate, HostsFile, Leases, OwnNames, PolicyHandle, ResolvConf, SearchList, StartupError,
    StartupFailure, StartupName, StartupSchedule, interface_index,
};
pub use portcullis_guest::StatusPage;
pub use portcullis_names::{AllowedClients, PortSet, client_network};
pub use portcullis_policy::{
    Diagnostic, Environment, Input, Loaded, Mode, Policy, Reason, Resolve, Verdict,
};
pub use portcullis_proxy::{
    DatagramClients, DatagramEnds, InspectError, Inspector, OpenFlows, Own, Untaken,
};
pub use portcullis_record::{
    Label, LabelError, Labels, ObservedDecision, Origin, Recorder, Subscription, WriterThread,
    open_file as open_records,
};
pub use tokio_util::{sync::CancellationToken, task::TaskTracker};
