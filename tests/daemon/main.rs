//! `serve` as a daemon: many sandboxes in one process, controlled over a Unix socket.
#![forbid(unsafe_code)]

mod access;
#[path = "../hunter/capture.rs"]
mod capture;
mod guests;
mod lifetime;
mod openapi;
#[path = "../support/processes.rs"]
mod processes;
mod restart;
mod sandboxes;
#[path = "../support/mod.rs"]
mod support;
mod systemd;
mod upkeep;

use portcullis_testkit::{World, exec::Finished};
use processes::{Background, kill};
use serde_json::Value;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{finish, portcullis, require};

/// How long a client may take.
const LIMIT: Duration = Duration::from_secs(30);
/// A policy of one name.
const API: &str = "version = 1\n[network.domains]\n\"api.example.com\" = \"allow\"\n";

/// Another of another.
const BIG: &str = "version = 1\n[network.domains]\n\"big.example.com\" = \"allow\"\n";

/// A daemon in a world.
struct Daemon<'w> {
    client: Client<'w>,
    process: Option<Background>,
    is_roots: bool,
    /// A name that no other daemon of the machine has.
    config: String,
}

/// Who asks it.
struct Client<'w> {
    world: &'w World,
    socket: PathBuf,
}

impl<'w> Deref for Daemon<'w> {
    type Target = Client<'w>;

    fn deref(&self) -> &Client<'w> {
        &self.client
    }
}

impl<'w> Daemon<'w> {
    /// Starts one of an ordinary user's with this configuration, in which the socket and the folders are
    /// named.
    fn start(world: &'w World, config: &str) -> Daemon<'w> {
        Daemon::by(world, config, false)
    }

    /// The same of root's, which may enter the namespaces of the world's users.
    fn of_root(world: &'w World) -> Daemon<'w> {
        Daemon::by(world, "", true)
    }

    fn by(world: &'w World, config: &str, is_roots: bool) -> Daemon<'w> {
        let file = format!("daemon-{}.toml", processes::marker());
        let client = Client {
            world,
            socket: world.home().join("run/c.sock"),
        };
        let mut daemon = Daemon {
            client,
            process: None,
            is_roots,
            config: file,
        };
        daemon.configure(config);
        daemon.begin();
        daemon
    }

    /// Writes the configuration, with these sandboxes in it.
    fn configure(&self, sandboxes: &str) {
        let text = format!(
            "version = 1\ncontrol = \"run/c.sock\"\nstate = \"state\"\nlog_dir = \"log\"\n{sandboxes}"
        );
        self.world.file(&self.config, text);
    }

    fn begin(&mut self) {
        let mut serve = match self.is_roots {
            true => self.world.command_as_root(portcullis()),
            false => self.command(),
        };
        serve
            .args(["serve", "--config", &self.config])
            .env("PORTCULLIS_LOG", "info");
        self.process = Some(Background::start(&mut serve));
        let deadline = Instant::now() + LIMIT;
        while self.get("/healthz").0 != 204 {
            if Instant::now() > deadline {
                kill("KILL", self.pid());
                let (_, said) = self.process.take().expect("it was started").end();
                panic!("the daemon does not answer: {said}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    /// The daemon itself: what starts it in the world has the same arguments.
    fn real_pid(&self) -> u32 {
        let all = processes::with_argument(&self.config);
        let children = all.iter().filter(|pid| **pid != self.pid());
        children.copied().max().unwrap_or(self.pid())
    }

    /// Ends it in order.
    #[track_caller]
    fn end(&mut self) {
        kill("TERM", self.pid());
        let (status, said) = self.process.take().expect("it runs").end();
        assert!(status.success(), "{status}: {said}");
    }

    /// Ends it as a machine does that fails.
    fn crash(&mut self) {
        kill("KILL", self.pid());
        self.process.take().expect("it runs").end();
    }
}

impl Client<'_> {
    fn command(&self) -> Command {
        self.world.command(portcullis())
    }

    /// A request by the world's ordinary user; the status and the body.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        require("curl");
        let mut curl = self.world.command("curl");
        curl.args(["-s", "-X", method, "-w", "\n%{http_code}", "--unix-socket"])
            .arg(&self.socket)
            .arg(format!("http://localhost{path}"));
        if let Some(body) = body {
            curl.args([
                "-H",
                "content-type: application/json",
                "-d",
                &body.to_string(),
            ]);
        }
        let answered = finish(&mut curl, LIMIT).out();
        let (body, status) = answered
            .trim_end()
            .rsplit_once('\n')
            .unwrap_or(("", &answered));
        let body = serde_json::from_str(body).unwrap_or(Value::String(body.to_owned()));
        (status.trim().parse().unwrap_or(0), body)
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, None)
    }

    /// Makes a sandbox with an HTTP proxy and a resolver on the host; gives their addresses.
    #[track_caller]
    fn make(&self, name: &str, policy: &str) -> (String, String) {
        let new = serde_json::json!({
            "name": name,
            "attach": {"kind": "listeners", "dns": "127.0.0.1:0", "http": "127.0.0.1:0"},
            "policy": {"text": policy},
        });
        let (status, made) = self.ask("POST", "/v1/sandboxes", Some(&new));
        assert_eq!(status, 201, "{made}");
        at(&made)
    }

    /// `portcullis ARGS` for this daemon.
    fn cli(&self, args: &[&str]) -> Finished {
        let mut command = self.command();
        command.args(args).env("PORTCULLIS_CONTROL", &self.socket);
        finish(&mut command, LIMIT)
    }

    /// The status of a request for a name through a proxy; 0 without an answer.
    fn status(&self, proxy: &str, name: &str) -> u16 {
        let url = format!("http://{name}/");
        let proxy = format!("http://{proxy}");
        let args = [
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-x",
            &proxy,
            &url,
        ];
        self.world
            .run("curl", &args, LIMIT)
            .out()
            .parse()
            .unwrap_or(0)
    }
}

/// Where a sandbox's proxy and resolver listen.
#[track_caller]
fn at(sandbox: &Value) -> (String, String) {
    let at = |what: &str| {
        let address = sandbox["listening"][what].as_str();
        address
            .unwrap_or_else(|| panic!("no {what}: {sandbox}"))
            .to_owned()
    };
    (at("http"), at("dns"))
}
