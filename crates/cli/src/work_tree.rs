//! Files that are read-only inside and lie in a git work tree: git cannot replace them there, and says
//! no more than "Device or resource busy".

use std::path::{Path, PathBuf};

/// What marks the top of a work tree: a folder, or a file in one that shares its repository.
const MARK: &str = ".git";

/// What is to be told before CMD starts, where it runs in a work tree that holds one of these files.
pub fn warning<'a>(files: impl IntoIterator<Item = &'a Path>) -> Option<String> {
    let here = std::env::current_dir().ok()?;
    let top = top_of(&here)?;
    let inside = |file: &Path| {
        // A log may not be there yet.
        let folder = std::path::absolute(file).ok()?;
        let folder = std::fs::canonicalize(folder.parent()?).ok()?;
        let file = folder.join(file.file_name()?);
        let rest = file.strip_prefix(&top).ok()?;
        (!rest.starts_with(MARK)).then(|| rest.display().to_string())
    };
    let mut files: Vec<String> = files.into_iter().filter_map(inside).collect();
    files.sort();
    files.dedup();
    if files.is_empty() {
        return None;
    }
    let (them, are) = match files.len() {
        1 => ("it", "is"),
        _ => ("one of them", "are"),
    };
    Some(format!(
        "{} {are} read-only for the command: `git checkout`, `git stash` and `git clean` fail there \
         (\"Device or resource busy\") where they would replace or remove {them}",
        files.join(", ")
    ))
}

/// The work tree that a folder is in.
fn top_of(folder: &Path) -> Option<PathBuf> {
    let folder = std::fs::canonicalize(folder).ok()?;
    let mut above = folder.ancestors();
    let top = above.find(|folder| std::fs::symlink_metadata(folder.join(MARK)).is_ok())?;
    Some(top.to_owned())
}
