//! Names that are answered with addresses of the gateway's own making: synthetic answers, and mocked
//! names. Judged by what real programs reach, and by the logs of the servers outside.
#![forbid(unsafe_code)]

#[path = "../support/processes.rs"]
mod processes;
#[path = "../support/mod.rs"]
mod support;

mod etc;
mod hosts;
mod mocks;
mod search;
mod synthetic;
