//! Real programs, each doing the same outside and inside: without proxy variables and with them, left alone
//! and looked into. docs/programs.md is their list.
#![forbid(unsafe_code)]

#[path = "../support/processes.rs"]
mod processes;
#[path = "../support/mod.rs"]
mod support;

mod page;
mod table;

use portcullis_testkit::{ServiceKind, World, WorldSpec};
use processes::Background;
use std::time::Duration;
use support::{finish, folder_of_tools, require, sandbox, world_from};
use table::{From, PROGRAMS, Program};

/// Where the programs' servers are.
const SERVER: &str = "203.0.113.150";
const NAMES: [&str; 6] = [
    "api.example.org",
    "api.openai.com",
    "api.anthropic.com",
    "huggingface.co",
    "models.dev",
    "opencode.ai",
];
/// Names of servers that speak no HTTP, and their ports.
const OTHERS: [(&str, &str); 5] = [
    ("db.example.org", "3306"),
    ("db.example.org", "5432"),
    ("db.example.org", "6379"),
    ("db.example.org", "6380"),
    ("smtp.example.org", "25"),
];
/// Agents and browsers take seconds to start.
const LIMIT: Duration = Duration::from_secs(120);
const SETUP_LIMIT: Duration = Duration::from_secs(20);

/// A world with the servers, and the tools where its user finds them.
fn world() -> (World, Background) {
    require("python3");
    let mut spec = WorldSpec::standard().service(SERVER, 25, ServiceKind::Smtp);
    for name in NAMES
        .into_iter()
        .chain(["db.example.org", "smtp.example.org"])
    {
        spec = spec.without(name).record(&format!("{name} A {SERVER}"));
    }
    let world = world_from(spec);
    world.file("sdk.py", include_str!("sdk.py"));
    world.file("sdk.mjs", include_str!("sdk.mjs"));
    let (certificate, key) = world.certificate(&NAMES);
    let api = world.file("api.py", include_str!("api.py"));
    let mut command = world.internet_command("/usr/bin/python3");
    let server = Background::start(command.arg(api).arg(SERVER).arg(certificate).arg(key));
    server.wait_line("serving");
    (world, server)
}

/// Shows the folder of tools in the world's home: its own place may be closed to the world's user.
fn show_tools(world: &World) {
    let script = format!(
        "mkdir -p tools && mount --bind {} tools",
        folder_of_tools().display()
    );
    let done = finish(
        world.command_as_root("sh").args(["-c", &script]),
        SETUP_LIMIT,
    );
    assert_eq!(done.code(), Some(0), "{done}");
}

/// A program's own server.
fn own_server(world: &World, program: &Program) -> Background {
    let mut command = world.internet_command("sh");
    let at = |name: &str| world.home().join(name);
    command.args(["-c", program.server]).env("SERVER", SERVER);
    command.env("CERTIFICATE", at("server.pem"));
    command.env("KEY", at("server.key"));
    let server = Background::start(&mut command);
    server.wait_line("serving");
    server
}

/// Runs these programs outside and in every way inside.
fn try_out(chosen: impl Fn(&Program) -> bool) {
    let (world, _server) = world();
    show_tools(&world);
    let rules = |value: &str| {
        let lines: String = NAMES
            .iter()
            .map(|name| format!("\"{name}\" = {value}\n"))
            .collect();
        let others = OTHERS.map(|(name, port)| format!("\"{name}:{port}\" = \"allow\"\n"));
        format!("version = 1\n[network.domains]\n{lines}{}", others.concat())
    };
    let plain = rules("\"allow\"");
    let inspected = rules("{ verdict = \"allow\", inspect = true }");
    for program in PROGRAMS.iter().filter(|program| chosen(program)) {
        require(program.needs);
        let _own_server = (!program.server.is_empty()).then(|| own_server(&world, program));
        let script = |page: &str| {
            let tools = world.home().join("tools");
            format!(
                "export TOOLS={tools} MODULES={tools}/node_modules PAGE={page}; {}",
                program.script,
                tools = tools.display()
            )
        };
        let outside = world.run("sh", &["-c", &script("http://api.example.org/")], LIMIT);
        assert_eq!(
            outside.out(),
            program.prints,
            "{} outside: {outside}",
            program.name
        );
        for choice in ["none", "basic", "full"] {
            for (policy, page) in [
                (&plain, "http://api.example.org/"),
                (&inspected, "https://api.example.org/"),
            ] {
                let inside = sandbox(&world)
                    .policy("toml", policy)
                    .args(&["--proxy-env", choice])
                    .limit(LIMIT)
                    .sh(&script(page));
                let how = format!("{} at {page} with {choice}: {inside}", program.name);
                assert_eq!(inside.out(), program.prints, "{how}");
                assert_eq!(inside.code(), outside.code(), "{how}");
                assert_eq!(inside.err(), outside.err(), "{how}");
            }
        }
    }
}

#[test]
fn programs_of_debian_do_inside_what_they_do_outside() {
    try_out(|program| program.from == From::Debian);
}

#[test]
fn heavy_browsers_show_pages() {
    try_out(|program| program.from == From::DebianLarge);
}

#[test]
fn heavy_clients_ask_servers_of_their_own() {
    try_out(|program| program.from == From::DebianServer);
}

#[test]
fn heavy_libraries_of_pypi_ask_their_apis() {
    try_out(|program| program.from == From::PyPi);
}

#[test]
fn heavy_libraries_and_agents_of_npm_ask_their_apis() {
    try_out(|program| program.from == From::Npm);
}
