//! The process that carries out the sandbox's `connect` calls, so that none reaches a Unix socket of
//! the host.
//!
//! Answers *around the gateway* (docs/threats.md). A Unix socket with a path is reached through the
//! file system, whatever the network namespace, and the system call filter sees neither a socket's
//! family nor an address. So every `connect` stands still until this process has carried it out: on
//! a copy of the descriptor, with a copy of the address, and, where the address is a path, on the very
//! socket file that it has looked up and found to be made inside. Nothing that the program changes
//! meanwhile makes a difference.
//!
//! No `connect` is ever left to the kernel (`SECCOMP_USER_NOTIF_FLAG_CONTINUE`), not even that of an
//! Internet socket, which the network namespace confines: between the look at the descriptor and the
//! call, another thread could put a Unix socket in its place. `listen` is left to it. What was taken
//! down before is a socket of the program's own in any case. So is the making of a raw socket, of which
//! the kernel knows all that it needs: it is only told on.
//!
//! It has one thread, and is process 2 or so of the sandbox: connected programs see it as their peer.
//! Without it calls fail, and the sandbox ends when it does.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::stat;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, chdir, set_dumpable_behavior, setsid};

use crate::caller::{Caller, Lookup};
use crate::capabilities::Capabilities;
use crate::channel::Channel;
use crate::connect::{MAX_ADDRESS_BYTES, Target, Waiting, is_unix, path_in, socket_file};
use crate::error::{At, SandboxError, Step};
use crate::inside_sockets::{FileId, InsideSockets};
use crate::notification::{Listener, Notification, Verdict, errno};
use crate::seccomp::{self, Supervised};
use crate::tick::{TICK, Tick};
use crate::unix_refusals::Teller;
use crate::{fds, streams, sys};

/// The most `connect` calls that wait at a time; one more fails with EAGAIN.
const MAX_WAITING: usize = 256;

/// The filter could not ask: another program supervises this one's calls already.
const NOT_NEEDED: u8 = 0;
/// The filter is in force; its listener comes along.
const LISTENER: u8 = 1;

/// Where Yama says who may look at other processes, and what it says where nobody may.
const PTRACE_SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";
const NOBODY_MAY: &str = "3";

const EXIT_FAILED: i32 = 1;

/// The other end, held by the process that is to become the command.
#[derive(Debug)]
pub(crate) struct ToSupervisor(Channel);

impl ToSupervisor {
    /// Hands over the filter's listener. Calls stand still until the supervisor is at work.
    pub(crate) fn hand_over(&self, listener: &OwnedFd) -> Result<(), SandboxError> {
        let sent = self.0.send(&[LISTENER], &[listener.as_fd()]);
        sent.at(Step::SuperviseSockets, "")
    }

    /// Sends the supervisor home.
    pub(crate) fn not_needed(&self) -> Result<(), SandboxError> {
        self.0
            .send(&[NOT_NEEDED], &[])
            .at(Step::SuperviseSockets, "")
    }
}

/// Whether this kernel lets anybody look at other processes, as the supervisor has to.
pub(crate) fn is_permitted() -> bool {
    fs::read_to_string(PTRACE_SCOPE).map_or(true, |scope| scope.trim() != NOBODY_MAY)
}

/// What the supervisor is to allow and to expect.
pub(crate) struct Plan<'a> {
    /// Sockets of the host that may be reached.
    pub(crate) let_in: &'a [PathBuf],
    /// Programs inside can be more than one user.
    pub(crate) many_users: bool,
}

/// Starts the supervisor's process.
pub(crate) fn start(plan: &Plan<'_>, teller: Channel) -> Result<(Pid, ToSupervisor), SandboxError> {
    let step = Step::SuperviseSockets;
    let (ours, theirs) = Channel::pair().at(step, "channel")?;
    // SAFETY: the sandbox's first process has one thread, so the child may do anything.
    let Some(pid) = unsafe { sys::fork() }.at(step, "fork")? else {
        // A panic must end here: what is above on the stack is the first process's own code.
        let run = || run(&theirs, plan, Teller::new(teller));
        let code = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => 0,
            _ => EXIT_FAILED,
        };
        sys::exit(code)
    };
    Ok((pid, ToSupervisor(ours)))
}

/// Prepares, waits for the filter's listener, and serves it until nobody is under the filter.
fn run(channel: &Channel, plan: &Plan<'_>, teller: Teller) -> Result<(), Errno> {
    leave_first_process(channel, &teller)?;
    let capabilities = Capabilities::drop_others(plan.many_users)?;
    let inside = InsideSockets::new()?;
    let lookup = Lookup::new()?;
    errno(sys::poll_readable(channel.as_fd(), None))?;
    let mut message = errno(channel.receive(Duration::ZERO))?;
    let listener = match (&*message.bytes, message.fds.pop()) {
        ([NOT_NEEDED], None) => return Ok(()),
        ([LISTENER], Some(listener)) => listener,
        _ => return Err(Errno::BADMSG),
    };
    // By now each is mounted where it is, and stays the same file as long as the sandbox lives.
    let let_in = plan.let_in.iter().map(|path| Ok(FileId::of(&stat(path)?)));
    let let_in = let_in.collect::<Result<_, Errno>>()?;
    let mut supervisor = Supervisor {
        listener: Listener::new(listener),
        lookup,
        teller,
        inside,
        let_in,
        network: Network::own()?,
        many_users: plan.many_users,
        capabilities,
        caller: None,
        waiting: Vec::new(),
        tick: Tick::default(),
    };
    supervisor.serve()
}

/// Keeps nothing of the first process's but the channel, and nothing of the terminal's job.
fn leave_first_process(channel: &Channel, teller: &Teller) -> Result<(), Errno> {
    setsid()?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // The caller's folder may be one that is about to be masked.
    chdir("/")?;
    let null = errno(streams::null())?;
    errno(streams::replace_by(&null))?;
    drop(null);
    let channel = channel.as_fd().as_raw_fd();
    let mut needed: [RawFd; 5] = [0, 1, 2, channel, teller.as_raw_fd()];
    // SAFETY: nothing else that owns a descriptor is used or dropped from here on: this process ends
    // with `_exit`, and files opened later get new numbers.
    errno(unsafe { fds::close_all_but(&mut needed) })?;
    Tick::prepare()
}

/// The sandbox's network namespace.
struct Network(FileId);

impl Network {
    fn own() -> Result<Self, Errno> {
        Ok(Self(FileId::of(&stat("/proc/self/ns/net")?)))
    }

    /// Whether a thread is in it; not known of one that is gone.
    fn is_of(&self, thread: u32) -> bool {
        stat(format!("/proc/{thread}/ns/net")).is_ok_and(|found| FileId::of(&found) == self.0)
    }
}

struct Supervisor {
    listener: Listener,
    lookup: Lookup,
    teller: Teller,
    inside: InsideSockets,
    let_in: Vec<FileId>,
    network: Network,
    many_users: bool,
    capabilities: Capabilities,
    /// Who called last: it often calls again.
    caller: Option<Caller>,
    waiting: Vec<Waiting>,
    tick: Tick,
}

impl Supervisor {
    fn serve(&mut self) -> Result<(), Errno> {
        loop {
            if !self.waiting.is_empty() {
                let listener = self.listener.as_fd();
                let called = errno(sys::poll_readable(listener, Some(TICK)))?;
                self.try_waiting();
                if !called {
                    continue;
                }
            }
            match self.listener.receive() {
                Ok(call) => {
                    self.tick.use_it();
                    if let Some(verdict) = self.decide(&call) {
                        self.listener.answer(call.id, verdict);
                    }
                }
                Err(Errno::INTR) if self.waiting.is_empty() => self.tick.rest(),
                Err(Errno::INTR) => {}
                // The caller is gone, or everybody is.
                Err(Errno::NOENT) if !self.listener.is_over() => {}
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// What becomes of a call; nothing yet where it has to wait.
    fn decide(&mut self, call: &Notification) -> Option<Verdict> {
        let supervised = seccomp::supervised(call.architecture, call.number);
        let result = match supervised {
            Some(Supervised::Connect) => self.connect(call),
            Some(Supervised::Listen) => {
                return Some(match self.take_down(call) {
                    Err(Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC | Errno::MFILE) => {
                        Verdict::Done(Err(Errno::NOBUFS))
                    }
                    // What is not taken down cannot be connected to: that is all.
                    _ => Verdict::Continue,
                });
            }
            Some(Supervised::RawSocket) => {
                // The kernel refuses it, unless the program has a network namespace of its own. To an
                // ordinary user it does so outside too, which is no news.
                if self.many_users && self.network.is_of(call.thread) {
                    self.teller.tell_raw();
                }
                return Some(Verdict::Continue);
            }
            None => Err(Errno::NOSYS),
        };
        match result {
            Ok(None) => None,
            Ok(Some(())) => Some(Verdict::Done(Ok(()))),
            Err(error) => Some(Verdict::Done(Err(error))),
        }
    }

    /// The socket that a call is about. Descriptors of a program that has ended are not another's.
    fn socket_of(&mut self, call: &Notification) -> Result<OwnedFd, Errno> {
        if let Some(caller) = &self.caller
            && caller.thread() == call.thread
        {
            match caller.descriptor(call.arguments[0]) {
                // Its number is another's now.
                Err(Errno::SRCH) => {}
                result => return result,
            }
        }
        let caller = self.caller.insert(Caller::new(call.thread)?);
        caller.descriptor(call.arguments[0])
    }

    fn take_down(&mut self, call: &Notification) -> Result<(), Errno> {
        let socket = self.socket_of(call)?;
        self.capabilities.asking(|| self.inside.add(socket))
    }

    /// Carries out a `connect`; none where it has to wait.
    fn connect(&mut self, call: &Notification) -> Result<Option<()>, Errno> {
        let socket = self.socket_of(call)?;
        let caller = self.caller.as_ref().ok_or(Errno::SRCH)?;
        // The kernel's own limits.
        let length = usize::try_from(call.arguments[2] as u32 as i32).map_err(|_| Errno::INVAL)?;
        let mut room = [0; MAX_ADDRESS_BYTES];
        let address = room.get_mut(..length).ok_or(Errno::INVAL)?;
        caller.read(call.arguments[1], address)?;
        let target = match path_in(address) {
            Some(path) if is_unix(&socket)? => {
                self.capabilities.act_as(caller)?;
                let found = self.lookup.find(caller, path);
                if matches!(found, Err(Errno::NOENT)) && path.starts_with(b"/") {
                    self.teller.tell(path, false);
                }
                let file = found?;
                let id = socket_file(&file)?;
                let target = Target::File(file);
                if !self.may_be_reached(id) {
                    target.is_served()?;
                    return self.wait(Waiting::to_be_known(call, socket, target, id));
                }
                target
            }
            _ => Target::Address(room, length),
        };
        match target.reach(&socket, self.waiting.is_empty())? {
            None => self.wait(Waiting::new(call, socket, target)?),
            done => Ok(done),
        }
    }

    fn wait(&mut self, waiting: Waiting) -> Result<Option<()>, Errno> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(Errno::AGAIN);
        }
        self.waiting.push(waiting);
        Ok(None)
    }

    fn may_be_reached(&mut self, id: FileId) -> bool {
        self.let_in.contains(&id) || self.inside.lives(id)
    }

    fn try_waiting(&mut self) {
        let (listener, inside, teller) = (&self.listener, &mut self.inside, &mut self.teller);
        self.waiting.retain_mut(|waiting| {
            if !listener.stands(waiting.call) {
                return false;
            }
            waiting.look_again(|id| inside.lives(id));
            match waiting.try_again() {
                None => true,
                Some(result) => {
                    if let Some(path) = waiting.refused(result) {
                        teller.tell(path.to_bytes(), true);
                    }
                    listener.answer(waiting.call, Verdict::Done(result));
                    false
                }
            }
        });
    }
}
