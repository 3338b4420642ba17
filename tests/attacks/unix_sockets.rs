//! Unix sockets that a program of the host has, as `run` keeps them out: in a container's network, bound
//! later, behind variables, and between two sandboxes.

use crate::processes::{Background, kill};
use crate::support::{Ran, Sandbox, sandbox, world};
use portcullis_testkit::World;

/// A service of the host: it binds where it is told, now and when a line comes, and says who came.
const SERVICE: &str = "
import os, socket, sys, threading
os.umask(0)
def serve(path):
    server = socket.socket(socket.AF_UNIX); server.bind(path); server.listen()
    def accept():
        while True:
            visitor = server.accept()[0]; open('visitors', 'a').write('x'); visitor.sendall(b'at your service'); visitor.close()
    threading.Thread(target=accept).start()
for path in sys.argv[1:]: serve(path)
print('listening', flush=True)
";

/// Asks a service, and says what it heard; waits for it first.
const VISITOR: &str = "
import os, socket, sys, time
while not os.path.exists(sys.argv[1]): time.sleep(0.01)
try:
    client = socket.socket(socket.AF_UNIX); client.settimeout(20); client.connect(sys.argv[1])
    print('REACHED', client.recv(99))
except PermissionError:
    print('refused')
";

fn service(world: &World, runner: &[&str], paths: &[&str]) -> Background {
    let mut words = runner.to_vec();
    words.extend(["python3", "-c", SERVICE]);
    words.extend(paths);
    let service = Background::start(world.command(words[0]).args(&words[1..]));
    service.wait_line("listening");
    service
}

fn visit(sandbox: &Sandbox<'_>, path: &str) -> Ran {
    sandbox.run(&["python3", "-c", VISITOR, path])
}

/// The operator learns which socket the program asked for, and what lets it in.
#[track_caller]
fn assert_recorded(ran: &Ran, path: &str) {
    ran.assert_one_denial("tcp", "protocol-not-allowed", path);
    let denials = ran.records.all_denials();
    assert_eq!(denials.len(), 1, "{ran}");
    let said = denials[0].to_string();
    assert!(said.contains("--unix-socket PATH lets in"), "{ran}");
}

fn visitors(world: &World) -> usize {
    std::fs::read(world.home().join("visitors")).map_or(0, |file| file.len())
}

#[test]
fn a_service_in_a_containers_network_is_out_of_reach_for_every_user() {
    let world = world();
    let path = world.home().join("agent").display().to_string();
    let service = service(&world, &["unshare", "-Urn"], &[&path]);
    let ran = visit(&sandbox(&world), &path);
    assert_eq!(ran.out(), "refused\n", "{ran}");
    assert_recorded(&ran, &path);
    // Root of the sandbox has no way into the folder for others either.
    let ran = visit(&sandbox(&world).as_root(), &path);
    ran.assert_ok();
    assert_eq!(ran.out(), "refused\n", "{ran}");
    assert_eq!(visitors(&world), 0, "it was reached");
    kill("KILL", service.pid());
}

#[test]
fn a_socket_that_is_bound_after_the_start_is_out_of_reach() {
    let world = world();
    let path = world.home().join("later").display().to_string();
    let mut inside = sandbox(&world).command(&["sh", "-c", "echo stands; exec \"$@\"", "sh"]);
    let inside = Background::start(inside.args(["python3", "-c", VISITOR, &path]));
    inside.wait_line("stands");
    let service = service(&world, &["env"], &[&path]);
    inside.wait_line("refused");
    inside.end();
    assert_eq!(visitors(&world), 0, "it was reached");
    kill("KILL", service.pid());
}

#[test]
fn one_sandbox_is_not_a_service_of_another() {
    let world = world();
    let path = world.home().join("hand-over").display().to_string();
    let giver = Background::start(&mut sandbox(&world).command(&["python3", "-c", SERVICE, &path]));
    giver.wait_line("listening");
    let ran = visit(&sandbox(&world).args(&["--summary", "always"]), &path);
    assert_eq!(ran.out(), "refused\n", "{ran}");
    assert_recorded(&ran, &path);
    let hint = format!("to let it in, add to the command line:\n      --unix-socket {path}\n");
    assert!(ran.err().contains(&hint), "{ran}");
    // Unless the operator says so.
    let ran = visit(&sandbox(&world).args(&["--unix-socket", &path]), &path);
    ran.assert_ok().assert_out("REACHED b'at your service'");
    kill("KILL", giver.pid());
}

#[test]
fn variables_lead_to_sockets_that_are_let_in_and_to_no_other() {
    let world = world();
    let agent = world.home().join("agent").display().to_string();
    let docker = world.home().join("docker").display().to_string();
    let service = service(&world, &["env"], &[&agent, &docker]);
    let docker_url = format!("unix://{docker}");
    let with_variables = || {
        sandbox(&world)
            .env("SSH_AUTH_SOCK", &agent)
            .env("DOCKER_HOST", &docker_url)
            .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus")
            .env("SSH_CONNECTION", "192.0.2.1 5 192.0.2.2 22")
    };
    let names = "env | grep -E '^(SSH|DOCKER_HOST|DBUS)' | cut -d= -f1 | sort | tr '\\n' ' '";
    let ran = with_variables().sh(names);
    assert_eq!(ran.out(), "SSH_CONNECTION ", "{ran}");
    let sandbox = with_variables().args(&["--unix-socket", &agent]);
    let ran = sandbox.sh(names);
    assert_eq!(ran.out(), "SSH_AUTH_SOCK SSH_CONNECTION ", "{ran}");
    visit(&sandbox, &agent).assert_out("REACHED b'at your service'");
    assert_eq!(visit(&sandbox, &docker).out(), "refused\n");
    kill("KILL", service.pid());
}

#[test]
fn a_socket_that_cannot_be_let_in_ends_the_run_before_it_begins() {
    let world = world();
    let file = world.file("plain", "text").display().to_string();
    for (path, why) in [(&*file, "not a socket"), ("/nonexistent", "No such file")] {
        let ran = sandbox(&world)
            .args(&["--unix-socket", path])
            .sh("echo ran");
        ran.assert_code(125);
        assert!(ran.out().is_empty() && ran.err().contains(why), "{ran}");
    }
    let own = "import socket\n\
        try: socket.socket(socket.AF_UNIX)\nexcept OSError as error: print(error.errno)\n\
        pair = socket.socketpair(); print(pair[0].send(b'x'))";
    let ran = sandbox(&world)
        .args(&["--unix-sockets", "none"])
        .python(own);
    assert_eq!(ran.out(), "97\n1\n", "{ran}");
}
