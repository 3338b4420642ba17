//! What the kernel tells of the program: refused packets, addresses of `connect`, tables of sockets and
//! mounts; and what the sandbox's own processes tell each other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_sandbox::fuzzing::{path_in_address, read_everything, refused_packets};

fuzz_target!(|bytes: &[u8]| {
    // Each message has a header of 16 bytes, each packet at least 20 more.
    assert!(refused_packets(bytes).len() <= bytes.len() / 36);
    if let Some(path) = path_in_address(bytes) {
        assert!(!path.is_empty() && !path.contains(&0));
        assert!(bytes.starts_with(&1_u16.to_ne_bytes()));
    }
    read_everything(bytes);
});
