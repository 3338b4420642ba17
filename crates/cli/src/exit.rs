//! Exit codes that more than one command uses.

/// For bad flags and bad policies, of every command but `run`.
pub const USAGE: u8 = 2;
/// `run --strict-log`: decision records are missing.
pub const RECORDS_MISSING: u8 = 123;
/// Portcullis itself failed before CMD started.
pub const BEFORE_START: u8 = 125;
