//! `serve`: no sandbox to put files into, so the certificate goes where the operator says.

use crate::processes::{Background, kill, until};
use crate::support::{command, portcullis, read_records, require};
use crate::world;
use std::time::Duration;

const POLICY: &str = "version = 1\n[network.domains]\n\
    \"api.example.com\" = { verdict = \"allow\", inspect = true, paths = [\"/public/**\"] }\n";

#[test]
fn the_certificate_is_written_for_programs_to_trust() {
    require("curl");
    let world = world();
    let policy = world.file("served.toml", POLICY).display().to_string();
    let ca = world.home().join("inspection.pem").display().to_string();
    let log = world.home().join("served.jsonl");
    let mut serve = world.command(portcullis());
    serve.args([
        "serve",
        "--policy",
        &policy,
        "--http",
        "127.0.0.1:3199",
        "--ca-cert",
        &ca,
    ]);
    serve.arg("--log").arg(&log);
    let serving = Background::start(&mut serve);
    until("it listens", || {
        let open = world.run("ss", &["-Hltn"], Duration::from_secs(60)).out();
        open.contains("127.0.0.1:3199 ") && std::path::Path::new(&ca).exists()
    });
    for (path, code) in [("/public/a", "200"), ("/b", "403")] {
        let url = format!("https://api.example.com{path}");
        let args = [
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--cacert",
            &ca,
        ];
        let more = ["-x", "http://127.0.0.1:3199", &url];
        let got = world.run(
            "curl",
            &[&args[..], &more].concat(),
            Duration::from_secs(60),
        );
        assert_eq!(got.out(), code, "{got}");
    }
    let written = std::fs::read_to_string(&ca).expect("it is there");
    assert!(!written.contains("PRIVATE"), "the certificate alone");
    kill("TERM", serving.pid());
    let (status, said) = serving.end();
    assert_eq!(status.code(), Some(0), "{said}");
    let records = read_records(&log);
    assert_eq!(
        records
            .denials("http", "path-not-allowed", "api.example.com")
            .len(),
        1,
        "{records}"
    );
}

#[test]
fn without_a_place_for_it_serve_does_not_start() {
    let world = world();
    let policy = world.file("served.toml", POLICY).display().to_string();
    let done = command(
        &world,
        &["serve", "--policy", &policy, "--http", "127.0.0.1:3199"],
    );
    assert_eq!(done.code(), Some(2), "{done}");
    assert!(done.err().contains("--ca-cert"), "{done}");
    let plain = world.file(
        "plain.toml",
        "version = 1\n[network.domains]\n\"api.example.com\" = \"allow\"\n",
    );
    let plain = plain.display().to_string();
    let args = [
        "serve",
        "--policy",
        &plain,
        "--http",
        "127.0.0.1:3199",
        "--ca-cert",
        "x.pem",
    ];
    let done = command(&world, &args);
    assert_eq!(done.code(), Some(2), "{done}");
}
