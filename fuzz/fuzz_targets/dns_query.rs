//! The DNS query guard, the frame reader and reverse names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_names::NameRef;
use portcullis_wire::dns::{Frame, guard_query, ptr_address, ptr_name, read_frame};

fuzz_target!(|message: &[u8]| {
    match guard_query(message) {
        Ok(query) => {
            assert!(NameRef::from_canonical(query.name.as_str()).is_ok());
            assert!(query.qclass == 1 && message.get(query.question).is_some());
            if let Some(address) = ptr_address(query.name.as_ref()) {
                assert_eq!(ptr_name(address).as_str(), query.name.as_str());
            }
        }
        Err(error) => {
            if let Some(question) = error.question {
                assert!(message.get(question).is_some());
            }
        }
    }
    if let Frame::Message {
        message: inner,
        used,
    } = read_frame(message)
    {
        assert_eq!(used, inner.len() + 2);
    }
});
