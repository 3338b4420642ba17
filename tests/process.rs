//! Which program a denial was for: found while it waits for its refusal, by the pid that the host
//! sees; where it is gone, the record does without.
#![forbid(unsafe_code)]

#[path = "support/processes.rs"]
mod processes;
mod support;

use processes::{Background, family, kill, runs, until};
use std::path::Path;
use support::{Ran, read_records, require, sandbox, world};

const EVIL: &str = "evil.example.net";

/// Fails the test unless a denial of this protocol names this command, and none another one. (The
/// first is looked up always; those after it only while the second's budget of time lasts, which a
/// machine that stands still for a moment spends.)
#[track_caller]
fn assert_named(ran: &Ran, protocol: &str, command: &str) {
    let denials = ran.records.all_denials();
    let denials: Vec<_> = denials
        .iter()
        .filter(|record| record["protocol"] == protocol)
        .collect();
    let named = denials
        .iter()
        .filter(|denial| denial["process"].is_object());
    assert!(named.count() > 0, "nobody named by {protocol}: {ran}");
    for denial in denials {
        let Some(process) = denial.get("process") else {
            continue;
        };
        let named = process["command"].as_str().unwrap_or_default();
        assert!(named.starts_with(command), "not {command}: {denial}");
        assert!(process["pid"].as_u64() > Some(1), "{denial}");
    }
}

#[test]
fn a_denied_lookup_names_the_program_that_asked() {
    let world = world();
    require("dig");
    for (options, protocol) in [("", "dns-udp"), ("+tcp", "dns-tcp")] {
        let ran = sandbox(&world).sh(&format!("dig {options} +tries=1 {EVIL}"));
        ran.assert_said("NXDOMAIN");
        assert_named(&ran, protocol, "dig");
    }
    // A program in a program in a session of its own.
    let ran = sandbox(&world).sh(&format!(
        "setsid sh -c 'python3 -c \"import socket; socket.getaddrinfo(\\\"{EVIL}\\\", 1)\"; :'; :"
    ));
    assert_named(&ran, "dns-udp", "python3");
}

#[test]
fn a_denied_request_names_the_program_at_every_proxy_entrance() {
    let world = world();
    require("curl");
    for (options, protocol) in [
        (format!("https://{EVIL}/"), "connect"),
        (format!("http://{EVIL}/"), "http"),
        (
            format!("-x socks5h://10.0.2.2:1080 https://{EVIL}/"),
            "socks5",
        ),
    ] {
        let ran = sandbox(&world).sh(&format!("curl -sS {options}; :"));
        assert_named(&ran, protocol, "curl");
    }
}

#[test]
fn a_denied_name_on_a_direct_connection_names_the_program() {
    let world = world();
    require("curl");
    let ran = sandbox(&world).allow("dual.example.com").sh(&format!(
        "getent ahosts dual.example.com; \
         curl -sS --noproxy '*' --resolve {EVIL}:443:203.0.113.62 https://{EVIL}/; :"
    ));
    ran.assert_one_denial("tls", "sni-not-listed", EVIL);
    assert_named(&ran, "transparent", "curl");
}

#[test]
fn a_datagram_that_the_kernel_refused_names_a_program_that_still_has_its_socket() {
    let world = world();
    for address in ["203.0.113.90", "2001:db8:10::61"] {
        let family = if address.contains(':') { "6" } else { "" };
        let ran = sandbox(&world).python(&format!(
            "import socket, time\n\
             s = socket.socket(socket.AF_INET{family}, socket.SOCK_DGRAM)\n\
             try: s.sendto(b'x', ('{address}', 9999))\n\
             except OSError: pass\n\
             time.sleep(1)"
        ));
        ran.assert_ok();
        ran.assert_one_denial("udp", "protocol-not-allowed", address);
        assert_named(&ran, "kernel", "python3");
    }
}

#[test]
fn a_connection_that_the_kernel_refused_has_no_process_and_its_record_all_the_same() {
    let world = world();
    let ran = sandbox(&world).sh("curl -sS --noproxy '*' http://203.0.113.90/; :");
    ran.assert_one_denial("tcp", "address-not-leased", "203.0.113.90");
    let denial = ran.records.all_denials()[0].clone();
    assert!(denial.get("process").is_none(), "{denial}");
}

/// Python: waits until a file is there.
const WAIT: &str = "import os, socket, sys, time\n\
                    from urllib.parse import urlsplit\n\
                    proxy = urlsplit(os.environ['HTTP_PROXY'])\n\
                    def wait(name):\n\
                    \x20while not os.path.exists(sys.argv[1] + '/' + name): time.sleep(0.01)\n\
                    def say(word): print(word, flush=True)\n";

#[test]
fn the_pid_is_the_living_program_s_as_the_host_sees_it() {
    let world = world();
    let program = format!(
        "{WAIT}s = socket.create_connection((proxy.hostname, proxy.port))\n\
         s.sendall(b'CONNECT {EVIL}:443 HTTP/1.1\\r\\nHost: {EVIL}:443\\r\\n\\r\\n')\n\
         s.recv(1)\n\
         say('refused')\n\
         wait('end')"
    );
    let home = world.home().display().to_string();
    let sandbox = sandbox(&world);
    let run = Background::start(&mut sandbox.command(&["python3", "-c", &program, &home]));
    run.wait_line("refused");
    until("the record", || !denials(sandbox.log()).is_empty());
    let process = denials(sandbox.log())[0]["process"].clone();
    let pid = process["pid"].as_u64().expect("no pid") as u32;
    assert!(runs(pid), "{process}");
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("it lives");
    assert_eq!(process["command"], name.trim_end());
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).expect("it lives");
    let arguments = String::from_utf8_lossy(&arguments).into_owned();
    assert!(arguments.contains("s.recv(1)"), "{pid} is {arguments:?}");
    assert!(!arguments.contains("--log"), "not the run itself: {pid}");
    world.file("end", "");
    assert!(run.end().0.success());
}

#[test]
fn a_program_that_is_gone_leaves_the_field_absent() {
    let world = world();
    // The gateway is held while a child asks, by TCP and by UDP, and ends.
    let program = format!(
        "{WAIT}say('ready')\n\
         wait('go')\n\
         if os.fork() == 0:\n\
         \x20s = socket.create_connection((proxy.hostname, proxy.port))\n\
         \x20s.sendall(b'CONNECT {EVIL}:443 HTTP/1.1\\r\\nHost: {EVIL}:443\\r\\n\\r\\n')\n\
         \x20u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         \x20resolver = [l.split()[1] for l in open('/etc/resolv.conf') if l.startswith('names')][0]\n\
         \x20u.sendto(bytes.fromhex('000101000001000000000000046576696c076578616d706c65036e65740000010001'), (resolver, 53))\n\
         \x20os._exit(0)\n\
         os.wait()\n\
         say('gone')\n\
         wait('end')"
    );
    let home = world.home().display().to_string();
    let sandbox = sandbox(&world);
    let run = Background::start(&mut sandbox.command(&["python3", "-c", &program, &home]));
    run.wait_line("ready");
    let gateway = family(run.pid()).gateway;
    kill("STOP", gateway);
    world.file("go", "");
    run.wait_line("gone");
    kill("CONT", gateway);
    until("both records", || denials(sandbox.log()).len() >= 2);
    for denial in denials(sandbox.log()) {
        assert_eq!(denial["name"], EVIL, "{denial}");
        assert!(denial.get("process").is_none(), "{denial}");
    }
    world.file("end", "");
    assert!(run.end().0.success());
}

fn denials(log: &Path) -> Vec<serde_json::Value> {
    let records = read_records(log);
    records.all_denials().into_iter().cloned().collect()
}
