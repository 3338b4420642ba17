//! DNS behaviour as files: a sentence of intent, steps in virtual time, expected replies, what the
//! resolvers heard and what the record says. One for each clause of an RFC, line of the contract or
//! bug. How they are written is told in `tests/scenarios/README.md`; each file is a test of its name.

mod ask;
mod driver;
mod logs;
mod resolver;
mod rr;
mod tree;

/// A test for each file.
macro_rules! scenarios {
    ($($name:ident)*) => {
        /// The files that are run.
        const FILES: &[&str] = &[$(stringify!($name),)*];

        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*
    };
}

scenarios! {
    rfc1034_canonical_name_resolves_while_its_chain_is_known
}

/// Where the files are.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios");

fn run(name: &str) {
    let path = format!("{FOLDER}/{name}.scenario");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    driver::run(name, &text);
}

#[test]
fn every_scenario_file_is_run() {
    let mut files: Vec<String> = std::fs::read_dir(FOLDER)
        .expect("the folder of scenarios")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".scenario")?.to_owned()))
        .collect();
    files.sort();
    assert_eq!(files, FILES, "each file of the folder, in order");
}
