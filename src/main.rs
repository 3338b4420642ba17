//! The working bench: `demo` runs the product in a small world of its own; every other command is
//! the product's, so that `cargo run --release -- run …` works from a checkout.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "demo")
    {
        return match std::env::current_exe() {
            Ok(program) => portcullis_testkit::demo::run(&program),
            Err(error) => {
                eprintln!("portcullis: cannot tell where this program is: {error}");
                ExitCode::FAILURE
            }
        };
    }
    portcullis_cli::main(std::env::args_os())
}
