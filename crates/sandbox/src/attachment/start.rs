//! Starting a holder, or finding one again, from the gateway's side.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::holder::connect;
use super::request::AttachRequest;
use crate::channel::{Channel, FromInit, ToInit};
use crate::error::{At, SandboxError, Step};
use crate::gateway_side::{Control, Sockets};
use crate::message::Report;
use crate::process::Members;
use crate::sockets::{NamedSockets, SocketName};
use crate::sys;

/// How long a holder may take to put the doors into a namespace.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to wait where many others have asked at once.
const FULL_PAUSE: Duration = Duration::from_millis(1);
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

/// Starts holders: one for each sandbox, all of them by one process that is started when the first is needed.
#[derive(Debug)]
pub struct Holders {
    /// Makes the command of that process.
    command: fn() -> Command,
    starter: Mutex<Option<Starter>>,
}

impl Holders {
    /// `command` makes a command that calls [`super::hold`] and does nothing before; its standard streams and its
    /// environment are replaced.
    pub fn new(command: fn() -> Command) -> Holders {
        Holders {
            command,
            starter: Mutex::default(),
        }
    }

    /// Attaches doors to a sandbox, as [`attach`] does.
    ///
    /// # Errors
    /// See [`attach`].
    pub fn attach(&self, request: &AttachRequest) -> Result<Attached, SandboxError> {
        let asked = {
            let mut starter = self.starter.lock().unwrap_or_else(PoisonError::into_inner);
            let running = starter.take().filter(Starter::is_running);
            let running = match running {
                Some(running) => running,
                None => Starter::start(&mut (self.command)())?,
            };
            starter.insert(running).ask(request)?
        };
        receive(asked)
    }
}

/// The process that starts holders.
#[derive(Debug)]
struct Starter {
    /// Until it is dropped.
    channel: Option<Channel>,
    process: Child,
}

impl Starter {
    fn start(command: &mut Command) -> Result<Starter, SandboxError> {
        let (channel, theirs) = Channel::pair().at(Step::Attach, "channel")?;
        let process = command
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .at(Step::Attach, "its holder");
        // The command itself has a copy of the other end.
        command.stdin(Stdio::null());
        Ok(Starter {
            channel: Some(channel),
            process: process?,
        })
    }

    fn channel(&self) -> Result<&Channel, SandboxError> {
        let channel = self.channel.as_ref().ok_or(io::ErrorKind::NotConnected);
        channel
            .map_err(io::Error::from)
            .at(Step::Attach, "its holder")
    }

    fn is_running(&self) -> bool {
        // It says nothing: what there is to read is its end.
        let has_ended =
            |channel: &Channel| sys::poll_readable(channel.as_fd(), Some(Duration::ZERO));
        self.channel()
            .is_ok_and(|channel| has_ended(channel).is_ok_and(|ended| !ended))
    }

    /// Has it start a holder; the channel to that.
    fn ask(&self, request: &AttachRequest) -> Result<Channel, SandboxError> {
        let channel = self.channel()?;
        let (ours, theirs) = Channel::pair().at(Step::Attach, "channel")?;
        let request = request.to_memory().at(Step::Attach, "the request")?;
        let deadline = Instant::now() + ATTACH_TIMEOUT;
        loop {
            let sent = channel.send(&[ToInit::Attach as u8], &[theirs.as_fd(), request.as_fd()]);
            match sent {
                // Others wait for theirs.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
                {
                    std::thread::sleep(FULL_PAUSE);
                }
                sent => return sent.map(|()| ours).at(Step::Attach, "its holder"),
            }
        }
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        // It ends with its channel; the holders that it has started do not.
        self.channel = None;
        let _ = self.process.wait();
    }
}

/// Attaches doors to a sandbox, by a holder of its own. `holder` is a command that calls
/// [`super::hold`] and does nothing before; its standard streams and its environment are replaced.
///
/// The holder survives the caller where the request says where it is found again
/// ([`AttachRequest::listen`]); otherwise the doors vanish with [`Attached::control`].
///
/// # Errors
/// The sandbox cannot be entered, has a way out or a gateway already, or the kernel refused a step. Then
/// it is as it was before.
pub fn attach(holder: &mut Command, request: &AttachRequest) -> Result<Attached, SandboxError> {
    receive(Starter::start(holder)?.ask(request)?)
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
