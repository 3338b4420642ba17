//! Keeps the host's network and mount namespaces, and plays what listens on the host's loopback.

use super::namespaces::{self, bind, ip_batch, overlay, private_mounts, tmpfs};
use crate::servers::{self, World};
use crate::spec::{Service, WorldSpec};
use crate::standard::{GATEWAY_V4, GATEWAY_V6, HOST_V4, HOST_V6};
use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use std::ffi::OsString;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `hold FOLDER`: says `made`, waits for a line (the veth is there), sets up, says `ready`.
pub(super) fn main(args: &[OsString]) -> Result<()> {
    let [folder] = args else {
        bail!("too few arguments")
    };
    let folder = PathBuf::from(folder);
    let spec: WorldSpec = serde_json::from_slice(&std::fs::read(folder.join("spec.json"))?)?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("cannot make the host's namespaces")?;
    println!("made");
    let mut lines = std::io::stdin().lock().lines();
    if lines.next().is_none() {
        return Ok(());
    }
    network(&spec)?;
    private_mounts()?;
    files(&spec, &folder)?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let services: Vec<Service> = spec.host_services.clone();
    let world = Arc::new(World::new(&spec, &folder)?);
    std::thread::spawn(move || {
        runtime.block_on(async {
            if let Err(error) = servers::start(&world, &services).await {
                eprintln!("portcullis-world hold: {error:#}");
                std::process::exit(125);
            }
            println!("ready");
            std::future::pending::<()>().await;
        });
    });
    // The world ends with its standard input.
    for line in lines {
        if line.is_err() {
            break;
        }
    }
    Ok(())
}

fn network(spec: &WorldSpec) -> Result<()> {
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("addr add {HOST_V4}/24 dev uplink"),
        "link set uplink up".to_owned(),
        format!("route add default via {GATEWAY_V4}"),
    ];
    if spec.ipv6 {
        lines.push(format!("addr add {HOST_V6}/64 dev uplink nodad"));
        lines.push(format!("route add default via {GATEWAY_V6}"));
    }
    for address in &spec.unreachable {
        lines.push(format!("route add unreachable {address}"));
    }
    ip_batch(&lines)
}

/// The host's resolv.conf, and a /run of its own (no name service cache of the real host).
fn files(spec: &WorldSpec, folder: &Path) -> Result<()> {
    let text = spec.resolv_conf.clone().unwrap_or_else(|| {
        spec.dns
            .servers
            .iter()
            .take(2)
            .map(|s| format!("nameserver {}\n", s.address))
            .collect()
    });
    let source = folder.join("resolv.conf");
    std::fs::write(&source, text)?;
    // The real one may lead to a resolver or a cache of the real host.
    tmpfs(Path::new("/run"), "755")?;
    let user_run = PathBuf::from(format!("/run/user/{}", ordinary_uid()));
    std::fs::create_dir_all(&user_run)?;
    let target = Path::new("/etc/resolv.conf");
    if let Ok(real) = target.canonicalize() {
        return bind(&source, &real);
    }
    if let Ok(link) = std::fs::read_link(target) {
        // A dangling symlink, usually into /run, which is ours now.
        let real = Path::new("/etc").join(link);
        if let Some(parent) = real.parent()
            && std::fs::create_dir_all(parent).is_ok()
            && std::fs::copy(&source, &real).is_ok()
        {
            return Ok(());
        }
    }
    let scratch = Path::new("/run/world");
    std::fs::create_dir_all(scratch)?;
    overlay("/etc", scratch)?;
    let _ = std::fs::remove_file(target);
    std::fs::copy(&source, target).context("cannot write /etc/resolv.conf of the world")?;
    Ok(())
}

/// The uid that [`crate::World::command`] gives a program.
fn ordinary_uid() -> u32 {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    match map
        .split_whitespace()
        .nth(1)
        .and_then(|outer| outer.parse().ok())
    {
        None | Some(0) => namespaces::NOBODY,
        Some(outer) => outer,
    }
}
