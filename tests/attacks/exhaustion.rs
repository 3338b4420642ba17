//! Nothing is left of something that the gateway, the sandbox's first process or its parent might need:
//! this sandbox meets a clear refusal, and another one nothing.
//!
//! What is made while a program runs is listed in ARCHITECTURE.md ("What is made while CMD runs"). A
//! full disk is in tests/run/files.rs, what holds back a policy in `live_policy`.

use crate::inside::Inside;
use crate::policies::{allowing, counts};
use crate::processes::{family, limit, runs, until};
use crate::support;
use crate::support::{Sandbox, finish, read_records, sandbox, world};
use portcullis_testkit::World;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

const API: &str = "api.example.com:9000";
/// How long a refusal may take.
const PROMPT: Duration = Duration::from_secs(15);

fn sandboxes<'w>(world: &'w World) -> [Sandbox<'w>; 2] {
    [sandbox(world), sandbox(world).as_root()]
}

/// Another sandbox of the same user works meanwhile.
#[track_caller]
fn another_one_works(world: &World) {
    let other = sandbox(world)
        .allow("api.example.com")
        .sh("getent ahostsv4 api.example.com | head -1");
    other.assert_ok().assert_out("203.0.113.10");
}

#[track_caller]
fn end(inside: Inside) {
    let (status, said) = inside.end();
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
}

#[test]
fn without_descriptors_the_gateway_refuses_and_goes_on() {
    let world = world();
    for sandbox in sandboxes(&world) {
        let sandbox = sandbox.allow(API).allow("ssh.example.com:22");
        let mut inside = Inside::start(&sandbox);
        inside.expect("open api api.example.com 9000", "ok");
        let gateway = family(inside.pid()).gateway;
        limit(&world, gateway, "--nofile=3:4096");
        let start = Instant::now();
        inside.expect("name ssh.example.com", "none");
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        inside.expect("ping api", "ok");
        another_one_works(&world);
        limit(&world, gateway, "--nofile=4096:4096");
        until("names resolve again", || {
            inside.ask("name ssh.example.com") == "203.0.113.22"
        });
        inside.expect("connect ssh.example.com 22", "ok");
        let log = sandbox.log().to_owned();
        end(inside);
        let records = read_records(&log);
        let refused = records.decisions().iter().any(|record| {
            let detail = record["detail"].as_str().unwrap_or_default();
            record["name"] == "ssh.example.com" && detail.contains("Too many open files")
        });
        assert!(refused, "the refusal is on record: {records}");
        world.assert_never_asked("evil");
    }
}

/// A published port needs a socket from the first process, and a thread to wait for it.
#[test]
fn without_process_ids_or_descriptors_a_published_port_answers_or_closes() {
    let world = world();
    for (port, sandbox) in [8461_u16, 8462].into_iter().zip(sandboxes(&world)) {
        let sandbox = sandbox.args(&["--publish", &format!("{port}:8000")]);
        let mut inside = Inside::start(&sandbox);
        let said = inside.python(
            "import socket, threading\n\
             server = socket.create_server(('127.0.0.1', 8000))\n\
             def serve():\n\
             \x20 while True:\n\
             \x20   peer, _ = server.accept()\n\
             \x20   peer.sendall(b'hello'); peer.close()\n\
             threading.Thread(target=serve, daemon=True).start()\n\
             said = 'serving'",
        );
        assert_eq!(said, "serving");
        let all = family(inside.pid());
        limit(&world, all.gateway, "--nproc=1:1");
        limit(&world, all.init, "--nproc=1:1");
        assert_eq!(ask(&world, port), "hello", "no thread has to be made");
        limit(&world, all.init, "--nofile=3:4096");
        let start = Instant::now();
        assert_eq!(ask(&world, port), "", "there is no socket inside");
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        another_one_works(&world);
        limit(&world, all.init, "--nofile=64:4096");
        assert_eq!(ask(&world, port), "hello");
        let log = sandbox.log().to_owned();
        end(inside);
        let records = read_records(&log);
        let refused = records
            .decisions()
            .iter()
            .any(|record| record["protocol"] == "publish" && record["verdict"] == "error");
        assert!(refused, "the refusal is on record: {records}");
    }
}

/// What a published port of the world's host says.
#[track_caller]
fn ask(world: &World, port: u16) -> String {
    let program = format!(
        "import socket\ntry:\n\
         \x20 stream = socket.create_connection(('127.0.0.1', {port}), 30)\n\
         \x20 print(stream.recv(99).decode(), end='')\n\
         except OSError: pass"
    );
    let mut command = world.command("python3");
    finish(command.args(["-c", &program]), Duration::from_secs(60)).out()
}

/// Out of memory, a process ends. Where it is the gateway, the sandbox ends with it, and nothing of ours
/// is in the program's output.
#[test]
fn without_memory_the_gateway_ends_and_the_sandbox_with_it() {
    // Request heads without an end, by the hundred.
    const HEADS: &str = "import socket, time\n\
        print('up', flush=True)\n\
        time.sleep(2)\n\
        kept = []\n\
        for n in range(900):\n\
        \x20 try:\n\
        \x20   kept.append(socket.create_connection(('10.0.2.2', 3128), 5))\n\
        \x20   kept[-1].sendall(b'GET http://api.example.com/ HTTP/1.1\\r\\nX: ' + b'x' * 30000)\n\
        \x20 except OSError: pass\n\
        time.sleep(3000)";
    let world = world();
    for sandbox in sandboxes(&world) {
        let mut command = sandbox
            .allow("api.example.com")
            .command(&["python3", "-c", HEADS]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut run = command.spawn().unwrap();
        let mut up = [0; 3];
        run.stdout.take().unwrap().read_exact(&mut up).unwrap();
        let all = family(run.id());
        limit(&world, all.gateway, "--data=1:1");
        until("the gateway is gone", || !runs(all.gateway));
        let status = run.wait().unwrap();
        assert!(!runs(all.init), "the sandbox ends with its gateway");
        assert!(!status.success());
        let mut said = String::new();
        run.stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(
            !said.contains("memory allocation") && !said.contains("panicked"),
            "{said}"
        );
        another_one_works(&world);
    }
}

/// inotify's instances and watches are the user's, and the program can use them up.
#[test]
fn without_inotify_the_policy_is_followed() {
    let world = world();
    for (number, sandbox) in sandboxes(&world).into_iter().enumerate() {
        let policy = world.file(&format!("followed-{number}.toml"), allowing(&[API]));
        let sandbox = sandbox.args(&["--policy", &policy.display().to_string()]);
        let mut inside = Inside::start(&sandbox);
        let said = inside.python(
            "import ctypes\n\
             libc = ctypes.CDLL(None, use_errno=True)\n\
             queues = []\n\
             while len(queues) < 2000 and (fd := libc.inotify_init1(0)) >= 0: queues.append(fd)\n\
             said = len(queues) > 0",
        );
        assert_eq!(said, "True");
        // The one that was there before.
        std::fs::write(&policy, allowing(&[API, "ssh.example.com:22"])).unwrap();
        until("a change counts", || counts(sandbox.log()).0 == 1);
        inside.expect("name ssh.example.com", "203.0.113.22");
        // A run that finds none left looks at the files by itself.
        let second = world.file(&format!("second-{number}.toml"), allowing(&[API]));
        let other = support::sandbox(&world).args(&["--policy", &second.display().to_string()]);
        let other_inside = Inside::start(&other);
        std::fs::write(&second, allowing(&[API, "big.example.com"])).unwrap();
        until("a change of the other's counts", || {
            counts(other.log()).0 == 1
        });
        end(other_inside);
        end(inside);
    }
}
