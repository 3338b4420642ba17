//! Files of root whose owner programs check, shown to an ordinary user as that user's own.
//!
//! In the sandbox of an ordinary user root has no number, so that root's files are nobody's. ssh refuses
//! such files where its configuration includes them ("Bad owner or permissions"). So read-only copies
//! lie over them, which belong to the user.
//!
//! The files are read by the caller, outside, where it is known whose they are: only those of root that
//! everybody may read and nobody else may write. What another user made is not made trustworthy here.
//! What the host changes later is not followed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::mounts;

/// Where ssh's configuration for all users is, and what its relative paths are below.
const SSH_FOLDER: &str = "/etc/ssh";
const SSH_CONFIG: &str = "ssh_config";
/// The same for one user, in the home folder.
const USER_FOLDER: &str = ".ssh";
const USER_CONFIG: &str = "config";
/// The most files that are looked at.
const MAX_FILES: usize = 64;
/// The most entries of a folder that a pattern is held against.
const MAX_ENTRIES: usize = 1024;
/// What the sandbox has of its own: no copy of the host's file lies over it.
const OWN_PLACES: [&str; 10] = [
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/run",
    "/proc",
    "/sys",
    "/dev",
];
/// The most bytes that are read of all of them.
const MAX_BYTES: u64 = 1024 * 1024;
/// Permissions of group and others to write, which ssh refuses.
const OTHERS_WRITE: u32 = 0o022;
/// Permission of everybody to read.
const ALL_READ: u32 = 0o004;
/// Permissions of a copy.
const COPY_MODE: u32 = 0o444;

/// A file of root's, with what it said when the sandbox was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RootFile {
    path: PathBuf,
    content: Vec<u8>,
}

/// Finds those that matter to ssh. What cannot be read is left out: the program could not read it either.
pub(crate) fn find(home: Option<&Path>) -> Vec<RootFile> {
    let mut search = Search::default();
    let folder = Path::new(SSH_FOLDER);
    search.file(&folder.join(SSH_CONFIG), folder);
    if let Some(home) = home {
        let folder = home.join(USER_FOLDER);
        search.file(&folder.join(USER_CONFIG), &folder);
    }
    search.found
}

#[derive(Debug, Default)]
struct Search {
    seen: BTreeSet<PathBuf>,
    bytes: u64,
    found: Vec<RootFile>,
}

impl Search {
    /// Looks at a file, and at those that it includes; relative paths are below `folder`.
    fn file(&mut self, path: &Path, folder: &Path) {
        // What is included may include more: each file is looked at once.
        let mut waiting = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            let Ok(real) = fs::canonicalize(&path) else {
                continue;
            };
            if self.seen.len() >= MAX_FILES || !self.seen.insert(real.clone()) {
                continue;
            }
            let Ok((content, of_root)) = read(&real, MAX_BYTES - self.bytes) else {
                continue;
            };
            self.bytes += content.len() as u64;
            waiting.extend(included(&content, folder));
            let is_own = OWN_PLACES.iter().any(|place| real.starts_with(place));
            if of_root && !is_own {
                let path = real;
                self.found.push(RootFile { path, content });
            }
        }
    }
}

/// A regular file's content, and whether it is root's and as it should be.
///
/// # Errors
/// It cannot be read, is no regular file, or is longer than `limit` in bytes.
fn read(path: &Path, limit: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.len() > limit {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let of_root =
        found.uid() == 0 && found.mode() & ALL_READ != 0 && found.mode() & OTHERS_WRITE == 0;
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content)?;
    Ok((content, of_root))
}

/// The files that an ssh configuration includes (ssh_config(5)).
fn included(content: &[u8], folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in content.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        let end = line
            .iter()
            .position(|byte| byte.is_ascii_whitespace() || *byte == b'=');
        let Some((keyword, rest)) = end.and_then(|end| line.split_at_checked(end)) else {
            continue;
        };
        if !keyword.eq_ignore_ascii_case(b"include") {
            continue;
        }
        for word in words(rest) {
            let room = MAX_FILES.saturating_sub(found.len());
            found.extend(matching(&word, folder).into_iter().take(room));
        }
    }
    found
}

/// The arguments of a line: separated by space, in quotes where they hold some; a `#` ends them.
fn words(rest: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let rest = rest.trim_ascii_start();
    let mut rest = rest.strip_prefix(b"=").unwrap_or(rest).trim_ascii_start();
    while let Some(first) = rest.first() {
        let (word, after) = match first {
            b'#' => break,
            b'"' | b'\'' => {
                let inner = &rest[1..];
                let end = inner.iter().position(|byte| byte == first);
                let end = end.unwrap_or(inner.len());
                (&inner[..end], inner.get(end + 1..).unwrap_or_default())
            }
            _ => {
                let end = rest.iter().position(u8::is_ascii_whitespace);
                rest.split_at(end.unwrap_or(rest.len()))
            }
        };
        found.push(word.to_vec());
        rest = after.trim_ascii_start();
    }
    found
}

/// The files that a pattern stands for: absolute, below the user's home folder, or below `folder`. A
/// wildcard counts in the last part alone: the folders of a pattern that a program has written could be any.
fn matching(pattern: &[u8], folder: &Path) -> Vec<PathBuf> {
    let path = Path::new(OsStr::from_bytes(pattern));
    let absolute = match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(below), Some(home)) => home.join(below),
        _ => folder.join(path),
    };
    let (Some(folder), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Vec::new();
    };
    let name = name.as_bytes();
    if !name.iter().any(|byte| b"*?".contains(byte)) {
        let is_there = fs::metadata(&absolute).is_ok();
        return is_there.then_some(absolute).into_iter().collect();
    }
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let entries = entries.take(MAX_ENTRIES).filter_map(Result::ok);
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.file_name())
        .filter(|entry| matches(name, entry.as_bytes()) && !entry.as_bytes().starts_with(b"."))
        .map(|entry| folder.join(entry))
        .collect();
    found.sort();
    found
}

/// Whether a name matches a pattern of `*` and `?`. The time is bounded by the product of their lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    // Where the last star stands, and up to where it has been tried.
    let mut star: Option<(usize, usize)> = None;
    while from < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(one) if *one == b'?' || *one == name[from] => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((place, tried)) = star else {
                    return false;
                };
                star = Some((place, tried + 1));
                at = place + 1;
                from = tried + 1;
            }
        }
    }
    pattern[at..].iter().all(|one| *one == b'*')
}

/// Lays the copies over the files. Where that fails, a program sees the file as it is, nobody's.
pub(crate) fn cover(files: &[RootFile]) {
    let copy = Path::new(mounts::OWN).join("copy");
    for file in files {
        let written = fs::write(&copy, &file.content)
            .and_then(|()| fs::set_permissions(&copy, fs::Permissions::from_mode(COPY_MODE)));
        if written.is_ok() {
            let _ = mounts::show(&copy, &file.path);
        }
        // The mount keeps it, and nobody has another way to it.
        let _ = fs::remove_file(&copy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn included_files_are_found_as_ssh_finds_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        fs::create_dir(at("d")).unwrap();
        for name in ["d/a.conf", "d/b.conf", "d/c.txt", "with space", "e"] {
            fs::write(at(name), "").unwrap();
        }
        let text = format!(
            "Host x\n  include d/*.conf # all\nINCLUDE=\"with space\" none\n\
             Include \t= {}\n#Include d/c.txt\nIncludes d/c.txt\nInclude\n",
            at("e").display()
        );
        let found = included(text.as_bytes(), &at(""));
        let expected = ["d/a.conf", "d/b.conf", "with space", "e"].map(at);
        assert_eq!(found, expected);
    }

    #[test]
    fn a_pattern_costs_no_more_than_a_folder() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf.old", false),
            ("a?c*", "abcd", true),
            ("*", "x", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYb", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
        assert!(matching(b"/*/../*/../*/../*/../*/../*/../*/../x", Path::new("/")).len() <= 1);
        assert!(!matches(
            "*a".repeat(200).as_bytes(),
            "a".repeat(199).as_bytes()
        ));
    }

    #[test]
    fn a_loop_of_includes_and_files_that_are_not_read_end_the_search() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("one"), "Include two\n").unwrap();
        fs::write(at("two"), "Include one three pipe .\n").unwrap();
        fs::write(at("three"), vec![b'#'; MAX_BYTES as usize + 1]).unwrap();
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        );
        made.unwrap();
        let mut search = Search::default();
        search.file(&at("one"), folder.path());
        assert_eq!(search.seen.len(), 5);
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(search.found.len(), if is_root { 2 } else { 0 });
        assert!(
            search
                .found
                .iter()
                .all(|file| file.content.starts_with(b"Include"))
        );
    }

    #[test]
    fn only_what_everybody_may_read_and_nobody_else_may_write_counts_as_roots() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "x").unwrap();
        let of_root = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read(&path, 10).unwrap().1
        };
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!([0o644, 0o444, 0o755].map(of_root), [is_root; 3]);
        assert_eq!([0o600, 0o640, 0o664, 0o646].map(of_root), [false; 4]);
        if is_root {
            std::os::unix::fs::chown(&path, Some(1001), None).unwrap();
            assert!(!of_root(0o644));
        }
    }
}
