//! Attacks from inside on the whole product, judged from outside: by what the program saw, what every
//! server received, and the record. What one part answers for alone is tested with that part.
#![forbid(unsafe_code)]

#[path = "../support/mod.rs"]
mod support;

mod records;
mod reverse_names;
mod wildcards;
