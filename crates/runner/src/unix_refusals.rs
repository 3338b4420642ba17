//! Unix sockets of the host that programs inside asked for, as decision records.
//!
//! What is masked inside is not found there, so the host is asked whether there is a socket: a program
//! that looks for an agent which nobody runs leaves no record.

use portcullis_gateway::CancellationToken;
use portcullis_policy::{Reason, Verdict};
use portcullis_record::{Event, Layer, Protocol, Recorder};
use portcullis_sandbox::{UnixRefusal, UnixRefusals};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Where sockets are masked. Nothing else is looked at on the host: its file system might not answer.
const MASKED: [&str; 2] = ["/run", "/var/run"];
/// Folders of the services that the C library itself looks for before each lookup, and does without: its
/// cache, systemd's resolver and users, mDNS, Windows domains. Let in, one would answer for names that
/// are not listed.
const NAME_SERVICES: [&str; 6] = [
    "nscd",
    "resolve",
    "userdb",
    "avahi-daemon",
    "winbindd",
    "samba",
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
    loop {
        let mut ready = tokio::select! {
            ready = refusals.readable() => ready?,
            () = token.cancelled() => {
                while let Ok(Some(refusal)) = refusals.get_ref().next() {
                    record_one(&recorder, &refusal);
                }
                return Ok(());
            }
        };
        match refusals.get_ref().next() {
            Ok(Some(refusal)) => record_one(&recorder, &refusal),
            Ok(None) => ready.clear_ready(),
            // The sandbox ends.
            Err(_) => {
                token.cancelled().await;
                return Ok(());
            }
        }
    }
}

fn record_one(recorder: &Recorder, refusal: &UnixRefusal) {
    let event = || {
        let reason = Reason::ProtocolNotAllowed;
        Event::new(Layer::Tcp, Protocol::Kernel, Verdict::Deny, reason)
    };
    for _ in 0..refusal.lost {
        recorder.decision(event().detail("a Unix socket of the host; which one is not known"));
    }
    if is_name_service(&refusal.path) || !refusal.found && !is_masked_socket(&refusal.path) {
        return;
    }
    let suggestion = format!("--unix-socket {}", refusal.path.display());
    let mut event = event()
        .raw_name(refusal.path.as_os_str().as_bytes())
        .detail("a Unix socket of the host, which --unix-socket PATH lets in");
    event.suggestion = Some(&suggestion);
    recorder.decision(event);
}

fn is_name_service(path: &Path) -> bool {
    let folder = path.parent().and_then(Path::file_name);
    folder.is_some_and(|folder| {
        NAME_SERVICES
            .iter()
            .any(|known| folder == OsStr::new(known))
    })
}

/// Whether the host has a socket where the program found nothing.
fn is_masked_socket(path: &Path) -> bool {
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let masked = MASKED.iter().any(|folder| path.starts_with(folder));
    plain
        && masked
        && std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}
