//! Which build this is, from version control: what `--version`, `doctor` and the first decision
//! record say. Never a constant that somebody must remember to change.
//!
//! In order: `PORTCULLIS_BUILD` (who packages from an archive knows best), `git describe` of the
//! checkout, the commit that `cargo package` left beside the sources, and `unknown`: a build outside
//! version control works all the same.

use std::path::Path;
use std::process::Command;

/// What a published crate's archive has in the place of a checkout.
const VCS_INFO: &str = ".cargo_vcs_info.json";
/// The longest identity that is taken over, bytes.
const MAX_BYTES: usize = 128;

fn main() {
    println!("cargo::rerun-if-env-changed=PORTCULLIS_BUILD");
    println!("cargo::rerun-if-changed=build.rs");
    let build = given().or_else(described).or_else(packaged);
    let build = build.unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=PORTCULLIS_BUILD_ID={build}");
}

fn given() -> Option<String> {
    usable(&std::env::var("PORTCULLIS_BUILD").ok()?)
}

fn described() -> Option<String> {
    // A checkout of something else around an unpacked archive is not this project's.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (top, here) = (
        Path::new(&top).canonicalize().ok()?,
        here.canonicalize().ok()?,
    );
    if here != top.join("crates/cli") {
        return None;
    }
    // What a commit, a checkout and a tag change. `index` is not among them: looking at the state
    // of a checkout rewrites it.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]).unwrap_or_default();
    for file in ["HEAD", "packed-refs", "refs/tags", branch.as_str()] {
        let path = git(&["rev-parse", "--git-path", file]).unwrap_or_default();
        // A path that does not exist would count as changed each time.
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    // Whether the tree was changed since the commit is asked again when a source changes.
    for sources in ["crates", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", top.join(sources).display());
    }
    usable(&git(&[
        "describe",
        "--tags",
        "--always",
        "--dirty=-modified",
        "--abbrev=12",
    ])?)
}

fn packaged() -> Option<String> {
    let text = std::fs::read_to_string(VCS_INFO).ok()?;
    let (_, after) = text.split_once("\"sha1\"")?;
    let commit = after.split('"').nth(1)?;
    usable(commit.get(..12)?)
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// One word of printable ASCII: it stands in records and in a terminal.
fn usable(text: &str) -> Option<String> {
    let text = text.trim();
    let word = !text.is_empty() && text.len() <= MAX_BYTES;
    (word && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| text.to_owned())
}
