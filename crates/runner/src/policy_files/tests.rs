//! What a program of the same user does to folders and links changes nothing of what is read.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let inner = folder.path().join("a/b");
    fs::create_dir_all(&inner).unwrap();
    (folder, inner)
}

/// Files of which this path was read before the program started.
fn sealed(path: &Path) -> PolicyFiles {
    let mut files = PolicyFiles::new(1000);
    files.read(path).unwrap();
    files.seal().unwrap();
    files
}

#[test]
fn a_folder_is_the_one_that_it_was_whatever_its_path_leads_to() {
    let (folder, inner) = folder();
    let path = inner.join("policy.toml");
    fs::write(&path, "operator's").unwrap();
    let mut files = sealed(&path);
    fs::rename(folder.path().join("a"), folder.path().join("c")).unwrap();
    fs::create_dir_all(&inner).unwrap();
    fs::write(&path, "program's").unwrap();
    assert_eq!(files.read(&path).unwrap(), "operator's");
    assert!(files.unchanged());
    fs::write(folder.path().join("c/b/policy.toml"), "changed").unwrap();
    assert!(!files.unchanged());
    assert_eq!(files.read(&path).unwrap(), "changed");
}

#[test]
fn a_folder_that_is_new_and_a_file_with_two_names_are_not_read() {
    let (folder, inner) = folder();
    let path = inner.join("policy.toml");
    fs::write(&path, "text").unwrap();
    let mut files = sealed(&path);
    let other = folder.path().join("other.toml");
    fs::write(&other, "text").unwrap();
    let refused = |result: io::Result<String>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
    };
    refused(files.read(&other));
    // Nor one more in the same folder, which anybody of this user can have written.
    fs::write(inner.join("more.toml"), "more").unwrap();
    refused(files.read(&inner.join("more.toml")));
    fs::hard_link(&path, folder.path().join("second")).unwrap();
    refused(files.read(&path));
}

#[test]
fn what_was_put_in_the_place_of_a_file_is_not_read_where_the_program_could_have_written_it() {
    let (_folder, inner) = folder();
    let path = inner.join("policy.toml");
    fs::write(&path, "first").unwrap();
    let mut files = sealed(&path);
    fs::write(&path, "in place").unwrap();
    assert_eq!(files.read(&path).unwrap(), "in place");
    fs::write(inner.join("new"), "replaced").unwrap();
    fs::rename(inner.join("new"), &path).unwrap();
    let error = files.read(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("save it in place"), "{error}");
    // Without a program it is the operator's business.
    assert_eq!(PolicyFiles::new(1000).read(&path).unwrap(), "replaced");
}

#[test]
fn links_of_a_folder_that_others_write_to_lead_where_they_led() {
    let (folder, inner) = folder();
    let way = folder.path().join("policy.toml");
    for version in ["v1", "v2"] {
        fs::create_dir(inner.join(version)).unwrap();
        fs::write(inner.join(version).join("policy.toml"), version).unwrap();
    }
    symlink("v1", inner.join("now")).unwrap();
    symlink("a/b/now/policy.toml", &way).unwrap();
    let mut files = sealed(&way);
    assert_eq!(files.read(&way).unwrap(), "v1");
    // In the middle of the way.
    fs::remove_file(inner.join("now")).unwrap();
    symlink("v2", inner.join("now")).unwrap();
    assert_eq!(files.read(&way).unwrap(), "v1");
    // The link itself, to a folder that was not known.
    fs::remove_file(&way).unwrap();
    symlink("a/b/v2/policy.toml", &way).unwrap();
    assert_eq!(
        files.read(&way).unwrap_err().kind(),
        ErrorKind::PermissionDenied
    );
    // And without a program, as it stands.
    let mut files = PolicyFiles::new(1000);
    assert_eq!(files.read(&way).unwrap(), "v2");
}

#[test]
fn what_is_missing_is_told_from_what_is_there_and_too_much_is_cut() {
    let (_folder, inner) = folder();
    let path = inner.join("policy.toml");
    fs::write(&path, "text").unwrap();
    let mut files = sealed(&path);
    assert!(files.can_change() && files.unchanged());
    let before = files.snapshot();
    fs::remove_file(&path).unwrap();
    assert!(!files.unchanged());
    assert_ne!(files.snapshot(), before);
    assert!(files.read(&path).is_err());
    assert!(files.unchanged(), "still missing");
    let other = inner.join("other.toml");
    fs::write(&other, "x".repeat(5_000)).unwrap();
    let mut files = sealed(&other);
    assert_eq!(files.read(&other).unwrap().len(), 1_001);
}
