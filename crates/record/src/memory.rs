//! A sink in memory, for tests and for embedders that show records themselves.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes kept; what is written behind that fails like a full disk.
const MAX_MEMORY_BYTES: usize = 64 * 1024 * 1024;

/// What a recorder wrote, readable at any time. Clones share one store.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    /// The lines written so far, without line breaks. Open windows are not in it: call
    /// [`crate::Recorder::flush`] first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes)
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if store.len() + bytes.len() > MAX_MEMORY_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        store.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
