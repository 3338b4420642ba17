//! Network namespaces that others have made, for one sandbox of many.
//!
//! Answers *failing open* and *around the gateway* (docs/threats.md): while the daemon is away, the holder keeps
//! the sandbox cut off, and hands its sockets to the next daemon of the same user. A namespace is entered for its
//! owner or an administrator only.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portcullis_control::{AttachTo, Caller, Problem, ProblemKind};
use portcullis_gateway::{Inspector, Policy};
use portcullis_sandbox::{
    AttachRequest, Attached, Attachment, Control, Holders, SandboxError, attach_again,
    network_number, network_owner, process_mark,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::attached::attach_request;
use crate::guest_link::GuestConfig;

/// How long a holder may take to take the doors away.
const DETACH_TIMEOUT: Duration = Duration::from_secs(5);

/// What is attached, and by what.
pub(crate) struct Wanted {
    pub(crate) attachment: Attachment,
    pub(crate) policy: Policy,
    pub(crate) inspector: Option<Arc<Inspector>>,
    pub(crate) holders: Arc<Holders>,
}

/// Puts doors into the namespace. A holder that an earlier daemon has left is found again, if it holds this very
/// namespace, and unless programs inside trust an authority that went with that daemon: its doors are taken away
/// first otherwise.
pub(crate) fn doors(wanted: Wanted, listen: &Path) -> Result<Attached, String> {
    match attach_again(listen) {
        Ok(found) if wanted.inspector.is_none() && holds(&found, &wanted.attachment) => {
            return Ok(found);
        }
        Ok(found) => {
            take_away(&found.control);
        }
        // Left by a holder that is no more, or there is none.
        Err(error) if listens_nobody(&error) => {
            let _ = std::fs::remove_file(listen);
        }
        Err(error) => return Err(with_fix(&error)),
    }
    let request = AttachRequest {
        listen: Some(listen.to_owned()),
        ..attach_request(
            wanted.attachment,
            &wanted.policy,
            wanted.inspector.as_deref(),
        )
    };
    wanted.holders.attach(&request).map_err(|error| {
        // Whoever could not attach leaves it.
        let _ = std::fs::remove_file(listen);
        with_fix(&error)
    })
}

/// Whether what a holder holds is what is wanted. A device is the holder's own, and its path is the sandbox's.
fn holds(found: &Attached, attachment: &Attachment) -> bool {
    let number = match attachment {
        Attachment::Process { pid, .. } => network_number(format!("/proc/{pid}/ns/net")),
        Attachment::Namespace(path) => network_number(path),
        Attachment::Device(_) | Attachment::Shared { .. } => return true,
    };
    number.is_ok_and(|number| number == found.network)
}

fn listens_nobody(error: &SandboxError) -> bool {
    let kind = match error {
        SandboxError::Setup { source, .. } => source.kind(),
        _ => return false,
    };
    matches!(
        kind,
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

fn with_fix(error: &SandboxError) -> String {
    match error.fix() {
        Some(fix) => format!("{error}; {fix}"),
        None => error.to_string(),
    }
}

/// Takes away the doors of a sandbox that nobody serves.
pub(crate) fn release(listen: &Path) {
    if let Ok(found) = attach_again(listen) {
        take_away(&found.control);
    }
    let _ = std::fs::remove_file(listen);
}

/// Has a holder take the doors away, and waits until it has. Blocks its thread: the descriptor that tells of it may be
/// waited for by a task already.
pub(crate) fn take_away(control: &Control) {
    let _ = control.detach();
    let lifeline = control.lifeline();
    let mut fds = [PollFd::new(&lifeline, PollFlags::IN)];
    let timeout = Timespec::try_from(DETACH_TIMEOUT).ok();
    // What is still there is told by the next holder.
    let _ = poll(&mut fds, timeout.as_ref());
}

/// The mark of the process that a sandbox is named by, if a caller may have its traffic taken.
pub(crate) fn permitted(caller: &Caller, attach: &AttachTo) -> Result<Option<String>, Problem> {
    let admins_only = |what: &str| match caller.is_admin {
        true => Ok(None),
        false => Err(Problem::new(
            ProblemKind::Forbidden,
            format!("{what} are for administrators"),
        )),
    };
    match attach {
        AttachTo::VmSocket { mtu: Some(mtu), .. } | AttachTo::Tap { mtu: Some(mtu), .. }
            if !(GuestConfig::MTU.0..=GuestConfig::MTU.1).contains(mtu) =>
        {
            let (least, most) = GuestConfig::MTU;
            let title = format!("`mtu` is from {least} to {most}");
            Err(Problem::new(ProblemKind::BadRequest, title))
        }
        AttachTo::VmSocket { .. } => Ok(None),
        AttachTo::Tap { .. } => admins_only("TAP devices"),
        AttachTo::Listeners { .. } => admins_only("listeners of the host"),
        AttachTo::Netns { .. } => admins_only("namespaces by their path"),
        AttachTo::Pid { pid, .. } => {
            let mark = process_mark(*pid);
            let owner = network_owner(*pid);
            match (mark, owner) {
                (Ok(mark), Ok(owner)) if caller.may_use(owner) => Ok(Some(mark)),
                (Ok(mark), Err(_)) if caller.is_admin => Ok(Some(mark)),
                // Whether there is such a process is nobody else's business.
                _ => {
                    let title =
                        format!("there is no process {pid} in a network namespace of yours");
                    Err(Problem::new(ProblemKind::Forbidden, title)
                        .help("the namespace must have been made by you, as with `unshare -rn`"))
                }
            }
        }
    }
}

/// What tells a process from others that have had its number; none if there is none.
pub(crate) fn mark_of(pid: u32) -> Option<String> {
    process_mark(pid).ok()
}

/// Whether a process is still the one that was permitted.
pub(crate) fn is_the_same(attach: &AttachTo, mark: Option<&str>) -> bool {
    match attach {
        AttachTo::Pid { pid, .. } => process_mark(*pid).is_ok_and(|now| Some(&*now) == mark),
        _ => true,
    }
}
