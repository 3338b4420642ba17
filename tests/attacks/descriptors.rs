//! Idle connections by the thousand, with few descriptors: what one entrance takes, the others keep.

use crate::processes::{Background, family, limit, until};
use crate::support::{portcullis, read_records, require, sandbox, world};
use portcullis_testkit::exec;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The descriptors of gateway and program.
const LIMIT: &str = "--nofile=1024:1024";

/// Opens idle connections at the entrances that it is told, from processes of its own, then asks every
/// entrance and prints how it answered, and that it did so in time.
const FLOOD: &str = "
import os, socket, struct, sys, time
kinds, patience = sys.argv[1].split(','), float(sys.argv[2])
ENTRANCES = {'http': ('10.0.2.2', 3128), 'socks': ('10.0.2.2', 1080), 'dns': ('10.0.2.3', 53)}
ENTRANCES['direct'] = (socket.gethostbyname('raw.example.com'), 9000)
def flood(at, ready):
    held = []
    for n in range(700):
        try:
            held.append(socket.create_connection(at, 5))
        except OSError:
            pass
    os.write(ready, b'!')
    time.sleep(120)
def in_time(what, ask):
    start = time.monotonic()
    try:
        answer = ask()
    except (ConnectionError, OSError) as error:
        answer = type(error).__name__
    took = time.monotonic() - start
    print(what, answer, 'in time' if took < patience else f'after {took:.1f} s', flush=True)
labels = lambda name: b''.join(bytes([len(part)]) + part.encode() for part in name.split('.'))
query = lambda name: struct.pack('>6H', 7, 0x100, 1, 0, 0, 0) + labels(name) + b'\\0\\0\\1\\0\\1'
def dns(name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        stream.settimeout(30)
        stream.sendto(query(name), ENTRANCES['dns'])
        return stream.recv(4096)[3] & 15
def exchange(at, message, size):
    with socket.create_connection(at, 30) as stream:
        stream.sendall(message)
        with stream.makefile('rb') as answer:
            return answer.read(size)
def http():
    head = b'CONNECT raw.example.com:9000 HTTP/1.1\\r\\nHost: raw.example.com:9000\\r\\n\\r\\n'
    return exchange(ENTRANCES['http'], head, 12)[9:].decode()
def socks():
    name = b'raw.example.com'
    asked = b'\\5\\1\\0\\5\\1\\0\\3' + bytes([len(name)]) + name + struct.pack('>H', 9000)
    return exchange(ENTRANCES['socks'], asked, 4)[1::2].hex()
def direct():
    return exchange(ENTRANCES['direct'], b'ping', 4).decode()
def tcp():
    asked = query('raw.example.com')
    return exchange(ENTRANCES['dns'], struct.pack('>H', len(asked)) + asked, 6)[5] & 15
done, ready = os.pipe()
children = []
for kind in kinds:
    for _ in range(2):
        child = os.fork()
        if child == 0:
            flood(ENTRANCES[kind], ready)
            os._exit(0)
        children.append(child)
for _ in children:
    os.read(done, 1)
print('full', flush=True)
in_time('dns', lambda: dns('api.example.com'))
in_time('http', http)
in_time('socks', socks)
in_time('direct', direct)
in_time('tcp', tcp)
for child in children:
    os.kill(child, 9)
for child in children:
    os.waitpid(child, 0)
# What the flood had is free again, at once.
time.sleep(1)
print('after', http(), socks(), direct(), tcp(), flush=True)
";

/// What the entrances answer, one line each, when those of `kinds` are full.
fn flooded(kinds: &str, root: bool) -> (Vec<String>, crate::support::Records) {
    require("python3");
    require("prlimit");
    let world = world();
    let log = world.home().join("flooded.jsonl");
    let mut run = match root {
        true => world.command_as_root("prlimit"),
        false => world.command("prlimit"),
    };
    run.arg(LIMIT).arg(portcullis());
    run.args([
        "run",
        "--allow",
        "raw.example.com:9000",
        "--allow",
        "api.example.com",
        "--log",
    ]);
    run.arg(&log)
        .args(["--", "python3", "-c", FLOOD, kinds, "5"]);
    let ran = exec::run_with_input(&mut run, b"", Duration::from_secs(300)).unwrap();
    assert!(ran.ok(), "{ran}");
    (
        ran.out().lines().map(str::to_owned).collect(),
        read_records(&log),
    )
}

#[test]
fn idle_connections_at_one_entrance_leave_the_others_working() {
    for (kind, full) in [
        ("http", "http 429 in time"),
        ("socks", "socks 0002 in time"),
        ("direct", "direct ConnectionResetError in time"),
        ("dns", "tcp ConnectionResetError in time"),
    ] {
        let (said, records) = flooded(kind, false);
        let mut expected = vec![
            "full",
            "dns 0 in time",
            "http 200 in time",
            "socks 0000 in time",
            "direct ping in time",
            "tcp 0 in time",
            "after 200 0000 ping 0",
        ];
        let name = full.split(' ').next().unwrap_or_default();
        for line in &mut expected {
            if line.starts_with(&format!("{name} ")) {
                *line = full;
            }
        }
        assert_eq!(said, expected, "{kind}");
        let refused = records.all_denials();
        assert!(
            refused
                .iter()
                .any(|record| record["reason"] == "too-many-connections"),
            "{kind}: {records}"
        );
    }
}

#[test]
fn idle_connections_at_every_entrance_end_in_refusals_and_leave_dns_and_other_sandboxes_alone() {
    for root in [false, true] {
        let (said, records) = flooded("http,socks,direct,dns", root);
        assert_eq!(said[..2], ["full", "dns 0 in time"]);
        for (line, answers) in said[2..].iter().zip([
            &[
                "http 429",
                "http 200",
                "http ConnectionResetError",
                "http BrokenPipeError",
            ][..],
            &[
                "socks 0002",
                "socks 0000",
                "socks ConnectionResetError",
                "socks BrokenPipeError",
            ],
            &["direct ConnectionResetError", "direct ping"],
            &["tcp ConnectionResetError", "tcp 0"],
        ]) {
            let answered = line.strip_suffix(" in time");
            assert!(
                answered.is_some_and(|line| answers.contains(&line)),
                "{said:?}"
            );
        }
        assert_eq!(said[6], "after 200 0000 ping 0");
        let others = |record: &&serde_json::Value| record["reason"] != "too-many-connections";
        assert_eq!(
            records
                .all_denials()
                .iter()
                .filter(|record| others(record))
                .count(),
            0
        );
    }
}

/// Asks every entrance three times: before, when its gateway can open nothing any more, and after that.
const STARVED: &str = "
import os, socket, struct, sys, time
labels = lambda name: b''.join(bytes([len(part)]) + part.encode() for part in name.split('.'))
def dns(name):
    query = struct.pack('>6H', 7, 0x100, 1, 0, 0, 0) + labels(name) + b'\\0\\0\\1\\0\\1'
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stream:
        stream.settimeout(30)
        stream.sendto(query, ('10.0.2.3', 53))
        return stream.recv(4096)[3] & 15
def exchange(at, message):
    try:
        with socket.create_connection(at, 30) as stream:
            stream.sendall(message)
            return stream.recv(12).hex()
    except OSError as error:
        return type(error).__name__
address = socket.gethostbyname('raw.example.com')
for when in 'before', 'starved', 'after':
    print(when, flush=True)
    while not os.path.exists(sys.argv[1] + when): time.sleep(0.05)
    start = time.monotonic()
    name = {'before': 'api', 'starved': 'www', 'after': 'v4only'}[when] + '.example.com'
    said = [dns('api.example.com'), dns(name), exchange(('10.0.2.2', 3128), b'GET / HTTP/1.1\\r\\n\\r\\n'),
            exchange(('10.0.2.2', 1080), b'\\5\\1\\0'), exchange((address, 9000), b'ping')]
    print(*said, 'in time' if time.monotonic() - start < 6 else 'too late', flush=True)
";

/// A process's descriptors, once none has come or gone for a second: what the program has just closed is
/// closed here a moment later, and would be free again below a limit that counted it.
fn settled_descriptors(pid: u32) -> BTreeSet<usize> {
    let read = || -> BTreeSet<usize> {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
        fds.filter_map(|fd| fd.ok()?.file_name().to_str()?.parse().ok())
            .collect()
    };
    let (mut fds, mut since) = (read(), Instant::now());
    until("its descriptors settle", || {
        let now = read();
        if now != fds {
            (fds, since) = (now, Instant::now());
        }
        since.elapsed() >= Duration::from_secs(1)
    });
    fds
}

#[test]
fn with_no_descriptor_left_connections_are_reset_at_once_and_known_names_resolve() {
    require("python3");
    let world = world();
    let mark = world.home().join("may-go-on-");
    let log = world.home().join("starved.jsonl");
    let mut run = world.command(portcullis());
    run.args(["run", "--log"]).arg(&log);
    for name in [
        "raw.example.com:9000",
        "api.example.com",
        "www.example.com",
        "v4only.example.com",
    ] {
        run.args(["--allow", name]);
    }
    run.args(["--", "python3", "-c", STARVED]).arg(&mark);
    let asking = Background::start(&mut run);
    let go_on = |when: &str| {
        let path = format!("{}{when}", mark.display());
        std::fs::write(path, "").expect("the mark");
    };
    let answers = "485454502f312e3120343030";
    asking.wait_line("before");
    let gateway = family(asking.pid()).gateway;
    go_on("before");
    asking.wait_line(&format!("0 0 {answers} 0500 70696e67 in time"));
    asking.wait_line("starved");
    let fds = settled_descriptors(gateway);
    // Every number below the first that is free is in use.
    let limited = (0..).take_while(|fd| fds.contains(fd)).count();
    limit(&world, gateway, &format!("--nofile={limited}:1024"));
    go_on("starved");
    let reset = "ConnectionResetError";
    asking.wait_line(&format!("0 2 {reset} {reset} {reset} in time"));
    asking.wait_line("after");
    limit(&world, gateway, "--nofile=1024:1024");
    go_on("after");
    asking.wait_line(&format!("0 0 {answers} 0500 70696e67 in time"));
    let (status, said) = asking.end();
    assert!(status.success(), "{said}");
    let records = read_records(&log);
    for protocol in ["http", "socks5", "transparent"] {
        let told = records.all_denials().into_iter().any(|record| {
            record["protocol"] == protocol && record["reason"] == "too-many-connections"
        });
        assert!(told, "{protocol}: {records}");
    }
}

#[test]
fn another_sandbox_of_the_same_user_is_not_affected() {
    require("python3");
    require("prlimit");
    let world = world();
    let mut run = world.command("prlimit");
    run.arg(LIMIT).arg(portcullis());
    run.args([
        "run",
        "--allow",
        "raw.example.com:9000",
        "--allow",
        "api.example.com",
        "--",
    ]);
    run.args(["python3", "-c", FLOOD, "http,socks,direct,dns", "5"]);
    let flooding = Background::start(&mut run);
    flooding.wait_line("full");
    sandbox(&world)
        .allow("api.example.com")
        .sh(
            "curl -sS -m 20 -o /dev/null -w '%{http_code}' https://api.example.com/; \
             curl -sS -m 20 --noproxy '*' -o /dev/null -w '%{http_code}' https://api.example.com/",
        )
        .assert_ok()
        .assert_out("200200")
        .assert_no_denial();
}
