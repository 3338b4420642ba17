//! Variables that lead to Unix sockets of the host, which CMD cannot reach.
//!
//! A courtesy only: a program that finds such a variable tries the socket, and fails late or with a
//! message about an agent that it need not talk to. Without it, it goes on as on a host that has no
//! such service. Nothing depends on this.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Variables that mean a service of the session or the machine, whatever the form of their value. A
/// socket that is gone, an abstract one or a folder of sockets shows nothing else.
const SERVICES: [&str; 22] = [
    "SSH_AUTH_SOCK",
    "GPG_AGENT_INFO",
    "GNOME_KEYRING_CONTROL",
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "DBUS_STARTER_ADDRESS",
    "AT_SPI_BUS_ADDRESS",
    "IBUS_ADDRESS",
    "SESSION_MANAGER",
    "WAYLAND_DISPLAY",
    "WAYLAND_SOCKET",
    "PULSE_SERVER",
    "PIPEWIRE_REMOTE",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "TMUX",
    "STY",
    "VSCODE_IPC_HOOK",
    "VSCODE_IPC_HOOK_CLI",
    "VSCODE_GIT_IPC_HANDLE",
];
/// What stands before a path in a value.
const PREFIXES: [&str; 4] = ["unix:path=", "unix://", "unix:", "local:"];

/// A variable that goes with another one.
struct Companion {
    name: &'static str,
    of: &'static str,
}

const COMPANIONS: [Companion; 2] = [
    Companion {
        name: "SSH_AGENT_PID",
        of: "SSH_AUTH_SOCK",
    },
    Companion {
        name: "TMUX_PANE",
        of: "TMUX",
    },
];

/// A socket, by whatever path it is found.
#[derive(PartialEq)]
struct SocketId {
    file_system: u64,
    inode: u64,
}

/// Removes the variables that lead to sockets of the host, but for those that are let in.
pub fn remove_sockets(env: &mut BTreeMap<OsString, OsString>, let_in: &[PathBuf]) {
    let runtime = env.get(OsStr::new("XDG_RUNTIME_DIR")).map(PathBuf::from);
    let let_in: Vec<SocketId> = let_in.iter().filter_map(|path| socket_at(path)).collect();
    env.retain(
        |name, value| match socket_in(name, value, runtime.as_deref()) {
            Some(socket) => let_in.contains(&socket),
            None => !means_a_service(name, value),
        },
    );
    for Companion { name, of } in COMPANIONS {
        if !env.contains_key(OsStr::new(of)) {
            env.remove(OsStr::new(name));
        }
    }
}

/// Whether a variable means a service although no socket is found by its value.
fn means_a_service(name: &OsStr, value: &OsStr) -> bool {
    let display =
        || value.as_bytes().first() == Some(&b':') || value.as_bytes().starts_with(b"unix:");
    SERVICES.iter().any(|service| name == *service) || (name == "DISPLAY" && display())
}

/// The socket that a value leads to.
fn socket_in(name: &OsStr, value: &OsStr, runtime: Option<&Path>) -> Option<SocketId> {
    let bytes = value.as_bytes();
    if name == "DISPLAY" {
        return socket_at(&display(bytes)?);
    }
    let rest = PREFIXES
        .iter()
        .find_map(|prefix| bytes.strip_prefix(prefix.as_bytes()))
        .unwrap_or(bytes);
    if !rest.starts_with(b"/") {
        // Names in the runtime folder.
        let named = name == "WAYLAND_DISPLAY" || name == "PIPEWIRE_REMOTE";
        return socket_at(&runtime.filter(|_| named)?.join(value));
    }
    // The whole, or what is before the fields that follow in some.
    let cut = |at: &[u8]| rest.iter().position(|byte| at.contains(byte));
    let mut ends = [None, cut(b",;"), cut(b":"), cut(b",;:")].map(|end| end.unwrap_or(rest.len()));
    ends.sort_unstable_by_key(|end| Reverse(*end));
    // Most values have one form: each file is looked at once.
    let mut ends = ends.to_vec();
    ends.dedup();
    ends.into_iter()
        .find_map(|end| socket_at(Path::new(OsStr::from_bytes(&rest[..end]))))
}

/// The socket of an X display: `:0`, `:0.0`, `unix:0`, or a path and a number.
fn display(value: &[u8]) -> Option<PathBuf> {
    let value = str::from_utf8(value).ok()?;
    let (host, number) = value.rsplit_once(':')?;
    match host {
        "" | "unix" => {
            let number = number.split('.').next()?;
            Some(PathBuf::from(format!("/tmp/.X11-unix/X{number}")))
        }
        path if path.starts_with('/') => Some(PathBuf::from(value)),
        _ => None,
    }
}

fn socket_at(path: &Path) -> Option<SocketId> {
    let found = fs::metadata(path).ok()?;
    let is_socket = found.file_type().is_socket();
    is_socket.then(|| SocketId {
        file_system: found.dev(),
        inode: found.ino(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn left(env: &[(&str, &str)], let_in: &[&Path]) -> Vec<String> {
        let owned = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
        let mut env = env.iter().map(owned).collect();
        let let_in: Vec<PathBuf> = let_in.iter().map(|path| path.to_path_buf()).collect();
        remove_sockets(&mut env, &let_in);
        env.into_keys()
            .map(|name| name.into_string().unwrap())
            .collect()
    }

    #[test]
    fn variables_of_services_go_and_others_stay() {
        let env = [
            ("SSH_AUTH_SOCK", "/nonexistent/agent"),
            ("SSH_AGENT_PID", "77"),
            (
                "DBUS_SESSION_BUS_ADDRESS",
                "unix:abstract=/tmp/dbus-x,guid=1",
            ),
            ("GPG_AGENT_INFO", "/nonexistent/S.gpg-agent:0:1"),
            ("TMUX", "/tmp/tmux-1000/default,77,0"),
            ("TMUX_PANE", "%1"),
            ("LISTEN_FDS", "1"),
            ("DISPLAY", ":0"),
            ("HOME", "/root"),
            ("SSH_CONNECTION", "192.0.2.1 5 192.0.2.2 22"),
            ("PGHOST", "/tmp"),
            ("PATH", "/bin:/usr/bin"),
        ];
        assert_eq!(
            left(&env, &[]),
            ["HOME", "PATH", "PGHOST", "SSH_CONNECTION"]
        );
        assert_eq!(left(&[("DISPLAY", "localhost:10.0")], &[]), ["DISPLAY"]);
    }

    #[test]
    fn a_variable_of_any_name_goes_whose_value_is_a_socket_unless_that_is_let_in() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let _listener = UnixListener::bind(&socket).unwrap();
        let path = socket.to_str().unwrap();
        let values = [
            path.to_owned(),
            format!("unix:{path}"),
            format!("unix://{path}"),
            format!("unix:path={path},guid=0123"),
            format!("unix:path={path};unix:path=/other"),
            format!("{path}:0:1"),
            format!("{path},77,0"),
        ];
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        for value in &values {
            for name in ["DOCKER_HOST", "SSH_AUTH_SOCK", "X_OF_NO_NAME"] {
                assert_eq!(left(&[(name, value)], &[]), [""; 0], "{value}");
                assert_eq!(left(&[(name, value)], &[&socket]), [name], "{value}");
                assert_eq!(left(&[(name, value)], &[&link]), [name], "{value}");
            }
        }
        let runtime = folder.path().to_str().unwrap();
        let env = [("XDG_RUNTIME_DIR", runtime), ("WAYLAND_DISPLAY", "s")];
        assert_eq!(left(&env, &[]), ["XDG_RUNTIME_DIR"]);
        assert_eq!(
            left(&env, &[&socket]),
            ["WAYLAND_DISPLAY", "XDG_RUNTIME_DIR"]
        );
        // A companion stays with what it goes with.
        let env = [("SSH_AUTH_SOCK", path), ("SSH_AGENT_PID", "7")];
        assert_eq!(left(&env, &[&socket]), ["SSH_AGENT_PID", "SSH_AUTH_SOCK"]);
    }
}
