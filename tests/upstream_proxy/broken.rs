//! Proxies that fail: the program is told in time, with a status that says how, and another proxy
//! takes over where there is one.

use crate::support::{sandbox, world_from};
use portcullis_testkit::{ServiceKind, World, WorldSpec};

const BAD: &str = "198.51.100.91";
const GOOD: &str = "http://proxy.example.corp:3128";

/// The ports of the bad proxies, what they do, and what comes of it.
const HANGS: u16 = 1;
const GARBAGE: u16 = 2;
const CLOSES: u16 = 3;
const RESETS: u16 = 4;
const DEAD: u16 = 5;

fn world() -> World {
    let spec = WorldSpec::standard()
        .service(BAD, HANGS, ServiceKind::Mute)
        // `220 smtp ready`, a line and no more.
        .service(
            BAD,
            GARBAGE,
            ServiceKind::Reply("32323020736d74702072656164790d0a".to_owned()),
        )
        .service(BAD, CLOSES, ServiceKind::Source(0))
        .service(BAD, RESETS, ServiceKind::Reset);
    world_from(spec)
}

fn policy(proxies: &str) -> String {
    format!(
        "version = 1\n[network.domains]\n\"api.example.com\" = \"allow\"\n\
         [network.proxy]\nhttp = {proxies}\nhttps = {proxies}\n"
    )
}

#[test]
fn a_proxy_that_fails_is_a_502_or_504_in_time_and_never_a_200() {
    let world = world();
    for (port, status, error, reason) in [
        (
            GARBAGE,
            "502",
            "http_protocol_error",
            "upstream-proxy-protocol",
        ),
        (
            CLOSES,
            "502",
            "connection_terminated",
            "upstream-proxy-closed",
        ),
        (
            RESETS,
            "502",
            "connection_terminated",
            "upstream-proxy-closed",
        ),
        (
            DEAD,
            "502",
            "destination_unavailable",
            "upstream-proxy-failed",
        ),
        (HANGS, "504", "connection_timeout", "upstream-proxy-timeout"),
    ] {
        let ran = sandbox(&world)
            .policy("toml", &policy(&format!("\"http://{BAD}:{port}\"")))
            .sh("curl -s -m 60 -o /dev/null -D - https://api.example.com/; true");
        let out = ran.out();
        assert!(
            out.starts_with(&format!("HTTP/1.1 {status} ")),
            "{port}: {ran}"
        );
        let words = format!("proxy-status: portcullis; error={error}; details=\"{reason}; id=");
        assert!(out.contains(&words), "{port}: {ran}");
        let record = ran.records.one("connect", "api.example.com");
        assert_eq!(
            (&record["verdict"], &record["reason"]),
            (&"error".into(), &reason.into()),
            "{ran}"
        );
        if port != HANGS {
            // A proxy that hangs on a plain request cannot be told from a server that thinks.
            let ran = sandbox(&world)
                .policy("toml", &policy(&format!("\"http://{BAD}:{port}\"")))
                .sh("curl -s -m 60 -o /dev/null -w '%{http_code}' http://api.example.com/; true");
            assert_eq!(ran.out(), status, "{port}: {ran}");
        }
        // A program that knows no proxy: a reset, and the record says why.
        if port == CLOSES {
            let ran = sandbox(&world)
                .policy("toml", &policy(&format!("\"http://{BAD}:{port}\"")))
                .sh("curl -s -m 60 --noproxy '*' -o /dev/null https://api.example.com/; echo $?");
            assert_ne!(ran.out(), "0\n", "{ran}");
            // curl may try another address: each attempt has its record.
            let records = ran.records.to_string();
            assert!(
                records.contains("transparent") && records.contains(reason),
                "{ran}"
            );
        }
    }
}

#[test]
fn another_proxy_takes_over_from_one_that_fails() {
    let world = world();
    for port in [GARBAGE, CLOSES, RESETS, DEAD, HANGS] {
        let plain = if port == HANGS { "" } else { "http" };
        let ran = sandbox(&world)
            .policy(
                "toml",
                &policy(&format!("[\"http://{BAD}:{port}\", \"{GOOD}\"]")),
            )
            .sh(&format!(
                "for scheme in {plain} https https; do curl -sS -m 60 -o /dev/null \
                 -w '%{{http_code}}\\n' $scheme://api.example.com/; done"
            ));
        ran.assert_ok().assert_no_denial();
        let times = if port == HANGS { 2 } else { 3 };
        assert_eq!(ran.out(), "200\n".repeat(times), "{port}: {ran}");
    }
}
