//! As root the sandbox is the same: the program has no capability in the namespace that owns the
//! network, and root's files of the kernel are read-only.

use crate::support::{TIMEOUT, finish, portcullis, require, sandbox, world};
use std::process::Command;

const ATTEMPTS: &str = "
for attempt in 'nft list ruleset' 'nft flush ruleset' 'ip link set lo down' 'ip addr flush dev lo' \\
               'ip route add 203.0.113.0/24 dev lo' 'ip route flush table local' 'ip rule add table 5' \\
               'ip link add spare type dummy' 'umount /etc/resolv.conf' 'umount /run' \\
               'mount -t tmpfs none /mnt' 'nsenter -t 1 -n true' 'nsenter -t 1 -m true' \\
               'sysctl -w net.ipv4.ip_forward=1' 'hostname other' \\
               'unshare -Ur nft flush ruleset' 'unshare -Ur ip link set lo down' \\
               'unshare -Urm umount /etc/resolv.conf'; do
    if $attempt >/dev/null 2>&1; then echo \"POSSIBLE: $attempt\"; fi
done
echo tried
";

/// The same files by other mounts, as root of yet another namespace.
const REMOUNTS: &str = "
for try in 'mount -t proc none /mnt' 'mount -t sysfs none /mnt' 'mount --rbind /proc /mnt' \\
           'mount --rbind /sys /mnt' 'mount -o remount,rw,bind /sys' 'mount -o remount,rw,bind /proc/sys' \\
           'umount -l /proc/sys' 'umount -l /sys' 'umount -l /proc'; do
    unshare -Urmnpf sh -c \"$try 2>/dev/null
        for file in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/mm/ksm/run /sys/power/state \\
                    /mnt/sys/kernel/core_pattern /mnt/sysrq-trigger /mnt/kernel/mm/ksm/run /mnt/power/state; do
            if test -w \\$file; then echo \\\"WRITABLE after $try: \\$file\\\"; fi
        done\"
done
echo tried
";

fn programs() {
    for program in ["nft", "ip", "nsenter", "unshare", "setpriv", "python3"] {
        require(program);
    }
}

#[test]
fn the_rules_cannot_be_changed_from_inside() {
    programs();
    let world = world();
    for as_root in [false, true] {
        let run = sandbox(&world).allow("api.example.com");
        let run = if as_root { run.as_root() } else { run };
        let script = format!(
            "export PATH=/usr/sbin:/usr/bin:/sbin:/bin; id -u; {ATTEMPTS}\
             curl -sS --noproxy '*' -o /dev/null -w 'listed %{{http_code}}\\n' https://api.example.com/; \
             nc -zw 25 203.0.113.90 22 || echo still refused"
        );
        let ran = run.sh(&script);
        assert_eq!(ran.out().starts_with("0\n"), as_root, "{ran}");
        ran.assert_out("tried")
            .assert_out("listed 200")
            .assert_out("still refused");
        assert!(!ran.out().contains("POSSIBLE"), "as root {as_root}: {ran}");
    }
    world.assert_never_reached("203.0.113.90");
}

/// In a network namespace of its own a program may have every capability; there is nothing there.
#[test]
fn a_namespace_of_the_programs_own_has_no_way_out() {
    programs();
    let world = world();
    for as_root in [false, true] {
        let run = sandbox(&world).allow("api.example.com");
        let run = if as_root { run.as_root() } else { run };
        let ran = run.sh(
            "unshare -Urn sh -c 'ip link set lo up; ip route add default dev lo; \
             curl -sS -m 1 --noproxy \"*\" --resolve api.example.com:443:203.0.113.10 \
             https://api.example.com/; echo curl $?; nc -zw 1 10.0.2.2 3128; echo nc $?'",
        );
        assert!(
            ran.out().contains("curl ") && !ran.out().contains("curl 0"),
            "{ran}"
        );
        assert!(ran.out().contains("nc 1"), "{ran}");
    }
    assert!(
        world
            .server_log()
            .iter()
            .all(|event| !event.local.starts_with("203.0.113.10:"))
    );
}

/// Opens for writing, writes nothing: on a machine where this went wrong nothing is changed.
const KERNEL_FILES: &str = "
import os
# Settings of the sandbox's own user, process and message namespaces: root inside may set them,
# where root is not the machine's. (Anybody may open ns_last_pid; writing it takes a capability.)
OWN = 'auto_msgmni msgmax msgmnb msgmni ns_last_pid pid_max sem shm_rmid_forced shmall shmmax shmmni'
def own(path):
    folder, name = os.path.split(path)
    return folder in ('/proc/sys/user', '/proc/sys/fs/mqueue') \\
        or folder == '/proc/sys/kernel' and name in OWN.split()
found = 0
for path in ['/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/proc/sysrq-trigger',
             '/proc/sys/net/ipv4/ip_forward', '/proc/sys/net/ipv4/ip_unprivileged_port_start',
             '/proc/sys/vm/overcommit_memory', '/proc/sys/kernel/hostname', '/sys/kernel/uevent_helper',
             '/sys/kernel/mm/ksm/run', '/sys/power/state']:
    try:
        os.close(os.open(path, os.O_WRONLY))
        print('WRITABLE', path)
    except OSError as error:
        found += 1
        print('refused', path, error.strerror)
for top in '/sys', '/proc/sys':
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path) and os.access(path, os.W_OK) and not own(path):
                print('WRITABLE', path)
print('tried')
";

#[test]
fn kernel_files_of_root_are_read_only() {
    programs();
    let world = world();
    for as_root in [false, true] {
        let run = sandbox(&world);
        let run = if as_root { run.as_root() } else { run };
        let ran = run.run(&["python3", "-c", KERNEL_FILES]);
        ran.assert_ok().assert_out("tried");
        assert!(!ran.out().contains("WRITABLE"), "as root {as_root}: {ran}");
    }
}

/// As the very user who runs the tests, on the machine itself: where that is root, this is the
/// root who owns the kernel's files. No traffic leaves: nothing is listed.
#[test]
fn the_machines_own_root_has_no_power_inside() {
    programs();
    let run = |cmd: &[&str]| {
        let mut command = Command::new(portcullis());
        command
            .args(["run", "--resolver", "203.0.113.53", "--"])
            .args(cmd)
            .current_dir("/");
        finish(&mut command, TIMEOUT)
    };
    let files = run(&["/usr/bin/python3", "-c", KERNEL_FILES]);
    assert!(files.ok() && files.out().contains("tried"), "{files}");
    assert!(!files.out().contains("WRITABLE"), "{files}");
    let rules = run(&["sh", "-c", ATTEMPTS]);
    assert!(
        rules.out().contains("tried") && !rules.out().contains("POSSIBLE"),
        "{rules}"
    );
    let mounts = run(&["sh", "-c", REMOUNTS]);
    assert!(mounts.out().contains("tried"), "{mounts}");
    assert!(!mounts.out().contains("WRITABLE"), "{mounts}");
    let ids = run(&[
        "sh",
        "-c",
        "id -u; grep CapEff /proc/self/status; cat /proc/self/uid_map",
    ]);
    let outside = finish(Command::new("id").arg("-u"), TIMEOUT).out();
    assert!(ids.out().starts_with(&outside), "{ids}");
}

/// apt and its like change to other users: with all ids mapped that works, as root only.
#[test]
fn root_may_become_other_users() {
    let root = finish(Command::new("id").arg("-u"), TIMEOUT).out() == "0\n";
    if !root {
        // The other half of the same rule: who is not root stays who he is.
        let mut command = Command::new(portcullis());
        command.args([
            "run",
            "--resolver",
            "203.0.113.53",
            "--",
            "cat",
            "/proc/self/uid_map",
        ]);
        let map = finish(&mut command, TIMEOUT).out();
        assert_eq!(map.split_whitespace().nth(2), Some("1"), "{map}");
        return;
    }
    let script = "f=$(mktemp) && chown 1000:1000 $f && stat -c %u $f && rm $f; \
                  setpriv --reuid 1000 --regid 1000 --clear-groups id -u; \
                  setpriv --reuid 1000 --regid 1000 --clear-groups cat /etc/resolv.conf";
    let mut command = Command::new(portcullis());
    command
        .args([
            "run",
            "--resolver",
            "203.0.113.53",
            "--",
            "sh",
            "-c",
            script,
        ])
        .current_dir("/");
    let done = finish(&mut command, TIMEOUT);
    assert!(done.ok(), "{done}");
    assert!(
        done.out().starts_with("1000\n1000\n") && done.out().contains("10.0.2.3"),
        "{done}"
    );
}
