//! From texts to a policy.
use crate::{Diagnostic, Input, Loaded, Policy};
use std::io;
use std::path::Path;
/// Most
pub const MAX_DIAGNOSTICS: usize = 100;
/// Most
pub const MAX_FILE_BYTES: usize = 256 << 20;
/// Most
pub const MAX_FILES: usize = 64;
/// Most
pub const MAX_INCLUDE_DEPTH: usize = 8;
impl Policy {
    /// x
    /// # Errors
    /// x
    pub fn load(
        _inputs: &[Input],
        _read: &mut dyn FnMut(&Path) -> io::Result<String>,
    ) -> Result<Loaded, Vec<Diagnostic>> {
        Err(vec![])
    }
}
