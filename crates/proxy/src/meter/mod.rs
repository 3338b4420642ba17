//! A flow's share in what is limited: `rate`, `total_bytes`, `idle_timeout`, of the sandbox and of
//! the rule that allowed it.
//!
//! Bytes are read, then a [`Meter`] is asked to permit them, then they are written: so they are metered
//! once, for exactly what they are, and what waits for a permit is one chunk for each direction. A flow
//! that no limit concerns has no meter and pays nothing.
//!
//! Answers *exhaustion* (docs/threats.md): one flow does not starve the others of its sandbox, and
//! one sandbox or rule does not take more than the policy gives it, however many connections it
//! opens: a permit is asked for before the first byte.

mod bucket;
mod flow;
mod limiter;
mod share;

#[cfg(feature = "inspect")]
pub(crate) use self::flow::MAX_CHUNK_BYTES;
pub(crate) use self::flow::{Meter, Tap, Watch, Way};
pub(crate) use self::limiter::{Admitted, Limiter};
pub(crate) use self::share::{Cut, Open, OverLimit};
