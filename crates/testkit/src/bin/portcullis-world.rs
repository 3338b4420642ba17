//! The world's helper process as a program of its own; see `portcullis_testkit::dispatch`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    portcullis_testkit::dispatch().unwrap_or_else(|| {
        eprintln!("portcullis-world is started by portcullis_testkit::World, not by hand");
        ExitCode::from(2)
    })
}
