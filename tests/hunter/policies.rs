//! Policies that change while the program runs, and which of them was in force when.

use portcullis_testkit::World;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a change may take to come into force on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// Rules that every policy has, so that there is always something to serve.
const ALWAYS: [&str; 4] = [
    "\"api.example.com\" = \"allow\"",
    "\"api.example.com:9000\" = \"allow\"",
    "\"raw.example.com:9000\" = \"allow\"",
    "\"dual.example.com\" = \"allow\"",
];

/// Rules that come and go.
const SOMETIMES: [&str; 14] = [
    "\"www.example.com\" = \"allow\"",
    "\"a.shared.example.com\" = \"allow\"",
    "\"ssh.example.com:22\" = \"allow\"",
    "\"v4only.example.com:80\" = { verdict = \"allow\", methods = [\"GET\"], paths = [\"/public/**\"] }",
    "\"v6only.example.com\" = \"allow\"",
    "\"rebind.example.com\" = \"allow\"",
    "\"private.example.com:*\" = \"allow\"",
    "\"mixed.example.com\" = \"allow\"",
    "\"metadata.example.com\" = \"allow\"",
    "\"nat64.example.com\" = \"allow\"",
    "\"loopback.example.com:*\" = \"allow\"",
    "\"hostself.example.com:*\" = \"allow\"",
    "\"dual.example.com:123/udp\" = \"allow\"",
    "\"*.tunnel.evil.example.net\" = \"allow\"",
];

/// The policy file, and every policy that it held.
pub struct Policies {
    file: PathBuf,
    random: u64,
    held: Vec<BTreeSet<&'static str>>,
}

impl Policies {
    /// Writes the first one.
    pub fn new(world: &World, seed: u64) -> Policies {
        let all: BTreeSet<&str> = ALWAYS.into_iter().chain(SOMETIMES).collect();
        Policies {
            file: world.file("hunted.toml", text(&all)),
            random: seed | 1,
            held: vec![all],
        }
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Waits until the first one is in force: a program has looked something up.
    pub fn wait_for_start(&self, log: &Path) {
        wait("the program tries nothing", || {
            std::fs::read_to_string(log).is_ok_and(|text| text.contains("\"layer\":\"dns\""))
        });
    }

    /// How many changes came into force.
    pub fn changes(&self) -> usize {
        self.held.len() - 1
    }

    /// Puts another policy in force, by one of the ways in which programs save a file.
    pub fn change(&mut self, log: &Path) {
        let mut rules: BTreeSet<&str> = ALWAYS.into();
        rules.extend(SOMETIMES.into_iter().filter(|_| self.next(2) == 0));
        self.put(rules, log);
        std::thread::sleep(Duration::from_millis(50 + self.next(300)));
    }

    /// Puts the first one in force again.
    pub fn restore(&mut self, log: &Path) {
        self.put(self.held[0].clone(), log);
    }

    fn put(&mut self, rules: BTreeSet<&'static str>, log: &Path) {
        if self.held.last() == Some(&rules) {
            return;
        }
        if self.next(2) == 0 {
            std::fs::write(&self.file, text(&rules)).expect("the policy can be written");
        } else {
            let new = self.file.with_extension("new");
            std::fs::write(&new, text(&rules)).expect("the policy can be written");
            std::fs::rename(&new, &self.file).expect("the policy can be renamed");
        }
        self.held.push(rules);
        wait("the change is not in force", || {
            reloads(log) >= self.changes()
        });
    }

    /// A number below `below`, by xorshift.
    fn next(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below
    }

    /// Whether a policy in force after that many changes lets this name be looked up, or the one before it or
    /// behind it: a change is recorded a moment after it came into force, and a decision a moment after it
    /// was made.
    pub fn may_look_up(&self, changes: usize, name: &str) -> bool {
        self.around(changes)
            .any(|rule| covers(rule, name).is_some())
    }

    /// The same for a connection or datagrams to a port.
    pub fn may_reach(&self, changes: usize, name: &str, port: u64, udp: bool) -> bool {
        (self.around(changes)).any(|rule| opens(rule, name, port, udp))
    }

    /// Whether any policy let this name be reached over TCP at this port.
    pub fn ever_reach(&self, name: &str, port: u64) -> bool {
        let mut rules = self.held.iter().flatten();
        rules.any(|rule| opens(rule, name, port, false))
    }

    fn around(&self, changes: usize) -> impl Iterator<Item = &'static str> + '_ {
        let end = self.held.len().min(changes + 2);
        let held = &self.held[changes.saturating_sub(1).min(end)..end];
        held.iter().flat_map(|rules| rules.iter().copied())
    }
}

#[track_caller]
fn wait(or_else: &str, mut for_this: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !for_this() {
        assert!(Instant::now() < deadline, "{or_else} after {PATIENCE:?}");
        std::thread::sleep(LOOK);
    }
}

fn opens(rule: &str, name: &str, port: u64, udp: bool) -> bool {
    covers(rule, name).is_some_and(|ports| match ports {
        "" => !udp && [80, 443].contains(&port),
        ":*" => !udp,
        one if udp => one[1..] == format!("{port}/udp"),
        one => one[1..] == port.to_string(),
    })
}

/// The ports of a rule as they stand in it, if it covers the name.
fn covers<'r>(rule: &'r str, name: &str) -> Option<&'r str> {
    let target = rule.split('"').nth(1)?;
    let at = target.find(':').unwrap_or(target.len());
    let (pattern, ports) = target.split_at(at);
    let matches = match pattern.strip_prefix('*') {
        Some(base) => name.len() > base.len() && name.ends_with(base),
        None => pattern == name,
    };
    matches.then_some(ports)
}

/// Names only: no address rule ever lifts the guard, so that every guarded address must stay unreached.
fn text(rules: &BTreeSet<&str>) -> String {
    let rules: Vec<&str> = rules.iter().copied().collect();
    format!("version = 1\n[network.domains]\n{}\n", rules.join("\n"))
}

/// How many changes a log has on record. Its last line may be unfinished.
fn reloads(log: &Path) -> usize {
    let text = std::fs::read(log).unwrap_or_default();
    let whole = text
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let text = String::from_utf8_lossy(&text[..whole]);
    assert!(
        !text.contains("\"policy-rejected\""),
        "a policy was refused: {text}"
    );
    text.lines().filter(|line| is_reload(line)).count()
}

fn is_reload(line: &str) -> bool {
    line.contains("\"policy-reloaded\"")
        && serde_json::from_str::<Value>(line)
            .is_ok_and(|record| record["reason"] == "policy-reloaded")
}
