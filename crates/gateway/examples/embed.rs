//! Embeds the gateway in a sandbox of its own making, and shows what passes. An ordinary user runs it:
//! `cargo run --package portcullis-gateway --example embed`.
//!
//! There are two processes. The second makes a network namespace and the sockets in it, sends them
//! to the first, and then plays the program in the sandbox. The first serves these sockets; it stays
//! in the host's namespace and never needs to enter the other.

use nix::sched::{CloneFlags, unshare};
use portcullis_gateway::{
    CancellationToken, Entrances, Gateway, Input, Policy, Recorder, TaskTracker,
};
use portcullis_sandbox::{
    Addresses, Family, Inside, NamedSockets, Network, OpenRule, OpenRules, SocketName,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// The only name that the policy lists.
const ALLOWED: &str = "allowed.example.com";
/// A name that it does not list.
const OTHER: &str = "other.example.com";
/// The argument that makes this program the one inside.
const INSIDE: &str = "--inside";
/// How long the namespace may take to be made.
const BUILD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last records may take to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the program inside waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest DNS query over UDP that the small server reads, in bytes.
const MAX_QUERY: usize = 1232;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [flag, port] if flag == INSIDE => inside(port.parse()?),
        _ => outside(),
    }
}

/// The process on the host: a small internet, the gateway, and the sandbox's end.
fn outside() -> Result<()> {
    let (resolver, port) = internet()?;
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut program = Command::new("/proc/self/exe")
        .args([INSIDE, &port.to_string()])
        .stdin(theirs)
        .spawn()?;
    let sockets = NamedSockets::receive(ours.as_fd(), BUILD_TIMEOUT)?;

    let inputs = [
        Input::Allow(format!("{ALLOWED}:{port}")),
        // The small internet is on this host's loopback, which is refused unless a rule opens it.
        Input::Allow(format!("127.0.0.1:{port}")),
    ];
    let loaded = Policy::load(&inputs, &mut |path| fs::read_to_string(path));
    let policy = loaded.map_err(|errors| format!("{errors:?}"))?.policy;
    let gateway = Gateway::builder()
        .policy(policy)
        .resolvers(vec![resolver])
        .recorder(Recorder::to_writer(Box::new(io::stdout()), "embed"))
        .listeners(vec![Addresses::new().http()])
        .build()?;
    let entrances = Entrances {
        dns_udp: vec![take(&sockets, SocketName::DnsUdp(Family::V4))?.into()],
        http: vec![take(&sockets, SocketName::HttpProxy)?.into()],
        transparent: vec![take(&sockets, SocketName::CatchAll(Family::V4))?.into()],
        ..Entrances::default()
    };

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let status = runtime.block_on(async {
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let serving = gateway.start(entrances, &tracker, &token).await?;
        File::from(ours).write_all(b"!")?;
        let status = tokio::task::spawn_blocking(move || program.wait()).await??;
        token.cancel();
        tracker.close();
        tracker.wait().await;
        serving.ended().await.map_err(ToString::to_string)?;
        Ok::<_, Box<dyn Error>>(status)
    })?;
    gateway.recorder().flush(FLUSH_TIMEOUT);
    println!("outside: the gateway has ended");
    if status.success() {
        Ok(())
    } else {
        Err(format!("the program inside failed: {status}").into())
    }
}

fn take(sockets: &NamedSockets, name: SocketName) -> Result<OwnedFd> {
    let socket = sockets.get(name).ok_or("a socket is missing")?;
    Ok(socket.try_clone_to_owned()?)
}

/// The process inside. A sandbox worth the name would start its program in one more user namespace,
/// where it has no capability over this network; here the program is this function.
fn inside(port: u16) -> Result<()> {
    let (user, group) = (nix::unistd::getuid(), nix::unistd::getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;

    // The kernel lets every connection through to the gateway, which decides. To let the kernel
    // refuse at connect() what is not leased, give the builder a gate.
    let any = |address: IpAddr| OpenRule {
        network: Network { address, prefix: 0 },
        ports: vec![0..=u16::MAX],
    };
    let namespace = Inside {
        open: OpenRules {
            rules: vec![
                any(Ipv4Addr::UNSPECIFIED.into()),
                any(Ipv6Addr::UNSPECIFIED.into()),
            ],
            ..OpenRules::default()
        },
        ..Inside::default()
    };
    let outside = io::stdin();
    namespace.build()?.send(outside.as_fd())?;
    // One byte comes once the gateway serves.
    outside.lock().read_exact(&mut [0])?;

    for name in [ALLOWED, OTHER] {
        println!("inside: {name}: {}", get(name, port)?);
    }
    Ok(())
}

/// The status line that the HTTP proxy answers with.
fn get(name: &str, port: u16) -> Result<String> {
    let mut proxy = TcpStream::connect(Addresses::new().http())?;
    proxy.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    write!(
        proxy,
        "GET http://{name}:{port}/ HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    proxy.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or("no answer").to_owned())
}

/// A resolver that knows every name, and a web server, on the host's loopback; gives the resolver's
/// address and the web server's port.
fn internet() -> Result<(SocketAddr, u16)> {
    let dns = UdpSocket::bind("127.0.0.1:0")?;
    let web = TcpListener::bind("127.0.0.1:0")?;
    let found = (dns.local_addr()?, web.local_addr()?.port());
    thread::spawn(move || {
        let mut query = [0; MAX_QUERY];
        while let Ok((length, from)) = dns.recv_from(&mut query) {
            if let Some(answer) = answer(&query[..length]) {
                let _ = dns.send_to(&answer, from);
            }
        }
    });
    thread::spawn(move || {
        for mut client in web.incoming().flatten() {
            let _ = client.read(&mut [0; MAX_QUERY]);
            let _ = client.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n",
            );
        }
    });
    Ok(found)
}

/// 127.0.0.1 for every A query, nothing for other types.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const A: &[u8] = &[0, 1];
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)? + 1;
    let question_end = HEADER + name + 4;
    let is_a = query.get(HEADER + name..HEADER + name + 2)? == A;
    let mut reply = query.get(..question_end)?.to_vec();
    // A response, recursion available; one question, one answer or none, nothing else.
    reply[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    if is_a {
        // The question's name, A, IN, 60 seconds, four bytes.
        reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some(reply)
}
