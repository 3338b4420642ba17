//! Attacks from inside on the whole product, judged from outside: by what the program saw, what every
//! server received, and the record. What one part answers for alone is tested with that part.
#![forbid(unsafe_code)]

#[path = "../support/processes.rs"]
mod processes;
#[path = "../support/mod.rs"]
mod support;

mod asked;
mod control;
mod descriptors;
mod exhaustion;
mod frames;
mod http_disguises;
#[path = "../support/inside.rs"]
mod inside;
mod live_policy;
mod log_flood;
mod log_sinks;
mod named_ports;
#[path = "../support/policies.rs"]
mod policies;
mod records;
mod reverse_names;
mod search_list;
mod serve;
#[path = "../support/shared.rs"]
mod shared;
mod unix_sockets;
mod vm_socket;
mod wildcards;
