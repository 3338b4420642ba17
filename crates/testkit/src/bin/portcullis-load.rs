//! The two ends that `benches/connections.sh` puts a proxy between: a server on loopback, and
//! clients that reach it through CONNECT or directly.
//!
//! Plain blocking threads: what they cost is not counted, only what the proxy between them costs.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write, stdin};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Threads that take short connections, each one at a time.
const SERVERS: usize = 32;
/// What the bulk server writes at once, and what a client reads at once, bytes.
const PIECE_BYTES: usize = 256 * 1024;
/// How long anything may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer of a proxy to CONNECT, bytes.
const MAX_ANSWER_BYTES: usize = 4096;

const USAGE: &str = "usage:
  portcullis-load serve
      one, bulk and hold server on loopback; tells their ports, ends with its input
  portcullis-load connections WAY CLIENTS SECONDS   connections, seconds
  portcullis-load latency WAY COUNT                 p50 and p99 of a new connection, µs
  portcullis-load bulk WAY FLOWS BYTES              seconds
  portcullis-load hold WAY COUNT                    says when they stand, ends with its input
WAY is ADDRESS:PORT, or ADDRESS:PORT=HOST:PORT to go through the HTTP proxy at ADDRESS:PORT";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["serve"] => serve(),
        ["connections", way, clients, seconds] => connections(way, clients, seconds),
        ["latency", way, count] => latency(way, count),
        ["bulk", way, flows, bytes] => bulk(way, flows, bytes),
        ["hold", way, count] => hold(way, count),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One byte each way and the end; as many bytes as an eight-byte number says; one byte each way and
/// then silence.
fn serve() -> Result<()> {
    let [one, bulk, hold] = [
        listen("one", SERVERS, |stream| {
            exchange(&stream)?;
            ended(&stream)
        })?,
        listen("bulk", SERVERS, |mut stream| {
            let mut wanted = [0; 8];
            stream.read_exact(&mut wanted)?;
            let mut left = u64::from_be_bytes(wanted) as usize;
            let piece = vec![b'x'; PIECE_BYTES];
            while left > 0 {
                left -= stream.write(&piece[..left.min(PIECE_BYTES)])?;
            }
            Ok(())
        })?,
        listen("hold", 1, |stream| {
            exchange(&stream)?;
            // Held until the process ends.
            std::mem::forget(stream);
            Ok(())
        })?,
    ];
    println!("{one} {bulk} {hold}");
    wait_for_end_of_input()
}

fn listen(
    what: &str,
    threads: usize,
    serve: impl Fn(TcpStream) -> Result<()> + Copy + Send + 'static,
) -> Result<u16> {
    let listener =
        TcpListener::bind("127.0.0.1:0").with_context(|| format!("no port for {what}"))?;
    let port = listener.local_addr()?.port();
    for _ in 0..threads {
        let listener = listener.try_clone()?;
        thread::spawn(move || {
            loop {
                let Ok((stream, _)) = listener.accept() else {
                    return;
                };
                // One that breaks is the other end's to tell of.
                let _ = patient(&stream).and_then(|()| serve(stream));
            }
        });
    }
    Ok(port)
}

fn patient(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream.set_write_timeout(Some(PATIENCE))?)
}

fn exchange(mut stream: &TcpStream) -> Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    Ok(stream.write_all(&byte)?)
}

fn ended(mut stream: &TcpStream) -> Result<()> {
    ensure!(stream.read(&mut [0])? == 0, "more than was asked for");
    Ok(())
}

fn wait_for_end_of_input() -> Result<()> {
    let mut nothing = Vec::new();
    stdin().read_to_end(&mut nothing)?;
    Ok(())
}

/// Connects, through a proxy where the way has one.
fn connect(way: &str) -> Result<TcpStream> {
    let (address, target) = match way.split_once('=') {
        Some((address, target)) => (address, Some(target)),
        None => (way, None),
    };
    let mut stream = TcpStream::connect(address).with_context(|| format!("no way to {address}"))?;
    patient(&stream)?;
    let Some(target) = target else {
        return Ok(stream);
    };
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = [0; MAX_ANSWER_BYTES];
    let mut length = 0;
    while !answer[..length].ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut answer[length..])?;
        ensure!(read > 0, "the proxy closed after {length} bytes");
        length += read;
    }
    let answer = String::from_utf8_lossy(&answer[..length]);
    if answer.split(' ').nth(1) != Some("200") {
        bail!("the proxy says {answer}");
    }
    Ok(stream)
}

/// A connection as it is counted: one byte each way, and an orderly end.
fn whole(way: &str) -> Result<()> {
    let mut stream = connect(way)?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    Ok(())
}

fn connections(way: &str, clients: &str, seconds: &str) -> Result<()> {
    let (clients, seconds): (usize, u64) = (clients.parse()?, seconds.parse()?);
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let start = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let run = || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                whole(way)?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(run)).collect();
        thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("a client's thread")?;
        }
        Ok(())
    })?;
    let took = start.elapsed().as_secs_f64();
    println!("{} {took}", done.into_inner());
    Ok(())
}

fn latency(way: &str, count: &str) -> Result<()> {
    let count: usize = count.parse()?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        whole(way)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    println!("{} {}", times[count / 2], times[count * 99 / 100]);
    Ok(())
}

fn bulk(way: &str, flows: &str, bytes: &str) -> Result<()> {
    let (flows, bytes): (usize, u64) = (flows.parse()?, bytes.parse()?);
    let start = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let fetch = || -> Result<()> {
            let mut stream = connect(way)?;
            stream.write_all(&bytes.to_be_bytes())?;
            let (mut piece, mut all) = (vec![0; PIECE_BYTES], 0);
            loop {
                match stream.read(&mut piece)? {
                    0 => break,
                    read => all += read as u64,
                }
            }
            ensure!(all == bytes, "{all} bytes of {bytes} came");
            Ok(())
        };
        let flows: Vec<_> = (0..flows).map(|_| scope.spawn(fetch)).collect();
        for flow in flows {
            flow.join().expect("a flow's thread")?;
        }
        Ok(())
    })?;
    println!("{}", start.elapsed().as_secs_f64());
    Ok(())
}

fn hold(way: &str, count: &str) -> Result<()> {
    let count: usize = count.parse()?;
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = connect(way)?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        held.push(stream);
    }
    println!("held");
    wait_for_end_of_input()
}
