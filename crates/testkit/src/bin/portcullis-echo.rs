//! The ceiling that `benches/dns.sh` measures by: a server that does nothing but answer UDP as fast
//! as the kernel lets it, with batches of 64.
//!
//! It gives each datagram back with the bit that makes a DNS query an answer, which is enough for
//! dnsperf. On loopback only: a server that answers whoever asks is a reflector.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

/// Datagrams taken and given at once.
const BATCH: usize = 64;
/// Longest datagram that is given back whole, bytes.
const MAX_BYTES: usize = 2048;
/// Where a DNS message says that it is an answer: the upper bit of its third byte.
const ANSWER: (usize, u8) = (2, 0x80);

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        eprintln!("usage: portcullis-echo 127.0.0.1:PORT");
        return ExitCode::from(2);
    };
    match serve(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis-echo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(address: &str) -> Result<()> {
    let address: SocketAddrV4 = address.parse().context("not IPv4:PORT")?;
    ensure!(address.ip().is_loopback(), "{address} is not on loopback");
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut out = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut buffers = vec![[0; MAX_BYTES]; BATCH];
    let mut lengths = [0; BATCH];
    let mut peers = [None; BATCH];
    loop {
        let mut count = 0;
        {
            let mut parts: Vec<_> = buffers
                .iter_mut()
                .map(|buffer| [IoSliceMut::new(buffer)])
                .collect();
            let flags = MsgFlags::MSG_WAITFORONE;
            let received = recvmmsg(socket.as_raw_fd(), &mut headers, &mut parts, flags, None)?;
            for message in received {
                lengths[count] = message.bytes;
                peers[count] = message.address;
                count += 1;
            }
        }
        for buffer in &mut buffers[..count] {
            buffer[ANSWER.0] |= ANSWER.1;
        }
        let replies: Vec<_> = buffers
            .iter()
            .zip(lengths)
            .map(|(buffer, length)| [IoSlice::new(&buffer[..length])])
            .collect();
        let mut sent = 0;
        while sent < count {
            let rest = (&replies[sent..count], &peers[sent..count]);
            let none = MsgFlags::empty();
            match sendmmsg(socket.as_raw_fd(), &mut out, rest.0, rest.1, [], none) {
                Ok(done) => sent += done.count(),
                // A datagram that cannot be sent is lost, as datagrams may be.
                Err(_) => sent += 1,
            }
        }
    }
}
