//! The ClientHello reader: whole stream against a shorter prefix of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_wire::tls::{Hello, read_client_hello};

fuzz_target!(|stream: &[u8]| {
    let whole = read_client_hello(stream);
    if let Hello::ClientHello(hello) = &whole {
        assert!(hello.wire_bytes <= stream.len());
        assert_eq!(read_client_hello(&stream[..hello.wire_bytes]), whole);
    }
    // Half of the stream, whatever that is, may not have had another verdict.
    let half = read_client_hello(&stream[..stream.len() / 2]);
    assert!(half == Hello::NeedMore || half == whole);
});
