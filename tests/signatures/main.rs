//! The table of signatures that a program may rely on, row by row, read with the ordinary tools and
//! with bytes written by hand; and that every denial leaves exactly one record.
//!
//! Not here, because what they need comes with a later release: method and path policies,
//! stale answers, policies that change under a live flow.
#![forbid(unsafe_code)]

#[path = "../support/shared.rs"]
mod shared;
#[path = "../support/mod.rs"]
mod support;

mod bars;
mod dns;
mod every_layer;
mod http;
mod limits;
mod routes;
mod socks;
mod tcp;
mod tls;
mod udp;

use support::Ran;

/// The words after `mark` on the line that has it.
#[track_caller]
fn after<'t>(text: &'t str, mark: &str) -> &'t str {
    let line = text.lines().find_map(|line| Some(line.split_once(mark)?.1));
    line.unwrap_or_else(|| panic!("no {mark:?} in {text}"))
        .trim()
}

/// Fails the test unless exactly so many records deny something, with counts added up.
#[track_caller]
fn assert_denials(ran: &Ran, count: u64) {
    let counted: u64 = ran
        .records
        .all_denials()
        .iter()
        .map(|record| record["count"].as_u64().unwrap_or(1))
        .sum();
    assert_eq!(counted, count, "denials: {ran}");
}
