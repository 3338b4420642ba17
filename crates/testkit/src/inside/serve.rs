//! Plays the internet: the namespace, the veth to the host, every server.

use super::namespaces::{PATH, drop_root, ip_batch, private_mounts, unshare_user};
use crate::servers::{self, World};
use crate::spec::{DnsSpec, WorldSpec};
use crate::standard::{GATEWAY_V4, GATEWAY_V6};
use anyhow::{Context, Result, bail};
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// `serve FOLDER`: says one line of JSON when the world stands; a line of JSON on standard input
/// replaces the zone and is answered `ok`; the end of standard input ends the world.
pub(super) fn main(args: &[OsString]) -> Result<()> {
    let [folder] = args else {
        bail!("too few arguments")
    };
    let folder = PathBuf::from(folder);
    drop_root()?;
    let spec: WorldSpec = serde_json::from_slice(&std::fs::read(folder.join("spec.json"))?)?;
    unshare_user(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS, 0, 0)?;
    private_mounts()?;

    let mut hold = Command::new("/proc/self/exe")
        // With `demo` in front it is understood by every program that can host a world.
        .args(["demo", super::HELPER_WORD, "hold"])
        .arg(&folder)
        .env("PATH", PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the host's keeper")?;
    let mut from_hold = BufReader::new(hold.stdout.take().context("no pipe")?);
    let mut to_hold = hold.stdin.take().context("no pipe")?;
    expect(&mut from_hold, "made")?;
    network(&spec, hold.id())?;
    // Real servers run as an ordinary user there; without this their ports would have to be high.
    // Where it cannot be written, such a server says by itself that it may not listen.
    let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    to_hold.write_all(b"joined\n")?;
    expect(&mut from_hold, "ready")?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the servers' runtime")?;
    let world = Arc::new(World::new(&spec, &folder)?);
    runtime.block_on(async {
        servers::start_dns(&world, &spec.dns).await?;
        servers::start(&world, &spec.services).await
    })?;
    println!("{}", serde_json::json!({ "host_pid": hold.id() }));

    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let answer = serde_json::from_str::<DnsSpec>(&line)
            .map_err(anyhow::Error::from)
            .and_then(|dns| world.set_dns(&dns));
        match answer {
            Ok(()) => println!("ok"),
            Err(error) => println!("{error:#}"),
        }
    }
    end(&mut hold);
    // Usually the test removes it; a test that was killed cannot.
    let _ = std::fs::remove_dir_all(&folder);
    // Threads of the runtime may be in the middle of things; nothing of theirs matters now.
    std::process::exit(0);
}

fn expect(from: &mut impl BufRead, word: &str) -> Result<()> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    if line.trim() != word {
        bail!("the host's keeper said {line:?} instead of {word:?}");
    }
    Ok(())
}

fn network(spec: &WorldSpec, host_pid: u32) -> Result<()> {
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("link add downlink type veth peer name uplink netns {host_pid}"),
        format!("addr add {GATEWAY_V4}/24 dev downlink"),
        "link set downlink up".to_owned(),
    ];
    if spec.ipv6 {
        lines.push(format!("addr add {GATEWAY_V6}/64 dev downlink nodad"));
    }
    let addresses: BTreeSet<IpAddr> = (spec.dns.servers.iter().map(|s| s.address))
        .chain(spec.services.iter().map(|s| s.address))
        .chain(spec.addresses.iter().copied())
        .collect();
    for address in addresses {
        let (length, dad) = if address.is_ipv4() {
            (32, "")
        } else {
            (128, " nodad")
        };
        lines.push(format!("addr add {address}/{length} dev lo{dad}"));
    }
    ip_batch(&lines)
}

/// Ends everything that still runs in the host's or in this network namespace, then the host's
/// keeper.
fn end(hold: &mut Child) {
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let me = std::process::id();
    let (host, internet) = (namespace(hold.id()), namespace(me));
    if host.is_some() && internet.is_some() {
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<u32>().ok())
            else {
                continue;
            };
            let lives_in = namespace(pid);
            if ![hold.id(), me].contains(&pid)
                && (lives_in == host || lives_in == internet)
                && let Ok(raw) = i32::try_from(pid)
            {
                let _ = kill(Pid::from_raw(raw), Signal::SIGKILL);
            }
        }
    }
    let _ = hold.kill();
    let _ = hold.wait();
}
