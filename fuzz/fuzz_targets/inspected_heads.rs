//! What a program says inside TLS, on its way to hyper: the same must pass however it comes, and no
//! request of HTTP/1.1 that the strict reader refuses.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis_proxy::fuzzing::{asked, passed_to_hyper};
use portcullis_wire::http1::{HeadParse, MAX_EMPTY_LINES, read_head, with_ascii_target};
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
            assert!(begins_with_repaired(stream, &whole));
            match read_head(&with_ascii_target(without_empty_lines(stream).to_vec())) {
                HeadParse::Head(head) => assert!(whole.len() >= head.head_len),
                HeadParse::NeedMore | HeadParse::Malformed(_) => assert!(whole.is_empty()),
            }
        }
    });
    let _ = asked(stream);
});

/// Without the empty lines that may come in front of a head.
fn without_empty_lines(stream: &[u8]) -> &[u8] {
    (0..MAX_EMPTY_LINES).fold(stream, |rest, _| rest.strip_prefix(b"\r\n").unwrap_or(rest))
}

/// Whether these bytes are the front of the stream, but for what may be repaired of it: empty lines, and bytes
/// beyond ASCII that a URL writes in another way.
fn begins_with_repaired(mut stream: &[u8], mut passed: &[u8]) -> bool {
    while let [byte, rest @ ..] = passed {
        let escaped = |front: u8| format!("%{front:02X}");
        stream = match stream {
            [front, behind @ ..] if front == byte => {
                passed = rest;
                behind
            }
            [front, behind @ ..]
                if !front.is_ascii() && passed.starts_with(escaped(*front).as_bytes()) =>
            {
                passed = &passed[3..];
                behind
            }
            [b'\r', b'\n', behind @ ..] => behind,
            _ => return false,
        };
    }
    true
}
