//! The working bench.
fn main() {}
