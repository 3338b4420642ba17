//! Canonical names, patterns, ports, address classes and record types.
//!
//! The ground floor: every name that a sandboxed program or an operator writes becomes one
//! canonical form here, once, or is refused. Only that form is matched, resolved, dialled and
//! logged, so no later layer has to ask itself about case, trailing dots, IDNA or `0x7f.1`. This
//! answers *names* (docs/threats.md). The same crate says which addresses belong to the host or
//! its network and are therefore guarded (*addresses*).
//!
//! No I/O, no clock, no async; parsing what a program sent allocates nothing.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod address;
mod buf;
mod clients;
mod error;
mod host;
mod limits;
mod name;
mod pattern;
mod policy_text;
mod ports;
mod record_type;
mod services;
mod status_name;
mod target;

pub use address::{AddressClass, classify, is_guarded};
pub use buf::NameBuf;
pub use clients::{AllowedClients, client_network};
pub use error::{NameError, PatternError, TargetError};
pub use host::{Host, parse_port};
pub use limits::{MAX_LABEL_BYTES, MAX_NAME_BYTES};
pub use name::{Name, NameRef};
pub use pattern::{Pattern, Specificity};
pub use ports::{PortRange, PortSet, Transport};
pub use record_type::{RecordType, Serving};
pub use status_name::{STATUS_NAME, STATUS_PORT};
pub use target::Target;
