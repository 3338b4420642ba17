//! The policy changes while a program runs, or while `serve` serves: what is still allowed goes on,
//! what is not is reset, what is new works at once, and what is wrong changes nothing.
#![forbid(unsafe_code)]

mod attacks;
#[path = "../support/inside.rs"]
mod inside;
#[path = "../support/policies.rs"]
mod policies;
#[path = "../support/processes.rs"]
mod processes;
mod run;
mod serve;
#[path = "../support/mod.rs"]
mod support;

use policies::{allowing, changes, counts, replace};
