//! Namespaces without root: one user namespace in which the runner's own user is root.

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_dumpable;
use nix::unistd::{Gid, Uid, getegid, geteuid, setgroups, setresgid, setresuid};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// The user that a runner who is root becomes first: what is tested must not need root.
pub(crate) const NOBODY: u32 = 65534;

/// Where the helpers look for `ip`.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Gives up root for good. A process that is not root stays who it is, and so does the root of a
/// user namespace that has no other user.
pub(crate) fn drop_root() -> Result<()> {
    if geteuid().is_root() && maps_nobody() {
        setgroups(&[]).context("cannot drop supplementary groups")?;
        let gid = Gid::from_raw(NOBODY);
        setresgid(gid, gid, gid).context("cannot become group 65534")?;
        let uid = Uid::from_raw(NOBODY);
        setresuid(uid, uid, uid).context("cannot become user 65534")?;
        // Changing ids made /proc/self root's; the id maps are written there.
        set_dumpable(true).context("cannot stay dumpable")?;
    }
    Ok(())
}

fn maps_nobody() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines().any(|line| {
        let numbers: Vec<u64> = line
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect();
        matches!(numbers[..], [first, _, count]
            if (first..first + count).contains(&u64::from(NOBODY)))
    })
}

/// Makes a user namespace (and the others asked for with it) in which this process has the ids
/// `uid` and `gid`. This process must be single-threaded.
pub(crate) fn unshare_user(with: CloneFlags, uid: u32, gid: u32) -> Result<()> {
    let (outer_uid, outer_gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | with).context(
        "cannot make a user namespace (needs unprivileged user namespaces: on Ubuntu `sudo sysctl \
         -w kernel.apparmor_restrict_unprivileged_userns=0`, elsewhere see \
         /proc/sys/user/max_user_namespaces)",
    )?;
    set_dumpable(true).context("cannot stay dumpable")?;
    let write = |file: &str, text: String| {
        std::fs::write(format!("/proc/self/{file}"), text)
            .with_context(|| format!("cannot write /proc/self/{file}"))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{uid} {outer_uid} 1"))?;
    write("gid_map", format!("{gid} {outer_gid} 1"))
}

/// Makes every mount private, so that nothing done here is seen outside.
pub(crate) fn private_mounts() -> Result<()> {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context(
        "cannot make the mounts private (are unprivileged user namespaces restricted? on Ubuntu \
         `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`)",
    )
}

/// An empty tmpfs over a folder.
pub(crate) fn tmpfs(at: &Path, mode: &str) -> Result<()> {
    let options = format!("mode={mode},size=16m");
    mount(
        Some("world"),
        at,
        Some("tmpfs"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .with_context(|| format!("cannot mount a tmpfs at {}", at.display()))
}

/// One file over another.
pub(crate) fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot bind {} over {}", from.display(), to.display()))
}

/// A writable layer over a folder whose files may be missing.
pub(crate) fn overlay(folder: &str, scratch: &Path) -> Result<()> {
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    std::fs::create_dir_all(&upper)?;
    std::fs::create_dir_all(&work)?;
    let options = format!(
        "lowerdir={folder},upperdir={},workdir={},userxattr",
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        folder,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .with_context(|| format!("cannot lay an overlay over {folder}"))
}

/// Runs one `ip -batch`.
pub(crate) fn ip_batch(lines: &[String]) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .env("PATH", PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip`: install the Debian package iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all((lines.join("\n") + "\n").as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "`ip -batch` failed: {}\n{}",
            String::from_utf8_lossy(&output.stderr).trim(),
            lines.join("\n")
        );
    }
    Ok(())
}
