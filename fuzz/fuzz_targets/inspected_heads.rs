//! What a program says inside TLS, on its way to hyper: the same must pass however it comes, and no
//! request of HTTP/1.1 that the strict reader refuses.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis_proxy::fuzzing::{asked, passed_to_hyper};
use portcullis_wire::http1::{HeadParse, read_head};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap()
});

fuzz_target!(|input: &[u8]| {
    let Some((kind, stream)) = input.split_first() else {
        return;
    };
    let http2 = kind & 1 == 1;
    let (front, back) = stream.split_at(usize::from(kind >> 1) * stream.len() / 128);
    RUNTIME.block_on(async {
        let whole = passed_to_hyper(&[stream], http2).await;
        assert_eq!(passed_to_hyper(&[front, back], http2).await, whole);
        // Header blocks of HTTP/2 may pass with a mark in them.
        if !http2 {
            assert!(stream.starts_with(&whole));
            match read_head(stream) {
                HeadParse::Head(head) => assert!(whole.len() >= head.head_len),
                HeadParse::NeedMore | HeadParse::Malformed(_) => assert!(whole.is_empty()),
            }
        }
    });
    let _ = asked(stream);
});
