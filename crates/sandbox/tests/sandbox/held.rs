//! A holder that outlives its gateways: the sandbox is cut off between two of them, and never open.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use portcullis_sandbox::{
    Addresses, AttachRequest, Attached, Attachment, Family, Holders, OpenRules, attach,
    attach_again,
};

use crate::support::{LIMIT, PYTHON, bare, folder, is_root};

const LEASED: &str = "203.0.113.5";
/// The proxies, and the resolver by TCP.
const DOORS: [(&str, u16); 4] = [
    ("10.0.2.2", 3128),
    ("10.0.2.2", 1080),
    ("10.0.2.3", 53),
    ("::1", 53),
];

/// A sandbox that somebody else has started; ended with the test.
struct Foreign(Child);

impl Foreign {
    fn start() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "sleep", "1000"]);
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let foreign = Self(child);
        let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        until("it has its own network", || {
            network(&foreign.0.id().to_string()) != network("self")
        });
        foreign
    }

    /// What a command inside writes.
    fn say(&self, words: &[&str]) -> String {
        let mut command = Command::new("nsenter");
        let pid = self.0.id().to_string();
        command.args(["-t", &pid, "--user", "--preserve-credentials", "--net"]);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let done = command.args(words).output().unwrap();
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    /// How a connection ends.
    fn connect(&self, address: &str) -> String {
        self.connect_to(address, 443)
    }

    fn connect_to(&self, address: &str, port: u16) -> String {
        let program = "import errno, socket, sys\n\
                       try:\n    socket.create_connection((sys.argv[1], int(sys.argv[2])), 20); print('open')\n\
                       except OSError as e:\n    print(errno.errorcode.get(e.errno, e))";
        self.say(&[PYTHON, "-c", program, address, &port.to_string()])
    }

    /// Whether a program can listen in the place of the gateway.
    fn takes(&self, address: &str, port: u16) -> String {
        let program = "import errno, socket, sys\n\
                       s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)\n\
                       s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                       try:\n    s.bind((sys.argv[1], int(sys.argv[2]))); s.listen(); print('taken')\n\
                       except OSError as e:\n    print(errno.errorcode.get(e.errno, e))";
        self.say(&[PYTHON, "-c", program, address, &port.to_string()])
    }

    /// How connections to each of the gateway's listeners end.
    fn connect_to_doors(&self) -> Vec<String> {
        DOORS
            .map(|(address, port)| self.connect_to(address, port))
            .to_vec()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn lease(attached: &Attached) {
    let address: IpAddr = LEASED.parse().unwrap();
    let opened = attached.sockets.kernel.allow(address, &[443..=443], LIMIT);
    opened.unwrap();
}

/// What a stranger sees who asks for the sockets.
fn stranger(path: &Path) -> String {
    let program = "import socket, sys\n\
                   s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
                   try:\n    s.connect(sys.argv[1]); print('connected')\n\
                   except OSError as e:\n    print(type(e).__name__)";
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let done = command.args([PYTHON, "-c", program]).arg(path).output();
    String::from_utf8_lossy(&done.unwrap().stdout)
        .trim()
        .to_owned()
}

#[test]
fn the_next_gateway_finds_the_sandbox_again_and_it_is_cut_off_meanwhile() {
    let foreign = Foreign::start();
    let folder = folder();
    let path = folder.path().join("holder.sock");
    let request = AttachRequest {
        attachment: Attachment::Process {
            pid: foreign.0.id(),
            root: None,
        },
        addresses: Addresses::new(),
        open: OpenRules::default(),
        files: None,
        trust: None,
        listen: Some(path.clone()),
    };
    let mut holder = Command::new(bare());
    let first = attach(holder.arg("--hold"), &request).unwrap();
    first.control.ready().unwrap();
    lease(&first);
    assert_eq!(foreign.connect(LEASED), "open");
    assert_eq!(foreign.connect_to_doors(), ["open"; 4]);
    assert_eq!(foreign.connect("203.0.113.6"), "ECONNREFUSED");
    assert!(attach_again(&path).is_err(), "there is a gateway already");
    first.control.new_tcp_socket(Family::V4).unwrap();

    // It is gone, as when it was killed: what it leased is closed again.
    drop(first);
    until("the lease is closed", || {
        foreign.connect(LEASED) == "ECONNREFUSED"
    });
    // So are the doors, which nobody else takes meanwhile.
    assert_eq!(foreign.connect_to_doors(), ["ECONNREFUSED"; 4]);
    for (address, port) in DOORS {
        assert_eq!(foreign.takes(address, port), "EADDRINUSE");
    }
    if is_root() {
        assert_eq!(stranger(&path), "PermissionError");
    }

    let second = attach_again(&path).unwrap();
    second.control.ready().unwrap();
    assert_eq!(foreign.connect_to_doors(), ["open"; 4]);
    assert_eq!(foreign.connect(LEASED), "ECONNREFUSED");
    lease(&second);
    assert_eq!(foreign.connect(LEASED), "open");
    for family in [Family::V4, Family::V6] {
        second.control.new_tcp_socket(family).unwrap();
    }

    second.control.detach().unwrap();
    let lifeline = second.control.lifeline().try_clone_to_owned().unwrap();
    assert_eq!(File::from(lifeline).read(&mut [0]).unwrap(), 0);
    assert_eq!(foreign.say(&["nft", "list", "tables"]), "");
    assert_eq!(foreign.connect(LEASED), "ENETUNREACH");
    assert!(!path.exists());
    assert!(attach_again(&path).is_err());
}

#[test]
fn a_holder_without_a_place_to_listen_ends_with_its_gateway() {
    let foreign = Foreign::start();
    let request = AttachRequest {
        attachment: Attachment::Process {
            pid: foreign.0.id(),
            root: None,
        },
        addresses: Addresses::new(),
        open: OpenRules::default(),
        files: None,
        trust: None,
        listen: None,
    };
    let mut holder = Command::new(bare());
    let attached = attach(holder.arg("--hold"), &request).unwrap();
    lease(&attached);
    assert_ne!(foreign.say(&["nft", "list", "tables"]), "");
    drop(attached);
    until("the doors vanish", || {
        foreign.say(&["nft", "list", "tables"]).is_empty()
    });
    assert_eq!(foreign.connect(LEASED), "ENETUNREACH");
}

/// One process starts the holders of many sandboxes, and is started again where it is gone.
#[test]
fn holders_of_many_sandboxes_are_started_by_one_process() {
    let holders = Holders::new(|| {
        let mut command = Command::new(bare());
        command.arg("--hold");
        command
    });
    let folder = folder();
    let mut all = Vec::new();
    for number in 0..4 {
        let foreign = Foreign::start();
        let request = AttachRequest {
            attachment: Attachment::Process {
                pid: foreign.0.id(),
                root: None,
            },
            addresses: Addresses::new(),
            open: OpenRules::default(),
            files: None,
            trust: None,
            listen: Some(folder.path().join(number.to_string())),
        };
        let attached = holders.attach(&request).unwrap();
        assert!(holders.attach(&request).is_err(), "it has a gateway");
        attached.control.ready().unwrap();
        all.push((foreign, attached, request));
    }
    let starters = children_of(std::process::id(), "--hold");
    assert_eq!(starters.len(), 1, "{starters:?}");
    assert_eq!(children_of(starters[0], "--hold").len(), 4);
    Command::new("kill")
        .arg("-KILL")
        .arg(starters[0].to_string())
        .status()
        .unwrap();
    for (foreign, attached, _) in &all {
        lease(attached);
        assert_eq!(foreign.connect(LEASED), "open");
    }
    let (foreign, attached, request) = all.remove(0);
    attached.control.detach().unwrap();
    drop(attached);
    until("it may be had again", || holders.attach(&request).is_ok());
    drop(holders);
    assert_eq!(foreign.connect(LEASED), "ECONNREFUSED");
}

/// A process's children with this word among their arguments.
fn children_of(pid: u32, word: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .flatten()
    {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(
            children
                .split_whitespace()
                .filter_map(|child| child.parse::<u32>().ok()),
        );
    }
    found.retain(|child| {
        let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|argument| argument == word.as_bytes())
    });
    found
}
