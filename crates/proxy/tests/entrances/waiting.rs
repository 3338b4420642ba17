//! Programs that are gone or silent while the gateway waits for a server, with more of their bytes to
//! be read: by the proxy port, on a direct connection, and inside inspected ones.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::inspect::{both, hear_rest, hear_until, say};
use crate::scenario;
use crate::talk::{End, Talk};
use crate::world::{Records, World};

/// Long before anything but the attack would end the connection.
const SOON: Duration = Duration::from_secs(8);

/// What stands behind a request that is being served.
fn behind(host: &str) -> [(&'static str, String); 4] {
    let request = format!("GET /a HTTP/1.1\r\nHost: {host}\r\n");
    let early = "e".repeat(20 * 1024);
    [
        ("nothing", format!("{request}\r\n")),
        (
            "a head that is refused",
            format!("{request}\r\nGET /b HTTP/1.1\r\nHost: {host}\r\nContent-Length: +1\r\n\r\n"),
        ),
        (
            "another request",
            format!("{request}\r\nGET /b HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ),
        (
            "bytes for a WebSocket",
            format!(
                "{request}Connection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Version: 13\r\n\r\n{early}"
            ),
        ),
    ]
}

async fn world(limits: &str) -> World {
    let world = World::by(&format!(
        "version = 1\n[network.domains]\n\"look.example\" = {{ verdict = \"allow\", inspect = true, \
         ca_file = \"ca.pem\" }}\n\"any.example:80\" = \"allow\"\n[network.limits]\n{limits}\n"
    ))
    .await;
    world.lease("192.0.2.7", "look.example");
    world.lease("192.0.2.3", "any.example");
    world
}

/// A program that has sent this to `any.example`, and the server that has heard the first request.
async fn plain(world: &World, direct: bool, sent: &str) -> (TcpStream, TcpStream) {
    let server = world.listen("192.0.2.3:80").await;
    let (mut program, sent) = match direct {
        true => (world.connect("192.0.2.3:80").await, sent.to_owned()),
        false => {
            let absolute = sent.replace("GET /", "GET http://any.example/");
            (world.http().await, absolute)
        }
    };
    program.say(sent).await;
    let mut upstream = server.accept().await;
    upstream.hear_head().await;
    (program, upstream)
}

/// The connection comes to its end long before the server answers.
async fn ends(world: &World, begun: Instant, closes: usize, reason: &str, what: &str) {
    let records = world.records_after(closes).await;
    assert!(begun.elapsed() < SOON, "{what}: {:?}", begun.elapsed());
    ended(&records, reason, what);
}

fn ended(records: &Records, reason: &str, what: &str) {
    for close in records.closes() {
        assert_eq!(close["close_reason"], reason, "{what}: {close:#}");
    }
}

scenario!(
    a_program_that_resets_while_its_request_is_served,
    |_usual| {
        for direct in [false, true] {
            for (what, sent) in behind("any.example") {
                let world = world("").await;
                let (program, mut upstream) = plain(&world, direct, &sent).await;
                let begun = Instant::now();
                program.set_zero_linger().unwrap();
                drop(program);
                timeout(SOON, upstream.read_to_end(&mut Vec::new()))
                    .await
                    .unwrap_or_else(|_| panic!("{what}, direct: {direct}: still open"))
                    .ok();
                ends(&world, begun, 1, "client-reset", what).await;
            }
        }
        for (what, sent) in behind("look.example") {
            let world = world("").await;
            let (mut program, mut upstream) = both(&world).await;
            say(&mut program, &sent).await;
            hear_until(&mut upstream, "\r\n\r\n").await;
            let begun = Instant::now();
            program.get_ref().0.set_zero_linger().unwrap();
            drop(program);
            timeout(SOON, upstream.read_to_end(&mut Vec::new()))
                .await
                .unwrap_or_else(|_| panic!("inspected, {what}: still open"))
                .ok();
            ends(&world, begun, 2, "client-reset", what).await;
        }
    }
);

scenario!(
    a_server_that_never_answers_is_silence_whatever_else_was_sent,
    |_usual| {
        let limits = "idle_timeout = \"1s\"";
        for direct in [false, true] {
            for (what, sent) in behind("any.example") {
                let world = world(limits).await;
                let (mut program, _upstream) = plain(&world, direct, &sent).await;
                let begun = Instant::now();
                assert_eq!(program.hear_all().await, (vec![], End::Reset), "{what}");
                ends(&world, begun, 1, "idle-timeout", what).await;
            }
        }
        for (what, sent) in behind("look.example") {
            let world = world(limits).await;
            let (mut program, mut upstream) = both(&world).await;
            say(&mut program, &sent).await;
            hear_until(&mut upstream, "\r\n\r\n").await;
            let begun = Instant::now();
            assert_eq!(hear_rest(&mut program).await, "", "{what}");
            ends(&world, begun, 2, "idle-timeout", what).await;
        }
    }
);

scenario!(a_program_that_sends_on_behind_a_refusal, |_usual| {
    let bad = "GET /b HTTP/1.1\r\nHost: look.example\r\nContent-Length: +1\r\n\r\n";
    let world = world("").await;
    let (mut program, _upstream) = both(&world).await;
    say(&mut program, bad).await;
    let begun = Instant::now();
    let (mut reading, mut writing) = tokio::io::split(program);
    let sends = async {
        let more = vec![b'm'; 1024];
        while tokio::io::AsyncWriteExt::write_all(&mut writing, &more)
            .await
            .is_ok()
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let heard = hear_rest(&mut reading).await;
    assert!(heard.starts_with("HTTP/1.1 400 "), "{heard}");
    timeout(SOON, sends)
        .await
        .expect("no longer taken in a moment");
    ends(&world, begun, 1, "client-protocol", "sends on").await;
});
