//! What a rule may say about HTTP requests: their methods and their paths.
//!
//! A rule that says so lets nothing but HTTP through, so that there is always something to look at
//! ([`crate::ConnectPermit::only_http`]).

mod methods;
mod path;
mod pattern;

pub use methods::{LIMITED_METHODS, MethodSet};
pub use path::{PathError, canonical_path};
pub use pattern::PathSet;

pub(crate) use methods::{MAX_METHODS, MethodError, check as check_method};
pub(crate) use path::MAX_PATTERN_BYTES;
pub(crate) use pattern::{MAX_PATHS, PathPattern, PatternError};
