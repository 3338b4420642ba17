//! The guard in front of the DNS service: what a query is, before anything is looked up.
//!
//! Nothing of the client's message is ever forwarded (*resolution as a way out*, docs/threats.md), so
//! this reads only what a new query is built from: one canonical name and a type, and what the
//! answer must echo. Whatever else a message carries (extra questions, records, opcodes, classes)
//! is refused here. It allocates nothing.

mod frame;
mod query;
mod reverse;

pub use frame::{Frame, MAX_FRAME_BYTES, read_frame};
pub use query::{Answer, Edns, Header, Query, QueryError, QueryErrorKind, guard_query};
pub use reverse::{ptr_address, ptr_name};

#[cfg(test)]
mod tests;
