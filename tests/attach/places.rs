//! Sandboxes as others start them, and a gateway that is attached to one.

use crate::inside::Inside;
use crate::processes::{Background, kill, until};
use crate::support::{Records, portcullis, read_records, require};
use portcullis_testkit::World;
use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Who does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    User,
    Root,
}

impl Who {
    pub const BOTH: [Who; 2] = [Who::User, Who::Root];

    pub fn command(self, world: &World, program: &str) -> Command {
        match self {
            // Each of the world's own commands has a user namespace of its own, as if each were another
            // user's: here one user starts the sandbox and attaches it.
            Who::User => {
                let mut command = world.command_as_root("nsenter");
                let session = session(world).to_string();
                command.args(["-U", "--preserve-credentials", "-t", &session, program]);
                command
            }
            Who::Root => world.command_as_root(program),
        }
    }
}

/// A process of the world's ordinary user that lives as long as the test.
fn session(world: &World) -> u32 {
    thread_local! {
        static SESSION: RefCell<Option<(u32, Background)>> = const { RefCell::new(None) };
    }
    SESSION.with_borrow_mut(|session| {
        if session
            .as_ref()
            .is_none_or(|(of, _)| *of != world.host_pid())
        {
            let script = ["-c", "echo ready; exec sleep 1000"];
            let sleep = Background::start(world.command("sh").args(script));
            sleep.wait_line("ready");
            *session = Some((world.host_pid(), sleep));
        }
        session.as_ref().map_or(0, |(_, sleep)| sleep.pid())
    })
}

/// A program that does what it is told, started by this command line of somebody else's.
#[track_caller]
pub fn started(world: &World, who: Who, by: &[&str]) -> Inside {
    require(by[0]);
    let mut command = who.command(world, by[0]);
    Inside::start_as(command.args(&by[1..]).args(Inside::argv()))
}

/// The process that is in the sandbox: the command itself, or the last of its line of children.
pub fn innermost(pid: u32) -> u32 {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let child = children.split_whitespace().find_map(|pid| pid.parse().ok());
    child.map_or(pid, innermost)
}

/// A gateway in the background.
pub struct Attached {
    gateway: Background,
    log: PathBuf,
}

impl Attached {
    /// Starts it with these options, which name the sandbox.
    #[track_caller]
    pub fn start(world: &World, who: Who, args: &[&str]) -> Attached {
        let attached = Attached::begin(world, who, args);
        let place = args[1];
        let line = match args[0] {
            "--pid" => format!("portcullis: attached process {place}"),
            _ => format!("portcullis: attached {place}"),
        };
        attached.gateway.wait_line(&line);
        attached
    }

    /// The same, not waiting until it serves.
    #[track_caller]
    pub fn begin(world: &World, who: Who, args: &[&str]) -> Attached {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = world.home().join(format!("attached-{number}.jsonl"));
        let script = format!(
            "exec {} attach --log {} \"$@\" 2>&1",
            portcullis().display(),
            log.display()
        );
        let mut command = who.command(world, "sh");
        command.args(["-c", &script, "sh"]).args(args);
        Attached {
            gateway: Background::start(&mut command),
            log,
        }
    }

    /// To the process's own.
    #[track_caller]
    pub fn to(world: &World, who: Who, inside: &Inside, args: &[&str]) -> Attached {
        let pid = innermost(inside.pid()).to_string();
        let mut all = vec!["--pid", &pid];
        all.extend(args);
        Attached::start(world, who, &all)
    }

    pub fn pid(&self) -> u32 {
        self.gateway.pid()
    }

    pub fn records(&self) -> Records {
        read_records(&self.log)
    }

    /// Waits for a record.
    #[track_caller]
    pub fn until_denied(&self, layer: &str, reason: &str, whom: &str) {
        until(&format!("{layer} {reason} {whom} is on record"), || {
            !self.records().denials(layer, reason, whom).is_empty()
        });
    }

    /// Ends it by this signal; gives its exit code.
    #[track_caller]
    pub fn stop(self, signal: &str) -> Option<i32> {
        kill(signal, self.pid());
        self.end()
    }

    /// Waits for its end; gives its exit code.
    #[track_caller]
    pub fn end(self) -> Option<i32> {
        self.gateway.end().0.code()
    }
}

/// What a program that owns its network namespace sees of it.
const STATE: &str = "ip address | sed 's/qdisc [a-z]*//'; ip route show table all; ip -6 route show table all; \
                     ip rule; nft list tables; cat /proc/sys/net/ipv4/ip_unprivileged_port_start";

/// The network as it is inside, for comparisons.
#[track_caller]
pub fn state(inside: &mut Inside) -> String {
    for program in ["ip", "nft"] {
        require(program);
    }
    inside.ask(&format!("sh export PATH=$PATH:/usr/sbin:/sbin; {STATE}"))
}

/// Fails the test unless nothing leads out, at once.
#[track_caller]
pub fn assert_cut_off(inside: &mut Inside) {
    let start = Instant::now();
    inside.expect("name api.example.com", "none");
    for to in ["203.0.113.10 443", "203.0.113.90 22", "2001:db8:10::10 443"] {
        let said = inside.ask(&format!("connect {to}"));
        assert!(
            ["ENETUNREACH", "ECONNREFUSED", "EADDRNOTAVAIL"].contains(&&*said),
            "{to}: {said}"
        );
    }
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
}
