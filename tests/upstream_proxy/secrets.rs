//! Credentials are seen by nobody in the sandbox, and in no list of processes.

use crate::processes::Background;
use crate::support::{command, sandbox, world};
use std::os::unix::fs::PermissionsExt;

/// A password that no other process of this machine has on its command line.
fn password(test: &str) -> String {
    format!("s3cret-{test}-{}", std::process::id())
}

fn out_lines(out: &str) -> (String, String) {
    let mut lines = out.lines().map(str::to_owned);
    (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    )
}

/// Looks for passwords in whatever a program can read of processes, and for the variable in its own
/// environment; prints how often they are there. The search does not find itself.
const SEARCH: &str = "for file in /proc/[0-9]*/cmdline /proc/[0-9]*/environ; do \
    tr '\\0' '\\n' <$file; echo; done 2>/dev/null | grep -c '[s]3cret-'; env | grep -c COMPANY";

#[test]
fn credentials_of_a_variable_a_file_or_a_flag_reach_nobody_inside() {
    let world = world();
    let secret = password("inside");
    let file = world.file("proxy.secret", format!("alice:{secret}\n"));
    let file = file.display();
    let rules = "version = 1\n[network.domains]\n\"api.example.com\" = \"allow\"\n[network.proxy]\n\
                 https = \"http://proxy.example.corp:3129\"\n";
    let url = format!("http://alice:{secret}@proxy.example.corp:3129");
    let by_file = format!("{rules}credentials_file = \"proxy.secret\"\n");
    let by_variable = format!("{rules}credentials_env = \"COMPANY_SECRET\"\n");
    let runs = [
        sandbox(&world).policy("toml", &by_file),
        sandbox(&world)
            .policy("toml", &by_variable)
            .env("COMPANY_SECRET", &format!("alice:{secret}")),
        sandbox(&world).args(&["--upstream-proxy", &url]),
        sandbox(&world).args(&[&format!("--upstream-proxy={url}")]),
        sandbox(&world).env("PORTCULLIS_UPSTREAM_PROXY", &url),
    ];
    let seen = sandbox(&world).env("OTHER", &secret).sh(SEARCH);
    assert!(
        !seen.out().starts_with("0\n"),
        "the search finds what is there: {seen}"
    );
    for run in runs {
        let ran = run.sh(SEARCH);
        assert_eq!(ran.out(), "0\n0\n", "{ran}");
    }
    let ran = sandbox(&world)
        .policy("toml", &by_file)
        .sh(&format!("cat {file} | wc -c"));
    assert_eq!(ran.out().trim(), "0", "{ran}");
    // A policy whose URL has a password is not to be read either.
    let in_url = rules.replace("http://", &format!("http://alice:{secret}@"));
    let ran = sandbox(&world)
        .policy("toml", &in_url)
        .sh("cat policy-*.toml | grep -c s3cret-; cat policy-*.toml | grep -c credentials_file");
    let (with_password, others) = out_lines(&ran.out());
    assert_eq!(with_password, "0", "{ran}");
    assert_ne!(
        others, "0",
        "the other policies are there to be read: {ran}"
    );
}

#[test]
fn no_list_of_processes_shows_the_flags_credentials() {
    let world = world();
    let secret = password("listed");
    let url = format!("http://alice:{secret}@proxy.example.corp:3129");
    let run = sandbox(&world).args(&["--upstream-proxy", &url]);
    let process = Background::start(&mut run.command(&["sh", "-c", "echo ready; sleep 3000"]));
    process.wait_line("ready");
    let own = std::process::id();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let path = entry.path().join("cmdline");
        let line = std::fs::read(&path).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        assert!(
            !line.contains(&secret) || entry.file_name() == own.to_string().as_str(),
            "{}: {line}",
            path.display()
        );
    }
    drop(process);
}

#[test]
fn policy_check_warns_of_credentials_that_others_may_read() {
    let world = world();
    let secret = world.file("proxy.secret", "alice:secret\n");
    let policy = world.file(
        "checked.toml",
        "version = 1\n[network.proxy]\nhttps = \"http://proxy.example.corp:3129\"\n\
         credentials_file = \"proxy.secret\"\n",
    );
    let check = || command(&world, &["policy", "check", &policy.display().to_string()]);
    let mode = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&secret, permissions).expect("chmod");
    };
    mode(0o644);
    let said = check();
    assert!(said.ok() && said.out().contains("1 warning"), "{said}");
    assert!(
        said.err().contains("chmod 600") && !said.err().contains("alice"),
        "{said}"
    );
    mode(0o400);
    if check().ok() {
        // Its owner is who checks; elsewhere it cannot be read at all, and that is an error.
        assert!(check().out().contains("no warnings"), "{}", check());
    }
}
