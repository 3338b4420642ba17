//! The ClientHello reader: whole stream against a shorter prefix of it, and against rustls.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_wire::tls::{Hello, read_client_hello};
use rustls::server::Acceptor;

/// What a server reads: the name, if it would go on at all.
fn oracle(mut stream: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    while matches!(acceptor.read_tls(&mut stream), Ok(1..)) {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return Some(accepted.client_hello().server_name().map(str::to_owned));
            }
            Ok(None) => {}
            Err(_) => return None,
        }
    }
    None
}

fuzz_target!(|stream: &[u8]| {
    let whole = read_client_hello(stream);
    if let Hello::ClientHello(hello) = &whole {
        assert!(hello.wire_bytes <= stream.len());
        assert_eq!(read_client_hello(&stream[..hello.wire_bytes]), whole);
    }
    // Half of the stream, whatever that is, may not have had another verdict.
    let half = read_client_hello(&stream[..stream.len() / 2]);
    assert!(half == Hello::NeedMore || half == whole);
    // Where a server goes on, ours has read the same name or refuses.
    if let Some(theirs) = oracle(stream) {
        match whole {
            Hello::Malformed(_) => {}
            Hello::ClientHello(ours) => {
                let theirs = theirs.map(|name| name.trim_end_matches('.').to_ascii_lowercase());
                assert_eq!(ours.sni.map(|name| name.to_string()), theirs);
            }
            other => panic!("rustls goes on with {theirs:?}, ours says {other:?}"),
        }
    }
});
