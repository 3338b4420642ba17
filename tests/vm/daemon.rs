//! Guests of a daemon: on a TAP that it makes, and on a socket whose daemon is killed under a running guest
//! and started again.

use crate::guest::{Addresses, Device, Guest, checks};
use crate::processes::{self, Background, kill, until};
use crate::support::{finish, portcullis, read_records, require, require_kernel};
use crate::{GUEST_TIMEOUT, layers};
use portcullis_testkit::World;
use serde_json::Value;
use std::time::Duration;

/// How long a client may take.
const LIMIT: Duration = Duration::from_secs(30);

struct Daemon<'w> {
    world: &'w World,
    config: String,
    process: Option<Background>,
}

impl<'w> Daemon<'w> {
    fn start(world: &'w World) -> Daemon<'w> {
        require("curl");
        require_kernel("/dev/net/tun", "TAP devices for ordinary users");
        let config = format!("daemon-{}.toml", processes::marker());
        let text = "version = 1\ncontrol = \"run/c.sock\"\nstate = \"state\"\nlog_dir = \"log\"\n";
        world.file(&config, text);
        let mut daemon = Daemon {
            world,
            config,
            process: None,
        };
        daemon.begin();
        daemon
    }

    fn begin(&mut self) {
        let mut serve = self.world.command_as_root(portcullis());
        serve.args(["serve", "--config", &self.config]);
        self.process = Some(Background::start(&mut serve));
        until("the daemon is ready", || {
            self.ask("GET", "/readyz", None).0 == 204
        });
    }

    /// Ends it as a machine does that fails.
    fn crash(&mut self) {
        let process = self.process.take().expect("it runs");
        kill("KILL", process.pid());
        process.end();
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let mut curl = self.world.command_as_root("curl");
        let url = format!("http://localhost{path}");
        curl.args([
            "-s",
            "-X",
            method,
            "-w",
            "\n%{http_code}",
            "--unix-socket",
            "run/c.sock",
            &url,
        ]);
        if let Some(body) = body {
            let body = body.to_string();
            curl.args(["-H", "content-type: application/json", "-d", &body]);
        }
        let answered = finish(&mut curl, LIMIT).out();
        let (body, status) = answered
            .trim_end()
            .rsplit_once('\n')
            .unwrap_or(("", &answered));
        let body = serde_json::from_str(body).unwrap_or(Value::String(body.to_owned()));
        (status.trim().parse().unwrap_or(0), body)
    }

    /// Makes the sandbox `vm`; gives what it listens on.
    #[track_caller]
    fn make(&self, attach: &Value) -> Value {
        let policy = serde_json::json!({"text": layers::POLICY});
        let new = serde_json::json!({"name": "vm", "attach": attach, "policy": policy});
        let (status, made) = self.ask("POST", "/v1/sandboxes", Some(&new));
        assert_eq!(status, 201, "{made}");
        made["listening"].clone()
    }
}

#[test]
fn qemu_guest_comes_up_on_a_device_of_the_daemons() {
    let world = layers::world();
    let daemon = Daemon::start(&world);
    let made = daemon.make(&serde_json::json!({"kind": "tap"}));
    let (name, netns) = (&made["tap"]["name"], &made["tap"]["netns"]);
    let (Some(name), Some(netns)) = (name.as_str(), netns.as_str()) else {
        panic!("no device: {made}");
    };
    let guest = Guest::build(&world, Addresses::Automatic, layers::CHECKS);
    let mut nsenter = world.command_as_root("nsenter");
    nsenter
        .arg(format!("--net={netns}"))
        .args(guest.command(Device::Tap(name)));
    let ran = finish(&mut nsenter, GUEST_TIMEOUT);
    assert!(ran.ok(), "{ran}");
    assert_eq!(daemon.ask("DELETE", "/v1/sandboxes/vm", None).0, 204);
    layers::assert_met(
        &world,
        &ran.out(),
        &read_records(&world.home().join("log/vm.jsonl")),
    );
}

/// Asks again and again, and says when that changes.
const ASK: &str = r#"
works() { timeout 5 nslookup -type=a www.example.com > /dev/null 2>&1; }
until works; do sleep 1; done; echo at first
while works; do sleep 0.2; done; echo cut off
until works; do sleep 0.2; done; echo back
check again curl -sS -m 20 --cacert /etc/ca.pem -o /dev/null -w '%{http_code}\\n' https://www.example.com/
check denied nslookup -type=a evil.example.net
"#;

/// QEMU sends each frame as a datagram to the socket's path, and so finds it again.
#[test]
fn qemu_guest_that_runs_on_is_served_again_after_its_daemon_was_killed() {
    let world = layers::world();
    let mut daemon = Daemon::start(&world);
    let made = daemon.make(&serde_json::json!({"kind": "vm-socket", "framing": "datagram"}));
    let socket = made["guest"].as_str().expect("a socket").to_owned();
    let own = world.home().join("guest.sock").display().to_string();
    let guest = Guest::build(&world, Addresses::Automatic, ASK);
    let device = Device::DatagramsFrom(&socket, &own);
    let words = guest.command(device);
    let running = Background::start(world.command_as_root(&words[0]).args(&words[1..]));
    let mut console = Vec::new();
    let mut until_said = |wanted: &str| {
        while !console
            .last()
            .is_some_and(|line: &String| line.starts_with(wanted))
        {
            console.push(running.next_line());
        }
        console.join("\n")
    };
    until_said("at first");
    daemon.crash();
    until_said("cut off");
    daemon.begin();
    until_said("back");
    let console = until_said(">>>denied");
    let all = checks(&console);
    assert!(all["again"].said.contains("200"), "{console}");
    assert!(all["denied"].said.contains("NXDOMAIN"), "{console}");
    world.assert_never_asked("evil");
    drop(running);
    assert_eq!(daemon.ask("DELETE", "/v1/sandboxes/vm", None).0, 204);
}
