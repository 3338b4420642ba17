//! Wires policy, DNS, dialler and proxies for a sandbox.
#![forbid(unsafe_code)]
