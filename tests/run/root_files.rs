//! Root's files as an ordinary user sees them inside: those whose owner ssh checks are readable copies of
//! the user's own; all others are nobody's, and no way to what root alone may read.
//!
//! Only root can make root's files, so as anybody else these tests show nothing and end at once.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::support::{TIMEOUT, finish, portcullis, require};

/// A namespace of its own with root's files for ssh, a user for whom the tests run, and a real sshd of
/// that user on the loopback. `run` is a sandboxed run as that user.
const SETTING: &str = r#"
set -eu
PORTCULLIS=$1
ip link set lo up
mount -t tmpfs none /mnt
cd /mnt
mkdir home home/.ssh bare root.d
cp /etc/passwd passwd
echo "tester:x:12345:12345::/mnt/home:/bin/sh" >> passwd
mount --bind passwd /etc/passwd
mount -t tmpfs none /etc/ssh/ssh_config.d
cat > /etc/ssh/ssh_config.d/x.conf <<END
Include /mnt/root.d/*
Host gitbox
  HostName host.portcullis.internal
  Port 2222
  StrictHostKeyChecking no
  IdentityFile /mnt/home/key
  UserKnownHostsFile /mnt/home/known
END
echo "Host other
  User included" > /mnt/root.d/a
echo "Host secret
  User root-alone" > /mnt/secret
chmod 600 /mnt/secret
chown -R 12345:12345 home
as() { setpriv --reuid 12345 --regid 12345 --clear-groups env HOME=/mnt/home USER=tester "$@"; }
run() { as "$PORTCULLIS" run --quiet --allow host.portcullis.internal:2222 -- "$@"; }
"#;

/// Starts the server and leaves a repository there.
const SERVER: &str = r#"
as ssh-keygen -q -t ed25519 -N '' -f /mnt/home/key
as ssh-keygen -q -t ed25519 -N '' -f /mnt/home/hostkey
cp /mnt/home/key.pub /mnt/home/authorized
as git init -q -b main /mnt/home/repo
as git -C /mnt/home/repo -c user.name=t -c user.email=t@example.com commit -q --allow-empty -m first
(exec setpriv --reuid 12345 --regid 12345 --clear-groups "$(command -v sshd || echo /usr/sbin/sshd)" \
    -D -f /dev/null -h /mnt/home/hostkey -p 2222 -o ListenAddress=127.0.0.1 -o StrictModes=no -o UsePAM=no \
    -o PidFile=none -o AuthorizedKeysFile=/mnt/home/authorized) >/dev/null 2>&1 </dev/null &
SSHD=$!
trap 'kill $SSHD' EXIT
for n in $(seq 100); do if nc -z 127.0.0.1 2222; then break; fi; sleep 0.1; done
"#;

/// What a script prints in that setting, as root; none where root cannot be had.
fn as_root(script: &str) -> Option<String> {
    if std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() != 0) {
        return None;
    }
    for program in ["unshare", "setpriv", "ssh", "sshd", "git", "nc", "ip"] {
        require(program);
    }
    let script = [SETTING, script].concat();
    let mut command = Command::new("unshare");
    let program = portcullis();
    command
        .args([
            "-mn",
            "--fork",
            "--pid",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            &script,
            "sh",
        ])
        .arg(program);
    let ran = finish(&mut command, TIMEOUT);
    assert!(ran.ok(), "{ran}");
    Some(ran.out())
}

#[test]
fn git_over_ssh_reads_what_root_has_configured_for_all_users() {
    let script = format!(
        "{SERVER}\n\
         run git clone -q gitbox:/mnt/home/repo /mnt/home/clone\n\
         as git -C /mnt/home/clone log --format=%s\n\
         run ssh gitbox echo by ssh"
    );
    if let Some(out) = as_root(&script) {
        assert_eq!(out, "first\nby ssh\n");
    }
}

#[test]
fn copies_are_read_only_of_what_all_may_read_and_of_nothing_else() {
    let script = r#"
run sh -c '
ssh -G other | grep "^user "
stat -c "%u %a" /etc/ssh/ssh_config.d/x.conf /mnt/root.d/a
cat /mnt/secret 2>/dev/null
for file in /etc/ssh/ssh_config.d/x.conf /mnt/root.d/a; do
    (echo changed > $file) 2>/dev/null
    chmod 666 $file 2>/dev/null
    rm -f $file 2>/dev/null
    unshare -Urm sh -c "umount $file; mount -o remount,rw,bind $file; echo changed > $file" 2>/dev/null
    grep -c changed $file
done
stat -c %u /etc/passwd
ls /run/portcullis | grep -c copy
true'
echo "Host more" >> /mnt/root.d/a
run grep -c more /mnt/root.d/a
! grep -c changed /mnt/root.d/a
"#;
    if let Some(out) = as_root(script) {
        let expected = "user included\n12345 444\n12345 444\n0\n0\n65534\n0\n1\n0\n";
        assert_eq!(out, expected);
    }
}

/// What another user made is refused by ssh outside, and so inside.
#[test]
fn files_of_a_third_user_and_files_that_others_may_write_are_not_made_trustworthy() {
    let script = r#"
chmod 666 /mnt/root.d/a
run ssh -G other 2>&1 | grep -c "Bad owner"
chmod 644 /mnt/root.d/a
run ssh -G other | grep "^user "
chown 12346 /mnt/root.d/a
run ssh -G other 2>&1 | grep -o "Bad owner or permissions on /mnt/root.d/a"
"#;
    if let Some(out) = as_root(script) {
        let expected = "1\nuser included\nBad owner or permissions on /mnt/root.d/a\n";
        assert_eq!(out, expected);
    }
}
