//! The situations that the product exists for, with their files as they stand and the programs they
//! name: the company's proxy (case 1), the four layers (case 2), a Codex profile (case 3), programs
//! that know no proxy and long-lived sockets (case 4).
#![forbid(unsafe_code)]

#[path = "../support/shared.rs"]
mod shared;
#[path = "../support/mod.rs"]
mod support;

mod case_1_company;
mod case_2_layers;
mod case_3_codex;
mod case_4_direct;
mod streams;
