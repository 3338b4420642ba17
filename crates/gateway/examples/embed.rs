//! A small sandbox of its own: runs a command whose only network is what is listed, as an ordinary user.
//!
//! `cargo run --package portcullis-gateway --example embed RESOLVER TARGET... -- CMD...`, for instance
//! `192.0.2.53:53 www.example.com -- curl http://www.example.com/`.
//!
//! There are two processes. The second makes a network namespace and the sockets in it, sends them to the
//! first, and becomes the command. The first serves these sockets; it stays in the host's namespace. If it
//! ends, the command is cut off: the namespace has no other way out.

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};
use portcullis_gateway::{
    CancellationToken, Entrances, Gateway, Input, Policy, Recorder, Subscription, TaskTracker,
    Verdict,
};
use portcullis_sandbox::{Addresses, Family, Inside, NamedSockets, Network, OpenRule, SocketName};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// The argument that makes this program the one inside.
const INSIDE: &str = "--inside";
/// How long the namespace may take to be made.
const BUILD_TIMEOUT: Duration = Duration::from_secs(10);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (options, command) = args.split_at(args.iter().position(|arg| arg == "--").unwrap_or(0));
    match (options, command) {
        ([flag], [_, command @ ..]) if flag == INSIDE => inside(command),
        ([resolver, targets @ ..], [_, command @ ..]) if !command.is_empty() => {
            outside(resolver.parse()?, targets, command)
        }
        _ => Err("usage: embed RESOLVER TARGET... -- CMD...".into()),
    }
}

/// The process on the host: the gateway.
#[tokio::main(flavor = "current_thread")]
async fn outside(resolver: SocketAddr, targets: &[String], command: &[String]) -> Result<ExitCode> {
    let allowed: Vec<Input> = targets.iter().cloned().map(Input::Allow).collect();
    let loaded = Policy::load(&allowed, &mut |path| fs::read_to_string(path));
    let policy = loaded.map_err(|errors| format!("{errors:?}"))?.policy;

    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
    let mut inside = Command::new("/proc/self/exe")
        .args([INSIDE, "--"])
        .args(command)
        .stdin(theirs)
        .spawn()?;
    let sockets = NamedSockets::receive(ours.as_fd(), BUILD_TIMEOUT)?;

    // A file (`Recorder::to_file`) would hold each decision; this sandbox shows the denials.
    let recorder = Recorder::null();
    let denials = tokio::spawn(show_denials(recorder.subscribe()));
    let gateway = Gateway::builder()
        .policy(policy)
        .resolvers(vec![resolver])
        .recorder(recorder)
        .listeners(vec![Addresses::new().http()])
        .build()?;
    let entrances = Entrances {
        dns_udp: vec![take(&sockets, SocketName::DnsUdp(Family::V4))?.into()],
        dns_tcp: vec![take(&sockets, SocketName::DnsTcp(Family::V4))?.into()],
        http: vec![take(&sockets, SocketName::HttpProxy)?.into()],
        socks5: vec![take(&sockets, SocketName::SocksProxy)?.into()],
        transparent: vec![take(&sockets, SocketName::CatchAll(Family::V4))?.into()],
        ..Entrances::default()
    };
    let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
    let serving = gateway.start(entrances, &tracker, &token).await?;
    // The command starts now.
    File::from(ours).write_all(b"!")?;
    let status = tokio::task::spawn_blocking(move || inside.wait()).await??;

    token.cancel();
    tracker.close();
    tracker.wait().await;
    serving.ended().await.map_err(ToString::to_string)?;
    // The recorder goes with its last holder, and that ends its subscriptions.
    drop((gateway, serving));
    denials.await?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

async fn show_denials(decisions: Subscription) {
    while let Some(seen) = decisions.recv().await {
        if seen.verdict == Verdict::Deny {
            let port = seen.port.map(|port| format!(":{port}"));
            let (port, reason) = (port.unwrap_or_default(), seen.reason.code());
            eprintln!("embed: denied: {}{port} ({reason})", seen.name);
        }
    }
}

fn take(sockets: &NamedSockets, name: SocketName) -> Result<OwnedFd> {
    let socket = sockets.get(name).ok_or("a socket is missing")?;
    Ok(socket.try_clone_to_owned()?)
}

/// The process inside, up to the command.
fn inside(command: &[String]) -> Result<ExitCode> {
    let (user, group) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    map_ids(&format!("0 {user} 1"), &format!("0 {group} 1"))?;
    // The kernel lets every connection through to the gateway, which decides. To have it refuse at
    // connect() what is not leased, give the builder a gate.
    let any = |address: IpAddr| OpenRule {
        network: Network { address, prefix: 0 },
        ports: vec![0..=u16::MAX],
    };
    let mut namespace = Inside::default();
    namespace.open.rules = vec![
        any(Ipv4Addr::UNSPECIFIED.into()),
        any(Ipv6Addr::UNSPECIFIED.into()),
    ];
    let outside = io::stdin();
    namespace.build()?.send(outside.as_fd())?;
    outside.lock().read_exact(&mut [0])?;
    // In a user namespace of its own the command has no power over this network.
    unshare(CloneFlags::CLONE_NEWUSER)?;
    map_ids(&format!("{user} 0 1"), &format!("{group} 0 1"))?;
    let proxy = format!("http://{}", Addresses::new().http());
    let mut program = Command::new(&command[0]);
    program.args(&command[1..]).stdin(Stdio::null());
    program.env("http_proxy", &proxy).env("https_proxy", &proxy);
    Err(program.exec().into())
}

fn map_ids(users: &str, groups: &str) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", users)?;
    fs::write("/proc/self/gid_map", groups)
}
