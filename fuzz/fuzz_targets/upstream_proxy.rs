//! What an upstream proxy answers, to CONNECT and over SOCKS5: behind it stand the program's own bytes.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis_dial::fuzzing::behind_a_proxys_reply;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().unwrap());

fuzz_target!(|input: &[u8]| {
    let Some((kind, reply)) = input.split_first() else {
        return;
    };
    let by_socks = kind & 1 == 1;
    let cut = usize::from(kind >> 1) * reply.len() / 128;
    RUNTIME.block_on(async {
        let whole = behind_a_proxys_reply(&[reply], by_socks).await;
        let (front, back) = reply.split_at(cut);
        assert_eq!(behind_a_proxys_reply(&[front, back], by_socks).await, whole);
        if let Some(behind) = whole {
            assert!(behind.len() < reply.len() && reply.ends_with(&behind));
        }
    });
});
