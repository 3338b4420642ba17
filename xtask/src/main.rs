//! Project chores. `cargo xtask test` installs what the tests need and runs them all;
//! `cargo xtask tidy` checks formatting, lints and the house rules.
#![forbid(unsafe_code)]

mod fuzz;
mod machine;
mod packages;
mod shell;
mod tests;
mod tidy;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test [--fast] [FILTER…]   install what the tests need, build, run every test
                                      (--fast leaves out those with a virtual machine or Java)
cargo xtask prepare [--fast]          install what the tests need and no more
cargo xtask hunt [SECONDS]            the bypass hunter, as an ordinary user and as root; 600 each
cargo xtask programs                  install large programs too (browsers, agents), and try all of them
cargo xtask needs                     list what the tests need, and what is missing
cargo xtask tidy                      formatting, lints, house rules
cargo xtask fuzz [--seconds N] [TARGET…]   build the fuzz targets and run each (60 s unless told)";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test", rest @ ..] => tests::test(rest),
        ["prepare"] => tests::prepare(false),
        ["prepare", "--fast"] => tests::prepare(true),
        ["hunt"] => tests::hunt("600"),
        ["hunt", seconds] => tests::hunt(seconds),
        ["programs"] => tests::programs(),
        ["needs"] => {
            packages::list();
            Ok(())
        }
        ["tidy"] => tidy::run_all(),
        ["fuzz", rest @ ..] => fuzz::fuzz(rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("xtask: {text}");
            ExitCode::FAILURE
        }
    }
}
