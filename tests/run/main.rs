//! `portcullis run` as the one who calls it sees it, and as the program inside does: exit codes,
//! standard streams, signals, terminals, process trees, descriptors, files, Unix sockets, root.
#![forbid(unsafe_code)]

mod descriptors;
mod exits;
mod files;
mod inside;
mod labels;
mod nested;
mod ping;
#[path = "../support/processes.rs"]
mod processes;
mod published;
mod root;
mod root_files;
mod sockets;
mod status_page;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod terminal;
mod tree;
mod wrong;
