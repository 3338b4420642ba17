//! Who may do what, by the kernel's word on the peer.

use crate::support::{finish, portcullis, sandbox, world};
use crate::{API, Daemon, LIMIT};
use serde_json::json;

/// A sandbox may find the socket's file; its requests are not read.
#[test]
fn the_control_socket_from_inside() {
    let world = world();
    let daemon = Daemon::start(&world, "");
    daemon.make("one", API);
    let socket = daemon.socket.display().to_string();
    let list = "http://localhost/v1/sandboxes";
    // In a namespace that somebody else made, without our supervisor.
    let args = ["-rn", "curl", "-sS", "--unix-socket", &socket, list];
    let foreign = world.run("unshare", &args, LIMIT);
    assert!(
        !foreign.ok() && foreign.out().is_empty(),
        "{}",
        foreign.out()
    );
    // What keeps it out is the network namespace, not the user namespace.
    let args = ["-r", "curl", "-sS", "--unix-socket", &socket, list];
    let near = world.run("unshare", &args, LIMIT);
    assert!(
        near.ok() && near.out().contains("\"one\""),
        "{} {}",
        near.out(),
        near.err()
    );
    // In one of ours.
    let args = ["curl", "-sS", "--unix-socket", &socket, list];
    let ran = sandbox(&world).run(&args);
    assert!(
        ran.code() != Some(0) && ran.out().is_empty(),
        "{}",
        ran.out()
    );
    assert_eq!(
        daemon.get("/v1/sandboxes").1.as_array().map(Vec::len),
        Some(1)
    );
}

#[test]
fn a_client_reads_no_file_of_the_daemons() {
    let world = world();
    world.file(
        "secret.toml",
        "version = 1\n# a secret of the daemon's user\n",
    );
    let daemon = Daemon::start(&world, "");
    let path = world.home().join("secret.toml").display().to_string();
    for (name, text) in [
        ("include", format!("version = 1\ninclude = [\"{path}\"]\n")),
        (
            "credentials",
            format!(
                "version = 1\n[network.proxy]\nhttps = {{ url = \"http://proxy.example:1\", \
                 credentials_file = \"{path}\" }}\n"
            ),
        ),
    ] {
        let new = json!({
            "name": name,
            "attach": {"kind": "listeners", "http": "127.0.0.1:0"},
            "policy": {"text": text},
        });
        let (status, problem) = daemon.ask("POST", "/v1/sandboxes", Some(&new));
        assert_eq!(status, 422, "{problem}");
        assert!(!problem.to_string().contains("a secret"), "{problem}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let world = world();
    let socket = world.home().join("c.sock").display().to_string();
    world.file("bad.toml", "version = 1\ncontol = \"x\"\n");
    world.file(
        "group.toml",
        "version = 1\nadmin_group = \"no-such-group\"\n",
    );
    world.file("plain", "no socket");
    let plain = world.home().join("plain").display().to_string();
    for (args, code, says) in [
        (
            vec!["serve", "--config", "none.toml"],
            2,
            "cannot read the configuration",
        ),
        (
            vec!["serve", "--config", "bad.toml"],
            2,
            "unknown field `contol`",
        ),
        (
            vec!["serve", "--config", "group.toml", "--control", &socket],
            2,
            "no group `no-such-group`",
        ),
        (
            vec!["serve", "--control", &plain],
            1,
            "no socket stands there",
        ),
        (
            vec!["serve", "--control", &socket, "--dns", "127.0.0.1:0"],
            2,
            "cannot be used with",
        ),
        (
            vec!["ps", "--control", &socket],
            2,
            "cannot reach the daemon",
        ),
        (vec!["ps"], 2, "--control"),
        (
            vec!["policy", "push", "A", "x.toml"],
            2,
            "a name is 1 to 63",
        ),
        (
            vec!["policy", "push", "a", "plain"],
            2,
            "format of plain is not known",
        ),
        (
            vec![
                "explain",
                "--sandbox",
                "a",
                "--allow",
                "b.example",
                "b.example",
            ],
            2,
            "cannot be used with",
        ),
        (vec!["top", "--interval", "0"], 2, "0"),
    ] {
        let mut command = world.command(portcullis());
        let said = finish(command.args(&args), LIMIT);
        assert_eq!(said.code(), Some(code), "{args:?}: {}", said.err());
        assert!(said.err().contains(says), "{args:?}: {}", said.err());
    }
    let daemon = Daemon::start(&world, "");
    let socket = daemon.socket.display().to_string();
    let mut second = world.command(portcullis());
    let second = finish(
        second.args(["serve", "--control", &socket, "--state", "other"]),
        LIMIT,
    );
    assert_eq!(second.code(), Some(1), "{}", second.err());
    assert!(
        second.err().contains("another daemon serves"),
        "{}",
        second.err()
    );
    // Nor may it have the other's sandboxes.
    let mut second = world.command(portcullis());
    let second = finish(
        second.args(["serve", "--control", "other.sock", "--state", "state"]),
        LIMIT,
    );
    assert_eq!(second.code(), Some(1), "{}", second.err());
    assert!(
        second.err().contains("another daemon keeps"),
        "{}",
        second.err()
    );
    assert_eq!(daemon.get("/healthz").0, 204);
}
