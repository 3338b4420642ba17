//! The world itself, with the real programs that the product's tests use, straight at its servers.
#![forbid(unsafe_code)]

use portcullis_testkit::exec::{self, Finished};
use portcullis_testkit::{Fault, ServiceKind, World, WorldSpec, hex, pattern};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

fn start(spec: WorldSpec) -> World {
    World::start(spec.helper(env!("CARGO_BIN_EXE_portcullis-world")))
        .unwrap_or_else(|error| panic!("{error:#}"))
}

fn standard() -> World {
    start(WorldSpec::standard())
}

fn sh(world: &World, script: &str) -> Finished {
    world.run("sh", &["-c", script], LIMIT)
}

#[test]
fn the_program_inside_is_an_ordinary_user_that_can_make_namespaces() {
    let world = standard();
    let done = sh(
        &world,
        "id -u; grep CapEff /proc/self/status; cat /proc/self/uid_map",
    );
    let out = done.out();
    assert!(done.ok() && !out.starts_with("0\n"), "{done}");
    assert!(out.contains("CapEff:\t0000000000000000"), "{out}");
    // One id and no more: nothing here is real root.
    assert_eq!(
        out.lines().nth(2).map(|l| l.ends_with(" 1")),
        Some(true),
        "{out}"
    );
    let done = sh(
        &world,
        "unshare --user --map-root-user --net --mount ip link set lo up",
    );
    assert!(done.ok(), "{done}");
    let done = sh(&world, "ip link add dummy0 type dummy");
    assert!(
        !done.ok(),
        "the host's network must not be the ordinary user's: {done}"
    );
    let done = exec::run(
        world
            .command_as_root("ip")
            .args(["link", "set", "lo", "up"]),
        LIMIT,
    );
    assert!(done.unwrap().ok());
    assert_eq!(world.complaints(), "");
}

#[test]
fn names_resolve_through_libc_and_every_query_is_logged_as_it_came() {
    let world = standard();
    let done = sh(
        &world,
        "cat /etc/resolv.conf; getent ahosts www.example.com",
    );
    assert!(done.out().contains("nameserver 203.0.113.53"), "{done}");
    assert!(done.out().contains("203.0.113.20"), "{done}");
    let script = "import socket; print(socket.getfqdn('internal-data.example.corp'))";
    let done = world.run("python3", &["-c", script], LIMIT);
    assert_eq!(
        done.out(),
        "backend-canonical-host.example.corp\n",
        "{done}"
    );
    let done = sh(
        &world,
        "dig +short ApI.eXample.com @203.0.113.54; dig +tcp +short api.example.com AAAA",
    );
    assert_eq!(done.out(), "203.0.113.10\n2001:db8:10::10\n", "{done}");
    let log = world.dns_log();
    let odd = log
        .iter()
        .find(|q| q.name == "ApI.eXample.com")
        .expect("case kept");
    assert_eq!((odd.transport.as_str(), odd.qtype), ("udp", 1));
    assert_eq!(odd.server.to_string(), "203.0.113.54:53");
    assert!(odd.raw.contains(&hex(b"\x03ApI\x07eXample\x03com\x00")));
    assert!(
        log.iter()
            .any(|q| q.transport == "tcp" && q.qtype_name == "AAAA")
    );
    world.assert_never_asked("evil");
}

#[test]
fn the_guard_against_leaks_can_fail() {
    let world = standard();
    sh(
        &world,
        "dig +short x.tunnel.evil.example.net; curl -s http://10.20.0.5/",
    );
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.assert_never_asked("EVIL.example");
    }));
    assert!(asked.is_err());
    let reached = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.assert_never_reached("10.20.0.5");
    }));
    assert!(reached.is_err());
    world.assert_never_reached("169.254.169.254");
}

#[test]
fn faults_are_what_their_names_say() {
    let world = start(
        WorldSpec::standard()
            .record("v6rebind.example.com A 203.0.113.1")
            .fault("api.github.com", Fault::ServFailFirst(1))
            .server_fault(1, Fault::Refused),
    );
    let timed = |seconds: u8, args: &str| {
        let script = format!("dig +tries=1 +time={seconds} @203.0.113.53 {args}");
        sh(&world, &script).out()
    };
    // What is answered has time, what is not need not be waited for.
    let dig = |args: &str| timed(20, args);
    let unanswered = |args: &str| timed(1, args);
    assert!(dig("servfail.example.com").contains("status: SERVFAIL"));
    assert!(dig("nxdomain.example.com").contains("status: NXDOMAIN"));
    let missing = dig("nothing.example.com");
    assert!(
        missing.contains("status: NXDOMAIN") && missing.contains("SOA"),
        "{missing}"
    );
    assert!(dig("v4only.example.com AAAA").contains("status: NOERROR"));
    assert!(dig("+ignore big.example.com").contains("flags: qr aa tc rd ra"));
    assert!(dig("+short big.example.com").contains("203.0.113.81"));
    assert!(unanswered("dead.example.com").contains("timed out"));
    assert!(timed(3, "wrongid.example.com").contains("ID mismatch"));
    assert!(dig("+short forged.example.com").contains("203.0.113.84"));
    assert!(unanswered("flaky.example.com").contains("timed out"));
    assert!(unanswered("flaky.example.com").contains("timed out"));
    assert!(dig("+short flaky.example.com").contains("203.0.113.83"));
    assert!(dig("+short rebind.example.com").contains("203.0.113.85"));
    assert!(dig("+short rebind.example.com").contains("10.20.0.5"));
    assert!(dig("api.github.com").contains("SERVFAIL"));
    assert!(dig("+short api.github.com").contains("203.0.113.121"));
    let begun = Instant::now();
    assert!(
        sh(&world, "dig +short slow.example.com @203.0.113.53")
            .out()
            .contains(".82")
    );
    assert!(begun.elapsed() >= Duration::from_millis(1500));
    let refused = sh(&world, "dig api.example.com @203.0.113.54").out();
    assert!(refused.contains("status: REFUSED"), "{refused}");
    assert_eq!(world.times_asked("flaky.example.com"), 3);
}

#[test]
fn every_record_type_of_the_zone_reads_back() {
    let world = standard();
    for (question, want) in [
        ("example.com MX", "10 smtp.example.com."),
        ("example.com TXT", "v=spf1,-all"),
        ("example.com NS", "ns1.example.com."),
        ("example.com CAA", "0 issue \"ca.example.net\""),
        ("_sip._tcp.example.com SRV", "10 20 5060 api.example.com."),
        ("api.example.com HTTPS", "alpn=\"h3,h2\""),
        ("-x 203.0.113.30", "backend-canonical-host.example.corp."),
        ("api.example.com SOA +nocomments", ""),
    ] {
        let done = sh(&world, &format!("dig +short {question}"));
        assert!(done.ok() && done.out().contains(want), "{question}: {done}");
    }
}

#[test]
fn the_zone_can_change_while_the_world_lives() {
    let world = standard();
    let mut dns = world.spec().dns.clone();
    dns.remove("api.example.com");
    dns.add("api.example.com A 203.0.113.11");
    world.set_dns(&dns);
    assert_eq!(
        sh(&world, "dig +short api.example.com").out(),
        "203.0.113.11\n"
    );
}

#[test]
fn https_verifies_and_says_whom_it_spoke_to() {
    let world = standard();
    let done = sh(&world, "curl -sSi https://api.example.com/some/path?q=1");
    let out = done.out();
    assert!(
        out.starts_with("HTTP/1.1 200") && out.contains("GET /some/path?q=1 HTTP/1.1"),
        "{done}"
    );
    assert!(out.contains("X-World-Sni: api.example.com"), "{done}");
    let done = sh(
        &world,
        "curl -sS -6 http://[2001:db8:10::10]/; curl -sS https://203.0.113.10/",
    );
    assert!(
        done.ok() && done.out().contains("Host: [2001:db8:10::10]"),
        "{done}"
    );
    for (name, text) in [
        ("expired.example.com", "expired"),
        ("wrongname.example.com", "name"),
        ("untrusted.example.com", "issuer"),
    ] {
        let done = sh(&world, &format!("curl -sS https://{name}/"));
        assert_eq!(done.code(), Some(60), "{done}");
        assert!(done.err().contains(text), "{done}");
    }
    let event = world.wait_for("request", LIMIT, |e| e.event == "request");
    assert_eq!(event.sni.as_deref(), Some("api.example.com"));
    assert!(event.head_text().ends_with("\r\n\r\n"));
}

#[test]
fn bodies_are_exact_and_connections_are_kept() {
    let world = standard();
    let done = sh(&world, "curl -sS https://api.example.com/bytes/300000");
    assert_eq!(done.stdout, pattern(0, 300_000));
    let done = sh(
        &world,
        "head -c 5000000 /dev/zero | curl -sS -T - http://api.example.com/upload; \
         curl -sS -d hello http://api.example.com/echo http://api.example.com/echo; \
         curl -s http://api.example.com/cut/1000 | wc -c; \
         curl -sS http://api.example.com/chunked/2/1",
    );
    assert_eq!(
        done.out(),
        "received 5000000\nhellohello1000\npiece 0\npiece 1\n",
        "{done}"
    );
    let kept = world
        .server_log()
        .iter()
        .filter(|e| e.line.as_deref() == Some("POST /echo HTTP/1.1"))
        .map(|e| e.peer.clone())
        .collect::<Vec<_>>();
    assert!(kept.len() == 2 && kept[0] == kept[1], "{kept:?}");
}

#[test]
fn the_other_servers_do_their_trick() {
    let world = start(WorldSpec::standard().service(
        "203.0.113.96",
        9003,
        ServiceKind::Reply(hex(b"pong")),
    ));
    let nc =
        |args: &str, input: &str| sh(&world, &format!("printf '{input}' | nc -N -w 25 {args}"));
    assert!(
        nc("ssh.example.com 22", "hi")
            .out()
            .starts_with("SSH-2.0-portcullis_testkit\r\nhi")
    );
    let mail = nc("smtp.example.com 25", "EHLO x\\r\\nQUIT\\r\\n").out();
    assert!(mail.starts_with("220 ") && mail.contains("221 "), "{mail}");
    assert_eq!(nc("raw.example.com 9000", "echo").out(), "echo");
    assert_eq!(nc("raw.example.com 9001", "12345").out(), "received 5\n");
    assert_eq!(nc("raw.example.com 9002", "").stdout, pattern(0, 1 << 20));
    assert_eq!(nc("raw.example.com 9003", "ping").out(), "pong");
    assert_eq!(
        sh(&world, "printf hi | nc -u -w 5 203.0.113.10 443").out(),
        "hi"
    );
    let event = world.wait_for("datagram", LIMIT, |e| e.event == "datagram");
    assert_eq!(event.received_text(), "hi");
    let closed = sh(&world, "nc -zv -w 25 refused.example.com 443").err();
    assert!(closed.contains("refused"), "{closed}");
    let silent = sh(&world, "nc -zv -w 1 silent.example.com 443").err();
    assert!(silent.contains("timed out"), "{silent}");
    let unreachable = sh(&world, "nc -zv -w 25 unreachable.example.com 443").err();
    assert!(unreachable.contains("No route to host"), "{unreachable}");
    let reset = sh(&world, "curl -sS https://reset.example.com/").err();
    assert!(reset.contains("reset") || reset.contains("SSL"), "{reset}");
    let host = sh(&world, "curl -sS http://127.0.0.1:8080/");
    assert!(
        host.ok() && host.out().contains("Host: 127.0.0.1:8080"),
        "{host}"
    );
}

/// A WebSocket client in plain Python: handshake, one masked frame, one ping, close.
const WEBSOCKET: &str = r#"
import os, socket, ssl, struct
host = 'wss-primary.slack.com'
s = ssl.create_default_context().wrap_socket(socket.create_connection((host, 443), 10), server_hostname=host)
f = s.makefile('rwb')
f.write(b'GET /ws/hello HTTP/1.1\r\nHost: ' + host.encode() + b'\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
        b'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n')
f.flush()
while (line := f.readline()) != b'\r\n':
    print(line.decode().strip())
def read():
    first, length = f.read(2)
    length &= 127
    if length == 126: length, = struct.unpack('!H', f.read(2))
    return first & 15, f.read(length)
def send(opcode, payload):
    mask = os.urandom(4)
    head = bytes([128 | opcode]) + (bytes([128 | len(payload)]) if len(payload) < 126 else b'\xfe' + struct.pack('!H', len(payload)))
    f.write(head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload)))
    f.flush()
print(read())
send(1, b'x' * 1000)
print(read() == (1, b'x' * 1000))
send(9, b'p')
print(read())
send(8, b'')
print(read())
"#;

#[test]
fn a_websocket_speaks_first_echoes_and_closes() {
    let world = standard();
    let done = world.run("/usr/bin/python3", &["-c", WEBSOCKET], LIMIT);
    let out = done.out();
    assert!(out.contains("101 Switching Protocols"), "{done}");
    assert!(out.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{done}");
    let tail = "(1, b'{\"type\":\"hello\"}')\nTrue\n(10, b'p')\n(8, b'')\n";
    assert!(out.ends_with(tail), "{done}");
}

#[test]
fn git_clones_over_the_dumb_protocol() {
    let world = standard();
    let done = sh(
        &world,
        "git clone -q https://git.example.com/repo.git here && cat here/README",
    );
    assert_eq!(done.out(), "Hello, clone\n", "{done}");
}

#[test]
fn the_upstream_proxy_forwards_and_asks_for_credentials() {
    let world = standard();
    let done = sh(
        &world,
        "curl -sS -x http://proxy.example.corp:3128 https://api.example.com/tunnel; \
         curl -sS -x http://proxy.example.corp:3128 http://api.example.com/absolute; \
         curl -sS -o /dev/null -w '%{http_connect}\\n' -x http://proxy.example.corp:3129 https://api.example.com/; \
         curl -sS -x http://user:secret@proxy.example.corp:3129 https://api.example.com/authorised",
    );
    let out = done.out();
    for part in [
        "GET /tunnel",
        "GET /absolute",
        "Via: 1.1 company",
        "407\n",
        "GET /authorised",
    ] {
        assert!(out.contains(part), "{part}: {done}");
    }
    let connects = world
        .server_log()
        .iter()
        .filter(|e| {
            e.service == "upstream-proxy"
                && e.line.as_deref() == Some("CONNECT api.example.com:443 HTTP/1.1")
        })
        .count();
    assert_eq!(connects, 3);
}

#[test]
fn a_world_without_ipv6_has_none() {
    let world = start(WorldSpec::standard().without_ipv6());
    let done = sh(
        &world,
        "ip -6 route show default; curl -sS -6 http://[2001:db8:10::10]/",
    );
    assert!(!done.ok() && done.out().is_empty(), "{done}");
    assert!(sh(&world, "curl -sS https://api.example.com/").ok());
}

#[test]
fn nothing_that_ran_in_the_world_outlives_it() {
    let world = standard();
    let mut command = world.command("sh");
    let mut child = command
        .args(["-c", "touch there; sleep 600"])
        .spawn()
        .unwrap();
    let there = world.home().join("there");
    let deadline = Instant::now() + LIMIT;
    while !there.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let home = world.home();
    drop(world);
    let (status, timed_out) = exec::wait(&mut child, Instant::now() + LIMIT).unwrap();
    assert!(!timed_out && !status.success(), "{status:?}");
    assert!(!home.exists());
}

/// Kills a process that holds a world, with SIGKILL: no destructor runs, the world must go anyway.
/// A real server in the internet's namespace: any port, an ordinary user, a certificate that the
/// host's programs trust; it ends with the world.
#[test]
fn a_real_server_serves_in_the_internet_and_ends_with_the_world() {
    let world = start(
        WorldSpec::standard()
            .closed("203.0.113.33")
            .record("real.example.com A 203.0.113.33"),
    );
    let (certificate, key) = world.certificate(&["real.example.com"]);
    let mut command = world.internet_command("openssl");
    command
        .args(["s_server", "-accept", "203.0.113.33:443", "-www", "-cert"])
        .arg(certificate)
        .arg("-key")
        .arg(key);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut server = child.unwrap();
    let fetch = "curl -sS -o /dev/null -w '%{http_code}' --retry 60 --retry-delay 1 \
                 --retry-connrefused https://real.example.com/";
    let done = sh(&world, fetch);
    assert_eq!(done.out(), "200", "{done}");
    assert_eq!(server.try_wait().unwrap(), None);
    drop(world);
    let (status, timed_out) = exec::wait(&mut server, Instant::now() + LIMIT).unwrap();
    assert!(!timed_out, "{status}");
}

#[test]
fn the_world_dies_with_the_process_that_made_it() {
    const CHILD: &str = "PORTCULLIS_TEST_HOLDS_A_WORLD";
    if std::env::var_os(CHILD).is_some() {
        let world = standard();
        println!("\nfolder {}", world.home().parent().unwrap().display());
        println!("host pid {}", world.host_pid());
        std::thread::sleep(Duration::from_secs(600));
    }
    let me = std::env::current_exe().unwrap();
    let mut child = Command::new(me)
        .args([
            "--exact",
            "the_world_dies_with_the_process_that_made_it",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let mut said = lines.filter(|l| l.starts_with("folder ") || l.starts_with("host pid "));
    let folder = PathBuf::from(said.next().unwrap().trim_start_matches("folder "));
    let pid = said
        .next()
        .unwrap()
        .trim_start_matches("host pid ")
        .to_owned();
    let keeper = PathBuf::from(format!("/proc/{pid}/ns"));
    assert!(keeper.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + LIMIT;
    while (keeper.exists() || folder.exists()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        !keeper.exists(),
        "process {pid} of the world is still there"
    );
}

#[test]
fn a_world_stands_within_a_moment() {
    let begun = Instant::now();
    standard();
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(10), "{taken:?}");
    println!("a world came and went in {taken:?}");
}

#[test]
fn two_worlds_do_not_see_each_other() {
    let (one, other) = (standard(), standard());
    assert!(sh(&one, "curl -sS http://api.example.com/").ok());
    assert!(one.times_asked("api.example.com") > 0);
    assert_eq!(other.times_asked("api.example.com"), 0);
}

#[test]
fn a_wrong_spec_is_said_in_words() {
    let spec = WorldSpec::standard().record("x.example.com A nonsense");
    let spec = spec.helper(env!("CARGO_BIN_EXE_portcullis-world"));
    let error = format!("{:#}", World::start(spec).err().expect("refused"));
    assert!(error.contains("x.example.com A nonsense"), "{error}");
}
