//! The `portcullis` binary: hands its arguments to the library, so that the workbench can do the same.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    portcullis_cli::main(std::env::args_os())
}
