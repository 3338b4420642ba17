//! Starting `bare` as an ordinary user, and small helpers.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// The user without privileges that tests use when they are started by root.
const NOBODY: &str = "65534";
/// Whoever waits longer than this has failed.
pub const LIMIT: Duration = Duration::from_secs(60);
pub const PYTHON: &str = "/usr/bin/python3";

/// As whom the sandbox is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    Nobody,
    Caller,
}

/// Both kinds of user, for tests that must hold for root too.
pub fn users() -> Vec<User> {
    if is_root() {
        vec![User::Nobody, User::Caller]
    } else {
        vec![User::Caller]
    }
}

pub fn is_root() -> bool {
    // SAFETY: geteuid cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// A folder that everybody may enter and the test's user may write.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new()
        .prefix("portcullis-test-")
        .tempdir()
        .unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

/// The example's binary, where any user can start it.
pub fn bare() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let built = test
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("examples/bare");
        assert!(
            built.exists(),
            "{} is missing: cargo build -p portcullis-sandbox --examples",
            built.display()
        );
        let folder = folder().keep();
        let copy = folder.join("bare");
        fs::copy(&built, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        copy
    })
}

/// `bare OPTIONS -- WORDS`, as the user.
pub fn command<S: AsRef<OsStr>>(user: User, options: &[&str], words: &[S]) -> Command {
    let mut command = if user == User::Nobody && is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
            .arg(bare());
        command
    } else {
        Command::new(bare())
    };
    command
        .args(options)
        .arg("--")
        .args(words)
        .current_dir("/tmp")
        .stdin(Stdio::null());
    command.env(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    command
}

/// Runs to the end, with a limit.
pub fn run<S: AsRef<OsStr>>(user: User, options: &[&str], words: &[S]) -> Output {
    output(command(user, options, words))
}

pub fn output(mut command: Command) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = child.id();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let guard = thread::spawn(move || {
        if wait.recv_timeout(LIMIT).is_err() {
            // SAFETY: the child has not been reaped yet, or nothing is killed.
            unsafe { libc::kill(id as i32, libc::SIGKILL) };
            return false;
        }
        true
    });
    let output = child.wait_with_output().unwrap();
    let _ = done.send(());
    assert!(
        guard.join().unwrap(),
        "took longer than {LIMIT:?}: {output:?}"
    );
    output
}

/// Runs a shell script; it must succeed; what it printed.
pub fn shell(user: User, options: &[&str], script: &str) -> String {
    checked(run(user, options, &["sh", "-c", script]))
}

/// Runs a Python script; it must succeed; what it printed.
pub fn python(user: User, options: &[&str], script: &str) -> String {
    assert!(
        Path::new(PYTHON).exists(),
        "{PYTHON} is missing: apt-get install python3"
    );
    checked(run(user, options, &[PYTHON, "-c", script]))
}

pub fn checked(output: Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{:?}\n{text}\n{error}",
        output.status
    );
    text
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "waited too long for: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process exists whose command line has this mark in it.
pub fn marked_process(mark: &str) -> Option<i32> {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        // The sleeping program itself, not the shells and runners that name it.
        let is_it = words.first().is_some_and(|name| name.ends_with(b"sleep"))
            && words.contains(&mark.as_bytes());
        if is_it && !status.contains("State:\tZ") {
            return Some(pid);
        }
    }
    None
}

/// A number of seconds that no other process sleeps for.
pub fn mark() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}.{next:04}", 100_000 + std::process::id())
}

/// Ends a child that a test left running.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
