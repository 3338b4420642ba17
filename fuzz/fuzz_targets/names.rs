//! Names, hosts, patterns and targets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_names::{Host, Name, NameBuf, NameRef, Pattern, Target};

fuzz_target!(|text: &[u8]| {
    if let Ok(name) = NameBuf::from_program(text) {
        assert!(NameRef::from_canonical(name.as_str()).is_ok());
        let labels = name
            .as_ref()
            .labels()
            .map(str::as_bytes)
            .collect::<Vec<_>>();
        assert_eq!(NameBuf::from_wire(labels), Ok(name));
    }
    if let Ok(host) = Host::from_bare(text) {
        assert_eq!(Host::from_program(host.to_string().as_bytes()), Ok(host));
    }
    let _ = Host::with_port(text);
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    if let Ok(name) = Name::from_policy(text) {
        assert_eq!(Name::from_policy(name.as_str()), Ok(name.clone()));
        assert_eq!(Name::from_program(name.as_str().as_bytes()), Ok(name));
    }
    if let Ok(pattern) = Pattern::from_policy(text) {
        assert_eq!(Pattern::from_policy(&pattern.to_string()), Ok(pattern));
    }
    if let Ok(target) = Target::from_policy(text) {
        assert_eq!(Target::from_policy(&target.to_string()), Ok(target));
    }
});
