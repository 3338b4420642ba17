//! Attacks on the sandbox from inside: each must fail, as root too.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use crate::support::{User, checked, command, folder, is_root, output, python, run, shell, users};

#[test]
fn flushing_the_rules_is_not_permitted() {
    for user in users() {
        let seen = shell(
            user,
            &[],
            "nft flush ruleset 2>&1; nft list ruleset 2>&1; nft add table inet x 2>&1; true",
        );
        assert!(seen.contains("Operation not permitted"), "{user:?}: {seen}");
        assert!(!seen.contains("open4"), "{user:?}: {seen}");
    }
}

#[test]
fn links_addresses_and_routes_cannot_be_changed() {
    for user in users() {
        let seen = shell(
            user,
            &[],
            "ip link set lo down 2>&1; ip link add x type dummy 2>&1; \
             ip route del local default table local 2>&1; ip addr add 10.9.9.9/8 dev lo 2>&1; true",
        );
        assert_eq!(
            seen.matches("Operation not permitted").count(),
            4,
            "{user:?}: {seen}"
        );
    }
}

#[test]
fn mounts_cannot_be_removed_or_made() {
    for user in users() {
        let seen = shell(
            user,
            &[],
            "for path in /etc/resolv.conf /run /proc; do umount -l $path && echo gone $path; done; \
             mount -t tmpfs x /mnt && echo made; mount -o remount,rw /proc && echo remounted; \
             head -1 /etc/resolv.conf",
        );
        assert_eq!(seen, "nameserver 10.0.2.3\n", "{user:?}");
    }
}

#[test]
fn a_new_user_namespace_gets_no_network_and_loses_no_mask() {
    for user in users() {
        let seen = shell(
            user,
            &[],
            "unshare -Urmn sh -c 'ip -o link; cat /etc/resolv.conf; \
             umount -l /etc/resolv.conf; umount -l /run; head -1 /etc/resolv.conf; ls /run/*.sock' 2>&1; \
             unshare -Ur nft flush ruleset 2>&1; unshare -Ur ip link set lo down 2>&1; true",
        );
        assert!(seen.contains("Operation not permitted"), "{user:?}: {seen}");
        assert!(
            seen.matches("nameserver 10.0.2.3").count() == 2,
            "{user:?}: {seen}"
        );
        // A new namespace has a loopback that is down, and nothing else that was not there.
        assert!(!seen.contains("eth0"), "{user:?}: {seen}");
    }
}

#[test]
fn setns_into_the_first_process_or_the_host_is_not_permitted() {
    for user in users() {
        let seen = shell(
            user,
            &[],
            "for kind in net user mnt; do nsenter --target 1 --$kind true && echo entered; done 2>/dev/null; \
             for link in /proc/1/fd/5 /proc/1/root /proc/1/cwd /proc/1/exe /proc/1/ns/net; do \
             readlink $link; done; cat /proc/1/environ /proc/1/mem /proc/1/maps; \
             ls /proc/1/root/; cat < /proc/1/fd/0; true",
        );
        assert_eq!(seen, "", "{user:?}");
    }
}

#[test]
fn ptrace_and_signals_do_not_reach_the_first_process() {
    for user in users() {
        let script = r#"
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(16, 1, 0, 0), ctypes.get_errno())
for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGINT):
    try: os.kill(1, number)
    except PermissionError: pass
try: os.kill(-1, 0)
except OSError: pass
print('alive')
"#;
        assert_eq!(python(user, &[], script), "-1 1\nalive\n", "{user:?}");
    }
}

#[test]
fn no_other_process_is_to_be_seen() {
    let seen = shell(User::Nobody, &[], "ls /proc | grep -c '^[0-9]'");
    // The first process, the supervisor of its Unix sockets, the shell, ls, grep.
    assert!(seen.trim().parse::<u32>().unwrap() <= 5, "{seen}");
}

#[test]
fn other_socket_families_and_raw_sockets_do_not_exist() {
    for user in users() {
        let script = r#"
import socket, errno
def attempt(*a):
    try: socket.socket(*a); return 'made'
    except OSError as e: return errno.errorcode[e.errno]
print([attempt(f, socket.SOCK_STREAM) for f in (40, 31, 38)],   # vsock, bluetooth, alg
      attempt(17, socket.SOCK_RAW, 0x300), attempt(17, socket.SOCK_DGRAM, 0x300),
      attempt(socket.AF_INET, socket.SOCK_RAW, 1), attempt(socket.AF_INET6, socket.SOCK_RAW, 58),
      attempt(socket.AF_UNIX), attempt(socket.AF_NETLINK, socket.SOCK_RAW, 0))
"#;
        assert_eq!(
            python(user, &[], script),
            "['EAFNOSUPPORT', 'EAFNOSUPPORT', 'EAFNOSUPPORT'] EAFNOSUPPORT EAFNOSUPPORT EPERM EPERM made made\n",
            "{user:?}"
        );
    }
}

#[test]
fn io_uring_and_request_key_do_not_exist() {
    let script = r#"
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
key = {'x86_64': 249, 'aarch64': 218}[platform.machine()]
for number in (425, 426, 427, key):
    print(libc.syscall(number, 0, 0, 0, 0), ctypes.get_errno())
"#;
    assert_eq!(python(User::Nobody, &[], script), "-1 38\n".repeat(4));
}

#[test]
fn terminal_injection_is_refused() {
    let script = r#"
import fcntl, os, pty
primary, secondary = pty.openpty()
for request in (0x5412, 0x541C, 0x5412 | 1 << 32):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    byte = ctypes.c_char(b'x')
    print(libc.ioctl(secondary, ctypes.c_ulong(request), ctypes.byref(byte)), ctypes.get_errno())
"#;
    assert_eq!(python(User::Nobody, &[], script), "-1 1\n".repeat(3));
}

#[test]
fn no_new_privileges_and_no_capabilities_over_the_network() {
    let status = shell(User::Nobody, &[], "cat /proc/self/status");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert!(status.contains("Seccomp:\t2"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
}

#[test]
fn the_old_working_folder_is_no_way_around_the_masks() {
    if !is_root() {
        // Only root can make a folder in /run to stand in; the next check holds for all.
        return assert_eq!(shell(User::Caller, &[], "pwd"), "/tmp\n");
    }
    let place = std::path::Path::new("/run/portcullis-test-cwd");
    std::fs::create_dir_all(place).unwrap();
    let mut inside = command(User::Nobody, &[], &["ls"]);
    inside.current_dir(place);
    let seen = output(inside);
    std::fs::remove_dir(place).unwrap();
    assert_eq!(seen.status.code(), Some(125), "{seen:?}");
    assert!(
        String::from_utf8_lossy(&seen.stderr).contains("working directory"),
        "{seen:?}"
    );
}

/// Lists the inherited descriptors above 2, with what they are.
const LIST: &str = "for fd in /proc/self/fd/*; do echo \"${fd##*/} $(readlink $fd)\"; done";

#[test]
fn inherited_sockets_folders_and_devices_are_closed_and_pipes_and_files_kept() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = std::fs::File::open("/").unwrap();
    let device = std::fs::File::open("/dev/tty").or_else(|_| std::fs::File::open("/dev/null"));
    let device = device.unwrap();
    let namespace = std::fs::File::open("/proc/self/ns/net").unwrap();
    let file = tempfile::tempfile().unwrap();
    let (pipe, _write) = std::io::pipe().unwrap();
    let give = [
        (20, tcp.as_raw_fd()),
        (21, folder.as_raw_fd()),
        (22, device.as_raw_fd()),
        (23, namespace.as_raw_fd()),
        (24, file.as_raw_fd()),
        (25, pipe.as_raw_fd()),
    ];
    let mut inside = command(User::Nobody, &[], &["bash", "-c", LIST]);
    // SAFETY: only dup2 is called between fork and exec.
    unsafe {
        inside.pre_exec(move || {
            for (to, from) in give {
                if libc::dup2(from, to) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let seen = checked(output(inside));
    for closed in ["20 ", "21 ", "22 ", "23 "] {
        assert!(!seen.lines().any(|line| line.starts_with(closed)), "{seen}");
    }
    for kept in ["24 /", "25 pipe:"] {
        assert!(seen.lines().any(|line| line.starts_with(kept)), "{seen}");
    }
}

#[test]
fn a_network_socket_or_folder_as_a_standard_stream_is_refused() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut inside = command(User::Nobody, &[], &["true"]);
    inside.stdin(Stdio::from(std::os::fd::OwnedFd::from(tcp)));
    let seen = output(inside);
    assert_eq!(seen.status.code(), Some(125));
    assert!(
        String::from_utf8_lossy(&seen.stderr).contains("stdin is a network socket"),
        "{seen:?}"
    );

    let mut inside = command(User::Nobody, &[], &["true"]);
    inside.stdin(Stdio::from(std::fs::File::open("/").unwrap()));
    assert_eq!(output(inside).status.code(), Some(125));

    // A connected Unix stream, as Node gives its children, is fine.
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut inside = command(User::Nobody, &[], &["cat"]);
    inside.stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
    ours.write_all(b"through").unwrap();
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(checked(output(inside)), "through");
}

#[test]
fn root_cannot_turn_the_hosts_kernel_knobs() {
    if !is_root() {
        return;
    }
    let seen = shell(
        User::Caller,
        &[],
        "for knob in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sysrq-trigger \
         /sys/kernel/uevent_helper; do \
         [ -e $knob ] && (: >> $knob) 2>/dev/null && echo open $knob; done; true",
    );
    assert_eq!(seen, "");
}

#[test]
fn control_groups_and_other_settings_are_read_only_for_every_user() {
    for user in users() {
        let seen = shell(
            user,
            &[],
            "grep ' /sys' /proc/self/mounts | cut -d' ' -f4 | grep -v '^ro'; \
             for knob in $(find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs); do \
             [ -w $knob ] && echo open $knob; done; true",
        );
        assert_eq!(seen, "", "{user:?}");
    }
}

#[test]
fn devices_that_reach_the_hosts_vsock_are_covered() {
    let devices = ["/dev/vsock", "/dev/vhost-vsock"];
    for device in devices
        .iter()
        .filter(|path| std::path::Path::new(path).exists())
    {
        for user in users() {
            let seen = shell(user, &[], &format!("stat -c %t:%T {device}"));
            assert_eq!(seen, "1:3\n", "{user:?} {device}");
        }
    }
}

#[test]
fn root_keeps_all_ids_and_can_change_owners() {
    if !is_root() {
        return;
    }
    let folder = folder();
    let script = format!(
        "cd {} && touch f && chown 1234:567 f && stat -c %u:%g f && setpriv --reuid 1234 --clear-groups id -u",
        folder.path().display()
    );
    assert_eq!(shell(User::Caller, &[], &script), "1234:567\n1234\n");
}

#[test]
fn a_sandbox_in_a_sandbox_works_or_names_the_fix() {
    let bare = crate::support::bare().to_str().unwrap();
    let seen = run(
        User::Nobody,
        &[],
        &[bare, "--", "sh", "-c", "head -1 /etc/resolv.conf"],
    );
    assert_eq!(checked(seen), "nameserver 10.0.2.3\n");
    if is_root() {
        let seen = run(User::Caller, &[], &[bare, "--", "true"]);
        assert_eq!(seen.status.code(), Some(125), "{seen:?}");
        let text = String::from_utf8_lossy(&seen.stderr);
        assert!(text.contains("/proc") && text.contains("fix:"), "{text}");
    }
}
