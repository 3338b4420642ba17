//! What the machine must let an ordinary user do: make user namespaces, open /dev/net/tun.

use crate::shell::{Result, elevated, elevation, run};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// Kernel settings that forbid unprivileged user namespaces, and the value that allows them.
const SETTINGS: [(&str, &str, &str); 2] = [
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
];

/// Makes the machine fit, or says which command would.
pub fn prepare(fast: bool) -> Result<()> {
    for (name, bad, good) in SETTINGS {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        if std::fs::read_to_string(path).is_ok_and(|value| value.trim() == bad) {
            as_root(&["sysctl", "-w", &format!("{name}={good}")])?;
        }
    }
    if fast { Ok(()) } else { tun() }
}

/// `/dev/net/tun` for everybody: the kernel lets a user make TAPs in namespaces of his own only.
fn tun() -> Result<()> {
    let device = Path::new("/dev/net/tun");
    if !device
        .metadata()
        .is_ok_and(|data| data.file_type().is_char_device())
    {
        as_root(&[
            "sh",
            "-c",
            "modprobe tun; mkdir -p /dev/net && mknod /dev/net/tun c 10 200",
        ])?;
    }
    let mode = device
        .metadata()
        .map_or(0, |data| data.permissions().mode());
    if mode & 0o006 != 0o006 {
        as_root(&["chmod", "666", "/dev/net/tun"])
    } else {
        Ok(())
    }
}

fn as_root(words: &[&str]) -> Result<()> {
    let quoted = |word: &&str| {
        if word.contains(' ') {
            format!("'{word}'")
        } else {
            (*word).to_owned()
        }
    };
    let line = words.iter().map(quoted).collect::<Vec<_>>().join(" ");
    let by_hand = format!("the tests need this once, as root:\n\n    sudo {line}\n");
    match (elevation(), words) {
        (Some(root), [program, rest @ ..]) => {
            run(elevated(&root, program).args(rest)).map_err(|error| format!("{error}\n{by_hand}"))
        }
        _ => Err(by_hand),
    }
}
