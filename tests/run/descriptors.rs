//! Around the gateway: inherited descriptors. Sockets, folders and devices of the caller are
//! closed, pipes and files kept (make's jobserver).

use crate::support::{TIMEOUT, finish, portcullis, require, world};
use portcullis_testkit::World;
use portcullis_testkit::exec::Finished;

/// Runs a Python program outside that has `run(command, **options)`, a sandbox around a command.
fn python(world: &World, program: &str) -> Finished {
    require("python3");
    let text = format!(
        "import os, socket, subprocess, sys\n\
         LIST = ['ls', '-l', '/proc/self/fd']\n\
         def run(command, **options):\n    \
           return subprocess.run([{:?}, 'run', '--', *command], **options)\n\
         {program}",
        portcullis().display().to_string()
    );
    let file = world.file("outside.py", text);
    finish(world.command("python3").arg(file), TIMEOUT)
}

#[test]
fn inherited_sockets_folders_and_devices_are_closed() {
    let world = world();
    let done = python(
        &world,
        "way_out = socket.create_connection(('203.0.113.96', 9000))\n\
         unix, other_end = socket.socketpair()\n\
         datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)\n\
         listener = socket.create_server(('127.0.0.1', 0))\n\
         folder = os.open('/', os.O_RDONLY)\n\
         path = os.open('/', os.O_PATH)\n\
         device = os.open('/dev/zero', os.O_RDONLY)\n\
         memory = os.memfd_create('memory')\n\
         event = os.eventfd(0)\n\
         namespace = os.open('/proc/self/ns/net', os.O_RDONLY)\n\
         process = os.pidfd_open(os.getpid())\n\
         reader, writer = os.pipe()\n\
         plain = os.open('plain', os.O_CREAT | os.O_RDWR)\n\
         gone = [s.fileno() for s in (way_out, unix, datagrams, netlink, listener)]\n\
         gone += [folder, path, device, event, namespace, process]\n\
         kept = [reader, writer, plain]\n\
         for fd in gone + kept + [memory]: os.set_inheritable(fd, True)\n\
         said = run(LIST, close_fds=False, stdout=subprocess.PIPE, text=True).stdout\n\
         seen = {int(line.split()[8]): line for line in said.splitlines() if '->' in line and '/proc/' not in line}\n\
         print(said)\n\
         print('open that must be closed:', sorted(set(gone) & set(seen)))\n\
         print('closed that must be open:', sorted(set(kept) - set(seen)))\n\
         print('sockets:', [line for line in seen.values() if 'socket:' in line])\n",
    );
    assert!(done.ok() && done.err().is_empty(), "{done}");
    assert!(
        done.out().contains("open that must be closed: []"),
        "{done}"
    );
    assert!(
        done.out().contains("closed that must be open: []"),
        "{done}"
    );
    assert!(done.out().contains("sockets: []"), "{done}");
}

/// A connection as standard input or output would be a way around the gateway: it can be
/// reconnected, and is not the sandbox's.
#[test]
fn a_network_socket_as_a_standard_stream_is_refused() {
    let world = world();
    let done = python(
        &world,
        "way_out = socket.create_connection(('203.0.113.96', 9000))\n\
         datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         unix_datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
         for each in way_out, datagrams, unix_datagrams:\n    \
           for stream in 'stdin', 'stdout':\n        \
             done = run(['sh', '-c', 'echo ran >&2'], stderr=subprocess.PIPE, text=True, **{stream: each})\n        \
             print(stream, done.returncode, 'ran' in done.stderr.split())\n",
    );
    assert!(done.ok(), "{done}");
    assert_eq!(
        done.out(),
        "stdin 125 False\nstdout 125 False\n".repeat(3),
        "{done}"
    );
}

/// Node gives its children Unix stream sockets for pipes.
#[test]
fn a_connected_unix_socket_is_a_standard_stream() {
    let world = world();
    let done = python(
        &world,
        "ours, theirs = socket.socketpair()\n\
         ours.sendall(b'through and back')\n\
         ours.shutdown(socket.SHUT_WR)\n\
         code = run(['cat'], stdin=theirs, stdout=theirs).returncode\n\
         theirs.close()\n\
         print(code, ours.makefile().read())\n",
    );
    assert!(done.ok() && done.err().is_empty(), "{done}");
    assert_eq!(done.out(), "0 through and back\n", "{done}");
}

/// make hands two pipe ends to its children; without them it builds one target at a time.
#[test]
fn makes_jobserver_works_inside() {
    require("make");
    let world = world();
    // Either target ends only when the other runs at the same time.
    world.file(
        "inner.mk",
        "all: one two\none:\n\techo one > meeting\ntwo:\n\tread word < meeting && echo met $$word\n",
    );
    let outer = format!(
        "all:\n\t+{} run -- $(MAKE) -f inner.mk\n",
        portcullis().display()
    );
    world.file("outer.mk", outer);
    let script = "mkfifo meeting && exec timeout 20 make -s -j2 -f outer.mk";
    let done = finish(world.command("sh").args(["-c", script]), TIMEOUT);
    assert!(done.ok(), "{done}");
    assert!(done.out().contains("met one"), "{done}");
    assert!(!done.err().contains("jobserver"), "{done}");
}
