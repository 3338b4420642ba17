//! HTTP heads, the sniffer and chunked bodies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_wire::http1::{
    BodyLength, BodyScanner, BodyStep, HeadParse, Sniff, read_head, sniff,
};

fuzz_target!(|stream: &[u8]| {
    let whole = read_head(stream);
    let (front, back) = stream.split_at(stream.len() / 2);
    let half = read_head(front);
    assert!(half == HeadParse::NeedMore || half == whole);
    if let HeadParse::Head(head) = &whole {
        assert!(stream[..head.head_len].ends_with(b"\r\n\r\n"));
        assert_ne!(sniff(stream), Sniff::Other);
        let hosts = head
            .headers(stream)
            .filter(|(n, _)| n.eq_ignore_ascii_case("host"));
        assert_eq!(hosts.count(), usize::from(head.host.is_some()));
    }
    let early = sniff(front);
    assert!(early == Sniff::NeedMore || early == sniff(stream));

    // A body must end at the same byte however it arrives.
    let at_once = BodyScanner::new(BodyLength::Chunked).scan(stream);
    let mut scanner = BodyScanner::new(BodyLength::Chunked);
    let in_two = match scanner.scan(front) {
        BodyStep::More => match scanner.scan(back) {
            BodyStep::End(at) => BodyStep::End(front.len() + at),
            other => other,
        },
        other => other,
    };
    assert_eq!(in_two, at_once);
});
