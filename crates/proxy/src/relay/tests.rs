//! Real sockets on loopback, with a relay between them.

use std::io;
use std::time::Duration;

use proptest::prelude::*;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::limits::{KEEPALIVE_TIME, MAX_POOLED_PIPES, MAX_SPLICE_BYTES};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than two sockets and a pipe hold.
const MUCH: usize = 24 * 1024 * 1024;
/// What one side keeps for a while before it is read; small, so that little data fills it.
const BUFFER_BYTES: u32 = 32 * 1024;

/// Two ends of a connection; neither takes much before the other reads.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpSocket::new_v4().unwrap();
    listener.set_recv_buffer_size(BUFFER_BYTES).unwrap();
    listener.set_send_buffer_size(BUFFER_BYTES).unwrap();
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listener.listen(1).unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(BUFFER_BYTES).unwrap();
    socket.set_send_buffer_size(BUFFER_BYTES).unwrap();
    let to = listener.local_addr().unwrap();
    let (one, other) = tokio::join!(socket.connect(to), listener.accept());
    let (one, (other, _)) = (one.unwrap(), other.unwrap());
    one.set_nodelay(true).unwrap();
    other.set_nodelay(true).unwrap();
    (one, other)
}

/// The same with the buffers that sockets usually have.
async fn roomy_connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(to), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

/// A program, a destination, and the relay between them, which ends with what it carried.
fn between(
    (program, client): (TcpStream, TcpStream),
    (upstream, destination): (TcpStream, TcpStream),
) -> (TcpStream, TcpStream, JoinHandle<(CloseReason, u64, u64)>) {
    let running = tokio::spawn(async move {
        let mut relay = Relay::new(client, Stream::Tcp(upstream));
        let end = relay.run(&Stop::default()).await;
        let (up, down) = relay.bytes();
        (end, up, down)
    });
    (program, destination, running)
}

async fn relayed() -> (TcpStream, TcpStream, JoinHandle<(CloseReason, u64, u64)>) {
    between(connection().await, connection().await)
}

async fn end(running: JoinHandle<(CloseReason, u64, u64)>) -> (CloseReason, u64, u64) {
    timeout(PATIENCE, running).await.expect("ends").unwrap()
}

async fn hear(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut heard = vec![0; bytes];
    let reading = timeout(PATIENCE, stream.read_exact(&mut heard));
    reading.await.expect("in time").unwrap();
    heard
}

/// Up to the end, and whether that is a reset.
async fn hear_all(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut heard = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut heard)).await;
    let reset = match read.expect("in time") {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
            true
        }
    };
    (heard, reset)
}

fn pattern(from: usize, bytes: usize) -> Vec<u8> {
    (from..from + bytes)
        .map(|at| (at / 251 + at) as u8)
        .collect()
}

/// Writes the pattern until nobody takes any more of it for a while; how much was taken.
async fn stuff(stream: &mut TcpStream) -> usize {
    let mut taken = 0;
    loop {
        let piece = pattern(taken, 32 * 1024);
        // A write that is given up has written nothing.
        match timeout(Duration::from_millis(500), stream.write(&piece)).await {
            Ok(written) => taken += written.unwrap(),
            Err(_) => return taken,
        }
        assert!(taken < MUCH, "backpressure");
    }
}

#[tokio::test]
async fn bulk_is_spliced_and_every_byte_counted() {
    let (mut program, mut destination, running) =
        between(roomy_connection().await, roomy_connection().await);
    let before = pipe::testing::spliced();
    let bytes = pattern(0, MUCH);
    let (told, heard) = tokio::join!(
        async {
            program.write_all(&bytes).await.unwrap();
            program.shutdown().await.unwrap();
        },
        hear_all(&mut destination)
    );
    let () = told;
    assert!(heard.0 == bytes && !heard.1);
    destination.write_all(&bytes[..100_000]).await.unwrap();
    destination.shutdown().await.unwrap();
    assert!(hear_all(&mut program).await == (bytes[..100_000].to_vec(), false));
    assert_eq!(
        end(running).await,
        (CloseReason::Finished, MUCH as u64, 100_000)
    );
    let spliced = pipe::testing::spliced() - before;
    assert!(spliced > MUCH as u64 / 2, "{spliced} bytes spliced");
}

#[tokio::test]
async fn a_small_flow_takes_no_pipe() {
    let (mut program, mut destination, running) = relayed().await;
    let before = pipe::testing::spliced();
    for turn in 0..200 {
        let word = pattern(turn, 1 + turn * 7);
        program.write_all(&word).await.unwrap();
        assert_eq!(hear(&mut destination, word.len()).await, word);
        destination.write_all(&word).await.unwrap();
        assert_eq!(hear(&mut program, word.len()).await, word);
    }
    drop(program);
    assert_eq!(hear_all(&mut destination).await, (vec![], false));
    drop(destination);
    assert_eq!(end(running).await.0, CloseReason::Finished);
    assert_eq!(pipe::testing::spliced(), before);
}

#[tokio::test]
async fn one_byte_at_a_time_arrives() {
    let (mut program, mut destination, running) = relayed().await;
    let bytes = pattern(0, 20_000);
    let all = bytes.clone();
    let telling = tokio::spawn(async move {
        for byte in all {
            program.write_all(&[byte]).await.unwrap();
        }
        program
    });
    assert!(hear(&mut destination, bytes.len()).await == bytes);
    // And a receiver that takes one at a time.
    destination.write_all(&bytes).await.unwrap();
    destination.shutdown().await.unwrap();
    let mut program = telling.await.unwrap();
    for byte in bytes {
        assert_eq!(hear(&mut program, 1).await, [byte]);
    }
    assert_eq!(hear_all(&mut program).await, (vec![], false));
    drop(program);
    assert_eq!(end(running).await, (CloseReason::Finished, 20_000, 20_000));
}

/// What waits in sockets and pipe is bounded, and comes out whole behind a half-close.
async fn half_close_behind_a_full_pipe(upwards: bool) {
    let (program, destination, running) = relayed().await;
    let (mut teller, mut hearer) = match upwards {
        true => (program, destination),
        false => (destination, program),
    };
    let before = pipe::testing::spliced();
    let taken = stuff(&mut teller).await;
    assert!(pipe::testing::spliced() > before, "the pipe was in use");
    teller.shutdown().await.unwrap();
    let (heard, reset) = hear_all(&mut hearer).await;
    assert!(heard == pattern(0, taken) && !reset);
    hearer.write_all(b"still here").await.unwrap();
    assert_eq!(hear(&mut teller, 10).await, b"still here");
    drop(hearer);
    assert_eq!(hear_all(&mut teller).await, (vec![], false));
    let there = taken as u64;
    let expected = match upwards {
        true => (CloseReason::Finished, there, 10),
        false => (CloseReason::Finished, 10, there),
    };
    assert_eq!(end(running).await, expected);
}

#[tokio::test]
async fn half_close_keeps_what_is_in_the_pipe_upwards() {
    half_close_behind_a_full_pipe(true).await;
}

#[tokio::test]
async fn half_close_keeps_what_is_in_the_pipe_downwards() {
    half_close_behind_a_full_pipe(false).await;
}

/// The teller resets while the pipe is full: the hearer hears what it is still given, each byte at
/// its place, and then the reset.
async fn reset_behind_a_full_pipe(upwards: bool) {
    let (program, destination, running) = relayed().await;
    let (mut teller, mut hearer) = match upwards {
        true => (program, destination),
        false => (destination, program),
    };
    let taken = stuff(&mut teller).await;
    teller.set_zero_linger().unwrap();
    drop(teller);
    let (heard, reset) = hear_all(&mut hearer).await;
    assert!(reset && heard.len() <= taken && heard == pattern(0, heard.len()));
    let (close, up, down) = end(running).await;
    let (expected, counted) = match upwards {
        true => (CloseReason::ClientReset, up),
        false => (CloseReason::UpstreamReset, down),
    };
    assert_eq!(close, expected);
    assert!(counted >= heard.len() as u64 && counted <= taken as u64);
}

#[tokio::test]
async fn reset_passes_a_full_pipe_upwards() {
    reset_behind_a_full_pipe(true).await;
}

#[tokio::test]
async fn reset_passes_a_full_pipe_downwards() {
    reset_behind_a_full_pipe(false).await;
}

/// The hearer resets while the pipe is full: the teller learns it at once.
async fn reset_before_a_full_pipe(upwards: bool) {
    let (program, destination, running) = relayed().await;
    let (mut teller, hearer) = match upwards {
        true => (program, destination),
        false => (destination, program),
    };
    stuff(&mut teller).await;
    hearer.set_zero_linger().unwrap();
    drop(hearer);
    assert!(hear_all(&mut teller).await.1, "a reset");
    let expected = match upwards {
        true => CloseReason::UpstreamReset,
        false => CloseReason::ClientReset,
    };
    assert_eq!(end(running).await.0, expected);
}

#[tokio::test]
async fn a_receivers_reset_is_told_through_a_full_pipe_upwards() {
    reset_before_a_full_pipe(true).await;
}

#[tokio::test]
async fn a_receivers_reset_is_told_through_a_full_pipe_downwards() {
    reset_before_a_full_pipe(false).await;
}

#[tokio::test]
async fn without_pipes_bytes_are_copied() {
    let _none = pipe::testing::without_pipes();
    let before = pipe::testing::spliced();
    half_close_behind_a_full_pipe_copied().await;
    assert_eq!(pipe::testing::spliced(), before);
}

async fn half_close_behind_a_full_pipe_copied() {
    let (mut program, mut destination, running) = relayed().await;
    let taken = stuff(&mut program).await;
    program.shutdown().await.unwrap();
    let (heard, reset) = hear_all(&mut destination).await;
    assert!(heard == pattern(0, taken) && !reset);
    drop(destination);
    assert_eq!(end(running).await, (CloseReason::Finished, taken as u64, 0));
}

#[tokio::test]
async fn pipes_run_out_in_the_middle_of_a_flow() {
    let (mut program, mut destination, running) = relayed().await;
    let first = stuff(&mut program).await;
    assert!(hear(&mut destination, first).await == pattern(0, first));
    let none = pipe::testing::without_pipes();
    let bytes = pattern(first, 1_000_000);
    let (told, heard) = tokio::join!(program.write_all(&bytes), hear(&mut destination, 1_000_000));
    told.unwrap();
    assert!(heard == pattern(first, 1_000_000));
    drop(none);
    let rest = first + 1_000_000;
    let bytes = pattern(rest, 1_000_000);
    let (told, heard) = tokio::join!(program.write_all(&bytes), hear(&mut destination, 1_000_000));
    told.unwrap();
    assert!(heard == pattern(rest, 1_000_000));
    drop((program, destination));
    assert_eq!(end(running).await.1, (rest + 1_000_000) as u64);
}

/// However flows end, each pipe is back in the pool or closed.
#[tokio::test]
async fn many_flows_leave_no_descriptor_behind() {
    const FLOWS: usize = 40;
    let mut flows = Vec::new();
    for _ in 0..FLOWS {
        let (mut program, destination, running) = relayed().await;
        // All at once: every flow has a pipe of its own, with bytes in it.
        let mut left = 300_000;
        while left > 0 {
            let piece = pattern(0, left.min(16 * 1024));
            match timeout(Duration::from_millis(100), program.write(&piece)).await {
                Ok(written) => left -= written.unwrap(),
                Err(_) => break,
            }
        }
        flows.push((program, destination, running));
    }
    assert!(pipe::testing::live() > MAX_POOLED_PIPES, "pipes are in use");
    let mut ends = Vec::new();
    for (place, (program, mut destination, running)) in flows.into_iter().enumerate() {
        match place % 4 {
            0 => destination.set_zero_linger().unwrap(),
            1 => program.set_zero_linger().unwrap(),
            2 => running.abort(),
            _ => {
                drop(program);
                hear_all(&mut destination).await;
                drop(destination);
                assert_eq!(end(running).await.0, CloseReason::Finished);
                continue;
            }
        }
        drop(program);
        if place % 4 == 1 {
            hear_all(&mut destination).await;
        }
        drop(destination);
        ends.push(running);
    }
    for running in ends {
        // An aborted one is no error here.
        let _ = timeout(PATIENCE, running).await.expect("ends");
    }
    let (live, pooled) = (pipe::testing::live(), pipe::testing::pooled());
    assert!(pooled <= MAX_POOLED_PIPES, "{pooled}");
    assert_eq!(live, pooled, "pipes that nobody has");
}

#[tokio::test]
async fn upstream_s_socket_gets_its_options_when_they_matter() {
    let ((mut program, client), (upstream, mut destination)) =
        (roomy_connection().await, roomy_connection().await);
    assert!(!SockRef::from(&upstream).keepalive().unwrap());
    let mut relay = Relay::new(client, Stream::Tcp(upstream));
    let stop = Stop::default();
    for (byte, hurries) in [(b"a", false), (b"b", true)] {
        tokio::select! {
            _ = relay.run(&stop) => panic!("the flow stands"),
            heard = async {
                program.write_all(byte).await.unwrap();
                hear(&mut destination, 1).await
            } => assert_eq!(heard, byte),
        }
        let nodelay = relay.upstream.tcp().nodelay().unwrap();
        assert_eq!(nodelay, hurries, "{byte:?}");
    }
    let lasting = timeout(KEEPALIVE_DELAY * 2, relay.run(&stop)).await;
    assert!(lasting.is_err());
    let upstream = SockRef::from(relay.upstream.tcp());
    assert!(upstream.keepalive().unwrap());
    assert_eq!(upstream.tcp_keepalive_time().unwrap(), KEEPALIVE_TIME);
}

#[tokio::test]
async fn an_idle_flow_holds_neither_buffer_nor_pipe() {
    let ((mut program, client), (upstream, mut destination)) =
        (connection().await, connection().await);
    let mut relay = Relay::new(client, Stream::Tcp(upstream));
    let stop = Stop::default();
    {
        let mut running = pin!(relay.run(&stop));
        let bytes = pattern(0, MAX_SPLICE_BYTES);
        let passing = async {
            let (told, heard) = tokio::join!(
                program.write_all(&bytes),
                hear(&mut destination, bytes.len())
            );
            told.unwrap();
            assert!(heard == bytes);
            // Long enough that the relay has seen that there is nothing more.
            tokio::task::yield_now().await;
        };
        tokio::select! {
            _ = &mut running => panic!("the flow stands"),
            () = passing => {}
        }
        let idle = timeout(Duration::from_millis(50), &mut running).await;
        assert!(idle.is_err());
    }
    assert!(relay.up.holds_nothing() && relay.down.holds_nothing());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_once_and_in_order_however_it_is_cut(
        pieces in prop::collection::vec(1usize..120_000, 1..12),
        reads in prop::collection::vec(1usize..90_000, 1..6),
        back in 0usize..200_000,
        scarce in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let _none = scarce.then(pipe::testing::without_pipes);
            let all: usize = pieces.iter().sum();
            let (program, destination, running) = relayed().await;
            let (mut program_in, mut program_out) = program.into_split();
            let (mut destination_in, mut destination_out) = destination.into_split();
            let telling = async {
                let mut at = 0;
                for piece in &pieces {
                    program_out.write_all(&pattern(at, *piece)).await.unwrap();
                    at += piece;
                    tokio::task::yield_now().await;
                }
                program_out.shutdown().await.unwrap();
            };
            let hearing = async {
                let (mut heard, mut sizes) = (Vec::new(), reads.iter().cycle());
                loop {
                    let mut piece = vec![0; *sizes.next().unwrap()];
                    match destination_in.read(&mut piece).await.unwrap() {
                        0 => return heard,
                        read => heard.extend_from_slice(&piece[..read]),
                    }
                }
            };
            let answering = async {
                destination_out.write_all(&pattern(7, back)).await.unwrap();
                destination_out.shutdown().await.unwrap();
            };
            let answered = async {
                let mut heard = Vec::new();
                program_in.read_to_end(&mut heard).await.unwrap();
                heard
            };
            let done = timeout(PATIENCE, async {
                tokio::join!(telling, hearing, answering, answered)
            });
            let ((), up, (), down) = done.await.expect("in time");
            assert!(up == pattern(0, all));
            assert!(down == pattern(7, back));
            let expected = (CloseReason::Finished, all as u64, back as u64);
            assert_eq!(end(running).await, expected);
        });
    }
}
