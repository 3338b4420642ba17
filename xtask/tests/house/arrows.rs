//! Which crate may use which, and what each manifest must say.

use crate::source::{SHIPPED, none, root};
use toml::{Table, Value};

fn manifest(path: &str) -> (String, Table) {
    let path = root().join(path).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let table = text
        .parse()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (text, table)
}

/// The dependencies in all sections whose name ends in one of these words.
fn dependencies(table: &Table, sections: &[&str]) -> Vec<String> {
    let mut names = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) if sections.contains(&key.as_str()) => {
                names.extend(inner.keys().cloned());
            }
            Value::Table(inner) if key == "target" => {
                for (_, target) in inner {
                    if let Value::Table(target) = target {
                        names.extend(dependencies(target, sections));
                    }
                }
            }
            _ => {}
        }
    }
    names
}

#[test]
fn arrows_between_crates_run_downwards_only() {
    let mut broken = Vec::new();
    for (rank, name) in SHIPPED.iter().enumerate() {
        let (_, table) = manifest(&format!("crates/{name}"));
        for dependency in dependencies(&table, &["dependencies", "build-dependencies"]) {
            let Some(other) = dependency.strip_prefix("portcullis-") else {
                continue;
            };
            let allowed = match SHIPPED.iter().position(|n| *n == other) {
                // The sandbox knows nothing of names and policy, and only those who start
                // sandboxes know of it: the gateway is embedded in other people's.
                Some(0) => ["runner", "cli"].contains(name),
                Some(other) => other < rank && *name != "sandbox",
                None => false,
            };
            if !allowed {
                broken.push(format!("{name} -> {other}"));
            }
        }
    }
    none(
        "an arrow between crates runs upwards, or to a crate that is not shipped:",
        broken,
    );
}

#[test]
fn the_test_world_is_never_shipped() {
    let (_, table) = manifest("crates/testkit");
    let upward: Vec<String> = dependencies(&table, &["dependencies", "build-dependencies"])
        .into_iter()
        .filter(|name| name.starts_with("portcullis-"))
        .collect();
    none(
        "testkit uses a crate of the product; it must judge it from outside:",
        upward,
    );
    for name in ["testkit", "../xtask", ".."] {
        let (_, table) = manifest(&format!("crates/{name}"));
        let publish = table["package"].get("publish").and_then(Value::as_bool);
        assert_eq!(
            publish,
            Some(false),
            "{name} is not marked `publish = false`"
        );
    }
}

/// The base of the house reads bytes and text and decides; whoever needs a runtime is higher up.
#[test]
fn the_ground_floor_has_no_runtime() {
    let mut broken = Vec::new();
    for name in ["names", "wire", "policy"] {
        let (_, table) = manifest(&format!("crates/{name}"));
        for dependency in dependencies(&table, &["dependencies"]) {
            if ["tokio", "hyper", "socket2", "nix", "rustix", "libc"].contains(&dependency.as_str())
            {
                broken.push(format!("{name}: {dependency}"));
            }
        }
    }
    none("names, wire and policy do no I/O:", broken);
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let mut broken = Vec::new();
    let folders = SHIPPED.map(|name| format!("crates/{name}"));
    for folder in folders
        .iter()
        .map(String::as_str)
        .chain(["crates/testkit", "."])
    {
        let (text, _) = manifest(folder);
        // A comment speaks for the lines below it, up to the next blank line.
        let (mut inside, mut spoken) = (false, false);
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                inside = line.ends_with("dependencies]") && !line.contains("workspace");
                spoken = false;
            } else if line.is_empty() {
                spoken = false;
            } else if line.starts_with('#') {
                spoken = true;
            } else if inside && !spoken && !line.starts_with("portcullis-") && line.contains('=') {
                broken.push(format!("{folder}/Cargo.toml: {line}"));
            }
        }
    }
    none(
        "a dependency without a comment saying what it is for:",
        broken,
    );
}

#[test]
fn unsafe_code_is_fenced_in() {
    let mut broken = Vec::new();
    let members = SHIPPED.iter().map(|name| format!("crates/{name}"));
    for folder in members.chain(["crates/testkit".into(), "xtask".into(), ".".into()]) {
        for file in crate::source::files(&format!("{folder}/src")) {
            let top = ["/lib.rs", "/main.rs"]
                .iter()
                .any(|end| file.path.ends_with(end))
                && file.path.matches("src/").count() == 1;
            let is_root = top || file.path.contains("/bin/");
            // The sandbox's library makes system calls that have no safe form.
            let fenced = file.path.starts_with("crates/sandbox/");
            if is_root && !fenced && !file.text.contains("#![forbid(unsafe_code)]") {
                broken.push(file.path);
            }
        }
    }
    none("a crate without #![forbid(unsafe_code)]:", broken);
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    /// How far above its block the comment may begin, in lines.
    const REACH: usize = 12;
    let mut broken = Vec::new();
    for file in crate::source::files("crates/sandbox/src") {
        let lines: Vec<&str> = file.text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if code.contains("unsafe {") || code.contains("unsafe impl") {
                let above = &lines[index.saturating_sub(REACH)..=index];
                if !above
                    .iter()
                    .any(|l| l.contains("SAFETY") || l.contains("# Safety"))
                {
                    broken.push(format!("{}:{}", file.path, index + 1));
                }
            }
        }
    }
    none("unsafe code without a SAFETY comment:", broken);
}
