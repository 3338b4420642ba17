//! What a program sees of the network: refusals, doors, its own loopback.

use std::fs;

use crate::support::{User, folder, python, shell, users};

/// Connects to each address and prints what happened and whether it took less than 10 ms.
const CONNECT: &str = r#"
import socket, sys, time, errno
def attempt(host, port, kind=socket.SOCK_STREAM):
    # A refusal is quick if one of a few is: the machine may have other work.
    for _ in range(5):
        result, s = once(host, port, kind)
        if not result.endswith('slow'): break
    return result, s
def once(host, port, kind):
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    s = socket.socket(family, kind); s.settimeout(20); start = time.monotonic()
    try:
        s.connect((host, port))
        if kind == socket.SOCK_DGRAM:
            s.send(b'x'); s.send(b'x')
        result = 'ok'
    except OSError as e:
        result = errno.errorcode.get(e.errno, str(e))
    quick = 'quick' if time.monotonic() - start < 0.010 else 'slow'
    return result + ' ' + quick, s
"#;

#[test]
fn what_is_not_open_is_refused_at_once_ipv4_and_ipv6() {
    for user in users() {
        let script = format!(
            "{CONNECT}
for host in ['93.184.216.34', '10.0.0.1', '169.254.169.254', '10.0.2.2', '10.0.2.3', \
             '2001:db8::1', 'fd50:6f72:7463::2', '::ffff:93.184.216.34', '64:ff9b::1']:
    print(host, attempt(host, 443)[0])
print('catch-all', attempt('10.0.2.2', 15001)[0])
print('any', attempt('0.0.0.0', 15001)[0])
"
        );
        let seen = python(user, &[], &script);
        assert_eq!(seen.lines().count(), 11, "{seen}");
        for line in seen.lines() {
            assert!(line.ends_with("ECONNREFUSED quick"), "{user:?}: {line}");
        }
    }
}

#[test]
fn udp_and_quic_fail_at_once() {
    let script = format!(
        "{CONNECT}
for host in ['93.184.216.34', '2001:db8::1', '224.0.0.251']:
    print(host, attempt(host, 443, socket.SOCK_DGRAM)[0])
"
    );
    for line in python(User::Nobody, &[], &script).lines() {
        let refused = [
            "EPERM quick",
            "EACCES quick",
            "EHOSTUNREACH quick",
            "ECONNREFUSED quick",
        ];
        assert!(refused.iter().any(|end| line.ends_with(end)), "{line}");
    }
}

#[test]
fn any_resolvers_address_is_answered_from_the_address_that_was_asked() {
    let script = r#"
import socket
q = b'\0\1\1\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1'
for host in ['10.0.2.3', '8.8.8.8', '127.0.0.1', '127.0.0.53', '2606:4700:4700::1111', '::1']:
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(20)
    s.sendto(q, (host, 53))
    data, source = s.recvfrom(100)
    print(host, source[0] == host, data[2] & 0x80 != 0)
    t = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
    t.settimeout(20)
    t.connect((host, 53))
"#;
    let seen = python(User::Nobody, &[], script);
    assert_eq!(seen.lines().count(), 6, "{seen}");
    for line in seen.lines() {
        assert!(line.ends_with("True True"), "{line}");
    }
}

#[test]
fn an_opened_destination_reaches_the_catch_all_under_its_own_address() {
    for user in users() {
        let script = format!(
            "{CONNECT}
for host, port in [('93.184.216.34', 443), ('2001:db8::7', 22)]:
    result, s = attempt(host, port)
    print(result.split()[0], s.makefile().readline().strip())
print(attempt('93.184.216.34', 444)[0])
print(attempt('2001:db8::7', 443)[0])
"
        );
        let open = ["--open", "93.184.216.34:443", "--open", "[2001:db8::7]:22"];
        assert_eq!(
            python(user, &open, &script).lines().collect::<Vec<_>>(),
            [
                "ok 93.184.216.34:443",
                "ok [2001:db8::7]:22",
                "ECONNREFUSED quick",
                "ECONNREFUSED quick"
            ],
            "{user:?}"
        );
    }
}

#[test]
fn audit_lets_all_but_guarded_addresses_through() {
    let script = format!(
        "{CONNECT}
print(attempt('93.184.216.34', 1234)[0].split()[0], attempt('2001:db8::7', 1)[0].split()[0])
print(attempt('10.9.9.9', 80)[0])
"
    );
    assert_eq!(
        python(User::Nobody, &["--audit"], &script),
        "ok ok\nECONNREFUSED quick\n"
    );
}

#[test]
fn the_most_static_rules_are_installed_and_one_more_is_refused() {
    let script = format!(
        "{CONNECT}
for host, port in [('198.18.0.0', 1000), ('198.18.3.255', 2000), ('198.18.3.255', 7)]:
    result, s = attempt(host, port)
    print(s.makefile().readline().strip())
print(attempt('198.18.4.0', 1000)[0], attempt('198.18.0.0', 2001)[0], attempt('198.18.0.0', 999)[0])
"
    );
    let seen = python(User::Nobody, &["--rules", "1024"], &script);
    assert_eq!(
        seen,
        "198.18.0.0:1000\n198.18.3.255:2000\n198.18.3.255:7\n\
         ECONNREFUSED quick ECONNREFUSED quick ECONNREFUSED quick\n"
    );
    let output = crate::support::run(User::Nobody, &["--rules", "1025"], &["true"]);
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn a_closed_network_is_refused_though_a_rule_or_a_lease_opens_it() {
    let script = format!(
        "{CONNECT}
print(attempt('198.18.0.5', 1000)[0].split()[0], attempt('198.18.1.5', 1000)[0])
print(attempt('198.18.2.5', 443)[0], attempt('198.18.1.5', 7)[0].split()[0])
"
    );
    let options = [
        "--rules",
        "700",
        "--closed",
        "198.18.1.5:1000",
        "--closed",
        "198.18.2.5:443",
    ];
    let options = [&options[..], &["--open", "198.18.2.5:443"]].concat();
    let seen = python(User::Nobody, &options, &script);
    assert_eq!(seen, "ok ECONNREFUSED quick\nECONNREFUSED quick ok\n");
}

#[test]
fn the_programs_own_loopback_works_on_any_port() {
    let script = r#"
import socket
for host, bind in [('127.0.0.1', '127.0.0.1'), ('127.0.0.1', '0.0.0.0'), ('10.0.2.15', '0.0.0.0'),
                   ('::1', '::1'), ('localhost', '')]:
    for port in (80, 8080):
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((bind, port)); listener.listen()
        client = socket.socket(family); client.connect((host, port))
        server, _ = listener.accept(); server.sendall(b'hi')
        assert client.recv(2) == b'hi'
        listener.close(); server.close(); client.close()
a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind(('127.0.0.1', 0)); a.settimeout(20)
b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); b.sendto(b'x', a.getsockname())
assert a.recv(1) == b'x'
print('fine')
"#;
    assert_eq!(python(User::Nobody, &[], script), "fine\n");
}

#[test]
fn the_gateways_doors_cannot_be_taken_over() {
    let script = r#"
import socket, errno
for kind, host, port in [(socket.SOCK_DGRAM, '0.0.0.0', 53), (socket.SOCK_DGRAM, '10.0.2.3', 53),
        (socket.SOCK_STREAM, '10.0.2.3', 53), (socket.SOCK_STREAM, '10.0.2.2', 3128),
        (socket.SOCK_STREAM, '10.0.2.2', 1080), (socket.SOCK_STREAM, '10.0.2.2', 15001)]:
    s = socket.socket(socket.AF_INET, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        s.bind((host, port))
        if kind == socket.SOCK_STREAM: s.listen()
        print('taken', host, port)
    except OSError as e:
        print(errno.errorcode[e.errno])
"#;
    let seen = python(User::Nobody, &[], script);
    assert!(seen.lines().all(|line| line == "EADDRINUSE"), "{seen}");
}

#[test]
fn what_the_kernel_refuses_is_reported_and_the_probe_is_not() {
    let folder = folder();
    let file = folder.path().join("refused");
    let script = format!(
        "{CONNECT}
attempt('93.184.216.34', 443); attempt('2001:db8::1', 80)
attempt('93.184.216.35', 4433, socket.SOCK_DGRAM)
import time; time.sleep(1)
"
    );
    python(
        User::Nobody,
        &["--refused", file.to_str().unwrap()],
        &script,
    );
    let seen = fs::read_to_string(&file).unwrap();
    assert!(seen.contains("Tcp 93.184.216.34:443 uid Some("), "{seen}");
    assert!(seen.contains("Tcp [2001:db8::1]:80"), "{seen}");
    assert!(seen.contains("Udp 93.184.216.35:4433"), "{seen}");
    assert!(
        !seen.contains("192.0.2.1"),
        "the start-up check's probe: {seen}"
    );
}

#[test]
fn a_flood_of_refusals_is_counted_not_fatal() {
    let folder = folder();
    let file = folder.path().join("refused");
    let script = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range(100000):
    try: s.sendto(b'x', ('93.184.216.34', 443))
    except OSError: pass
"#;
    python(User::Nobody, &["--refused", file.to_str().unwrap()], script);
    let seen = fs::read_to_string(&file).unwrap();
    assert!(seen.lines().filter(|line| line.starts_with("Udp")).count() > 100);
    assert!(
        !seen.contains("gateway:"),
        "{}",
        &seen[seen.len().saturating_sub(200)..]
    );
}

#[test]
fn the_gateway_reaches_a_server_inside_by_a_socket_made_there() {
    let folder = folder();
    let file = folder.path().join("heard");
    let script = r#"
import socket
l = socket.socket(); l.bind(('127.0.0.1', 8000)); l.listen()
c, peer = l.accept()
print(peer[0], c.makefile().readline().strip())
c.sendall(b'welcome'); c.close()
import time; time.sleep(1)
"#;
    let options = ["--publish", "8000", "--refused", file.to_str().unwrap()];
    assert_eq!(python(User::Nobody, &options, script), "127.0.0.1 hello\n");
    assert!(fs::read_to_string(&file).unwrap().contains("heard welcome"));
}

#[test]
fn the_only_device_is_loopback_and_no_route_leads_elsewhere() {
    let seen = shell(User::Nobody, &[], "ip -o link; ip route show table all");
    assert_eq!(
        seen.lines().filter(|line| line.contains("state")).count(),
        1,
        "{seen}"
    );
    for line in seen.lines().filter(|line| line.contains(" dev ")) {
        assert!(line.contains("dev lo"), "{line}");
    }
}

#[test]
fn a_namespace_that_somebody_else_made_gets_the_same_doors() {
    let folder = folder();
    for user in users() {
        let file = folder.path().join(format!("refused-{user:?}"));
        let script = format!(
            "{CONNECT}
for host, port in [('93.184.216.34', 443), ('2001:db8::7', 22)]:
    result, s = attempt(host, port)
    print(result.split()[0], s.makefile().readline().strip())
print(attempt('10.0.2.2', 3128)[0].split()[0], attempt('10.0.2.2', 1080)[0].split()[0])
print(attempt('93.184.216.34', 444)[0], attempt('2001:db8::7', 443)[0])
q = b'\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\1a\\0\\0\\1\\0\\1'
for host in ['10.0.2.3', '8.8.8.8', '2606:4700:4700::1111']:
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(20); s.sendto(q, (host, 53)); data, source = s.recvfrom(100)
    print(source[0] == host, data[2] & 0x80 != 0)
l = socket.socket(); l.bind(('127.0.0.1', 80)); l.listen(); print(attempt('127.0.0.1', 80)[0].split()[0])
"
        );
        let options = ["--foreign", "--open", "93.184.216.34:443", "--open"];
        let log = ["[2001:db8::7]:22", "--refused", file.to_str().unwrap()];
        let seen = python(user, &[&options[..], &log].concat(), &script);
        assert_eq!(
            seen.lines().collect::<Vec<_>>(),
            [
                "ok 93.184.216.34:443",
                "ok [2001:db8::7]:22",
                "ok ok",
                "ECONNREFUSED quick ECONNREFUSED quick",
                "True True",
                "True True",
                "True True",
                "ok",
            ],
            "{user:?}"
        );
        let refused = fs::read_to_string(&file).unwrap();
        assert!(refused.contains("Tcp 93.184.216.34:444"), "{refused}");
    }
}
