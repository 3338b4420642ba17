//! The holder: a small process that enters a namespace, puts doors into it, and stays.
//!
//! Answers *failing open* (docs/threats.md). It has one thread, holds no policy, and parses nothing that
//! the sandbox sends. While nobody serves the doors, the sandbox is cut off. When the holder ends in
//! order, it takes the doors away; when it is killed, rules and routes stay, and lead nowhere.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
    sockopt,
};
use rustix::process::{geteuid, setsid};

use super::enter::{Entered, enter};
use super::files::{self, Bound, Shown};
use super::request::{AttachRequest, Attachment};
use super::undo::{self, Before};
use crate::channel::{Channel, FromInit, ToInit};
use crate::error::{At, SandboxError, Step};
use crate::inside::Inside;
use crate::link;
use crate::listeners;
use crate::message::Report;
use crate::shared::cut_off;
use crate::sockets::{NamedSockets, SocketName};
use crate::{peer, refused, sys};

/// How often it is looked whether a path still names the namespace.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Gateways that may wait to be given the sockets.
const BACKLOG: i32 = 4;
const EXIT_FAILED: i32 = 1;
/// The user that stands for all that have no number in a user namespace.
const OVERFLOW_USER: &str = "/proc/sys/kernel/overflowuid";

/// The whole life of a holder, in a process of its own with a single thread: what it is asked for, and whom it tells.
/// Returns the exit code.
pub(super) fn live(caller: Channel, request: OwnedFd) -> i32 {
    match prepare(&caller, request) {
        Ok(holder) => {
            sys::give_back_memory();
            holder.serve(caller);
            0
        }
        Err(error) => {
            tell_failure(&caller, error);
            EXIT_FAILED
        }
    }
}

/// Tells a gateway why its sandbox is not attached.
pub(super) fn tell_failure(caller: &Channel, error: SandboxError) {
    let mut message = vec![FromInit::Failed as u8];
    message.extend(Report::Failed(error).encode());
    // One that is gone is not told.
    let _ = caller.send(&message, &[]);
}

fn prepare(caller: &Channel, request: OwnedFd) -> Result<Holder, SandboxError> {
    let step = Step::Attach;
    // It outlives whoever started it.
    let _ = setsid();
    let request = AttachRequest::from_memory(request).at(step, "the request")?;
    // Before the namespace's owner is another user than this process's.
    let listener = request.listen.as_deref().map(listen_at).transpose();
    let listener = listener.at(step, "the socket for gateways")?;
    // A gateway asks from where this one was started, and no program of a sandbox does.
    let home = peer::own_network().at(step, "its network namespace")?;
    let entered = enter(&request.attachment)?;
    let mut holder = Holder::build(request, entered)?;
    holder.home = home;
    if listener.is_some() && is_nobody() {
        return Err(SandboxError::refused(
            step,
            "the user of this process has no number in the sandbox's user namespace, so that other users \
             could not be told from it",
        ));
    }
    holder.listener = listener;
    let unbound = holder.bind_files();
    holder.hand_over(caller, Some(&unbound))?;
    if holder.listener.is_none() {
        // The doors are the gateway's alone: with it they close.
        holder.sockets = None;
    }
    Ok(holder)
}

/// Whether this user and others without a number look the same here.
fn is_nobody() -> bool {
    let nobody = fs::read_to_string(OVERFLOW_USER).unwrap_or_default();
    nobody.trim() == geteuid().as_raw().to_string()
}

/// Listens for gateways at a path that only this user may connect to.
fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// A namespace with doors.
struct Holder {
    request: AttachRequest,
    entered: Entered,
    before: Before,
    /// Kept for the next gateway, where there may be one.
    sockets: Option<NamedSockets>,
    /// Heard once somebody serves, and then for good: none from then on.
    log: Option<OwnedFd>,
    /// What was shown over the sandbox's files.
    bound: Vec<Bound>,
    listener: Option<OwnedFd>,
    /// Its other end, with the gateway, reads as ended when this process is gone.
    lifeline: Option<OwnedFd>,
    /// Never readable: stands for what is not there.
    silent: OwnedFd,
    /// The network namespace in which gateways ask.
    home: u64,
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The doors go first: what a program still sees of the files leads nowhere.
        self.sockets = None;
        match &self.request.attachment {
            // Its programs have another way out: rules stay, by which nothing is open. If the kernel takes no others,
            // those that are there lead to sockets that are gone.
            Attachment::Shared { user } => {
                let _ = cut_off(*user);
            }
            _ => self.before.restore(&self.request.addresses),
        }
        if let (Some(mounts), false) = (&self.entered.mounts, self.bound.is_empty()) {
            let _ = files::unbind(mounts.as_fd(), &self.bound);
        }
        if let Some(path) = &self.request.listen {
            let _ = fs::remove_file(path);
        }
        // Only now the gateway is told.
        self.lifeline = None;
    }
}

impl Holder {
    /// Puts doors into the namespace that this process has entered.
    fn build(request: AttachRequest, entered: Entered) -> Result<Self, SandboxError> {
        let inside = Inside {
            addresses: request.addresses,
            open: request.open.clone(),
            tap: match &request.attachment {
                Attachment::Device(tap) => Some(tap.clone()),
                Attachment::Process { .. }
                | Attachment::Namespace(_)
                | Attachment::Shared { .. } => None,
            },
            shared: match &request.attachment {
                Attachment::Shared { user } => Some(*user),
                _ => None,
            },
        };
        let mut before = Before::read(entered.was_up);
        let mut sockets = inside.sockets().map_err(taken)?;
        // Nobody serves there: the ports are free. What an earlier holder left is not what was before.
        if inside.shared.is_none() && undo::remove_rules().is_ok() {
            link::remove(&request.addresses, true);
            before = Before::read(true);
        }
        if let Err(error) = inside.configure(&mut sockets) {
            if inside.shared.is_none() {
                before.restore(&request.addresses);
            }
            return Err(error);
        }
        let log = sockets.get(SocketName::RefusalLog);
        let log = log.map(|log| log.try_clone_to_owned());
        let log = log.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
        let (silent, lifeline) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).at(Step::Attach, "pipe")?;
        sockets.add(
            SocketName::Lifeline,
            silent.try_clone().at(Step::Attach, "pipe")?,
        );
        Ok(Self {
            request,
            entered,
            before,
            sockets: Some(sockets),
            home: 0,
            log: Some(log.at(Step::Attach, "log of refusals")?),
            bound: Vec::new(),
            listener: None,
            lifeline: Some(lifeline),
            silent,
        })
    }

    /// Shows the files over the sandbox's own; why not, where that is not so.
    fn bind_files(&mut self) -> String {
        let shown = Shown {
            addresses: &self.request.addresses,
            names: self.request.files.as_ref(),
            trust: self.request.trust.as_ref(),
            root: match &self.request.attachment {
                Attachment::Process { root, .. } => root.as_deref(),
                Attachment::Namespace(_) | Attachment::Device(_) | Attachment::Shared { .. } => {
                    None
                }
            },
        };
        if shown.names.is_none() && shown.trust.is_none() {
            return String::new();
        }
        let Some(mounts) = &self.entered.mounts else {
            return "it has no files of its own".to_owned();
        };
        match files::bind(mounts.as_fd(), &shown) {
            Ok(bound) => {
                self.bound = bound;
                String::new()
            }
            Err(error) => error.to_string(),
        }
    }

    /// Gives the sockets to a gateway. The first one is told which namespace it is, and why no files are
    /// shown there, if they are not.
    fn hand_over(&self, gateway: &Channel, unbound: Option<&str>) -> Result<(), SandboxError> {
        if let Some(unbound) = unbound {
            let mut message = vec![FromInit::Attached as u8];
            message.extend_from_slice(&self.entered.network.inode.to_ne_bytes());
            message.extend_from_slice(&std::process::id().to_ne_bytes());
            message.extend_from_slice(crate::channel::cut(unbound).as_bytes());
            gateway.send(&message, &[]).at(Step::HandOver, "")?;
        }
        match &self.sockets {
            Some(sockets) => sockets.send(gateway.as_fd()).at(Step::HandOver, ""),
            None => Err(SandboxError::refused(Step::HandOver, "they are gone")),
        }
    }

    /// Serves gateways until the sandbox is gone, or until it is to be detached.
    fn serve(mut self, first: Channel) {
        let mut gateway = Some(first);
        let by_path = self.entered.path.is_some();
        loop {
            let silent = &self.silent;
            let fds = [
                gateway.as_ref().map_or(silent.as_fd(), Channel::as_fd),
                self.listener.as_ref().unwrap_or(silent).as_fd(),
                self.entered.process.as_ref().unwrap_or(silent).as_fd(),
            ];
            let [said, came, ended] = sys::poll_or_pause(fds, by_path.then_some(LOOK_INTERVAL));
            if (ended && self.entered.process.is_some()) || self.entered.is_gone() {
                return;
            }
            if said && let Some(channel) = gateway.as_ref() {
                match self.answer(channel) {
                    Said::Something => {}
                    Said::Detach => return,
                    Said::Nothing if self.listener.is_none() => return,
                    Said::Nothing => {
                        gateway = None;
                        // Nobody serves: a connection is refused at once, as everywhere else.
                        if let Some(sockets) = &self.sockets {
                            listeners::close(sockets);
                        }
                        let _ = undo::close_all();
                    }
                }
            }
            if came {
                self.next_gateway(&mut gateway);
            }
        }
    }

    /// Takes a gateway that asks for the sockets, if it is this user's and there is no other.
    fn next_gateway(&mut self, gateway: &mut Option<Channel>) {
        let Some(listener) = &self.listener else {
            return;
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(asking) = accept_with(listener, flags) else {
            return;
        };
        let is_ours = sockopt::socket_peercred(&asking).is_ok_and(|peer| peer.uid == geteuid())
            && peer::network(asking.as_fd()).is_ok_and(|network| network == self.home);
        let asking = Channel::from(asking);
        if !is_ours || gateway.is_some() {
            return;
        }
        let opened = self.sockets.as_ref().map_or(Ok(()), listeners::open_again);
        if opened.is_ok() && self.hand_over(&asking, Some("")).is_ok() {
            *gateway = Some(asking);
        } else if let Some(sockets) = &self.sockets {
            listeners::close(sockets);
        }
    }

    /// Serves one request of the gateway.
    fn answer(&mut self, gateway: &Channel) -> Said {
        let message = match gateway.receive_now() {
            Ok(Some(message)) => message,
            Ok(None) => return Said::Something,
            Err(_) => return Said::Nothing,
        };
        match &*message.bytes {
            [] => Said::Nothing,
            [code, ..] if *code == ToInit::Detach as u8 => Said::Detach,
            // It says why to whoever started it.
            [code, ..] if *code == ToInit::Failed as u8 => Said::Nothing,
            [code, ..] if *code == ToInit::Ready as u8 => {
                // Without this log refusals would go unrecorded. A second time the kernel says that it is heard
                // already, to whoever reads it.
                let begun = self
                    .log
                    .take()
                    .map(|log| refused::begin_refusal_log(log.as_fd()));
                match begun {
                    Some(Err(_)) => Said::Nothing,
                    Some(Ok(())) | None => Said::Something,
                }
            }
            [code, family, number @ ..] if *code == ToInit::NewTcpSocket as u8 => {
                match listeners::answer_new_socket(gateway, *family, number) {
                    true => Said::Something,
                    false => Said::Nothing,
                }
            }
            _ => Said::Something,
        }
    }
}

/// What a gateway said.
enum Said {
    Something,
    /// The doors are to vanish.
    Detach,
    /// It is gone.
    Nothing,
}

/// Ports that are taken are another gateway's, or a program's of the sandbox.
fn taken(error: SandboxError) -> SandboxError {
    match &error {
        SandboxError::Setup { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
            SandboxError::refused_for(
                Step::Attach,
                "another gateway serves the sandbox, or a program in it listens on port 53, or on a port \
                 of the gateway's",
                libc::EADDRINUSE,
            )
        }
        _ => error,
    }
}

/// Where a holder listens for gateways, for whoever asks there.
pub(super) fn connect(path: &PathBuf) -> io::Result<OwnedFd> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
