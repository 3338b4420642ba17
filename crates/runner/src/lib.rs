//! The gateway as a process of its own: what `portcullis run` and `portcullis serve` need besides the
//! library.
//!
//! [`SandboxGateway`] serves the sockets of one sandbox, on whatever runtime it is started on.
//! [`run_in_sandbox`] serves the sockets of one sandbox until it is gone, and leaves a [`Report`];
//! [`serve_plain`] serves plain listeners of the host, and [`serve_daemon`] many sandboxes. Both follow the policy's files ([`Reload`]).
//! Whoever has a process and a sandbox of their own wants `portcullis-gateway` alone.
//!
//! Nothing here parses a command line or touches a signal handler.
#![forbid(unsafe_code)]

mod attached;
mod daemon;
mod datagram_clients;
mod descriptors;
mod guarded_networks;
mod guest;
mod guest_link;
mod host_files;
mod inside;
mod inside_of;
mod kernel_gate;
mod panics;
mod plain;
mod plain_gateway;
mod policy_files;
mod publish;
mod records;
mod refused;
mod reload;
mod report;
mod runtime;
mod sandbox_gateway;
mod sandboxed;
mod thread;
mod tickets;
mod trust;
mod trust_stores;
mod unix_refusals;
mod unresolved;
mod watch;

pub use attached::{AttachConfig, AttachError, serve_attached};
pub use daemon::{
    ConfiguredSandbox, Daemon, DaemonError, LoadConfigured, ReadSettings, Settings, SettingsError,
    serve_daemon,
};
pub use guest_link::{GuestConfig, GuestSocket};
pub use host_files::{HostFiles, HostFilesWatch};
pub use inside_of::{name_files, prepare};
pub use plain::{PlainConfig, serve_plain};
pub use plain_gateway::{DnsSockets, ListenError, Listeners, ServeError};
pub use policy_files::{PolicyFiles, is_nameless};
pub use publish::Publish;
pub use records::RecordConfig;
pub use reload::{Load, Rejected, Reload, ReloadListener, ReloadResult};
pub use report::{Denied, Failed, LookedUp, Report, Used};
pub use sandbox_gateway::{Doors, NotServed, SandboxConfig, SandboxGateway};
pub use sandboxed::{RunConfig, run_in_sandbox};
pub use unresolved::{Unresolved, UnresolvedName};
