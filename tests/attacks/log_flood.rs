//! Floods of denials that differ: the log stays small, and every denial is counted.

use crate::support::{Sandbox, sandbox, world};

/// Bytes that one kind of denial may write in these few seconds.
const MAX_BYTES: u64 = 1_300_000;

/// Runs a program that says how often it tried, and compares that with the record.
fn assert_bounded(case: &Sandbox<'_>, layer: &str, program: &str) {
    let ran = case.python(program);
    ran.assert_ok();
    let tried: u64 = ran.out().trim().parse().unwrap();
    let of_layer = ran
        .records
        .0
        .iter()
        .filter(|record| record["layer"] == layer);
    let counted: u64 = of_layer
        .filter(|record| record["verdict"] == "deny")
        .map(|record| record["count"].as_u64().unwrap())
        .sum();
    assert_eq!(counted, tried, "{layer}");
    let bytes = std::fs::metadata(case.log()).unwrap().len();
    assert!(
        bytes < MAX_BYTES,
        "{layer}: {bytes} bytes for {tried} denials"
    );
}

fn both(layer: &str, program: &str) {
    let world = world();
    for case in [sandbox(&world), sandbox(&world).as_root()] {
        assert_bounded(&case, layer, program);
    }
}

#[test]
fn a_flood_of_lookups_of_random_names() {
    both(
        "dns",
        "import socket\n\
         at = open('/etc/resolv.conf').read().split('nameserver')[1].split()[0]\n\
         n = 6000\n\
         for i in range(n):\n\
         \x20 s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)\n\
         \x20 q = b'%07d' % i\n\
         \x20 s.sendto(b'\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0' + bytes([7]) + q + b'\\7example\\0\\0\\1\\0\\1', (at, 53))\n\
         \x20 s.recv(512); s.close()\n\
         print(n)\n",
    );
}

#[test]
fn a_flood_of_connects_to_the_proxy_for_random_names() {
    both(
        "http",
        "import os, socket\n\
         from urllib.parse import urlsplit\n\
         at = urlsplit(os.environ['HTTPS_PROXY'])\n\
         n = 4000\n\
         for i in range(n):\n\
         \x20 s = socket.create_connection((at.hostname, at.port))\n\
         \x20 s.sendall(b'CONNECT n%d.example:443 HTTP/1.1\\r\\nHost: n%d.example\\r\\n\\r\\n' % (i, i))\n\
         \x20 assert b'403' in s.recv(4096); s.close()\n\
         print(n)\n",
    );
}
