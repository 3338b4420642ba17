//! The control API of a daemon that holds many sandboxes: HTTP/1.1 on a Unix socket, described by an
//! OpenAPI 3.1 document that is made from the handlers, and a client for it.
//!
//! Answers *around the gateway* (docs/threats.md): who asks is known by the kernel's word on the peer, not
//! by anything in the request. Whoever lives in another network namespace than the daemon, and so perhaps in
//! a sandbox, is refused before a request is read.
//!
//! What is controlled stands behind [`Sandboxes`]; this crate starts nothing and decides nothing.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod access;
mod api;
mod client;
mod cni;
mod handlers;
mod oci;
mod problem;
mod sandboxes;
mod server;
mod stream;

pub use access::{Admins, Caller, Peer};
pub use api::{
    Applied, AttachTo, Change, Counts, Decision, Explained, Finding, Framing, Level, Listening,
    Name, NewSandbox, PolicyFormat, PolicyText, Sandbox, State, TapDevice, TargetList,
};
pub use client::{Client, ClientError, Event, Events};
pub use cni::{CNI_VERSIONS, CniCode, CniConfig, CniContainer, CniError, CniMade};
pub use handlers::document;
pub use oci::{CONTAINER_LABEL, ContainerState, ContainerStatus, POLICY_ANNOTATION, bundle_root};
pub use problem::{Problem, ProblemKind};
pub use sandboxes::Sandboxes;
pub use server::{Gatekeeper, MAX_BODY_BYTES, MAX_CONNECTIONS, PeerOf, serve};
