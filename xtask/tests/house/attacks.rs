//! docs/attacks.md, the table of attacks and of the attachments on which each is tried, is made from the tests.

use std::fmt::Write as _;

use crate::source::{files, root};

const PATH: &str = "docs/attacks.md";
const COMMAND: &str = "UPDATE_DOCS=1 cargo test -p xtask --test house attacks";
const BEGINNING: &str = "\
# Attacks, and where they are tried

Each line is an attack from inside a sandbox that a test makes on every change, named after the test. A cross says
that it is made on that path, and held: *run* (`portcullis run`), *process* and *namespace* (`attach --pid` and
`attach --netns`), *daemon* (a sandbox of `serve`), *guest* (behind a device, whose frames go to `vm-socket` or
`run --tap`). An attack that stands under one path alone is about what only that has, such as mounts, control groups
or frames, or is not tried on the others yet.

The page is made from the tests.
";
const HEAD: &str =
    "| attack | run | process | namespace | daemon | guest |\n|---|---|---|---|---|---|\n";
/// An attack on every path.
const ALL: &str = "x | x | x | x | x";
/// The folders and files of attacks, and on which path a plain test there is made.
const PLACES: [(&str, &str); 5] = [
    ("tests/attacks/frames.rs", " | | | | x"),
    ("tests/attacks/vm_socket.rs", " | | | | x"),
    ("tests/attach/attacks.rs", " | x | | |"),
    ("tests/attacks/", "x | | | |"),
    ("tests/leaks/", "x | | | |"),
];

/// The names in a list of attacks that are made on every path.
fn listed(text: &str) -> Vec<&str> {
    let lists = text.split("crate::attacks! {").skip(1);
    let names = lists.flat_map(|list| list.split('}').next().unwrap_or_default().split(','));
    let names = names.map(str::trim);
    names.filter(|name| !name.is_empty()).collect()
}

/// The names of plain tests.
fn plain(text: &str) -> Vec<&str> {
    let tests = text.split("#[test]\nfn ").skip(1);
    tests.filter_map(|test| test.split('(').next()).collect()
}

fn page() -> String {
    let mut page = BEGINNING.to_owned();
    let mut all = files("tests");
    all.sort_by(|one, other| one.path.cmp(&other.path));
    for file in all {
        let Some((_, path)) = PLACES
            .iter()
            .find(|(place, _)| file.path.starts_with(place))
        else {
            continue;
        };
        let everywhere = listed(&file.text).into_iter().map(|name| (name, ALL));
        let here = plain(&file.text).into_iter().map(|name| (name, *path));
        let rows: Vec<(&str, &str)> = everywhere.chain(here).collect();
        if rows.is_empty() {
            continue;
        }
        write!(page, "\n## `{}`\n\n{HEAD}", file.path).unwrap();
        for (name, paths) in rows {
            writeln!(page, "| {} | {} |", name.replace('_', " "), paths.trim()).unwrap();
        }
    }
    page
}

#[test]
fn attacks_are_in_the_table_as_they_are_tried() {
    let path = root().join(PATH);
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stands == page,
        "{PATH} is not what the tests say: {COMMAND}"
    );
    assert!(page.contains(ALL), "no attack is made on every path");
}
