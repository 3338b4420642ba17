//! The API, driven from its own OpenAPI document by a program that knows nothing else of it: what the document allows
//! is accepted, what it does not allow is refused as it says, and nothing of it is an error of the daemon's.

use crate::Daemon;
use crate::processes::Background;
use crate::support::{finish, folder_of_tools, world};
use portcullis_testkit::World;
use std::time::Duration;

/// How long all examples may take.
const LIMIT: Duration = Duration::from_secs(240);
/// A port of the world's loopback.
const PORT: u16 = 8099;

/// What no document can say of a policy's text or a label is answered 422.
const SETTINGS: &str = "[checks.positive_data_acceptance]\n\
    expected-statuses = [\"2xx\", 401, 403, 404, 409, 422, 429]\n";

/// TCP for the Unix socket, which is all that the program speaks.
const RELAY: &str = r#"
import socket, sys, threading
def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
while True:
    client, _ = listener.accept()
    daemon = socket.socket(socket.AF_UNIX)
    daemon.connect(sys.argv[2])
    for pair in ((client, daemon), (daemon, client)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"#;

fn drive(world: &World, daemon: &Daemon<'_>) {
    let mut relay = world.command("python3");
    relay
        .args(["-c", RELAY, &PORT.to_string()])
        .arg(&daemon.socket);
    let relay = Background::start(&mut relay);
    assert_eq!(relay.next_line(), "ready");
    world.file("schemathesis.toml", SETTINGS);
    let tools = folder_of_tools().join("schemathesis");
    let program = tools.join("bin/schemathesis");
    assert!(
        program.is_file(),
        "this test needs {}, made by `cargo xtask test` (without --fast)",
        program.display()
    );
    // Streams do not end, so few of them are looked at, and not for long.
    let all = [
        "--max-examples",
        "30",
        "--exclude-path-regex",
        "decisions",
        "--request-timeout",
        "30",
    ];
    let streams = [
        "--max-examples",
        "3",
        "--include-path-regex",
        "decisions",
        "--request-timeout",
        "0.3",
        "--phases",
        "fuzzing",
    ];
    for arguments in [&all[..], &streams[..]] {
        // The name of the document's own examples; what was asked first may have removed it.
        let new = serde_json::json!({"name": "build-7", "attach": {"kind": "vm-socket"}});
        let made = daemon.ask("POST", "/v1/sandboxes", Some(&new));
        assert!([201, 409].contains(&made.0), "{}", made.1);
        let mut run = world.command("python3");
        run.arg(&program).env("PYTHONPATH", &tools);
        run.args(["run", "--seed", "7", "--no-color"])
            .args(arguments);
        run.arg(format!("http://127.0.0.1:{PORT}/openapi.json"));
        let ran = finish(&mut run, LIMIT);
        assert!(ran.ok(), "{}\n{}", ran.out(), ran.err());
        assert!(ran.out().contains(" generated, "), "{}", ran.out());
    }
    assert_eq!(daemon.get("/healthz").0, 204);
}

#[test]
fn a_daemon_that_is_asked_everything_by_its_administrator() {
    let world = world();
    let mut daemon = Daemon::start(&world, "");
    drive(&world, &daemon);
    let all = daemon.get("/v1/sandboxes").1;
    for made in all.as_array().expect("a list") {
        let name = made["name"].as_str().expect("a name");
        let removed = daemon.ask("DELETE", &format!("/v1/sandboxes/{name}"), None);
        assert_eq!(removed.0, 204, "{name}: {}", removed.1);
    }
    daemon.end();
}

#[test]
fn a_daemon_that_is_asked_everything_by_a_user() {
    let world = world();
    let daemon = Daemon::of_root(&world);
    drive(&world, &daemon);
}
