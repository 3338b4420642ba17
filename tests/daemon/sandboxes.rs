//! Each sandbox of a daemon has a policy, leases, limits and records of its own.

use crate::support::{read_records, world};
use crate::{API, BIG, Daemon, LIMIT, at};
use serde_json::json;

#[test]
fn each_is_served_by_its_own_policy_and_recorded_on_its_own() {
    let world = world();
    let daemon = Daemon::start(&world, "labels = { cluster = \"eu\" }\n");
    let (one, one_dns) = daemon.make("one", API);
    let (two, _) = daemon.make("two", BIG);
    assert_eq!(daemon.status(&one, "api.example.com"), 200);
    assert_eq!(daemon.status(&one, "big.example.com"), 403);
    assert_eq!(daemon.status(&two, "big.example.com"), 200);
    assert_eq!(daemon.status(&two, "api.example.com"), 403);
    let (address, port) = one_dns.split_once(':').unwrap();
    let server = format!("@{address}");
    let dig = |name: &str| {
        let args = [&server, "-p", port, "+tries=1", name, "A"];
        world.run("dig", &args, LIMIT).out()
    };
    assert!(dig("api.example.com").contains("203.0.113.10"));
    assert!(dig("big.example.com").contains("NXDOMAIN"));
    let records = |name: &str| read_records(&world.home().join(format!("log/{name}.jsonl"))).0;
    for (name, denied) in [("one", "big.example.com"), ("two", "api.example.com")] {
        crate::processes::until("the denial is on record", || {
            let records = records(name);
            records.iter().any(|record| record["verdict"] == "deny")
        });
        let records = records(name);
        assert!(records.iter().all(|record| record["sandbox"] == name));
        assert!(
            records
                .iter()
                .all(|record| record["labels"]["cluster"] == "eu")
        );
        let denials = records.iter().filter(|record| record["verdict"] == "deny");
        assert!(
            denials.clone().all(|record| record["name"] == denied),
            "{records:?}"
        );
    }
    let (status, metrics) = daemon.get("/metrics");
    let metrics = metrics.as_str().unwrap_or_default();
    assert_eq!(status, 200);
    assert!(
        metrics.contains("portcullis_sandboxes{state=\"serving\"} 2"),
        "{metrics}"
    );
    assert!(metrics.contains("sandbox=\"one\""), "{metrics}");
    assert!(
        metrics.ends_with("# EOF\n") || metrics.ends_with("# EOF"),
        "{metrics}"
    );
    assert!(
        !metrics.contains("example.com"),
        "no series for a name: {metrics}"
    );
}

#[test]
fn a_pushed_policy_takes_effect_and_a_bad_one_changes_nothing() {
    let world = world();
    let daemon = Daemon::start(&world, "");
    let (proxy, _) = daemon.make("one", API);
    world.file("big.toml", BIG);
    world.file(
        "bad.toml",
        "version = 1\n[network.domains]\n\"*.com\" = \"allow\"\n",
    );
    let bad = daemon.cli(&["policy", "push", "one", "bad.toml"]);
    assert_eq!(bad.code(), Some(2), "{}", bad.err());
    assert!(bad.err().contains("line 3"), "{}", bad.err());
    assert_eq!(daemon.status(&proxy, "api.example.com"), 200);
    let pushed = daemon.cli(&["policy", "push", "one", "big.toml"]);
    assert_eq!(pushed.code(), Some(0), "{}", pushed.err());
    assert!(
        pushed.out().starts_with("in force: 1 rule"),
        "{}",
        pushed.out()
    );
    assert_eq!(daemon.status(&proxy, "api.example.com"), 403);
    assert_eq!(daemon.status(&proxy, "big.example.com"), 200);
    let explained = daemon.cli(&["explain", "--sandbox", "one", "api.example.com"]);
    assert_eq!(explained.code(), Some(1), "{}", explained.err());
    assert!(
        explained.out().starts_with("deny api.example.com"),
        "{}",
        explained.out()
    );
    let records = read_records(&world.home().join("log/one.jsonl")).0;
    let of = |reason: &str| {
        records
            .iter()
            .filter(|record| record["reason"] == reason)
            .count()
    };
    assert_eq!(of("policy-rejected"), 1, "{records:?}");
    assert_eq!(of("policy-reloaded"), 1, "{records:?}");
}

#[test]
fn audit_is_switched_on_and_off_under_traffic() {
    let world = world();
    let daemon = Daemon::start(&world, "");
    let (proxy, _) = daemon.make("one", API);
    assert_eq!(daemon.status(&proxy, "big.example.com"), 403);
    for (audit, status) in [(true, 200), (false, 403)] {
        let change = json!({ "audit": audit });
        let (code, changed) = daemon.ask("PATCH", "/v1/sandboxes/one", Some(&change));
        assert_eq!((code, &changed["audit"]), (200, &json!(audit)), "{changed}");
        assert_eq!(daemon.status(&proxy, "big.example.com"), status);
    }
}

#[test]
fn the_configuration_names_sandboxes_whose_files_are_followed() {
    let world = world();
    world.file("one.toml", API);
    let sandbox = "[[sandbox]]\nname = \"one\"\npolicy = [\"one.toml\"]\n\
        attach = { kind = \"listeners\", dns = \"127.0.0.1:0\", http = \"127.0.0.1:0\" }\n";
    let daemon = Daemon::start(&world, sandbox);
    let (proxy, _) = at(&daemon.get("/v1/sandboxes/one").1);
    assert_eq!(daemon.status(&proxy, "api.example.com"), 200);
    world.file("one.toml", BIG);
    crate::processes::until("the file's change is in force", || {
        daemon.status(&proxy, "big.example.com") == 200
    });
    assert_eq!(daemon.status(&proxy, "api.example.com"), 403);
    let (status, problem) = daemon.ask("DELETE", "/v1/sandboxes/one", None);
    assert_eq!(status, 409, "{problem}");
    let listed = daemon.cli(&["ps"]).out();
    assert!(listed.contains("one   serving"), "{listed}");
    let listed = daemon.cli(&["ps", "--json"]).out();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["name"], "one");
    let looked = daemon.cli(&["top", "--looks", "1"]).out();
    assert!(looked.starts_with("1 sandbox, "), "{looked}");
}

#[test]
fn decisions_are_followed_as_they_fall() {
    let world = world();
    let daemon = Daemon::start(&world, "");
    let (proxy, _) = daemon.make("one", API);
    let mut curl = world.command("curl");
    curl.args(["-sN", "--max-time", "20", "--unix-socket"])
        .arg(&daemon.socket)
        .arg("http://localhost/v1/sandboxes/one/decisions?verdict=deny");
    let follower = crate::Background::start(&mut curl);
    follower.wait_line(": following");
    assert_eq!(daemon.status(&proxy, "api.example.com"), 200);
    assert_eq!(daemon.status(&proxy, "big.example.com"), 403);
    follower.wait_line("event: decision");
    // The stream ends with the sandbox.
    assert_eq!(daemon.ask("DELETE", "/v1/sandboxes/one", None).0, 204);
    let (status, said) = follower.end();
    assert!(status.success(), "{said}");
}
