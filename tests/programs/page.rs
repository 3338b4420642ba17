//! The list of programs as a page of the documents.

use crate::table::{From, PROGRAMS};
use std::fmt::Write as _;

const PATH: &str = "docs/programs.md";
const COMMAND: &str = "UPDATE_DOCS=1 cargo test --test programs page";
const BEGINNING: &str = "\
# Programs that were tried

Each program below does the same inside as outside: without proxy variables and with `--proxy-env basic` and
`full`, with and without inspection (`inspect = true`). It prints the same, on stderr too. `cargo xtask test` tries
those of Debian that are small; `cargo xtask programs` installs all of them and tries them.

The page is made from `tests/programs/table.rs`. *Trusts by* says how the program knows the sandbox's authority
when it is looked into. Programs that work without HTTPS (SSH, databases, Kerberos), Java and Go have tests of their own in
`tests/clients`, `tests/cases`, `tests/inspection` and `tests/kerberos`.

| program | version | from | does | trusts by |
|---|---|---|---|---|
";

fn page() -> String {
    let mut page = BEGINNING.to_owned();
    for program in PROGRAMS {
        let (name, tried, does) = (program.name, program.tried, program.does);
        let from = program.from.words();
        let trusts = program.trusts.unwrap_or("–");
        writeln!(page, "| {name} | {tried} | {from} | {does} | {trusts} |").unwrap();
    }
    page
}

#[test]
fn the_page_is_what_the_table_says() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PATH);
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stands == page,
        "{PATH} is not what the table says: {COMMAND}"
    );
    assert!(PROGRAMS.iter().any(|program| program.from == From::Debian));
}
