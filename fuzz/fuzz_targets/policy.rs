//! Policy files of every format, from their bytes to decisions.
#![no_main]

use std::io;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use portcullis_names::{NameBuf, RecordType};
use portcullis_policy::{Input, Policy, Request};

/// The first byte of an input says which.
const FILES: [&str; 4] = ["policy.toml", "policy.yaml", "policy.json", "policy.txt"];

fn load(text: &str, file: &str) -> Option<Policy> {
    let input = Input::File {
        path: file.into(),
        text: text.to_owned(),
    };
    // A policy that includes itself, and one that includes what is not there.
    let mut read = |path: &Path| match path.file_name() {
        Some(name) if name == file => Ok(text.to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    match Policy::load(&[input], &mut read) {
        Ok(loaded) => Some(loaded.policy),
        Err(errors) => {
            assert!(!errors.is_empty(), "refused, and nobody says why");
            for error in errors {
                let _ = error.to_string();
            }
            None
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, text)) = input.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let file = FILES[usize::from(*kind) % FILES.len()];
    let (Some(policy), Some(again)) = (load(text, file), load(text, file)) else {
        return;
    };
    // Names that no file lists by accident are decided on alike, however often the file is read.
    for name in [
        "a.example",
        "b.a.example",
        "xn--mnchen-3ya.example",
        "1.2.0.192.in-addr.arpa",
    ] {
        let name = NameBuf::from_program(name.as_bytes()).unwrap();
        for qtype in [RecordType::A, RecordType::PTR, RecordType::TXT] {
            let request = Request::Lookup {
                name: name.as_ref(),
                qtype,
            };
            let (one, other) = (policy.decide(&request), again.decide(&request));
            assert_eq!((one.verdict, one.reason), (other.verdict, other.reason));
        }
    }
});
