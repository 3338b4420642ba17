//! Runs one scenario: a policy, resolvers in memory, a program that asks, and one virtual time.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_dns::{Clock, HostsFile, SearchList};
use portcullis_policy::{Input, Mode, Policy};
use portcullis_record::Protocol;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::ask::{Ask, check};
use super::logs;
use super::resolver::Resolver;
use super::tree::{self, Line, duration};
use crate::memory::MemoryNetwork;
use crate::world::World;

/// The least that a scenario says about what it is for, in characters.
const INTENT_CHARACTERS: usize = 30;

/// Resolvers of one scenario, by their letters.
const LETTERS: &str = "ABCD";

/// Runs the scenario in `text`; panics with the line that did not hold.
pub fn run(name: &str, text: &str) {
    let (intent, lines) = tree::read(text);
    let length = intent.chars().count();
    assert!(length >= INTENT_CHARACTERS, "{name}: say what it is for");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let mut lines = lines.into_iter().peekable();
    runtime.block_on(async move {
        let mut scene = Scene::set(&mut lines);
        for line in lines {
            scene.line(&line).await;
        }
        scene.settle().await;
    });
}

type Lines = std::iter::Peekable<std::vec::IntoIter<Line>>;
type Reply = (Vec<u8>, Duration);

struct Scene {
    world: World,
    resolvers: Vec<Resolver>,
    started: Instant,
    /// Asked, and not looked at yet.
    asked: Vec<(Line, Ask, JoinHandle<Reply>)>,
    /// Whether anything was asked since the last `at`.
    asked_now: bool,
    records_seen: usize,
}

impl Scene {
    /// What stands before the first `at`.
    fn set(lines: &mut Lines) -> Scene {
        let network = MemoryNetwork::default();
        let mut resolvers = Vec::new();
        let mut rules = policy_of(&[]);
        let (mut route, mut owned) = (true, Vec::new());
        let (mut hosts, mut search) = (String::new(), SearchList::default());
        while let Some(line) = lines.next_if(|line| !line.text.starts_with("at ")) {
            match line.words().as_slice() {
                ["policy"] => rules = policy_of(&line.below),
                ["resolver", letter] if LETTERS.find(letter) == Some(resolvers.len()) => {
                    let resolver = Resolver::new(&network, resolvers.len() as u8);
                    resolver.become_(&line, &[]);
                    resolvers.push(resolver);
                }
                ["host", "has", "no", "IPv6", "route"] => route = false,
                ["host", "has", "resolv.conf"] => {
                    search = SearchList::parse(&text_of(&line.below), "");
                }
                ["host", "has", "hosts"] => hosts = text_of(&line.below),
                ["host", "owns", address] => owned.push(address_of(&line, address)),
                _ => line.wrong("before the first `at` stand policy, resolvers and host"),
            }
        }
        let servers = resolvers.iter().map(|resolver| resolver.at).collect();
        let world = World::with(rules, servers, |config| {
            config.network = Arc::new(network);
            config.clock = Clock::tokio();
            config.search = search;
            config.hosts = Arc::new(HostsFile::parse(&hosts));
            config.ipv6_route = Arc::new(move || route);
            config.host_owns = Arc::new(move |address| owned.contains(&address));
        });
        Scene {
            world,
            resolvers,
            started: Instant::now(),
            asked: Vec::new(),
            asked_now: false,
            records_seen: 0,
        }
    }

    async fn line(&mut self, line: &Line) {
        match line.words().as_slice() {
            ["at", time @ ..] => {
                let at = self.started + duration(line, time);
                // What was asked goes on meanwhile.
                sleep_until(at).await;
                if Instant::now() != at {
                    let late = Instant::now().duration_since(self.started);
                    line.wrong(format!("it is {} ms already", late.as_millis()));
                }
                self.asked_now = false;
                for step in &line.below {
                    self.step(step).await;
                }
            }
            _ => line.wrong("a scenario goes on with `at TIME`"),
        }
    }

    async fn step(&mut self, line: &Line) {
        let words = line.words();
        match words.as_slice() {
            ["ask" | "send", ..] => {
                for ask in Ask::all_of(line) {
                    self.ask(line, ask);
                }
            }
            ["then"] => self.settle().await,
            ["policy"] => {
                self.settle_now().await;
                let policy = Arc::new(policy_of(&line.below));
                self.world.policy.store(policy);
            }
            ["resolver", letter, "heard", what @ ..] => {
                self.settle().await;
                let resolver = self.resolver(line, letter);
                let heard = resolver.heard();
                logs::heard(line, what, &heard);
            }
            ["resolver", letter, what @ ..] => {
                self.settle_now().await;
                self.resolver(line, letter).become_(line, what);
            }
            ["host", "names", letters @ ..] => {
                self.settle_now().await;
                let at = |letter: &&str| self.resolver(line, letter).at;
                let servers = letters.iter().map(at).collect();
                self.world.service.set_upstreams(servers);
            }
            ["records"] => {
                self.settle().await;
                let all = self.world.records();
                logs::records(line, &all[self.records_seen..]);
                self.records_seen = all.len();
            }
            ["leased", address, "to", names @ ..] => {
                self.settle().await;
                let owners = self.world.leases.names_for(address_of(line, address));
                let owners: Vec<&str> = owners.iter().map(|name| name.as_str()).collect();
                let expected = if names == ["nobody"] { &[] } else { names };
                if owners != expected {
                    line.wrong(format!("it is leased to {owners:?}"));
                }
            }
            _ => line.wrong("no such step"),
        }
    }

    fn resolver(&mut self, line: &Line, letter: &str) -> &mut Resolver {
        let found = LETTERS
            .find(letter)
            .and_then(|at| self.resolvers.get_mut(at));
        found.unwrap_or_else(|| line.wrong("there is no such resolver"))
    }

    fn ask(&mut self, line: &Line, ask: Ask) {
        let (service, query) = (self.world.service.clone(), ask.message.clone());
        let protocol = if ask.tcp {
            Protocol::DnsTcp
        } else {
            Protocol::DnsUdp
        };
        let task = tokio::spawn(async move {
            let (started, mut out) = (Instant::now(), Vec::new());
            service.answer(&query, protocol, &mut out).await;
            (out, started.elapsed())
        });
        self.asked.push((line.clone(), ask, task));
        self.asked_now = true;
    }

    /// What changes comes after what was asked before it under the same `at`; what was asked
    /// earlier may still be under way.
    async fn settle_now(&mut self) {
        if self.asked_now {
            self.settle().await;
        }
    }

    /// Waits for every reply that is due, and looks at each.
    async fn settle(&mut self) {
        for (line, ask, task) in self.asked.drain(..) {
            let (reply, took) = task.await.expect("answering does not panic");
            check(&line, &ask, &reply, took);
        }
    }
}

/// Lines of a file.
fn text_of(lines: &[Line]) -> String {
    let line = |line: &Line| format!("{}\n", line.text);
    lines.iter().map(line).collect()
}

/// A policy from `allow TARGET`, `deny TARGET`, `audit` and lines of TOML below `toml`.
fn policy_of(lines: &[Line]) -> Policy {
    let (mut inputs, mut mode) = (Vec::new(), Mode::Enforce);
    for line in lines {
        match line.words().as_slice() {
            ["allow", target] => inputs.push(Input::Allow((*target).to_owned())),
            ["deny", target] => inputs.push(Input::Deny((*target).to_owned())),
            ["audit"] => mode = Mode::Audit,
            ["toml"] => {
                let rows: Vec<&str> = line.below.iter().map(|row| row.text.as_str()).collect();
                inputs.push(Input::File {
                    path: "scenario.toml".into(),
                    text: format!("version = 1\n{}\n", rows.join("\n")),
                });
            }
            _ => line.wrong("a policy has allow, deny, audit and toml"),
        }
    }
    let mut no_files = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    match Policy::load(&inputs, &mut no_files) {
        Ok(loaded) => loaded.policy.with_mode(mode),
        Err(error) => panic!("the scenario's policy does not load: {error:#?}"),
    }
}

fn address_of(line: &Line, text: &str) -> IpAddr {
    text.parse()
        .unwrap_or_else(|_| line.wrong("not an address"))
}
