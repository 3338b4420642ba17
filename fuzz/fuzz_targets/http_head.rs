//! HTTP heads, the sniffer and chunked bodies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_wire::http1::{
    BodyLength, BodyScanner, BodyStep, HeadParse, Sniff, WATCHED_TAIL_BYTES, read_head, sniff, watch,
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
    // What passed before it could be told is watched on: no request comes of it unseen.
    match (sniff(front), sniff(stream)) {
        (Sniff::NeedMore, _) | (Sniff::Watch, Sniff::Watch | Sniff::Other) => {}
        (Sniff::Watch, Sniff::Http) => {
            // What is kept of the line shows whatever the whole line would. A word that is no method of
            // a request without a version makes one only together with a protocol's name.
            let kept = front.len().saturating_sub(WATCHED_TAIL_BYTES);
            assert_eq!(watch(&stream[kept..]), watch(stream));
        }
        (early, late) => assert_eq!(early, late),
    }

    // A body must end at the same byte however it arrives.
    let at_once = body_end(&[stream]);
    let in_two = body_end(&[front, back]);
    assert_eq!(in_two, at_once);
});

/// Where a chunked body ends that comes in these pieces.
fn body_end(pieces: &[&[u8]]) -> Result<Option<usize>, &'static str> {
    let mut scanner = BodyScanner::new(BodyLength::Chunked);
    let mut before = 0;
    for piece in pieces {
        let mut rest = *piece;
        loop {
            match scanner.scan(rest) {
                BodyStep::More => break,
                BodyStep::Trailers(at) => {
                    before += at;
                    rest = &rest[at..];
                }
                BodyStep::End(at) => return Ok(Some(before + at)),
                BodyStep::Malformed(why) => return Err(why),
            }
        }
        before += rest.len();
    }
    Ok(None)
}
