//! The source as the rules see it: product code apart from tests, comments and texts blanked.

use std::path::{Path, PathBuf};

/// The crates that are shipped, in the order of the arrows: each may use those before it.
pub const SHIPPED: [&str; 14] = [
    "sandbox", "names", "wire", "guest", "tls", "policy", "record", "dns", "dial", "proxy",
    "gateway", "control", "runner", "cli",
];

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the repository")
        .to_owned()
}

/// A Rust file.
pub struct File {
    /// Relative to the repository.
    pub path: String,
    /// As it stands.
    pub text: String,
    /// Whether the whole file is tests: by its place, or because it is a `#[cfg(test)] mod`.
    pub is_test: bool,
}

impl File {
    /// The lines of code that are shipped, numbered from 1: no comments, no tests, nothing for fuzzing.
    pub fn code(&self) -> Vec<(usize, String)> {
        let mut out = Vec::new();
        // How deep the braces are, and the depth at which a test item began.
        let (mut depth, mut hidden_from, mut test_next) = (0i32, None, false);
        for (index, line) in self.text.lines().enumerate() {
            let code = without_comment(line);
            if is_for_tests(code.trim_start()) && hidden_from.is_none() {
                test_next = true;
            }
            let (opened, closed) = (count(&code, '{'), count(&code, '}'));
            if test_next && hidden_from.is_none() {
                if opened > 0 && opened != closed {
                    hidden_from = Some(depth);
                    test_next = false;
                } else if code.trim_end().ends_with([';', '}']) {
                    test_next = false;
                    depth += opened - closed;
                    continue;
                }
            }
            if hidden_from.is_none() && !test_next {
                out.push((index + 1, code.clone()));
            }
            depth += opened - closed;
            if hidden_from.is_some_and(|from| depth <= from) {
                hidden_from = None;
            }
        }
        out
    }
}

fn count(code: &str, wanted: char) -> i32 {
    let mut in_text = false;
    let mut before = ' ';
    let mut number = 0;
    for c in code.chars() {
        match c {
            '"' if before != '\\' && before != '\'' => in_text = !in_text,
            c if c == wanted && !in_text && before != '\'' => number += 1,
            _ => {}
        }
        before = c;
    }
    number
}

fn without_comment(line: &str) -> String {
    match line.find("//") {
        // An address in a text has two slashes too.
        Some(at) if !line[..at].ends_with(':') => line[..at].to_owned(),
        _ => line.to_owned(),
    }
}

/// Every Rust file below a folder of the repository.
pub fn files(below: &str) -> Vec<File> {
    let mut found = Vec::new();
    walk(&root().join(below), "rs", &mut found);
    let modules: Vec<String> = found.iter().flat_map(test_modules).collect();
    for file in &mut found {
        file.is_test |= modules.contains(&file.path);
    }
    found
}

/// Whether what follows is built for tests or fuzz targets alone.
fn is_for_tests(line: &str) -> bool {
    ["#[cfg(test)]", "#[cfg(fuzzing)]"]
        .iter()
        .any(|kind| line.starts_with(kind))
}

/// The files that a file declares as `#[cfg(test)] mod NAME;`, or for fuzzing.
fn test_modules(file: &File) -> Vec<String> {
    let path = Path::new(&file.path);
    let (folder, stem) = (path.parent(), path.file_stem());
    let (Some(folder), Some(stem)) = (folder, stem.and_then(|s| s.to_str())) else {
        return Vec::new();
    };
    let below = match stem {
        "lib" | "main" | "mod" => folder.to_owned(),
        stem => folder.join(stem),
    };
    let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
    lines
        .windows(2)
        .filter(|pair| is_for_tests(pair[0]))
        .filter_map(|pair| pair[1].split("mod ").nth(1)?.strip_suffix(';'))
        .flat_map(|name| [format!("{name}.rs"), format!("{name}/mod.rs")])
        .map(|name| below.join(name).to_string_lossy().into_owned())
        .collect()
}

/// Every file with this ending below a folder of the repository.
pub fn files_ending(below: &str, ending: &str) -> Vec<File> {
    let mut found = Vec::new();
    walk(&root().join(below), ending, &mut found);
    found
}

fn walk(folder: &Path, ending: &str, found: &mut Vec<File>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') && name != "node_modules" {
                walk(&path, ending, found);
            }
        } else if path.extension().is_some_and(|e| e == ending) {
            let relative = path.strip_prefix(root()).unwrap_or(&path);
            let relative = relative.to_string_lossy().into_owned();
            found.push(File {
                is_test: relative.contains("/tests/") || relative.starts_with("tests/"),
                path: relative,
                text: std::fs::read_to_string(&path).unwrap_or_default(),
            });
        }
    }
}

/// Fails with all that was found, at once.
pub fn none(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}\n  {}\n", broken.join("\n  "));
}

/// The shipped files, with their crate.
pub fn shipped() -> impl Iterator<Item = (&'static str, File)> {
    SHIPPED.into_iter().flat_map(|name| {
        files(&format!("crates/{name}/src"))
            .into_iter()
            .map(move |file| (name, file))
    })
}

#[test]
fn tests_and_comments_are_not_code() {
    let text = "fn a() {} // b()\n#[cfg(test)]\nmod tests {\n  fn c() { d() }\n}\nfn e() {}\n\
                #[cfg(test)]\nmod more;\nfn f() { \"http://x\" }";
    let file = File {
        path: String::new(),
        text: text.to_owned(),
        is_test: false,
    };
    let code: Vec<String> = file
        .code()
        .into_iter()
        .map(|(n, line)| format!("{n} {line}"))
        .collect();
    assert_eq!(
        code,
        ["1 fn a() {} ", "6 fn e() {}", "9 fn f() { \"http://x\" }"]
    );
}
