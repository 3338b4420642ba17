//! An OCI bundle with this machine's programs, and a container of it.

use crate::daemon::Daemon;
use crate::support::{TIMEOUT, finish, portcullis, require};
use portcullis_testkit::exec::Finished;
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A resolver that nobody asks.
pub const STALE: &str = "nameserver 192.0.2.1\n";

/// A bundle.
pub struct Bundle {
    folder: PathBuf,
    /// Its `config.json`.
    pub config: Value,
}

impl Bundle {
    /// One whose first process is a shell with this script.
    pub fn new(folder: PathBuf, script: &str) -> Bundle {
        require("runc");
        let root = folder.join("rootfs");
        for name in ["usr", "etc/ssl/certs", "tmp", "proc", "dev", "sys", "out"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), root.join(link)).unwrap();
        }
        let etc = root.join("etc");
        for file in ["passwd", "nsswitch.conf", "ssl/certs/ca-certificates.crt"] {
            std::fs::copy(Path::new("/etc").join(file), etc.join(file)).unwrap();
        }
        // An absolute link, as systemd's: it leads to the container's file, not to the host's.
        std::fs::create_dir_all(root.join("run/names")).unwrap();
        std::fs::write(root.join("run/names/resolv.conf"), STALE).unwrap();
        symlink("/run/names/resolv.conf", etc.join("resolv.conf")).unwrap();
        std::fs::write(etc.join("hosts"), "127.0.0.1 localhost\n").unwrap();
        let made = finish(
            Command::new("runc").args(["spec", "-b"]).arg(&folder),
            TIMEOUT,
        );
        assert!(made.ok(), "{made}");
        let text = std::fs::read(folder.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        let process = &mut config["process"];
        process["terminal"] = json!(false);
        process["args"] = json!(["sh", "-c", script]);
        process["rlimits"] = json!([]);
        process["env"] = json!(["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin", "HOME=/tmp"]);
        let out = folder.join("out");
        std::fs::create_dir(&out).unwrap();
        if let Some(mounts) = config["mounts"].as_array_mut() {
            mounts.push(
                json!({"destination": "/usr", "type": "bind", "source": "/usr",
                "options": ["rbind", "ro"]}),
            );
            mounts.push(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
            mounts.push(json!({"destination": "/out", "type": "bind", "source": out,
                "options": ["bind", "rw"]}));
        }
        Bundle { folder, config }
    }

    /// The same with a hook that has these flags, and the container with a policy.
    pub fn hooked(mut self, daemon: &Daemon, flags: &[&str], policy: Option<&Path>) -> Bundle {
        let socket = daemon.socket().display().to_string();
        let mut args = vec!["portcullis", "hook", "--control", &socket];
        args.extend(flags);
        let hook = json!({"path": portcullis(), "args": args, "timeout": 60});
        self.config["hooks"] = json!({"createRuntime": [hook], "poststop": [hook]});
        if let Some(policy) = policy {
            self.config["annotations"] = json!({"portcullis.policy": policy});
        }
        self
    }

    /// Whether its first process ever ran: the script writes `/out/ran` first.
    pub fn ran(&self) -> bool {
        self.folder.join("out/ran").exists()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs a container of it to its end.
    pub fn run(&self, runtime: &mut Command, id: &str) -> Finished {
        let text = serde_json::to_vec(&self.config).unwrap();
        std::fs::write(self.folder.join("config.json"), text).unwrap();
        let run = ["--root", "runs", "run", "-b", ".", id];
        finish(runtime.current_dir(&self.folder).args(run), TIMEOUT)
    }
}

/// podman with a store of its own in a folder, and an image of busybox in it.
pub fn podman_image(folder: &Path) -> impl Fn() -> Command {
    let at = |name: &str| folder.join(name).display().to_string();
    let (store, run) = (at("store"), at("run"));
    let podman = move || {
        let mut podman = Command::new("podman");
        podman.args(["--root", &store, "--runroot", &run]);
        podman.args(["--storage-driver", "vfs", "--runtime", "runc"]);
        podman
    };
    let image = "mkdir -p i/bin i/etc/ssl/certs && touch i/etc/resolv.conf && cp /bin/busybox i/bin/ && \
                 cp /etc/ssl/certs/ca-certificates.crt i/etc/ssl/certs/ && \
                 for n in sh cat wget nslookup nc tail; do ln -s busybox i/bin/$n; done && \
                 tar -C i -cf image.tar .";
    let made = finish(
        Command::new("sh").current_dir(folder).args(["-c", image]),
        TIMEOUT,
    );
    assert!(made.ok(), "{made}");
    let mut import = podman();
    import.args(["import", "-q"]).arg(folder.join("image.tar"));
    let imported = finish(import.arg("localhost/busybox"), TIMEOUT);
    assert!(imported.ok(), "{imported}");
    podman
}
