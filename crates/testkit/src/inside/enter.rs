//! Becomes a program in the host's namespaces: same pid, same descriptors, no process in between.

use super::namespaces::{NOBODY, drop_root, unshare_user};
use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::unistd::{getegid, geteuid};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `enter PID user|root PROGRAM ARGS…`
pub(super) fn main(args: &[OsString]) -> Result<()> {
    let [pid, who, program, rest @ ..] = args else {
        bail!("too few arguments")
    };
    let pid: u32 = pid
        .to_str()
        .and_then(|p| p.parse().ok())
        .context("bad pid")?;
    let folder = std::env::current_dir().ok();
    drop_root()?;
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());

    let open = |kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        File::open(&path).with_context(|| format!("cannot open {path}; is the world gone?"))
    };
    // All three are opened before the first is joined: afterwards /proc may say no.
    let (user, net, mnt) = (open("user")?, open("net")?, open("mnt")?);
    setns(&user, CloneFlags::CLONE_NEWUSER).context("cannot join the world's user namespace")?;
    setns(&net, CloneFlags::CLONE_NEWNET).context("cannot join the host's network namespace")?;
    setns(&mnt, CloneFlags::CLONE_NEWNS).context("cannot join the host's mount namespace")?;
    let folder = folder.filter(|f| std::env::set_current_dir(f).is_ok());
    if folder.is_none() {
        std::env::set_current_dir("/").context("cannot enter /")?;
    }
    if who == "user" {
        // Back to being an ordinary user: in a user namespace below the one that owns the host's
        // network, without any capability once the program is executed.
        nix::sys::prctl::set_dumpable(true).context("cannot stay dumpable")?;
        let (uid, gid) = if uid == 0 {
            (NOBODY, NOBODY)
        } else {
            (uid, gid)
        };
        unshare_user(CloneFlags::empty(), uid, gid)?;
    }
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("cannot execute {}", program.display()))
}
