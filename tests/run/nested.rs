//! `run` inside `run`: both policies hold.

use crate::support::{portcullis, sandbox, world};

#[test]
fn a_run_inside_a_run_has_what_both_allow() {
    let world = world();
    let program = portcullis();
    let script = format!(
        "{program} run --log inner.jsonl --allow api.example.com --allow only-inner.example.net -- sh -c '\
           curl -sS --noproxy \"*\" -o /dev/null -w \"direct %{{http_code}}\\n\" https://api.example.com/; \
           curl -sS -o /dev/null -w \"proxy %{{http_code}}\\n\" https://api.example.com/; \
           curl -sS --noproxy \"*\" https://www.example.com/ 2>/dev/null || echo inner refused $?; \
           getent hosts only-inner.example.net || echo outer refused $?; \
           nc -zw 25 203.0.113.90 22 2>/dev/null || echo address refused'; echo code $?",
        program = program.display()
    );
    let run = sandbox(&world)
        .allow("api.example.com")
        .allow("www.example.com");
    let ran = run.sh(&script);
    ran.assert_ok();
    for part in [
        "direct 200",
        "proxy 200",
        "inner refused 6",
        "outer refused 2",
        "address refused",
        "code 0",
    ] {
        ran.assert_out(part);
    }
    let inner = crate::support::read_records(&world.home().join("inner.jsonl"));
    assert_eq!(
        inner
            .denials("dns", "not-in-allowlist", "www.example.com")
            .len(),
        2, // one for each type that curl asks for
        "{inner}"
    );
    assert!(
        ran.records.about("www.example.com").is_empty(),
        "the inner gateway let it out: {ran}"
    );
    ran.assert_one_denial("dns", "not-in-allowlist", "only-inner.example.net");
    world.assert_never_asked("only-inner");
}

#[test]
fn exit_codes_and_streams_pass_through_two_sandboxes() {
    let world = world();
    let program = portcullis().display().to_string();
    let line = [
        &*program,
        "run",
        "--",
        "sh",
        "-c",
        "cat; echo aside >&2; exit 9",
    ];
    let ran = sandbox(&world).input("through two").run(&line);
    ran.assert_code(9);
    assert_eq!(
        (ran.out(), ran.err()),
        ("through two".to_owned(), "aside\n".to_owned()),
        "{ran}"
    );
}

#[test]
fn a_run_inside_a_run_as_root_works_or_says_what_to_do() {
    let world = world();
    let program = portcullis().display().to_string();
    let ran = sandbox(&world)
        .as_root()
        .run(&[&*program, "run", "--", "echo", "worked"]);
    match ran.code() {
        Some(0) => {
            ran.assert_out("worked");
        }
        Some(125) => assert!(ran.err().contains("hint:"), "{ran}"),
        _ => panic!("{ran}"),
    }
}
