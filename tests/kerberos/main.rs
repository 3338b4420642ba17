//! Kerberos for real: MIT's KDC and an Apache with SPNEGO in the test world's internet,
//! MIT's clients, curl and requests-kerberos in the sandbox. The same commands run outside, in the
//! host's namespace, as the reference.
#![forbid(unsafe_code)]

#[path = "../support/processes.rs"]
mod processes;
#[path = "../support/mod.rs"]
mod support;

mod discovery;
mod negotiate;
mod realm;
mod upstream_proxy;
