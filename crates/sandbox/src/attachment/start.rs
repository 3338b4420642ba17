//! Starting a holder, or finding one again, from the gateway's side.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::holder::connect;
use super::request::AttachRequest;
use crate::channel::{Channel, FromInit, ToInit};
use crate::error::{At, SandboxError, Step};
use crate::gateway_side::{Control, Sockets};
use crate::message::Report;
use crate::process::Members;
use crate::sockets::{NamedSockets, SocketName};

/// How long a holder may take to put the doors into a namespace.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a namespace's number.
const INODE_BYTES: usize = size_of::<u64>();
/// The holder's number in its word, in bytes.
const PID_BYTES: usize = size_of::<u32>();

/// A sandbox with doors.
#[derive(Debug)]
pub struct Attached {
    /// The sockets made inside.
    pub sockets: Sockets,
    /// The number of the network namespace that they are in.
    pub network: u64,
    /// The number of the holder's process, which is in that namespace.
    pub holder: u32,
    /// The holder.
    pub control: Control,
    /// Why the files about names and trust are not shown over the sandbox's own, if they are not though
    /// they were to be.
    pub unbound: Option<String>,
}

/// Attaches doors to a sandbox, by a holder of its own. `holder` is a command that calls
/// [`super::hold`] and does nothing before; its standard streams are replaced.
///
/// The holder survives the caller where the request says where it is found again
/// ([`AttachRequest::listen`]); otherwise the doors vanish with [`Attached::control`].
///
/// # Errors
/// The sandbox cannot be entered, has a way out or a gateway already, or the kernel refused a step. Then
/// it is as it was before.
pub fn attach(holder: &mut Command, request: &AttachRequest) -> Result<Attached, SandboxError> {
    let (ours, theirs) = Channel::pair().at(Step::Attach, "channel")?;
    let (stdin, null) = (OwnedFd::from(theirs), Stdio::null);
    // It starts the holder proper and ends.
    let status = (holder.env_clear().stdin(Stdio::from(stdin)))
        .stdout(null())
        .stderr(null())
        .status()
        .at(Step::Attach, "its holder")?;
    // The command itself has a copy of the other end.
    holder.stdin(null());
    if !status.success() {
        let text = format!("its holder ended at once ({status})");
        return Err(SandboxError::refused(Step::Attach, text));
    }
    let request = request.to_memory().at(Step::Attach, "the request")?;
    let sent = ours.send(&[ToInit::Attach as u8], &[request.as_fd()]);
    sent.at(Step::Attach, "its holder")?;
    receive(ours)
}

/// Attaches to the sandbox whose holder listens at `path`, where no gateway serves it any more.
///
/// # Errors
/// Nobody listens there, the holder is another user's, or another gateway serves the sandbox.
pub fn attach_again(path: &Path) -> Result<Attached, SandboxError> {
    let shown = path.to_string_lossy();
    let channel = connect(&path.to_owned()).at(Step::Attach, &shown)?;
    receive(channel.into())
}

fn receive(channel: Channel) -> Result<Attached, SandboxError> {
    let message = channel
        .receive(ATTACH_TIMEOUT)
        .at(Step::Attach, "waiting")?;
    let told = match message.bytes.split_first() {
        Some((code, told)) if *code == FromInit::Attached as u8 => told,
        Some((code, told)) if *code == FromInit::Failed as u8 => {
            return Err(match Report::decode(told) {
                Some(Report::Failed(error)) => error,
                _ => SandboxError::refused(Step::Attach, "its holder failed"),
            });
        }
        Some(_) => {
            return Err(SandboxError::refused(
                Step::Attach,
                "its holder said something else",
            ));
        }
        None => return Err(SandboxError::refused(Step::Attach, "its holder ended")),
    };
    let (inode, told) = told.split_at(told.len().min(INODE_BYTES));
    let (holder, unbound) = told.split_at(told.len().min(PID_BYTES));
    let inode = inode.try_into().map(u64::from_ne_bytes);
    let inode = inode
        .map_err(io::Error::other)
        .at(Step::Attach, "its number")?;
    let holder = holder.try_into().map(u32::from_ne_bytes);
    let holder = holder
        .map_err(io::Error::other)
        .at(Step::Attach, "its number")?;
    let unbound = String::from_utf8_lossy(unbound).into_owned();
    let mut named = NamedSockets::receive(channel.as_fd(), ATTACH_TIMEOUT)
        .at(Step::HandOver, "waiting for the sandbox's sockets")?;
    let lifeline = named.take(SocketName::Lifeline).at(Step::HandOver, "")?;
    let sockets = Sockets::with_members(named, Members::Namespace(inode)).at(Step::HandOver, "")?;
    Ok(Attached {
        sockets,
        network: inode,
        holder,
        control: Control::new(channel, lifeline),
        unbound: Some(unbound).filter(|why| !why.is_empty()),
    })
}
