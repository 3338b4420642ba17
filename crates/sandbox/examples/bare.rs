//! The smallest gateway: it answers the self-proof's DNS probe and nothing else.
//!
//! `bare -- CMD…` runs a command in a sandbox with it; the tests drive the sandbox through it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use portcullis_sandbox::{Addresses, GatewaySide, OpenRules, Sockets, Spec};

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let mut spec = Spec {
        argv: Vec::new(),
        env: std::env::vars_os().collect(),
        cwd: None,
        read_only: Vec::new(),
        hidden: Vec::new(),
        tap: None,
        timeout: None,
        open: OpenRules::default(),
        probe_refused: "192.0.2.1:9".parse().expect("an address"),
        addresses: Addresses::new(),
    };
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            break;
        }
        let value = arguments.next().unwrap_or_default();
        match argument.to_str() {
            Some("--tap") => {
                spec.tap = Some(value.to_string_lossy().into_owned());
                spec.addresses = Addresses::with_tap();
            }
            Some("--timeout-ms") => {
                let ms = value.to_string_lossy().parse().expect("milliseconds");
                spec.timeout = Some(Duration::from_millis(ms));
            }
            _ => panic!("unknown option {argument:?}"),
        }
    }
    spec.argv = arguments.collect();
    let name = spec
        .argv
        .first()
        .map(|name| name.to_string_lossy().into_owned());
    let code = match portcullis_sandbox::run(spec, gateway) {
        Ok(outcome) => {
            if let Some(message) = outcome.message(&name.unwrap_or_default()) {
                eprintln!("bare: {message}");
            }
            outcome.exit_code()
        }
        Err(error) => {
            eprintln!("bare: {error}");
            if let Some(fix) = error.fix() {
                eprintln!("bare: fix: {fix}");
            }
            125
        }
    };
    std::process::exit(code);
}

fn gateway(mut side: GatewaySide) -> i32 {
    let Ok(sockets) = side.receive() else {
        return 1;
    };
    let dns = match sockets.dns_udp4.try_clone().map(UdpSocket::from) {
        Ok(dns) => dns,
        Err(error) => {
            let _ = side.control.failed(&error.to_string());
            return 1;
        }
    };
    let _ = side.control.ready();
    match serve(&side, &dns, &sockets) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// Echoes DNS queries as empty answers until the sandbox is gone.
fn serve(side: &GatewaySide, dns: &UdpSocket, _sockets: &Sockets) -> io::Result<()> {
    let mut buffer = [0_u8; 1500];
    loop {
        let mut set =
            [side.control.lifeline().as_raw_fd(), dns.as_fd().as_raw_fd()].map(libc_pollfd);
        // SAFETY: set holds two live entries.
        if unsafe { libc::poll(set.as_mut_ptr(), 2, -1) } < 0 {
            return Err(io::Error::last_os_error());
        }
        if set[0].revents != 0 {
            return Ok(());
        }
        answer(dns, &mut buffer)?;
    }
}

fn libc_pollfd(fd: i32) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

fn answer(dns: &UdpSocket, buffer: &mut [u8]) -> io::Result<()> {
    let (length, from): (usize, SocketAddr) = match dns.recv_from(buffer) {
        Ok(got) => got,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        Err(error) => return Err(error),
    };
    if length > 3 {
        buffer[2] |= 0x80;
        buffer[3] &= 0xf0;
        dns.send_to(&buffer[..length], from)?;
    }
    Ok(())
}
