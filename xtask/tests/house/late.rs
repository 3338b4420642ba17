//! What is made while a command runs stands in ARCHITECTURE.md, with what happens when there is none.

use crate::source::{none, root, shipped};

/// Calls that take a descriptor, a process, a thread or a file.
const CALLS: &[&str] = &[
    "File::open",
    "File::options",
    "OpenOptions",
    "fs::read(",
    "fs::read_to_string(",
    "fs::read_dir(",
    "fs::write(",
    "openat(",
    "openat2(",
    "TcpSocket::new",
    "TcpListener::bind",
    "UdpSocket::bind",
    "listener.accept()",
    "socket_with(",
    "socketpair(",
    "pipe_with(",
    "eventfd(",
    "memfd_create(",
    "inotify::init",
    "SignalFd::with_flags",
    "getifaddrs(",
    "lookup_host(",
    "spawn_blocking(",
    "thread::Builder",
    "thread::spawn",
    "SYS_clone",
    "SYS_pidfd",
    "fork()",
];
const HEADING: &str = "\n## What is made while CMD runs\n";

#[test]
fn whatever_is_made_while_a_command_runs_is_listed() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, section) = text.split_once(HEADING).expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut folder = "";
    let mut listed = Vec::new();
    for word in section.split('`').skip(1).step_by(2) {
        if let Some(at) = word.find("/src/").filter(|_| word.starts_with("crates/")) {
            folder = &word[..at + "/src/".len()];
            listed.push(word.to_owned());
        } else if word.ends_with(".rs") {
            listed.push(format!("{folder}{word}"));
            // A file in the folder of the one before it.
            let before = listed
                .iter()
                .rev()
                .nth(1)
                .and_then(|path| path.rsplit_once('/'));
            if let Some((before, _)) = before {
                let beside = format!("{before}/{word}");
                listed.push(beside);
            }
        }
    }
    let mut missing = Vec::new();
    let mut found = Vec::new();
    for (_, file) in shipped().filter(|(_, file)| !file.is_test && !file.path.ends_with("tests.rs"))
    {
        let code = file.code();
        let call = CALLS
            .iter()
            .find(|call| code.iter().any(|(_, line)| line.contains(**call)));
        let Some(call) = call else { continue };
        if listed
            .iter()
            .any(|path| file.path.starts_with(path.as_str()))
        {
            found.push(file.path);
        } else {
            missing.push(format!("{}: {call}", file.path));
        }
    }
    none(
        "not in ARCHITECTURE.md, \"What is made while CMD runs\":",
        missing,
    );
    assert!(
        found.len() > 30,
        "the calls are not recognised any more: {found:?}"
    );
}
