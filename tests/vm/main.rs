//! A virtual machine: a Linux guest whose only device is a TAP in the sandbox meets the same
//! names, refusals, SNI and HTTP checks as a program does. QEMU runs it, as an ordinary user and
//! without KVM.
#![forbid(unsafe_code)]

mod company;
mod daemon;
mod guest;
mod layers;
mod neighbours;
mod offloads;
#[path = "../support/processes.rs"]
mod processes;
#[path = "../support/mod.rs"]
mod support;

use guest::{Addresses, Check, Device, Guest, checks};
use processes::{Background, family, kill, until, with_argument};
use std::collections::BTreeMap;
use std::time::Duration;
use support::{Ran, require, require_kernel, sandbox, world};

/// A guest under software emulation on a busy machine.
const GUEST_TIMEOUT: Duration = Duration::from_secs(150);

/// Below the first retransmission of a SYN (1 s) and of a DNS query: whatever fails sooner was
/// refused, and is not waiting. The emulated processor needs tenths of a second to start a program.
const MAX_REFUSAL_MILLISECONDS: u64 = 900;

const CHECKS: &str = r#"
check dns-allowed nslookup -type=a api.example.com
check dns-denied nslookup -type=a evil.example.net
check dns-other-resolver nslookup -type=a www.example.com 8.8.8.8
check dns-denied-other-resolver nslookup -type=a denied-elsewhere.example.net 8.8.8.8
check http-host timeout 10 wget -q -O - http://api.example.com/hello
check http-other-host "timeout 10 wget -q -O - --header 'Host: other-host.example.net' http://api.example.com/"
check http-proxy "http_proxy=http://10.0.2.2:3128 timeout 10 wget -q -O - http://api.example.com/by-proxy"
check http-proxy-denied "http_proxy=http://10.0.2.2:3128 timeout 10 wget -O - http://proxied.example.net/"
check http-denied-head "printf 'GET http://by-hand.example.net/ HTTP/1.1\\r\\nHost: by-hand.example.net\\r\\n\\r\\n' | timeout 10 nc 10.0.2.2 3128"
tls() { name=$1; shift; check $name "echo Q | openssl s_client -CAfile /etc/ca.pem -verify_return_error $*"; }
tls tls-sni -connect api.example.com:443 -servername api.example.com
tls tls-connect -proxy 10.0.2.2:3128 -connect api.example.com:443 -servername api.example.com
tls tls-connect-denied -proxy 10.0.2.2:3128 -connect tunnelled.example.net:443
tls tls-other-sni -connect api.example.com:443 -servername other-sni.example.net
tls tls-foreign-sni -connect api.example.com:443 -servername www.example.com
tls tls-no-sni -connect api.example.com:443 -noservername
check tcp-allowed "echo through the door | nc -w 10 raw.example.com 9000"
check tcp-port "nc -w 10 api.example.com 22"
check tcp-address "nc -w 10 203.0.113.90 22"
check tcp-guarded "nc -w 10 169.254.169.254 80"
check tcp-sandbox-own "nc -w 10 10.0.2.2 4711"
check tcp-sandbox-lo "nc -w 10 10.0.2.14 4711"
check udp "traceroute -n -m 1 -q 1 -w 5 203.0.113.90"
check ping-gateway ping -c 1 -W 5 10.0.2.2
check ping-outside ping -c 1 -W 1 203.0.113.90
"#;

fn boot() -> (portcullis_testkit::World, Ran, BTreeMap<String, Check>) {
    require("python3");
    require_kernel("/dev/net/tun", "TAP devices for ordinary users");
    let world = world();
    let guest = Guest::build(&world, Addresses::Static, CHECKS);
    // A server of the sandbox's own, that no guest has a business with.
    let qemu = guest
        .command(Device::Tap("tap0"))
        .iter()
        .map(|word| format!("'{word}'"))
        .collect::<Vec<_>>();
    let script = format!(
        "python3 -u -m http.server 4711 > server.log 2>&1 & \
         until grep -q Serving server.log; do kill -0 $! || exit 99; sleep 0.05; done; exec {}",
        qemu.join(" ")
    );
    let ran = sandbox(&world)
        .allow("api.example.com")
        .allow("www.example.com")
        .allow("raw.example.com:9000")
        .args(&["--tap", "tap0"])
        .limit(GUEST_TIMEOUT)
        .sh(&script);
    ran.assert_ok();
    let all = checks(&ran.out());
    (world, ran, all)
}

/// An unmodified guest on the TAP comes up by itself, and meets the four layers by both families.
#[test]
fn qemu_guest_comes_up_by_dhcp_and_router_advertisements() {
    require_kernel("/dev/net/tun", "TAP devices for ordinary users");
    let world = layers::world();
    let guest = Guest::build(&world, Addresses::Automatic, layers::CHECKS);
    let ran = layers::sandbox(&world)
        .args(&["--tap", "tap0"])
        .limit(GUEST_TIMEOUT)
        .run(&guest.command(Device::Tap("tap0")));
    ran.assert_ok();
    layers::assert_met(&world, &ran.out(), &ran.records);
}

/// The same guest, whose machine has nothing of ours but the path of a socket.
#[test]
fn qemu_guest_comes_up_on_a_unix_socket() {
    require_kernel("/dev/net/tun", "TAP devices for ordinary users");
    for framing in ["stream", "datagram"] {
        let world = layers::world();
        let guest = Guest::build(&world, Addresses::Automatic, layers::CHECKS);
        let (log, socket) = (world.home().join("vm.jsonl"), world.home().join("vm.sock"));
        let mut command = world.command(support::portcullis());
        command
            .arg("vm-socket")
            .arg(&socket)
            .args(["--framing", framing, "--log"])
            .arg(&log)
            .arg("--policy")
            .arg(world.file("vm.toml", layers::POLICY));
        let served = Background::start(&mut command);
        until("the socket is there", || socket.exists());
        let path = socket.display().to_string();
        let words = guest.command(if framing == "stream" {
            Device::Stream(&path)
        } else {
            Device::Datagrams(&path)
        });
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ran = world.run(words[0], &words[1..], GUEST_TIMEOUT);
        assert!(ran.status.success(), "{framing}: {ran}");
        kill("TERM", served.pid());
        let (status, said) = served.end();
        assert!(status.success() && !socket.exists(), "{status}: {said}");
        layers::assert_met(&world, &ran.out(), &support::read_records(&log));
    }
}

/// One boot, many checks: the machine is what takes the time.
#[test]
fn qemu_guest_meets_the_same_doors() {
    let (world, ran, all) = boot();
    let get = |name: &str| {
        all.get(name)
            .unwrap_or_else(|| panic!("the guest did not get to {name}: {ran}"))
    };
    let says = |name: &str, part: &str| {
        let check = get(name);
        assert!(
            check.said.contains(part),
            "{name} lacks {part:?}: {check:?}\n{ran}"
        );
        check
    };
    let succeeds = |name: &str, part: &str| {
        let check = says(name, part);
        assert_eq!(check.code, 0, "{name}: {check:?}\n{ran}");
    };
    let refused = |name: &str, part: &str| {
        let check = says(name, part);
        assert_ne!(check.code, 0, "{name}: {check:?}\n{ran}");
        check.milliseconds
    };
    let refused_at_once = |name: &str, part: &str| {
        let took = refused(name, part);
        assert!(
            took < MAX_REFUSAL_MILLISECONDS,
            "{name} took {took} ms: {ran}"
        );
    };

    succeeds("dns-allowed", "203.0.113.10");
    refused_at_once("dns-denied", "NXDOMAIN");
    succeeds("dns-other-resolver", "203.0.113.20");
    refused_at_once("dns-denied-other-resolver", "NXDOMAIN");
    for name in ["evil.example.net", "denied-elsewhere.example.net"] {
        ran.assert_one_denial("dns", "not-in-allowlist", name);
    }

    succeeds("http-host", "GET /hello HTTP/1.1");
    refused("http-other-host", "403 Forbidden");
    succeeds("http-proxy", "GET /by-proxy HTTP/1.1");
    refused("http-proxy-denied", "403 Forbidden");
    says("http-denied-head", "x-proxy-error: blocked-by-allowlist");
    ran.assert_one_denial("http", "not-in-allowlist", "proxied.example.net");
    ran.assert_one_denial("http", "not-in-allowlist", "other-host.example.net");

    succeeds("tls-sni", "Verify return code: 0 (ok)");
    succeeds("tls-connect", "Verify return code: 0 (ok)");
    refused("tls-connect-denied", "403");
    for name in ["tls-other-sni", "tls-foreign-sni", "tls-no-sni"] {
        refused(name, "alert");
    }
    ran.assert_one_denial("tls", "sni-not-listed", "other-sni.example.net");
    ran.assert_one_denial("tls", "sni-mismatch", "www.example.com");
    let missing = ran.records.denials("tls", "sni-missing", "203.0.113.10");
    assert_eq!(missing.len(), 1, "{ran}");

    succeeds("tcp-allowed", "through the door");
    for name in ["tcp-port", "tcp-address", "tcp-guarded", "tcp-sandbox-own"] {
        refused_at_once(name, "refused");
    }
    // On the guest's network only the gateway says where it is.
    refused("tcp-sandbox-lo", "No route to host");
    let tcp = |reason: &str, address: &str, port: u16| {
        let found = ran.records.denials("tcp", reason, address);
        let found: Vec<_> = found
            .iter()
            .filter(|record| record["port"] == port)
            .collect();
        assert_eq!(found.len(), 1, "{reason} for {address} port {port}: {ran}");
    };
    tcp("port-not-allowed", "203.0.113.10", 22);
    tcp("address-not-leased", "203.0.113.90", 22);
    tcp("private-address", "169.254.169.254", 80);
    let served = std::fs::read_to_string(world.home().join("server.log")).unwrap_or_default();
    assert!(
        !served.contains("10.0.2.15"),
        "the guest reached the sandbox's own server: {served}"
    );

    let udp = ran
        .records
        .denials("udp", "protocol-not-allowed", "203.0.113.90");
    assert!(!udp.is_empty(), "{ran}");
    says("udp", "!A"); // ICMP: administratively prohibited
    succeeds("ping-gateway", "1 packets received");
    refused("ping-outside", "100% packet loss");

    for part in [
        "evil",
        "denied-elsewhere",
        "proxied",
        "tunnelled",
        "other-host",
        "other-sni",
    ] {
        world.assert_never_asked(part);
    }
    world.assert_never_reached("203.0.113.90");
    world.assert_never_reached("169.254.169.254");
}

/// The machine is part of the sandbox's process tree: without its gateway it does not go on.
#[test]
fn qemu_guest_ends_with_its_gateway() {
    require_kernel("/dev/net/tun", "TAP devices for ordinary users");
    let world = world();
    let guest = Guest::build(&world, Addresses::Static, "echo is up; sleep 1000");
    let command = guest.command(Device::Tap("tap0"));
    let disk = command
        .iter()
        .find(|word| word.ends_with(".cpio"))
        .expect("a disk");
    let run = sandbox(&world).args(&["--tap", "tap0"]);
    let run = Background::start(&mut run.command(&command));
    run.wait_line("is up");
    kill("KILL", family(run.pid()).gateway);
    let (status, said) = run.end();
    assert!(
        !status.success() && said.contains("gateway"),
        "{status}: {said}"
    );
    until("the machine has ended", || with_argument(disk).is_empty());
}
