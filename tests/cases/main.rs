//! The situations that the product exists for, with their files as they stand and the programs they
//! name: the upstream proxy (case 1), the four layers (case 2), a Codex profile (case 3), programs
//! that know no proxy and long-lived sockets (case 4), a list that is resolved at the start (case 5).
#![forbid(unsafe_code)]

#[path = "../support/processes.rs"]
mod processes;
#[path = "../support/shared.rs"]
mod shared;
#[path = "../support/mod.rs"]
mod support;

mod case_1_upstream_proxy;
mod case_2_layers;
mod case_3_codex;
mod case_4_direct;
mod case_5_startup;
mod streams;
