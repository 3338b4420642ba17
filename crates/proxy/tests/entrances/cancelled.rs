//! Programs that leave in the middle of a plain HTTP exchange: a server that works for nobody is told
//! at once, and a program that has only said all it wants to still gets its answer.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::scenario;
use crate::talk::{End, Talk};
use crate::world::{PATIENCE, World};

/// Long before anything but the program's end would reach the server.
const AT_ONCE: Duration = Duration::from_secs(2);
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// A program that has sent a request to `any.example`, and the server that has heard it.
async fn asked(world: &World, direct: bool) -> (TcpStream, TcpStream) {
    world.lease("192.0.2.3", "any.example");
    let server = world.listen("192.0.2.3:80").await;
    let (mut program, target) = match direct {
        true => (world.connect("192.0.2.3:80").await, ""),
        false => (world.http().await, "http://any.example"),
    };
    let request = format!(
        "POST {target}/generate HTTP/1.1\r\nHost: any.example\r\nContent-Length: 4\r\n\r\nmore"
    );
    program.say(request).await;
    let mut upstream = server.accept().await;
    upstream.hear_head().await;
    upstream.hear_text("more").await;
    (program, upstream)
}

/// What the server hears until the program's end reaches it.
async fn end(upstream: &mut TcpStream) -> (Vec<u8>, End) {
    let heard = timeout(AT_ONCE, upstream.hear_all()).await;
    heard.expect("the server is told at once")
}

scenario!(a_half_closed_program_gets_its_answer, |world| {
    for direct in [false, true] {
        let (mut program, mut upstream) = asked(&world, direct).await;
        program.shutdown().await.unwrap();
        assert_eq!(end(&mut upstream).await, (vec![], End::Orderly));
        sleep(Duration::from_millis(50)).await;
        upstream.say(ANSWER).await;
        assert_eq!(
            program.hear_all().await,
            (ANSWER.into(), End::Orderly),
            "direct: {direct}"
        );
    }
    let records = world.records_after(2).await;
    for close in records.closes() {
        assert_eq!(close["close_reason"], "finished", "{close:#}");
    }
});

scenario!(
    a_program_that_goes_is_seen_to_go_by_a_silent_server,
    |world| {
        for direct in [false, true] {
            let (program, mut upstream) = asked(&world, direct).await;
            drop(program);
            assert_eq!(end(&mut upstream).await, (vec![], End::Orderly));
        }
        let records = world.records_after(2).await;
        for close in records.closes() {
            assert_eq!(close["close_reason"], "client-closed", "{close:#}");
        }
        assert_eq!(records.decisions().len(), 2, "asked once: {:#?}", records.0);
    }
);

scenario!(a_stream_that_nobody_reads_any_more_ends_upstream, |world| {
    for direct in [false, true] {
        let (mut program, mut upstream) = asked(&world, direct).await;
        upstream
            .say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
            .await;
        program.hear_head().await;
        program.hear_text("3\r\none\r\n").await;
        drop(program);
        // A server that does not care about the program's FIN, and goes on.
        let begun = Instant::now();
        while upstream.write_all(b"3\r\ntwo\r\n").await.is_ok() {
            assert!(begun.elapsed() < AT_ONCE, "still streaming");
            sleep(Duration::from_millis(10)).await;
        }
    }
    let records = world.records_after(2).await;
    for close in records.closes() {
        assert_eq!(close["close_reason"], "client-reset", "{close:#}");
    }
});

scenario!(
    a_reset_during_an_upload_that_nobody_takes_ends_upstream,
    |world| {
        world.lease("192.0.2.3", "any.example");
        let server = world.listen("192.0.2.3:80").await;
        let mut program = world.http().await;
        program
        .say("PUT http://any.example/ HTTP/1.1\r\nHost: any.example\r\nContent-Length: 99999999\r\n\r\n")
        .await;
        let mut upstream = server.accept().await;
        upstream.hear_head().await;
        let more = vec![b'm'; 64 * 1024];
        while timeout(Duration::from_millis(300), program.write_all(&more))
            .await
            .is_ok()
        {}
        program.set_zero_linger().unwrap();
        drop(program);
        let records = timeout(AT_ONCE, world.records_after(1)).await;
        let records = records.expect("noticed although the server reads nothing");
        assert_eq!(records.the_close()["close_reason"], "client-reset");
        let read = timeout(PATIENCE, upstream.read_to_end(&mut Vec::new())).await;
        read.expect("an end").expect_err("a reset");
    }
);
