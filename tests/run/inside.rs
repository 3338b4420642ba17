//! What works inside as it does outside: servers on the sandbox's own loopback, and `--publish`.

use crate::processes::{Background, kill, until};
use crate::support::{require_kernel, sandbox, world};
use portcullis_testkit::exec;
use std::time::Duration;

#[test]
fn a_server_inside_is_reached_from_inside() {
    let world = world();
    // At loopback, at every address, at a port that only root may use elsewhere.
    let program = "
import socket, threading
for bound, asked in [('127.0.0.1', '127.0.0.1'), ('0.0.0.0', '127.0.0.1'), ('127.0.0.1', 'localhost'),
                     ('0.0.0.0', '10.0.2.15'), ('::1', '::1'), ('::', '::1')]:
    for port in 0, 80, 8443:
        family = socket.AF_INET6 if ':' in bound else socket.AF_INET
        server = socket.create_server((bound, port), family=family)
        def serve():
            peer, _ = server.accept()
            peer.sendall(peer.recv(5, socket.MSG_WAITALL).upper())
            peer.close()
        threading.Thread(target=serve).start()
        with socket.create_connection((asked, server.getsockname()[1]), 30) as client:
            client.sendall(b'hello')
            print(bound, asked, port, client.makefile().read())
        server.close()
";
    let ran = sandbox(&world).python(program);
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out().matches("HELLO").count(), 18, "{ran}");
}

#[test]
fn datagrams_and_unix_sockets_inside_stay_inside() {
    let world = world();
    let program = "
import os, socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('127.0.0.1', 0))
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.sendto(b'over loopback', server.getsockname())
print(server.recv(100).decode())
server = socket.socket(socket.AF_UNIX)
server.bind('own.sock')
server.listen()
client = socket.socket(socket.AF_UNIX)
client.connect('own.sock')
client.sendall(b'over a path')
print(server.accept()[0].recv(len('over a path'), socket.MSG_WAITALL).decode())
";
    let ran = sandbox(&world).python(program);
    ran.assert_ok()
        .assert_out("over loopback")
        .assert_out("over a path")
        .assert_no_denial();
}

/// The host's own loopback is another one.
#[test]
fn the_hosts_loopback_is_not_the_sandboxs() {
    let world = world();
    let ran = sandbox(&world)
        .sh("nc -zw 25 127.0.0.1 8080; echo gone $?; nc -zw 25 ::1 8080; echo gone $?");
    ran.assert_ok();
    assert_eq!(ran.out(), "gone 1\ngone 1\n", "{ran}");
}

#[test]
fn a_published_port_is_reached_from_the_host() {
    let world = world();
    world.file("page.txt", "served from inside");
    for (bound, host, inside) in [("127.0.0.1", "18080", "8000"), ("0.0.0.0", "18081", "80")] {
        let publish = format!("{host}:{inside}");
        let run = sandbox(&world).args(&["--publish", &publish]);
        let server = [
            "python3",
            "-u",
            "-m",
            "http.server",
            "--bind",
            bound,
            inside,
        ];
        let run = Background::start(&mut run.command(&server));
        let url = format!("http://127.0.0.1:{host}/page.txt");
        let fetch = || {
            let mut curl = world.command("curl");
            exec::run(
                curl.args(["-sS", "-m", "25", &url]),
                Duration::from_secs(30),
            )
            .unwrap()
        };
        until("the server inside answers", || fetch().ok());
        assert_eq!(fetch().out(), "served from inside");
        // On the host's loopback alone, not on its other addresses.
        let mut curl = world.command("curl");
        let elsewhere = format!("http://192.0.2.2:{host}/page.txt");
        let done = exec::run(
            curl.args(["-sS", "-m", "25", &elsewhere]),
            Duration::from_secs(30),
        );
        assert_eq!(
            done.unwrap().code(),
            Some(7),
            "published on every address of the host"
        );
        kill("TERM", run.pid());
        run.end();
        assert_eq!(fetch().code(), Some(7), "still open after the end");
    }
}

#[test]
fn a_published_port_that_is_taken_fails_before_the_start() {
    let world = world();
    // The world's own server has it.
    let ran = sandbox(&world)
        .args(&["--publish", "8080:80"])
        .sh("echo ran");
    ran.assert_code(125);
    assert!(ran.out().is_empty() && ran.err().contains("8080"), "{ran}");
}

/// `--tap` alone, without the machine that it is for: the device is there, with the addresses that
/// a guest expects; the program inside may use it, and make no other.
#[test]
fn a_tap_is_there_for_the_program_and_no_other() {
    require_kernel("/dev/net/tun", "TAP devices for ordinary users");
    let world = world();
    let program = "
import fcntl, os, struct
def attach(name):
    device = os.open('/dev/net/tun', os.O_RDWR)
    try:
        fcntl.ioctl(device, 0x400454ca, struct.pack('16sH22x', name, 0x5002))  # TUNSETIFF: TAP, no header, VNET
        return 'attached'
    except OSError as error:
        return error.strerror
print('tap0', attach(b'tap0'), flush=True)
print('tap1', attach(b'tap1'), flush=True)
os.execvp('ip', ['ip', '-4', '-o', 'address', 'show', 'dev', 'tap0'])
";
    for as_root in [false, true] {
        let run = sandbox(&world).args(&["--tap", "tap0"]);
        let run = if as_root { run.as_root() } else { run };
        let ran = run
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .python(program);
        ran.assert_ok()
            .assert_out("tap0 attached")
            .assert_out("tap1 Operation not permitted");
        ran.assert_out("10.0.2.2/24");
    }
    let ran = sandbox(&world).sh("ls /sys/class/net; cat /proc/net/dev");
    assert!(
        !ran.out().contains("tap"),
        "a device that nobody asked for: {ran}"
    );
}
