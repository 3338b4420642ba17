//! Floods of denials that differ: the log stays small, and every denial is counted.

use crate::support::{Sandbox, sandbox, world};
use std::time::Instant;

/// Lines that each kind of denial may write in a minute here.
const LINES: u64 = 100;
/// What a line of that budget pays for.
const LINE_BYTES: u64 = 512;
/// What the line may hold that stands for all further denials of a kind in a second.
const SUMMARY_BYTES: u64 = 1_024;
/// Kinds of denials that one of these programs can cause.
const KINDS: u64 = 3;
/// The first record of a log and what a program does besides.
const OTHER_BYTES: u64 = 8 * 1_024;

/// What the programs share: the proxies, the resolver, and a query for a name of given labels.
const PRELUDE: &str = "\
import os, socket, struct
from urllib.parse import urlsplit
proxy = urlsplit(os.environ['HTTPS_PROXY'])
proxy = (proxy.hostname, proxy.port)
resolver = (open('/etc/resolv.conf').read().split('nameserver')[1].split()[0], 53)
def ask(kind, *labels):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)
    name = b''.join(bytes([len(l)]) + l.encode() for l in labels)
    s.sendto(b'\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0' + name + struct.pack('>BHH', 0, kind, 1), resolver)
    s.recv(512); s.close()
def speak(*parts):
    s = socket.create_connection(proxy); s.settimeout(20)
    for part in parts:
        s.sendall(part); said = s.recv(4096)
    s.close(); return said
def socks(command, host, port):
    s = socket.create_connection((proxy[0], 1080)); s.settimeout(20)
    s.sendall(b'\\5\\1\\0'); s.recv(2)
    s.sendall(b'\\5' + bytes([command]) + b'\\0\\3' + bytes([len(host)]) + host.encode() + struct.pack('>H', port))
    said = s.recv(64); s.close(); return said
";

/// Runs a program that says how often it tried, and compares that with the record.
#[track_caller]
fn assert_bounded(case: &Sandbox<'_>, layer: &str, program: &str) {
    let start = Instant::now();
    let ran = case.python(&format!("{PRELUDE}{program}"));
    let seconds = start.elapsed().as_secs() + 1;
    ran.assert_ok();
    let tried: u64 = ran.out().trim().parse().unwrap();
    let refused = ran.records.0.iter().filter(|record| {
        record["layer"] == layer && (record["verdict"] == "deny" || record["verdict"] == "error")
    });
    let counted: u64 = refused
        .clone()
        .map(|record| record["count"].as_u64().unwrap())
        .sum();
    assert_eq!(counted, tried, "{layer}");
    let lines = refused.count() as u64;
    assert!(
        tried > LINES * KINDS * 2 && lines < tried,
        "{layer}: no flood"
    );
    let bytes = std::fs::metadata(case.log()).unwrap().len();
    let most = LINES * KINDS * LINE_BYTES + SUMMARY_BYTES * KINDS * seconds + OTHER_BYTES;
    assert!(
        bytes < most,
        "{layer}: {bytes} bytes, {lines} lines for {tried} denials in {seconds} s"
    );
}

#[track_caller]
fn both(layer: &str, program: &str) {
    let world = world();
    let budget = LINES.to_string();
    for case in [sandbox(&world), sandbox(&world).as_root()] {
        let case = case.args(&["--log-budget", &budget]);
        assert_bounded(&case, layer, program);
    }
}

#[test]
fn a_flood_of_lookups_of_random_names() {
    both(
        "dns",
        "n = 1500\n\
         for i in range(n): ask([1, 28, 16][i % 3], 'n%d' % i, 'example', 'net')\n\
         print(n)\n",
    );
}

#[test]
fn a_flood_of_reverse_lookups() {
    both(
        "dns",
        "n = 1200\n\
         for i in range(n): ask(12, str(i % 250), str(i // 250), '51', '198', 'in-addr', 'arpa')\n\
         print(n)\n",
    );
}

#[test]
fn a_flood_of_connects_to_the_proxy_for_random_names() {
    both(
        "http",
        "n = 1200\n\
         for i in range(n):\n\
         \x20 said = speak(b'CONNECT n%d.example:443 HTTP/1.1\\r\\nHost: n%d.example\\r\\n\\r\\n' % (i, i))\n\
         \x20 assert b'403' in said\n\
         print(n)\n",
    );
}

#[test]
fn a_flood_of_requests_to_the_proxy_for_random_names_and_paths() {
    both(
        "http",
        "n = 1200\n\
         for i in range(n):\n\
         \x20 said = speak(b'GET http://n%d.example/%d HTTP/1.1\\r\\nHost: n%d.example\\r\\n\\r\\n' % (i, i, i))\n\
         \x20 assert b'403' in said\n\
         print(n)\n",
    );
}

#[test]
fn a_flood_of_malformed_requests() {
    both(
        "http",
        "n = 1200\n\
         for i in range(n):\n\
         \x20 said = speak(b'GET http://n%d.example/ HTTP/1.1\\r\\nHost: x\\r\\nHost: y%d\\r\\n\\r\\n' % (i, i))\n\
         \x20 assert b'400' in said, said\n\
         print(n)\n",
    );
}

#[test]
fn a_flood_of_connects_and_associations_by_socks() {
    both(
        "tcp",
        "n = 1200\n\
         for i in range(n):\n\
         \x20 assert socks([1, 3, 2][i % 3], 'n%d.example' % i, 1 + i)[1] in (2, 7)\n\
         print(n)\n",
    );
}

#[test]
fn a_flood_of_connections_to_addresses() {
    both(
        "tcp",
        "n = 3000\n\
         for i in range(n):\n\
         \x20 v6 = i % 3 == 0\n\
         \x20 s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET)\n\
         \x20 at = '2001:db8:1::%x' % i if v6 else '198.51.%d.%d' % (i // 250, i % 250)\n\
         \x20 assert s.connect_ex((at, 1000 + i)) == 111\n\
         \x20 s.close()\n\
         print(n)\n",
    );
}

/// More than the kernel's log has room for.
#[test]
fn a_flood_of_datagrams() {
    both(
        "udp",
        "n, said = 60000, 0\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         for i in range(n):\n\
         \x20 try: s.sendto(b'x', ('198.51.%d.%d' % (i // 250 % 250, i % 250), 1000 + i))\n\
         \x20 except OSError: said += 1\n\
         assert said == n\n\
         import time; time.sleep(1)\n\
         try: s.sendto(b'x', ('198.51.100.1', 9))\n\
         except OSError: n += 1\n\
         print(n)\n",
    );
}
