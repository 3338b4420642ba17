//! Around the gateway: Unix sockets that resolve or fetch on one's behalf (nss-resolve, nscd,
//! D-Bus, docker, ssh-agent), and other processes: nothing of the host answers inside.

use crate::processes::{Background, kill};
use crate::support::{require, sandbox, world};
use portcullis_testkit::{World, exec};
use std::path::Path;
use std::time::Duration;

/// A process of the host that listens on Unix sockets of every kind, and answers.
const HELPFUL: &str = "
import os, socket, sys, threading
def serve(server):
    while True:
        peer, _ = server.accept()
        peer.sendall(b'at your service')
        peer.close()
for kind in socket.SOCK_STREAM, socket.SOCK_SEQPACKET:
    for address in sys.argv[1:]:
        address = address + ('' if kind == socket.SOCK_STREAM else '.packets')
        server = socket.socket(socket.AF_UNIX, kind)
        server.bind(chr(0) + address[1:] if address.startswith('@') else address)
        server.listen()
        threading.Thread(target=serve, args=(server,)).start()
datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
datagrams.bind(sys.argv[1] + '.datagrams')
print('listening', flush=True)
";

/// Tries each socket; prints what answers.
const TRIES: &str = "
import socket, sys
for kind in socket.SOCK_STREAM, socket.SOCK_SEQPACKET:
    for address in sys.argv[1:]:
        address = address + ('' if kind == socket.SOCK_STREAM else '.packets')
        client = socket.socket(socket.AF_UNIX, kind)
        client.settimeout(20)
        try:
            client.connect(chr(0) + address[1:] if address.startswith('@') else address)
            print('REACHED', address, client.recv(100))
        except OSError as error:
            print('refused', address, error)
try:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    client.connect(sys.argv[1] + '.datagrams')
    print('REACHED datagrams')
except OSError as error:
    print('refused datagrams', error)
";

fn helpful(world: &World, addresses: &[&str]) -> Background {
    require("python3");
    let mut command = world.command("python3");
    let process = Background::start(command.args(["-c", HELPFUL]).args(addresses));
    process.wait_line("listening");
    process
}

#[test]
fn sockets_of_the_host_do_not_answer_inside() {
    let world = world();
    let folder = tempfile::Builder::new()
        .prefix("agents-")
        .tempdir_in("/tmp")
        .unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let link = folder.path().join("link.sock");
    std::os::unix::fs::symlink(folder.path().join("agent.sock"), &link).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let home = world.home().join("a folder").display().to_string();
    std::fs::create_dir(&home).unwrap();
    std::fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let all = [
        path("agent.sock"),
        format!("{home}/docker.sock"),
        format!("@{}", path("abstract")),
    ];
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let process = helpful(&world, &all);

    let mut asked = vec!["python3", "-c", TRIES];
    asked.extend(&all);
    let link = link.display().to_string();
    let linked = ["python3", "-c", TRIES, &link];
    // Outside they answer: the test would see a hole.
    let mut command = world.command("python3");
    let outside = exec::run(command.args(&asked[1..]), Duration::from_secs(60)).unwrap();
    assert_eq!(outside.out().matches("REACHED").count(), 7, "{outside}");

    for ran in [sandbox(&world).run(&asked), sandbox(&world).run(&linked)] {
        ran.assert_ok();
        assert!(
            !ran.out().contains("REACHED") && ran.out().contains("refused"),
            "{ran}"
        );
    }
    // Nor can the covers be taken off by one who is root of a namespace of his own.
    let script = format!(
        "unshare -Urm sh -c 'umount {socket}; umount -l {socket}; umount -R {folder}; python3 {tries} {socket}' 2>&1",
        socket = all[0],
        folder = folder.path().display(),
        tries = world.file("tries.py", TRIES).display(),
    );
    let ran = sandbox(&world).sh(&script);
    assert!(
        !ran.out().contains("REACHED") && ran.out().contains("refused"),
        "{ran}"
    );
    kill("KILL", process.pid());
}

#[test]
fn run_and_the_runtime_folder_are_masked() {
    let world = world();
    let runtime = world.home().join("runtime");
    std::fs::create_dir(&runtime).unwrap();
    std::fs::write(runtime.join("bus"), "a secret of the session").unwrap();
    let runtime = runtime.display().to_string();
    let script = "find /run -mindepth 1 ! -type d; echo over; ls -A \"$XDG_RUNTIME_DIR\"; echo over; \
                  ls -ld /run | cut -c1-10; umount /run 2>&1; unshare -Urm umount /run 2>&1; \
                  find /run -name '*.sock'; true";
    let ran = sandbox(&world).env("XDG_RUNTIME_DIR", &runtime).sh(script);
    ran.assert_ok();
    let out = ran.out();
    let parts: Vec<&str> = out.split("over\n").collect();
    // At most the sandbox's own resolver files, and its resolv.conf where the host keeps that one.
    let own = ["/run/portcullis/nsswitch.conf", "/run/portcullis/hosts"];
    let strange = |line: &&str| !own.contains(line) && !line.ends_with("resolv.conf");
    assert_eq!(parts[0].lines().filter(strange).count(), 0, "{ran}");
    assert_eq!(parts[1], "", "{ran}");
    assert!(Path::new(&runtime).join("bus").exists());
    // And with it in place: the same variable, a writable folder.
    let ran = sandbox(&world)
        .env("XDG_RUNTIME_DIR", &runtime)
        .sh("echo mine > $XDG_RUNTIME_DIR/mine && cat $XDG_RUNTIME_DIR/mine");
    ran.assert_ok().assert_out("mine");
    assert!(
        !Path::new(&runtime).join("mine").exists(),
        "it was written outside"
    );
}

#[test]
fn processes_of_the_host_are_neither_seen_nor_touched() {
    let world = world();
    let process = helpful(&world, &["@seen-from-inside"]);
    let outside = process.pid();
    let script = format!(
        "ls -d /proc/[0-9]* | wc -l; kill -0 {outside} 2>&1; grep -l [s]een-from-inside /proc/[0-9]*/cmdline \
         ; readlink /proc/1/exe; head -c 10 /proc/1/mem; ls /proc/1/fd; cat /proc/1/environ"
    );
    let ran = sandbox(&world).sh(&script);
    let out = ran.out();
    let count: usize = out
        .lines()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(usize::MAX);
    assert!(count <= 6, "more processes than the sandbox's own: {ran}");
    // The rest of the output is refusals, on standard error.
    assert!(!out.contains("/proc/"), "{ran}");
    for refused in ["/proc/1/mem", "/proc/1/fd", "/proc/1/environ"] {
        assert!(ran.err().contains(refused), "{refused} was readable: {ran}");
    }
}

/// Namespaces of the sandbox's first process, and of nobody else, are in sight: none can be
/// joined; ptrace of it fails.
#[test]
fn the_first_processes_namespaces_cannot_be_joined() {
    require("nsenter");
    let world = world();
    let program = "
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for kind in 'net', 'mnt', 'user', 'pid', 'ipc', 'uts':
    for pid in 1, os.getppid(), os.getpid():
        try:
            fd = os.open(f'/proc/{pid}/ns/{kind}', os.O_RDONLY)
        except OSError as error:
            print('refused to open', kind, error.errno)
            continue
        print('JOINED' if libc.setns(fd, 0) == 0 else 'refused to join', kind, pid)
for request in 16, 0x4206:  # PTRACE_ATTACH, PTRACE_SEIZE
    print('TRACED' if libc.ptrace(request, 1, 0, 0) == 0 else 'refused to trace')
";
    let ran = sandbox(&world).python(program);
    ran.assert_ok();
    assert!(
        !ran.out().contains("JOINED") && !ran.out().contains("TRACED"),
        "{ran}"
    );
    assert!(ran.out().contains("refused to trace"), "{ran}");
}
