//! A real container engine: podman, with runc.

use crate::processes::{Background, until};
use crate::support::{TIMEOUT, finish, portcullis, read_records, require};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// The engine with a store of its own.
struct Podman<'f>(&'f Path);

impl Podman<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        let at = |name: &str| self.0.join(name).display().to_string();
        command.args(["--root", &at("store"), "--runroot", &at("run")]);
        command.args(["--storage-driver", "vfs", "--runtime", "runc"]);
        command
    }

    #[track_caller]
    fn say(&self, args: &[&str]) -> String {
        let done = finish(self.command().args(args), TIMEOUT);
        assert!(done.ok(), "podman {args:?}: {done}");
        done.out().trim().to_owned()
    }

    /// An image of busybox alone.
    fn image(&self) {
        let bin = self.0.join("image/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(self.0.join("image/etc")).unwrap();
        std::fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for name in ["sh", "sleep", "cat", "nslookup", "nc", "wget"] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        std::fs::write(
            self.0.join("image/etc/resolv.conf"),
            "nameserver 192.0.2.1\n",
        )
        .unwrap();
        let mut tar = Command::new("tar");
        let tar = tar.arg("-C").arg(self.0.join("image")).args(["-c", "."]);
        let mut tar = tar.stdout(Stdio::piped()).spawn().unwrap();
        let mut import = self.command();
        import
            .args(["import", "-", "localhost/busybox"])
            .stdin(tar.stdout.take().unwrap());
        let done = import.output().unwrap();
        assert!(done.status.success(), "{done:?}");
        tar.wait().unwrap();
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let _ = self.command().args(["rm", "-f", "-t", "0", "-a"]).output();
        let _ = self.command().args(["rmi", "-f", "-a"]).output();
    }
}

/// A web server on the host's loopback.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfrom host");
        }
    });
    port
}

#[test]
fn a_podman_container_without_a_network() {
    for program in ["podman", "runc", "busybox", "tar"] {
        require(program);
    }
    let folder = tempfile::tempdir().unwrap();
    let podman = Podman(folder.path());
    podman.image();
    let id = podman.say(&[
        "run",
        "-d",
        "--network",
        "none",
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
        "localhost/busybox",
        "sleep",
        "1000",
    ]);
    let pid = podman.say(&["inspect", "--format", "{{.State.Pid}}", &id]);
    let port = server();
    let log = folder.path().join("log.jsonl");
    let script = format!(
        "exec {} attach --pid {pid} --allow host.portcullis.internal:{port} --log {} --resolver 192.0.2.53 2>&1",
        portcullis().display(),
        log.display(),
    );
    let gateway = Background::start(Command::new("sh").args(["-c", &script]));
    gateway.wait_line(&format!("portcullis: attached process {pid}"));
    let inside = |script: &str| {
        finish(
            podman.command().args(["exec", &id, "sh", "-c", script]),
            TIMEOUT,
        )
    };
    let page = format!("wget -q -O - http://host.portcullis.internal:{port}/");
    assert_eq!(inside(&page).out(), "from host");
    let page = "wget -q -O - http://portcullis.internal/health";
    assert_eq!(inside(page).out(), "ok\n");
    let done = inside("nslookup evil.example.net");
    assert!((done.out() + &done.err()).contains("NXDOMAIN"), "{done}");
    let done = inside("nc -w 20 203.0.113.90 443 </dev/null");
    assert!(done.err().contains("refused"), "{done}");
    until("both are on record", || {
        let records = read_records(&log);
        let of = |layer, reason, whom| !records.denials(layer, reason, whom).is_empty();
        of("dns", "not-in-allowlist", "evil.example.net")
            && of("tcp", "address-not-leased", "203.0.113.90")
    });
    podman.say(&["rm", "-f", "-t", "0", &id]);
    assert_eq!(
        gateway.end().0.code(),
        Some(0),
        "it ends with the container"
    );
}
