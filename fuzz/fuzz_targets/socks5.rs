//! SOCKS5 greetings and requests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_wire::socks5::{Step, read_greeting, read_request};

fuzz_target!(|stream: &[u8]| {
    let half = &stream[..stream.len() / 2];
    let greeting = read_greeting(stream);
    let early = read_greeting(half);
    assert!(early == Step::NeedMore || early == greeting);
    let request = read_request(stream);
    let early = read_request(half);
    assert!(early == Step::NeedMore || early == request);
    if let Step::Done { used, .. } = &request {
        assert_eq!(read_request(&stream[..*used]), request);
    }
});
