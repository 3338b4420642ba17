//! A daemon of this machine's root, a web server on its loopback, and a folder for both.

use crate::processes::{Background, kill};
use crate::support::{TIMEOUT, finish, portcullis};
use portcullis_testkit::exec::Finished;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the server says.
pub const PAGE: &str = "from host";

/// The daemon.
pub struct Daemon {
    process: Option<Background>,
    folder: tempfile::TempDir,
    /// The server's port.
    pub port: u16,
}

impl Daemon {
    #[track_caller]
    pub fn start() -> Daemon {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("log")).unwrap();
        let config = "version = 1\ncontrol = \"c.sock\"\nstate = \"state\"\nlog_dir = \"log\"\n";
        let path = folder.path().join("daemon.toml");
        std::fs::write(&path, config).unwrap();
        let script = format!(
            "exec {} serve --config {} 2>&1",
            portcullis().display(),
            path.display()
        );
        let process = Background::start(Command::new("sh").args(["-c", &script]));
        let daemon = Daemon {
            process: Some(process),
            folder,
            port: server(),
        };
        crate::processes::until("the daemon answers", || daemon.cli(&["ps"]).ok());
        daemon
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder().join("c.sock")
    }

    /// The server by the name that containers know it by.
    pub fn url(&self) -> String {
        format!("http://host.portcullis.internal:{}/", self.port)
    }

    /// Writes a policy that lists the server, with more lines; gives its path.
    pub fn policy(&self, name: &str, more: &str) -> PathBuf {
        let path = self.folder().join(name);
        let server = format!("\"host.portcullis.internal:{}\" = \"allow\"", self.port);
        let text = format!("version = 1\n[network.domains]\n{server}\n{more}\n");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `portcullis ARGS` for this daemon.
    pub fn cli(&self, args: &[&str]) -> Finished {
        let mut command = Command::new(portcullis());
        command.args(args).env("PORTCULLIS_CONTROL", self.socket());
        finish(&mut command, TIMEOUT)
    }

    /// Its sandboxes.
    pub fn sandboxes(&self) -> Vec<Value> {
        let said = self.cli(&["ps", "--json"]);
        serde_json::from_str(&said.out()).unwrap_or_else(|error| panic!("{error}: {said}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            kill("TERM", process.pid());
            process.end();
        }
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
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", PAGE.len());
            let _ = stream.write_all((head + PAGE).as_bytes());
        }
    });
    port
}
