//! A bare git repository, served over the dumb protocol; made the first time somebody asks.

use super::World;
use crate::inside::namespaces::PATH;
use anyhow::{Context, Result, bail};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// One commit with a fixed date, so that its id is the same in every world.
const IMPORT: &str = "blob\nmark :1\ndata 13\nHello, clone\n\n\
commit refs/heads/main\nmark :2\n\
committer World <world@example.com> 1700000000 +0000\n\
data 6\nFirst\n\nM 100644 :1 README\n\n";

/// A file below `/repo.git`, or status and text.
pub(crate) async fn file(world: &World, path: &str) -> Result<Vec<u8>, (u16, String)> {
    let folder = world.folder.join("git");
    let ready = world
        .git
        .get_or_init(|| async {
            let folder = folder.clone();
            tokio::task::spawn_blocking(move || make(&folder).map_err(|e| format!("{e:#}")))
                .await
                .unwrap_or_else(|e| Err(e.to_string()))
        })
        .await;
    if let Err(text) = ready {
        eprintln!("portcullis-world: {text}");
        return Err((500, text.clone()));
    }
    if path.split('/').any(|part| part == "..") {
        return Err((400, "no dots\n".to_owned()));
    }
    std::fs::read(folder.join(path.trim_start_matches('/')))
        .map_err(|_| (404, "no such file\n".to_owned()))
}

fn make(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let repo = folder.join("repo.git");
    git(
        folder,
        &[
            "init",
            "--quiet",
            "--bare",
            "--initial-branch=main",
            "repo.git",
        ],
        "",
    )?;
    git(&repo, &["fast-import", "--quiet"], IMPORT)?;
    git(&repo, &["update-server-info"], "")
}

fn git(folder: &Path, args: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("git")
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `git`: install the Debian package git")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "git {args:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
