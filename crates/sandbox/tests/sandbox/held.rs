//! A holder that outlives its gateways: the sandbox is cut off between two of them, and never open.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use portcullis_sandbox::{
    Addresses, AttachRequest, Attached, Attachment, Family, OpenRules, attach, attach_again,
};

use crate::support::{LIMIT, PYTHON, bare, folder, is_root};

const LEASED: &str = "203.0.113.5";

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
        let program = "import errno, socket, sys\n\
                       try:\n    socket.create_connection((sys.argv[1], 443), 20); print('open')\n\
                       except OSError as e:\n    print(errno.errorcode.get(e.errno, e))";
        self.say(&[PYTHON, "-c", program, address])
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
    assert_eq!(foreign.connect("203.0.113.6"), "ECONNREFUSED");
    assert!(attach_again(&path).is_err(), "there is a gateway already");
    first.control.new_tcp_socket(Family::V4).unwrap();

    // It is gone, as when it was killed: what it leased is closed again.
    drop(first);
    until("the lease is closed", || {
        foreign.connect(LEASED) == "ECONNREFUSED"
    });
    if is_root() {
        assert_eq!(stranger(&path), "PermissionError");
    }

    let second = attach_again(&path).unwrap();
    second.control.ready().unwrap();
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
