//! Many sandboxes in one process: what `serve --config` runs, controlled over a Unix socket.
//!
//! Each sandbox has a gateway of its own: policy, leases, limits, records and counters. What they share is
//! the process: its runtime, and one look at the host's files.
//!
//! Answers *failing open* (docs/threats.md): what cannot be served is cut off and says why; it is never
//! served by less than its policy. What the daemon knows is on disk before it says so.

mod compile;
mod entry;
mod foreign;
mod guest_socket;
mod listeners;
mod metrics;
mod registry;
mod retry;
mod service;
mod settings;
mod starting;
mod store;
mod upkeep;

pub use registry::LoadConfigured;
pub use service::{Daemon, DaemonError, serve_daemon};
pub use settings::{ConfiguredSandbox, Settings, SettingsError};
pub use upkeep::ReadSettings;
