//! The bypass hunter: a hostile program tries at random whatever comes to its mind (families, ports,
//! encodings, protocols, timings, exhaustion) while its policy changes, and outside a judge looks at what
//! left by the kernel's own view. Every packet, query and request must be explained by a record of an
//! allowed decision, and every allowed decision by the policy that was in force.
//!
//! It hunts for [`Hunt::SECONDS`]; `PORTCULLIS_HUNT_SECONDS` makes it longer and `PORTCULLIS_HUNT_SEED`
//! repeats a hunt (`cargo xtask hunt`).
#![forbid(unsafe_code)]

mod capture;
mod judge;
mod policies;
#[path = "../support/mod.rs"]
mod support;

use capture::Capture;
use policies::Policies;
use portcullis_testkit::World;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{require, sandbox, world};

/// The module that the program imports as `gate`.
const GATE: &str = include_str!("../support/gate.py");
const CLIENT: &str = include_str!("client.py");
/// How long the program may go on after its time, on a busy machine.
const GRACE: Duration = Duration::from_secs(120);

/// One hunt: who, for how long, by which seed.
struct Hunt {
    seconds: u64,
    seed: u64,
}

impl Hunt {
    /// How long the program tries, in seconds, unless the environment says otherwise.
    const SECONDS: u64 = 15;

    fn from_environment() -> Hunt {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            let number = text.parse::<u64>();
            Some(number.unwrap_or_else(|error| panic!("{name}={text}: {error}")))
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Hunt {
            seconds: number("PORTCULLIS_HUNT_SECONDS").unwrap_or(Hunt::SECONDS),
            seed: number("PORTCULLIS_HUNT_SEED")
                .unwrap_or_else(|| now.map_or(0, |now| now.as_secs() % 1_000_000)),
        }
    }

    fn run(&self, world: &World, as_root: bool) {
        require("python3");
        eprintln!(
            "PORTCULLIS_HUNT_SEED={} PORTCULLIS_HUNT_SECONDS={}",
            self.seed, self.seconds
        );
        world.file("gate.py", GATE);
        let client = world.file("client.py", CLIENT);
        let mut policies = Policies::new(world, self.seed);
        let file = policies.file().display().to_string();
        let mut sandbox = sandbox(world).args(&["--policy", &file]);
        if as_root {
            sandbox = sandbox.as_root();
        }
        let capture = Capture::start(world);
        let mut command = sandbox.command(&[
            "python3",
            &client.display().to_string(),
            &self.seed.to_string(),
            &self.seconds.to_string(),
        ]);
        let (out, err) = (world.home().join("hunt.out"), world.home().join("hunt.err"));
        let file = |path| std::fs::File::create(path).unwrap_or_else(|error| panic!("{error}"));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(file(&out))
            .stderr(file(&err))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        policies.wait_for_start(sandbox.log());
        let end = Instant::now() + Duration::from_secs(self.seconds);
        while Instant::now() < end && child.try_wait().is_ok_and(|ended| ended.is_none()) {
            policies.change(sandbox.log());
        }
        policies.restore(sandbox.log());
        let (status, timed_out) =
            portcullis_testkit::exec::wait(&mut child, end + GRACE).expect("it was started");
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let said = format!("{}{}", read(&out), read(&err));
        assert!(
            status.success() && !timed_out,
            "the program ended with {status}: {said}"
        );
        judge::judge(
            world,
            &capture.end(),
            &support::read_records(sandbox.log()),
            &policies,
        );
        judge::was_worth_it(&said, &policies, self.seconds);
    }
}

#[test]
fn what_no_record_explains_does_not_leave() {
    Hunt::from_environment().run(&world(), false);
}

#[test]
fn what_no_record_explains_does_not_leave_as_root() {
    Hunt::from_environment().run(&world(), true);
}
