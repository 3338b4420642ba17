//! `serve` follows its policy's files, and reloads on SIGHUP.

use crate::processes::{Background, kill, until};
use crate::support::{portcullis, require, world};
use crate::{allowing, changes, counts, replace};
use portcullis_testkit::World;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

const API: &str = "api.example.com";
const BIG: &str = "big.example.com";

struct Serving<'w> {
    world: &'w World,
    process: Background,
    log: PathBuf,
}

impl Serving<'_> {
    fn start<'w>(world: &'w World, policy: &Path) -> Serving<'w> {
        require("dig");
        let log = world.home().join("served.jsonl");
        let mut serve = world.command(portcullis());
        serve
            .args(["serve", "--dns", "127.0.0.1:5300", "--policy"])
            .arg(policy)
            .arg("--log")
            .arg(&log);
        let serving = Serving {
            world,
            process: Background::start(&mut serve),
            log,
        };
        until("it listens", || serving.status("nothing.example").is_some());
        serving
    }

    /// The status of an answer, if there is one.
    fn status(&self, name: &str) -> Option<String> {
        let args = [
            "@127.0.0.1",
            "-p",
            "5300",
            "+tries=1",
            "+time=20",
            name,
            "A",
        ];
        let out = self.world.run("dig", &args, Duration::from_secs(60)).out();
        let (_, rest) = out.split_once("status: ")?;
        Some(rest.split(',').next()?.to_owned())
    }

    #[track_caller]
    fn allows(&self, names: &[&str]) {
        for name in [API, BIG, "git.example.com"] {
            let expected = if names.contains(&name) {
                "NOERROR"
            } else {
                "NXDOMAIN"
            };
            assert_eq!(self.status(name).as_deref(), Some(expected), "{name}");
        }
    }

    #[track_caller]
    fn until_counts(&self, wanted: (usize, usize)) {
        until(&format!("{wanted:?} changes"), || {
            counts(&self.log) == wanted
        });
    }

    /// What it said until SIGTERM ended it.
    fn end(self) -> String {
        kill("TERM", self.process.pid());
        let (status, said) = self.process.end();
        assert_eq!(status.code(), Some(0), "{said}");
        said
    }
}

#[test]
fn files_are_followed_and_it_says_what_happened() {
    let world = world();
    let policy = world.file("policy.toml", allowing(&[API]));
    let serving = Serving::start(&world, &policy);
    serving.allows(&[API]);
    std::fs::write(&policy, allowing(&[BIG])).unwrap();
    serving.until_counts((1, 0));
    serving.allows(&[BIG]);
    replace(&policy, "version = 1\n[network.domains]\nbroken\n");
    serving.until_counts((1, 1));
    serving.allows(&[BIG]);
    replace(&policy, &allowing(&[API, BIG]));
    serving.until_counts((2, 1));
    serving.allows(&[API, BIG]);
    let said = serving.end();
    for part in [
        "portcullis: policy applied: 1 rule, 0 flows cut\n",
        "policy.toml:3",
        "portcullis: policy rejected; the previous one stays in force\n",
        "portcullis: policy applied: 2 rules, 0 flows cut\n",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
}

#[test]
fn sighup_reloads_at_once_also_what_did_not_change() {
    let world = world();
    let policy = world.file("policy.toml", allowing(&[API]));
    let serving = Serving::start(&world, &policy);
    kill("HUP", serving.process.pid());
    serving.until_counts((1, 0));
    serving.allows(&[API]);
    std::fs::write(&policy, "version = 2\n").unwrap();
    serving.until_counts((1, 1));
    kill("HUP", serving.process.pid());
    serving.until_counts((1, 2));
    serving.allows(&[API]);
    std::fs::write(&policy, allowing(&[BIG])).unwrap();
    kill("HUP", serving.process.pid());
    until("it is in force", || {
        serving.status(BIG).as_deref() == Some("NOERROR")
    });
    serving.allows(&[BIG]);
    let said = serving.end();
    assert!(
        said.contains("portcullis: policy applied: 1 rule"),
        "{said}"
    );
}

/// A Kubernetes ConfigMap changes by one link in the middle of the way.
#[test]
fn links_are_followed_as_they_stand() {
    let world = world();
    let folder = world.home().join("mounted");
    for (version, name) in [("..v1", API), ("..v2", BIG), ("..v3", "git.example.com")] {
        std::fs::create_dir_all(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("policy.toml"), allowing(&[name])).unwrap();
    }
    symlink("..v1", folder.join("..data")).unwrap();
    symlink("..data/policy.toml", folder.join("policy.toml")).unwrap();
    let serving = Serving::start(&world, &folder.join("policy.toml"));
    serving.allows(&[API]);
    for (round, version, name) in [(1, "..v2", BIG), (2, "..v3", "git.example.com")] {
        symlink(version, folder.join("..data_tmp")).unwrap();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        serving.until_counts((round, 0));
        serving.allows(&[name]);
    }
    // The link itself.
    std::fs::write(world.home().join("other.toml"), allowing(&[API, BIG])).unwrap();
    symlink("../other.toml", folder.join("new.toml")).unwrap();
    std::fs::rename(folder.join("new.toml"), folder.join("policy.toml")).unwrap();
    serving.until_counts((3, 0));
    serving.allows(&[API, BIG]);
    std::fs::remove_file(folder.join("policy.toml")).unwrap();
    serving.until_counts((3, 1));
    serving.allows(&[API, BIG]);
    serving.end();
}

/// What a listener could not serve is no policy for it, though it loads.
#[test]
fn a_policy_that_cannot_be_served_here_is_rejected() {
    let world = world();
    let policy = world.file("policy.toml", allowing(&[API]));
    let serving = Serving::start(&world, &policy);
    let itself = "[network.dns]\nresolvers = [\"127.0.0.1:5300\"]\n";
    std::fs::write(&policy, allowing(&[API, BIG]) + itself).unwrap();
    serving.until_counts((0, 1));
    let synthetic = "[network.dns]\nanswers = \"synthetic\"\n";
    std::fs::write(&policy, allowing(&[API, BIG]) + synthetic).unwrap();
    serving.until_counts((0, 2));
    serving.allows(&[API]);
    let details = changes(&serving.log);
    assert!(
        details[0].1.contains("is this resolver itself"),
        "{details:?}"
    );
    assert!(details[1].1.contains("synthetic"), "{details:?}");
    serving.end();
}
