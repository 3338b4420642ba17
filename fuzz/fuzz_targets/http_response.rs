//! Response heads of upstream servers, and what goes on of them to the program.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_proxy::fuzzing::response_head;

fuzz_target!(|input: &[u8]| {
    let Some((kind, stream)) = input.split_first() else {
        return;
    };
    let (to_head, to_old) = (kind & 1 == 1, kind & 2 == 2);
    let Some((rewritten, length)) = response_head(stream, to_head, to_old) else {
        return;
    };
    // It ended there, whatever follows.
    let alone = response_head(&stream[..length], to_head, to_old);
    assert_eq!(alone, Some((rewritten.clone(), length)));
    assert_eq!(response_head(&stream[..length - 1], to_head, to_old), None);
    // What goes on is one head, which reads the same again, in lines that nobody splits.
    let sent = [&rewritten, b"\r\n".as_slice()].concat();
    assert_eq!(sent.windows(4).position(|end| end == b"\r\n\r\n"), Some(sent.len() - 4));
    let (again, whole) = response_head(&sent, to_head, to_old).expect("it reads its own head");
    assert_eq!((again, whole), (rewritten.clone(), sent.len()));
    for line in rewritten.split(|byte| *byte == b'\n') {
        assert!(line.is_empty() || line.ends_with(b"\r") && !line[..line.len() - 1].contains(&b'\r'));
        // Only the gateway says these.
        for ours in ["x-proxy-error:", "proxy-status: portcullis", "connection:"] {
            let begins = line.get(..ours.len()).unwrap_or_default();
            assert!(!begins.eq_ignore_ascii_case(ours.as_bytes()));
        }
    }
});
