//! Throw-away namespaces and servers for tests and the demo.
#![forbid(unsafe_code)]
