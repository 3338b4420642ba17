//! Files: the resolver's, the protected, the hidden; streams byte for byte.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;

use crate::support::{PYTHON, User, command, folder, run, shell, users};

#[test]
fn the_resolver_files_are_the_sandboxs_own() {
    for user in users() {
        let seen = shell(
            user,
            &[],
            "cat /etc/resolv.conf; grep '^hosts' /etc/nsswitch.conf | tr -s ' \t' ' '; \
             (echo x >> /etc/resolv.conf) 2>/dev/null && echo written; true",
        );
        assert_eq!(
            seen, "nameserver 10.0.2.3\noptions edns0\nhosts: files dns\n",
            "{user:?}"
        );
    }
}

#[test]
fn protected_files_cannot_be_changed_removed_or_replaced() {
    let folder = folder();
    let policy = folder.path().join("policy.toml");
    let sub = folder.path().join("sub");
    fs::create_dir(&sub).unwrap();
    fs::write(sub.join("log"), "kept").unwrap();
    fs::write(&policy, "kept").unwrap();
    for path in [&policy, &sub, &sub.join("log")] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    for user in users() {
        let options = [
            "--read-only",
            policy.to_str().unwrap(),
            "--read-only",
            sub.to_str().unwrap(),
        ];
        let script = format!(
            "cd {}; (echo x > policy.toml) 2>/dev/null && echo written; \
             rm -f policy.toml 2>/dev/null; mv policy.toml other 2>/dev/null; \
             (touch new && mv new policy.toml) 2>/dev/null && echo replaced; \
             chmod 600 policy.toml 2>/dev/null && echo changed; \
             (echo x > sub/log) 2>/dev/null && echo written; \
             ln policy.toml link 2>/dev/null && echo linked; \
             cat policy.toml sub/log; rm -f new",
            folder.path().display()
        );
        assert_eq!(shell(user, &options, &script), "keptkept", "{user:?}");
    }
    assert_eq!(fs::read_to_string(&policy).unwrap(), "kept");
}

#[test]
fn a_protected_link_protects_the_file_that_it_leads_to() {
    let folder = folder();
    let (link, real) = (folder.path().join("log"), folder.path().join("real"));
    std::os::unix::fs::symlink("real", &link).unwrap();
    for user in users() {
        fs::write(&real, "kept").unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&real, fs::Permissions::from_mode(0o666)).unwrap();
        let script = format!(
            "cd {}; for name in log real; do (echo x >> $name) 2>/dev/null && echo written; \
             rm -f $name 2>/dev/null && echo removed; mv $name other 2>/dev/null && echo moved; \
             (echo y > new && mv -f new $name) 2>/dev/null && echo replaced; done; rm -f new; cat log real",
            folder.path().display()
        );
        let options = ["--read-only", link.to_str().unwrap()];
        assert_eq!(shell(user, &options, &script), "keptkept", "{user:?}");
        assert_eq!(fs::read_to_string(&real).unwrap(), "kept", "{user:?}");
    }
}

#[test]
fn hidden_files_are_empty_and_a_missing_one_is_no_matter() {
    let folder = folder();
    let secret = folder.path().join("control.sock");
    fs::write(&secret, "secret").unwrap();
    let missing = folder.path().join("missing");
    let options = [
        "--hidden",
        secret.to_str().unwrap(),
        "--hidden",
        missing.to_str().unwrap(),
    ];
    for user in users() {
        assert_eq!(
            shell(user, &options, &format!("cat {}", secret.display())),
            "",
            "{user:?}"
        );
    }
}

#[test]
fn a_protected_file_that_is_missing_fails_closed() {
    let output = run(
        User::Nobody,
        &["--read-only", "/nonexistent/policy"],
        &["true"],
    );
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn the_working_folder_is_kept_or_changed() {
    let folder = folder();
    let path = folder.path().to_str().unwrap();
    assert_eq!(shell(User::Nobody, &[], "pwd"), "/tmp\n");
    assert_eq!(
        shell(User::Nobody, &["--cwd", path], "pwd"),
        format!("{path}\n")
    );
    assert_eq!(
        run(User::Nobody, &["--cwd", "/nonexistent"], &["true"])
            .status
            .code(),
        Some(125)
    );
}

#[test]
fn stdout_and_stderr_are_byte_exact() {
    const BYTES: usize = 24 * 1024 * 1024;
    const COPY: &str = "import os\n\
        def put(fd, data):\n    while data: data = data[os.write(fd, data):]\n\
        while data := os.read(0, 65536): put(1, data); put(2, data)";
    // A cheap generator of incompressible bytes.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = vec![0_u8; BYTES];
    for chunk in random.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    let mut child = command(User::Nobody, &[], &[PYTHON, "-c", COPY])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let source = random.clone();
    let writer = thread::spawn(move || stdin.write_all(&source).unwrap());
    let errors = thread::spawn(move || {
        let mut got = Vec::with_capacity(BYTES);
        stderr.read_to_end(&mut got).unwrap();
        got
    });
    let mut got = Vec::with_capacity(BYTES);
    stdout.read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == random, "stdout differs");
    assert!(errors.join().unwrap() == random, "stderr differs");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_stream_that_the_command_closes_is_closed_for_its_reader() {
    // Nobody but the caller and the command holds the pipe's end.
    let mut child = command(
        User::Nobody,
        &[],
        &["sh", "-c", "exec <&-; sleep 0.3; echo done"],
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let mut out = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .unwrap();
    assert_eq!(out, "done\n");
    assert!(child.wait().unwrap().success());
}
