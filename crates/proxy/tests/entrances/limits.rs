//! Limits of the sandbox and of single rules, seen from both ends of real connections. How rates are
//! shared and kept is shown in virtual time, beside the meters themselves; times here are only ever
//! asserted to be long enough.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::scenario;
use crate::talk::{End, Talk};
use crate::world::{PATIENCE, Server, World};

/// A policy with limits of the sandbox, and of the rule for `any.example`.
fn policy(sandbox: &str, rule: &str) -> String {
    format!(
        "version = 1\n[network.domains]\n\"a.example\" = \"allow\"\n\"b.example\" = \"allow\"\n\
         \"any.example:*\" = {{ verdict = \"allow\"{rule} }}\n[network.limits]\n{sandbox}\n"
    )
}

async fn ask(world: &World, to: &str) -> TcpStream {
    let mut client = world.http().await;
    client
        .say(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n"))
        .await;
    client
}

/// A tunnel: the program's end and the server's.
async fn tunnel(world: &World, server: &Server, to: &str) -> (TcpStream, TcpStream) {
    let mut client = ask(world, to).await;
    client
        .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
        .await;
    let mut upstream = server.accept().await;
    client.say("open").await;
    upstream.hear_text("open").await;
    (client, upstream)
}

/// Sends so many bytes and hears that they arrive.
async fn pass(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) {
    let sent = vec![7; bytes];
    let ((), heard) = tokio::join!(from.say(&sent), to.hear(bytes));
    assert!(heard == sent);
}

fn denials<'r>(records: &'r crate::world::Records, reason: &str) -> Vec<&'r Value> {
    let denied = |v: &&Value| v["verdict"] == "deny" && v["reason"] == reason;
    records.decisions().into_iter().filter(denied).collect()
}

/// Asks until the gateway lets a connection in again.
async fn let_in_again(world: &World, to: &str) {
    let until = Instant::now() + PATIENCE;
    while !ask(world, to).await.hear_head().await.contains(" 200 ") {
        assert!(Instant::now() < until, "the place stays taken");
        sleep(Duration::from_millis(50)).await;
    }
}

scenario!(
    a_rate_of_a_rule_holds_for_both_directions_and_all_of_its_flows,
    |_usual| {
        let world = World::by(&policy("", ", rate = \"200kB/s\"")).await;
        let server = world.listen("192.0.2.3:9999").await;
        let (mut one, mut upstream_one) = tunnel(&world, &server, "any.example:9999").await;
        let (mut two, mut upstream_two) = tunnel(&world, &server, "any.example:9999").await;
        let started = Instant::now();
        tokio::join!(
            pass(&mut one, &mut upstream_one, 120_000),
            pass(&mut upstream_two, &mut two, 120_000),
        );
        let took = started.elapsed();
        // A burst is 10 kB, which what went before may have left whole.
        assert!(took >= Duration::from_millis(1_000), "240 kB in {took:?}");
        drop((one, two, upstream_one, upstream_two));
        let records = world.records_after(2).await;
        let passed: Vec<_> = records
            .closes()
            .iter()
            .map(|v| {
                (
                    v["bytes_up"].as_u64().unwrap(),
                    v["bytes_down"].as_u64().unwrap(),
                )
            })
            .collect();
        assert!(
            passed.contains(&(120_004, 0)) && passed.contains(&(4, 120_000)),
            "{passed:?}"
        );
    }
);

scenario!(a_rate_of_the_sandbox_holds_for_plain_requests, |_usual| {
    let world = World::by(&policy("bytes_per_second = \"100kB\"", "")).await;
    let server = world.listen("192.0.2.1:80").await;
    let started = Instant::now();
    let mut client = world.http().await;
    client
        .say("POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 60000\r\n\r\n")
        .await;
    let body = vec![b'x'; 60_000];
    client.say(&body).await;
    let mut upstream = server.accept().await;
    upstream.hear_head().await;
    assert!(upstream.hear(body.len()).await == body);
    upstream
        .say("HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
        .await;
    upstream.say(&body).await;
    client.hear_head().await;
    assert!(client.hear(body.len()).await == body);
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1_050), "120 kB in {took:?}");
});

scenario!(
    a_rule_has_so_many_connections_and_says_so_at_every_entrance,
    |_usual| {
        let world = World::by(&policy("", ", connections = 1")).await;
        world.lease("192.0.2.3", "any.example");
        let server = world.listen("192.0.2.3:9999").await;
        let first = tunnel(&world, &server, "any.example:9999").await;
        let head = ask(&world, "any.example:9999").await.hear_head().await;
        assert!(
            head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nretry-after: 1\r\n"), "{head}");
        assert!(
            head.contains("error=connection_limit_reached; details=\"too-many-connections; id=")
        );
        let mut plain = world.http().await;
        plain
            .say("GET http://any.example:9999/p?q=1 HTTP/1.1\r\nHost: any.example:9999\r\n\r\n")
            .await;
        assert!(plain.hear_head().await.starts_with("HTTP/1.1 429 "));
        let mut socks = world.socks().await;
        socks.say([5, 1, 0]).await;
        socks.hear(2).await;
        socks.say(b"\x05\x01\x00\x03\x0bany.example\x27\x0f").await;
        assert_eq!(socks.hear_all().await.0[..2], [5, 2]);
        world.connect_and_be_reset("192.0.2.3:9999").await;
        let records = world.records().await;
        let denied = denials(&records, "too-many-connections");
        let mut at: Vec<_> = denied
            .iter()
            .map(|v| v["protocol"].as_str().unwrap())
            .collect();
        at.sort_unstable();
        assert_eq!(
            at,
            ["connect", "http", "socks5", "transparent"],
            "one each: {:#?}",
            records.0
        );
        for record in denied {
            assert_eq!(record["rule"], "any.example:*", "{record:#}");
            assert_eq!(record["detail"], "connections of the rule", "{record:#}");
        }
        // Others have room, and a place that is given back is taken again.
        let other = world.listen("192.0.2.1:443").await;
        tunnel(&world, &other, "a.example:443").await;
        drop(first);
        let_in_again(&world, "any.example:9999").await;
    }
);

scenario!(
    requests_on_one_kept_connection_are_one_connection_of_their_rule,
    |_usual| {
        let limits = ", connections = 1, connections_per_second = 1";
        let world = World::by(&policy("", limits)).await;
        let server = world.listen("192.0.2.3:80").await;
        let mut client = world.http().await;
        let mut upstream = None;
        for _ in 0..5 {
            client
                .say("GET http://any.example/ HTTP/1.1\r\nHost: any.example\r\n\r\n")
                .await;
            let mut server = match upstream.take() {
                Some(kept) => kept,
                None => server.accept().await,
            };
            server.hear_head().await;
            server.say("HTTP/1.1 204 No Content\r\n\r\n").await;
            assert!(client.hear_head().await.starts_with("HTTP/1.1 204 "));
            upstream = Some(server);
        }
        assert_eq!(
            denials(&world.records().await, "too-many-connections").len(),
            0
        );
    }
);

scenario!(
    new_connections_a_second_are_told_when_to_come_again,
    |_usual| {
        let world = World::by(&policy("connections_per_second = 1", "")).await;
        let server = world.listen("192.0.2.1:443").await;
        let _first = tunnel(&world, &server, "a.example:443").await;
        // However slow the machine is: of many at once, one is one too many.
        let mut refused = 0;
        let until = Instant::now() + PATIENCE;
        while refused == 0 {
            let head = ask(&world, "a.example:443").await.hear_head().await;
            if head.starts_with("HTTP/1.1 429 ") {
                assert!(head.contains("\r\nretry-after: 1\r\n"), "{head}");
                assert!(head.contains("details=\"rate-limited; id="), "{head}");
                refused += 1;
            }
            assert!(Instant::now() < until, "never refused");
        }
        let records = world.records().await;
        let denied = denials(&records, "rate-limited");
        assert_eq!(denied.len(), 1, "{:#?}", records.0);
        assert_eq!(denied[0]["detail"], "connections_per_second of the sandbox");
        let_in_again(&world, "a.example:443").await;
    }
);

scenario!(new_connections_a_second_of_a_rule, |_usual| {
    let world = World::by(&policy("", ", connections_per_second = 1")).await;
    let server = world.listen("192.0.2.3:443").await;
    let _first = tunnel(&world, &server, "any.example:443").await;
    let until = Instant::now() + PATIENCE;
    while denials(&world.records().await, "rate-limited").is_empty() {
        ask(&world, "any.example:443").await.hear_head().await;
        assert!(Instant::now() < until, "never refused");
    }
    let records = world.records().await;
    let denied = denials(&records, "rate-limited");
    assert_eq!(denied[0]["rule"], "any.example:*", "{:#?}", records.0);
    let_in_again(&world, "any.example:443").await;
});

scenario!(
    a_total_cuts_flows_in_mid_stream_and_refuses_what_comes_after,
    |_usual| {
        let world = World::by(&policy("", ", total_bytes = \"50kB\"")).await;
        let server = world.listen("192.0.2.3:9999").await;
        let (mut client, mut upstream) = tunnel(&world, &server, "any.example:9999").await;
        let (mut idle, _upstream) = tunnel(&world, &server, "any.example:9999").await;
        upstream.say(vec![7; 100_000]).await;
        let (heard, end) = client.hear_all().await;
        assert_eq!(end, End::Reset);
        assert!(heard.len() <= 50_000, "{} bytes", heard.len());
        assert_eq!(upstream.hear_all().await, (vec![], End::Reset));
        let records = world.records_after(1).await;
        let close = records.the_close();
        assert_eq!(close["close_reason"], "limit", "{close:#}");
        assert_eq!(close["detail"], "total_bytes of the rule", "{close:#}");
        let passed = close["bytes_up"].as_u64().unwrap() + close["bytes_down"].as_u64().unwrap();
        assert_eq!(
            passed + 4,
            50_000,
            "to the byte: the other one has passed 4"
        );
        // The other flow ends when it would pass more.
        idle.say("x").await;
        assert_eq!(idle.hear_all().await.1, End::Reset);
        let head = ask(&world, "any.example:9999").await.hear_head().await;
        assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
        assert!(head.contains("\r\nretry-after: 60\r\n"), "{head}");
        assert!(head.contains("details=\"total-bytes-used; id="), "{head}");
        let records = world.records_after(2).await;
        assert_eq!(denials(&records, "total-bytes-used").len(), 1);
        let other = world.listen("192.0.2.1:443").await;
        tunnel(&world, &other, "a.example:443").await;
    }
);

scenario!(
    a_total_of_the_sandbox_cuts_a_response_in_its_body,
    |_usual| {
        let world = World::by(&policy("total_bytes = \"30kB\"", "")).await;
        let server = world.listen("192.0.2.1:80").await;
        let mut client = world.http().await;
        client
            .say("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await;
        let mut upstream = server.accept().await;
        upstream.hear_head().await;
        upstream
            .say("HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n")
            .await;
        upstream.say(vec![b'x'; 90_000]).await;
        client.hear_head().await;
        let (heard, end) = client.hear_all().await;
        assert!(
            end == End::Reset && heard.len() < 30_000,
            "{end:?} after {}",
            heard.len()
        );
        let records = world.records_after(1).await;
        let close = records.the_close();
        assert_eq!(close["close_reason"], "limit", "{close:#}");
        let passed = close["bytes_up"].as_u64().unwrap() + close["bytes_down"].as_u64().unwrap();
        assert_eq!(passed, 30_000, "{close:#}");
        let head = ask(&world, "b.example:443").await.hear_head().await;
        assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
        world.lease("192.0.2.2", "b.example");
        world.connect_and_be_reset("192.0.2.2:443").await;
        assert_eq!(denials(&world.records().await, "total-bytes-used").len(), 2);
    }
);

scenario!(
    silence_ends_the_flows_of_a_rule_that_says_so_and_no_other,
    |_usual| {
        let world = World::by(&policy("", ", idle_timeout = \"2s\"")).await;
        let other = world.listen("192.0.2.1:443").await;
        let (mut kept, mut upstream) = tunnel(&world, &other, "a.example:443").await;
        let server = world.listen("192.0.2.3:9999").await;
        let mut silent = ask(&world, "any.example:9999").await;
        silent
            .hear_text("HTTP/1.1 200 Connection established\r\n\r\n")
            .await;
        let mut silent_upstream = server.accept().await;
        assert_eq!(silent.hear_all().await, (vec![], End::Reset));
        assert_eq!(silent_upstream.hear_all().await, (vec![], End::Reset));
        let (mut spoke, _upstream) = tunnel(&world, &server, "any.example:9999").await;
        assert_eq!(spoke.hear_all().await, (vec![], End::Reset));
        let records = world.records_after(2).await;
        for close in records.closes() {
            assert_eq!(close["close_reason"], "idle-timeout", "{close:#}");
            assert_eq!(close["detail"], "idle_timeout", "{close:#}");
        }
        pass(&mut kept, &mut upstream, 10).await;
    }
);

scenario!(
    an_upstream_that_never_answers_a_request_is_silence_too,
    |_usual| {
        let world = World::by(&policy("idle_timeout = \"2s\"", "")).await;
        let server = world.listen("192.0.2.1:80").await;
        let mut client = world.http().await;
        client
            .say("GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
            .await;
        let mut upstream = server.accept().await;
        upstream.hear_head().await;
        assert_eq!(client.hear_all().await, (vec![], End::Reset));
        let records = world.records_after(1).await;
        assert_eq!(records.the_close()["close_reason"], "idle-timeout");
    }
);

scenario!(
    slow_header_bytes_and_half_a_handshake_end_in_their_time,
    |_usual| {
        let limits = "header_timeout = \"2s\"\nhandshake_timeout = \"2s\"";
        let world = World::by(&policy(limits, "")).await;
        let mut head = world.http().await;
        head.say("GET http://a.exa").await;
        let heard = String::from_utf8(head.hear_all().await.0).unwrap();
        assert!(heard.starts_with("HTTP/1.1 408 "), "{heard}");
        assert!(heard.contains("took too long"), "{heard}");
        let mut socks = world.socks().await;
        socks.say([5, 2]).await;
        assert_eq!(socks.hear_all().await.0, b"");
        let server = world.listen("192.0.2.1:443").await;
        world.lease("192.0.2.1", "a.example");
        let mut hello = world.connect("192.0.2.1:443").await;
        let mut upstream = server.accept().await;
        hello.say([22, 3, 1]).await;
        assert_eq!(hello.hear_all().await, (vec![], End::Reset));
        assert_eq!(upstream.hear_all().await, (vec![], End::Reset));
        let records = world.records().await;
        let denied = denials(&records, "malformed");
        let mut at: Vec<_> = denied
            .iter()
            .map(|v| v["protocol"].as_str().unwrap())
            .collect();
        at.sort_unstable();
        assert_eq!(
            at,
            ["http", "socks5", "transparent"],
            "one each: {:#?}",
            records.0
        );
    }
);

scenario!(a_reload_changes_the_rates_of_flows_that_stand, |_usual| {
    let world = World::by(&policy("", ", rate = \"1kB/s\", connections = 1")).await;
    let server = world.listen("192.0.2.3:9999").await;
    let (mut client, mut upstream) = tunnel(&world, &server, "any.example:9999").await;
    upstream.say(vec![7; 200_000]).await;
    client.hear(100).await;
    world.change(&policy("", ", rate = \"10MB/s\", connections = 2"));
    // At the old rate this would take more than three minutes.
    client.hear(199_900).await;
    let _second = tunnel(&world, &server, "any.example:9999").await;
    let head = ask(&world, "any.example:9999").await.hear_head().await;
    assert!(
        head.starts_with("HTTP/1.1 429 "),
        "the first one still counts: {head}"
    );
    world.change(&policy("", ""));
    tunnel(&world, &server, "any.example:9999").await;
});

scenario!(what_a_rule_has_used_outlives_a_reload, |_usual| {
    let limited = policy("", ", total_bytes = \"1000B\"");
    let world = World::by(&limited).await;
    let server = world.listen("192.0.2.3:9999").await;
    let (mut client, mut upstream) = tunnel(&world, &server, "any.example:9999").await;
    pass(&mut upstream, &mut client, 990).await;
    drop((client, upstream));
    world.records_after(1).await;
    world.change(&limited);
    let (mut client, mut upstream) = tunnel(&world, &server, "any.example:9999").await;
    upstream.say("x".repeat(100)).await;
    assert_eq!(client.hear_all().await, (b"xx".to_vec(), End::Reset));
});

scenario!(
    half_open_and_idle_connections_are_bounded_and_others_are_unaffected,
    |_usual| {
        let world = World::by(&policy("connections = 20", "")).await;
        let mut flood = Vec::new();
        for _ in 0..200 {
            flood.extend(world.knock("127.0.0.1:3128").await);
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let records = world.records().await;
            let denied = denials(&records, "too-many-connections");
            let counted: u64 = denied
                .iter()
                .map(|v| v["count"].as_u64().unwrap_or(1))
                .sum();
            if counted >= 180 {
                assert_eq!(counted, 180, "every refusal counts once");
                break;
            }
            assert!(Instant::now() < until, "{counted} refusals are recorded");
            sleep(Duration::from_millis(100)).await;
        }
        drop(flood);
        let _server = world.listen("192.0.2.1:443").await;
        let_in_again(&world, "a.example:443").await;
    }
);
