//! `portcullis attach --shared`: the gateway shares the network namespace with the programs that it keeps in, as a
//! pod's sidecar does. Each has a mount and a process namespace and a user of its own.

use crate::processes::{Background, kill, until};
use crate::support::{TIMEOUT, finish, portcullis, read_records, require};
use portcullis_testkit::exec::Finished;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;

/// The gateway's user, and the application's.
const GATEWAY: &str = "1337";
const APPLICATION: &str = "65534";
/// What the gateway's container is given, and no more.
const CAPABILITIES: &str = "-all,+net_admin,+net_raw,+net_bind_service,+setuid,+setgid";

/// A network namespace with a way out, and servers on the other side of it.
struct Pod {
    folder: tempfile::TempDir,
    name: String,
    host: String,
    allowed: u16,
    /// Never reached while the pod is kept in.
    others: Vec<TcpListener>,
    datagrams: UdpSocket,
    gateway: Option<Background>,
}

impl Pod {
    /// `number` is its own among the tests.
    fn new(number: u8) -> Pod {
        require("ip");
        let (name, device) = (format!("pod-{number}"), format!("pcpod{number}"));
        let host = format!("10.233.{number}.1");
        let host6 = format!("fd99:{number}::1");
        let script = format!(
            "ip netns del {name} 2>/dev/null; set -e; ip netns add {name}; \
             ip link add {device} type veth peer name eth0 netns {name}; ip link set {device} up; \
             ip addr add {host}/24 dev {device}; ip -6 addr add {host6}/64 dev {device} nodad; \
             ip -n {name} addr add 10.233.{number}.2/24 dev eth0; \
             ip -n {name} -6 addr add fd99:{number}::2/64 dev eth0 nodad; \
             ip -n {name} link set lo up; ip -n {name} link set eth0 up; \
             ip -n {name} route add default via {host}; ip -n {name} -6 route add default via {host6}"
        );
        let made = finish(Command::new("sh").args(["-c", &script]), TIMEOUT);
        assert!(made.ok(), "{made}");
        let others: Vec<TcpListener> = [&host, &host6]
            .iter()
            .map(|address| TcpListener::bind((&***address, 0)).unwrap())
            .collect();
        for other in &others {
            other.set_nonblocking(true).unwrap();
        }
        let datagrams = UdpSocket::bind((&*host, 0)).unwrap();
        datagrams.set_nonblocking(true).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let pod = Pod {
            allowed: server(&host),
            name,
            host,
            others,
            datagrams,
            gateway: None,
            folder,
        };
        let mut hosts = std::fs::read_to_string("/etc/hosts").unwrap();
        hosts.push_str(&format!("{} api.pod.test evil.pod.test\n", pod.host));
        std::fs::write(pod.path("hosts"), hosts).unwrap();
        let policy = format!(
            "version = 1\n[network.domains]\n\"api.pod.test:{port}\" = \"allow\"\n\
             [network.addresses]\n\"{}:{port}\" = \"allow\"\n",
            pod.host,
            port = pod.allowed,
        );
        std::fs::write(pod.path("p.toml"), policy).unwrap();
        std::fs::write(pod.path("log.jsonl"), "").unwrap();
        let opened = "chmod 755 . && chmod 644 hosts p.toml";
        let mut open = Command::new("sh");
        open.current_dir(pod.folder.path()).args(["-c", opened]);
        assert!(finish(&mut open, TIMEOUT).ok());
        pod
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("ip");
        command.args([
            "netns", "exec", &self.name, "unshare", "-m", "sh", "-c", script,
        ]);
        command
    }

    /// The step before every program.
    fn cut_off(&self) {
        let cut_off = format!(
            "exec setpriv --bounding-set={CAPABILITIES} {} attach --shared --cut-off --user {GATEWAY}",
            portcullis().display()
        );
        let done = finish(&mut self.command(&cut_off), TIMEOUT);
        assert!(done.ok(), "{done}");
    }

    fn serve(&mut self) {
        let script = format!(
            "mount --bind {} /etc/hosts && exec setpriv --bounding-set={CAPABILITIES} {} attach --shared \
             --user {GATEWAY} --policy {} --log {} --resolver {} 2>&1",
            self.path("hosts").display(),
            portcullis().display(),
            self.path("p.toml").display(),
            self.path("log.jsonl").display(),
            self.host,
        );
        let gateway = Background::start(&mut self.command(&script));
        gateway.wait_line("portcullis: attached this network namespace, as user 1337");
        self.gateway = Some(gateway);
    }

    /// Runs a script as this user without any capability, in namespaces of its own.
    fn run_as(&self, user: &str, script: &str) -> Finished {
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &self.name,
            "unshare",
            "-m",
            "-p",
            "-f",
            "--mount-proc",
        ]);
        command.args([
            "setpriv",
            "--reuid",
            user,
            "--regid",
            user,
            "--clear-groups",
        ]);
        command.args(["--bounding-set=-all", "--no-new-privs", "sh", "-c", script]);
        finish(&mut command, TIMEOUT)
    }

    fn run(&self, script: &str) -> String {
        let done = self.run_as(APPLICATION, script);
        done.out() + &done.err()
    }

    /// What leads to the server that no rule lists, by each family.
    fn urls(&self) -> Vec<String> {
        let address = |one: &TcpListener| format!("http://{}/", one.local_addr().unwrap());
        self.others.iter().map(address).collect()
    }

    #[track_caller]
    fn assert_never_reached(&self) {
        for other in &self.others {
            assert!(other.accept().is_err(), "a program got out");
        }
        assert!(
            self.datagrams.recv(&mut [0; 64]).is_err(),
            "a datagram got out"
        );
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            kill("KILL", gateway.pid());
            gateway.end();
        }
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

/// A web server at this address.
fn server(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nallowed");
        }
    });
    port
}

#[test]
fn a_sidecar_serves_what_is_listed_and_keeps_the_rest_in() {
    let mut pod = Pod::new(1);
    // The namespace is open before: what follows is the rules' doing.
    let [four, six] = &pod.urls()[..] else {
        panic!("two families")
    };
    for (url, other) in [(four, &pod.others[0]), (six, &pod.others[1])] {
        pod.run(&format!("curl -sS -m 2 {url}"));
        assert!(other.accept().is_ok(), "{url} was reached");
    }
    pod.cut_off();
    let allowed = format!("http://api.pod.test:{}/", pod.allowed);
    let by_address = format!("http://{}:{}/", pod.host, pod.allowed);
    let closed = |pod: &Pod| {
        for url in [&by_address, four, six] {
            let said = pod.run(&format!("curl -sS -m 20 {url}"));
            assert!(said.contains("Couldn't connect"), "{url}: {said}");
        }
        pod.assert_never_reached();
    };
    closed(&pod);
    pod.serve();
    let said = pod.run(&format!(
        "curl -sS -m 60 {allowed}; echo; \
         curl -sS -m 60 -x http://10.0.2.2:3128 {allowed}; echo; \
         curl -sS -m 60 -o /dev/null -w '%{{http_code}}\\n' -x http://10.0.2.2:3128 http://evil.pod.test/; \
         curl -sS -m 60 {four}; curl -sS -m 60 {six}; \
         node -e 'const get = (url) => fetch(url).then((got) => got.text(), (error) => error.cause.code);\
         get(\"{allowed}\").then((text) => {{ console.log(\"node\", text); \
         get(\"http://evil.pod.test/\").then((text) => console.log(\"node\", text)) }})'; \
         python3 -c 'import socket, urllib.request as u\nprint(\"python\", u.urlopen(\"{by_address}\").read().decode())'"
    ));
    // Its own hosts file does not know the name: the gateway's resolver does, at the address of any other.
    for line in [
        "allowed",
        "403",
        "node allowed",
        "node ENOTFOUND",
        "python allowed",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}: {said}");
    }
    assert_eq!(said.matches("Couldn't connect").count(), 2, "{said}");
    pod.assert_never_reached();
    let log = pod.path("log.jsonl");
    until("refusals are on record", || {
        let records = read_records(&log);
        let denied = |layer: &str, whom: &str| {
            let mut all = records.about(whom).into_iter();
            all.any(|record| record["verdict"] == "deny" && record["layer"] == layer)
        };
        denied("tcp", &pod.host) && denied("dns", "evil.pod.test")
    });
    // Killed, it leaves the pod cut off; another one serves it again.
    let gateway = pod.gateway.take().unwrap();
    kill("KILL", gateway.pid());
    gateway.end();
    closed(&pod);
    pod.serve();
    assert_eq!(pod.run(&format!("curl -sS -m 60 {allowed}")), "allowed");
    // Ended in order, too.
    let gateway = pod.gateway.take().unwrap();
    kill("TERM", gateway.pid());
    assert_eq!(gateway.end().0.code(), Some(0));
    closed(&pod);
}

#[test]
fn no_user_mark_socket_or_rule_of_a_programs_own_leads_out_of_a_pod() {
    let mut pod = Pod::new(2);
    pod.cut_off();
    pod.serve();
    let other = pod.others[0].local_addr().unwrap();
    let datagrams = pod.datagrams.local_addr().unwrap();
    let program = format!(
        "import errno, os, socket\n\
         def tries(what, do):\n    try:\n        do(); print(what, \"went\")\n    \
         except OSError as error:\n        print(what, errno.errorcode.get(error.errno, \"late\"))\n\
         def connect(source=None, mark=None, device=None, port={port}):\n    \
         one = socket.socket(); one.settimeout(5)\n    \
         if device: one.setsockopt(socket.SOL_SOCKET, 25, device)\n    \
         if mark: one.setsockopt(socket.SOL_SOCKET, 36, mark)\n    \
         if source: one.bind(source)\n    one.connect((\"{host}\", port))\n\
         def send(kind=socket.SOCK_DGRAM, protocol=0, data=b\"out\"):\n    \
         one = socket.socket(socket.AF_INET, kind, protocol); one.connect((\"{host}\", {udp})); one.send(data)\n    \
         one.send(data)\n\
         tries(\"plain\", connect)\n\
         tries(\"marked\", lambda: connect(mark=0x706f7274))\n\
         tries(\"caught\", lambda: connect(mark=0x706f7275))\n\
         tries(\"bound\", lambda: connect(source=(\"10.233.2.2\", 0)))\n\
         tries(\"device\", lambda: connect(device=b\"eth0\"))\n\
         tries(\"device-allowed\", lambda: connect(device=b\"eth0\", port={allowed}))\n\
         tries(\"datagram\", send)\n\
         tries(\"from-53\", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind((\"10.233.2.2\", 53)))\n\
         tries(\"raw\", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255))\n\
         tries(\"packet\", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))\n\
         tries(\"transparent\", lambda: socket.socket().setsockopt(0, 19, 1))\n",
        host = pod.host,
        port = other.port(),
        allowed = pod.allowed,
        udp = datagrams.port(),
    );
    std::fs::write(pod.path("attack.py"), program).unwrap();
    let attack = format!(
        "cat {} | python3 -; export PATH=$PATH:/usr/sbin:/sbin; \
         nft flush ruleset 2>/dev/null && echo flushed; ip rule flush 2>/dev/null && echo flushed; \
         unshare -Ur nft flush ruleset 2>/dev/null && echo flushed; \
         unshare -Ur ip link set lo down 2>/dev/null && echo flushed; \
         ip route add 203.0.113.0/24 dev eth0 2>/dev/null && echo flushed; echo end",
        pod.path("attack.py").display()
    );
    // The application's user, the gateway's own, and root without capabilities.
    for user in [APPLICATION, GATEWAY, "0"] {
        let done = pod.run_as(user, &attack);
        let said = done.out();
        for line in [
            "plain ECONNREFUSED",
            "marked EPERM",
            "caught EPERM",
            "bound ECONNREFUSED",
            "raw EPERM",
            "packet EPERM",
            "transparent EPERM",
            "end",
        ] {
            assert!(
                said.lines().any(|said| said == line),
                "{user}: {line}: {done}"
            );
        }
        assert!(
            [
                "flushed",
                "from-53 went",
                "device went",
                "device-allowed went"
            ]
            .iter()
            .all(|sign| !said.contains(sign)),
            "{user}: {done}"
        );
        pod.assert_never_reached();
    }
    // Whoever comes from outside finds neither the resolver nor the proxies.
    let own = format!("10.233.{}.2", 2);
    let asking = finish(
        Command::new("nslookup").args(["-timeout=2", "-retry=0", "api.pod.test", &own]),
        TIMEOUT,
    );
    assert!(!asking.ok(), "{asking}");
    let proxy = format!(
        "ip route add 10.0.2.2/32 via {own}; curl -sS -m 3 -x http://10.0.2.2:3128 http://api.pod.test/; \
         ip route del 10.0.2.2/32 via {own}"
    );
    let asking = finish(Command::new("sh").args(["-c", &proxy]), TIMEOUT);
    assert!(asking.out().is_empty(), "{asking}");
    // Every thread of the gateway is the gateway's user's, with one capability at most.
    let gateway = pod.gateway.as_ref().unwrap().pid();
    for task in std::fs::read_dir(format!("/proc/{gateway}/task")).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Uid:\t1337\t1337\t1337\t1337"), "{status}");
        let is_least = ["CapPrm:\t0000000000001000", "CapPrm:\t0000000000000000"]
            .iter()
            .any(|least| status.contains(least));
        assert!(is_least, "{status}");
    }
}
