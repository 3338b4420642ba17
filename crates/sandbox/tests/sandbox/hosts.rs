//! Hosts that differ: other resolver files, a container's `/proc`, no user namespaces.

use std::process::{Command, Output};

use crate::support::{User, bare, checked, is_root, output, users};

/// Runs a shell script in a user and mount namespace that may change its own files, as a
/// container would; `$BARE` is the example's binary.
fn elsewhere(script: &str) -> Output {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "unshare",
        ]);
        command
    } else {
        Command::new("unshare")
    };
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    command
        .env("BARE", bare())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/");
    output(command)
}

#[test]
fn a_dangling_resolver_link_and_a_foreign_name_service_are_replaced() {
    let seen = checked(elsewhere(
        "set -e; mount -t tmpfs x /etc; cd /etc; \
         ln -s ../run/systemd/resolve/stub-resolv.conf resolv.conf; \
         printf 'passwd: files\\nhosts: files mymachines resolve [!UNAVAIL=return] dns\\n' > nsswitch.conf; \
         $BARE -- cat /etc/resolv.conf /etc/nsswitch.conf /run/systemd/resolve/stub-resolv.conf",
    ));
    let resolver = "nameserver 10.0.2.3\noptions edns0\n";
    assert_eq!(
        seen,
        format!("{resolver}passwd: files\nhosts: files dns\n{resolver}")
    );
}

#[test]
fn missing_resolver_files_stay_missing_and_the_default_resolver_answers() {
    let script = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20); \
        s.sendto(b'\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\1a\\0\\0\\1\\0\\1', ('127.0.0.1', 53)); \
        print(s.recvfrom(99)[1])";
    let seen = checked(elsewhere(&format!(
        "mount -t tmpfs x /etc; $BARE -- /usr/bin/python3 -c \"{script}\""
    )));
    assert_eq!(seen, "('127.0.0.1', 53)\n");
}

#[test]
fn a_container_with_mounts_over_proc_is_told_the_exact_fix() {
    let seen = elsewhere("mount -t tmpfs x /proc/acpi || exit 9; $BARE -- echo started");
    assert_eq!(seen.status.code(), Some(125), "{seen:?}");
    assert!(seen.stdout.is_empty());
    let text = String::from_utf8_lossy(&seen.stderr);
    assert!(
        text.contains("--security-opt systempaths=unconfined"),
        "{text}"
    );
}

#[test]
fn a_host_without_user_namespaces_is_told_the_exact_fix() {
    // The limit is the namespace's own, so it holds for the one below it only.
    let seen = elsewhere("echo 0 > /proc/sys/user/max_user_namespaces && $BARE -- echo started");
    assert_eq!(seen.status.code(), Some(125), "{seen:?}");
    assert!(seen.stdout.is_empty());
    let text = String::from_utf8_lossy(&seen.stderr);
    assert!(
        text.contains("sysctl -w user.max_user_namespaces"),
        "{text}"
    );

    let seen = elsewhere("echo 0 > /proc/sys/user/max_net_namespaces && $BARE -- echo started");
    assert_eq!(seen.status.code(), Some(125), "{seen:?}");
    assert!(
        String::from_utf8_lossy(&seen.stderr).contains("user.max_net_namespaces"),
        "{seen:?}"
    );
}

#[test]
fn doctor_finds_what_is_there_and_names_the_fix_of_what_is_not() {
    for user in users() {
        let mut doctor = if user == User::Nobody {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
                .arg(bare());
            command
        } else {
            Command::new(bare())
        };
        doctor.arg("--doctor");
        let seen = checked(output(doctor));
        assert!(seen.lines().count() >= 9, "{seen}");
        for line in seen.lines().filter(|line| !line.contains("TAP")) {
            assert!(line.starts_with("true"), "{user:?}: {line}");
        }
    }
    let seen = elsewhere("mount -t tmpfs x /proc/acpi || exit 9; $BARE --doctor");
    let text = checked(seen);
    let line = text
        .lines()
        .find(|line| line.contains("a /proc of the sandbox's own"))
        .unwrap();
    assert!(
        line.starts_with("false") && line.contains("systempaths=unconfined"),
        "{line}"
    );
}
