//! The record of connections to a published port: each has its end, also the one that the
//! sandbox's own end cuts.

use crate::processes::{Background, kill, until};
use crate::support::{read_records, sandbox, world};
use serde_json::Value;

#[test]
fn a_published_connection_that_the_end_cuts_has_its_close_on_record() {
    let world = world();
    let run = sandbox(&world).args(&["--publish", "18082:9000"]);
    let log = run.log().to_owned();
    let server = Background::start(&mut run.command(&["nc", "-lk", "127.0.0.1", "9000"]));
    let mut clients = Vec::new();
    let opened = || -> Option<Value> {
        let records = read_records(&log);
        let opened = |record: &&&Value| record["verdict"] == "allow";
        records.decisions().iter().find(opened).copied().cloned()
    };
    until("a connection to the server inside is on record", || {
        // The first ones may come before the server listens, and are refused.
        let mut client = world.command("nc");
        clients.push(Background::start(client.args(["127.0.0.1", "18082"])));
        opened().is_some()
    });
    let opened = opened().expect("it was there");
    assert_eq!(opened["protocol"], "publish", "{opened}");
    kill("TERM", server.pid());
    server.end();
    let records = read_records(&log);
    let closes = records.closes();
    let close = closes.iter().find(|close| close["id"] == opened["id"]);
    let close = close.unwrap_or_else(|| panic!("no close of {opened}\n{records}"));
    assert!(
        ["shutdown", "client-reset", "client-closed", "finished"]
            .iter()
            .any(|end| close["close_reason"] == *end),
        "{close}"
    );
}
