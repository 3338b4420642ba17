//! Where a sandbox is: the namespaces that its doors are put into.
//!
//! Each kind is a variant of [`Attachment`]. What is particular to it stands in this folder: how its
//! namespace is entered, what is refused, and what is taken away at the end. What is built inside is the
//! same for all ([`crate::Inside`]).
//!
//! A namespace cannot be entered by a process with threads where a user namespace has to be entered
//! first. So a small process of its own does it, the *holder*. It makes the sockets, hands them to the
//! gateway, and stays: it makes further sockets, and takes the doors away in the end. A process that is
//! started once makes all holders of a gateway, as copies of itself.

mod enter;
mod files;
mod holder;
mod identity;
mod links;
mod request;
mod start;
mod starter;
mod undo;

pub use enter::look_from;
pub use identity::{network_number, network_owner, process_mark};
pub use request::{AttachRequest, Attachment, TrustContent};
pub use start::{Attached, Holders, attach, attach_again};
pub use starter::hold;
