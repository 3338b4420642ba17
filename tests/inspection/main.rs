//! HTTPS looked into, by rule: real clients that trust the sandbox's authority by its files and
//! variables alone, real servers of HTTP/1.1, HTTP/2 and gRPC, and everything else left alone.
#![forbid(unsafe_code)]

#[path = "../support/processes.rs"]
mod processes;
#[path = "../support/mod.rs"]
mod support;

mod cut;
mod grpc;
mod http;
mod http2;
mod programs;
mod serve;
mod trust;
mod upstreams;

use portcullis_testkit::{World, WorldSpec};
use support::{Ran, Sandbox, sandbox, world_from};

/// Where the tests' own servers are: an address of the internet's without any other.
const SERVER: &str = "203.0.113.150";

/// The standard world, and names for the tests' own servers.
fn world() -> World {
    world_from(
        WorldSpec::standard()
            .record("h2.example.com A 203.0.113.150")
            .record("grpc.example.com A 203.0.113.150")
            .closed(SERVER),
    )
}

/// A sandbox in which api.example.com may be read below `/public`, and its HTTPS is looked into.
fn narrow(world: &World) -> Sandbox<'_> {
    rules(
        world,
        r#""api.example.com" = { verdict = "allow", inspect = true, methods = ["GET", "HEAD"], paths = ["/public/**"] }
           "www.example.com" = "allow""#,
    )
}

/// A sandbox with these lines under `[network.domains]`.
fn rules<'w>(world: &'w World, lines: &str) -> Sandbox<'w> {
    sandbox(world).policy(
        "toml",
        &format!("version = 1\n[network.domains]\n{lines}\n"),
    )
}

/// The records of requests inside inspected connections.
fn requests(ran: &Ran) -> Vec<(String, String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let decisions = ran.records.decisions();
    let http = decisions
        .iter()
        .filter(|r| r["layer"] == "http" && r["path"].is_string());
    http.map(|r| (text(&r["method"]), text(&r["path"]), text(&r["reason"])))
        .collect()
}
