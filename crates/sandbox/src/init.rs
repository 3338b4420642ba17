//! The sandbox's first process: builds the inside, proves it, starts the command, reaps.
//!
//! Answers *failing open* (docs/threats.md). It is process 1 of the sandbox: when it ends, the kernel ends everything inside. It ends as
//! soon as the gateway or the terminal's parent is gone, so nothing ever runs inside without
//! them. It has one thread, holds no policy and parses nothing that the command sends.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, Signal, kill_process, set_dumpable_behavior,
    set_parent_process_death_signal,
};

use crate::channel::{Channel, ToInit};
use crate::command::{self, Command, Confinement, Started};
use crate::error::{At, SandboxError, Step};
use crate::ids::IdMaps;
use crate::inside::Inside;
use crate::limits::Descriptors;
use crate::message::{EXIT_GATEWAY_GONE, GRACE, Order, Report};
use crate::mounts::Plan;
use crate::namespace_limits::NamespaceLimits;
use crate::root_files::RootFile;
use crate::signals::{Change, Saved, SignalFd};
use crate::sockets::SocketName;
use crate::spec::{Keyring, NameFiles, UnixSockets};
use crate::unix_supervisor::{self, ToSupervisor};
use crate::{
    fds, listeners, masks, mounts, probe, refused, root_files, signals, streams, sys, trust,
};

/// How long the gateway may take to say that it serves.
const GATEWAY_READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the parent may take to write the id maps.
const MAPS_TIMEOUT: Duration = Duration::from_secs(10);
/// How much later than the parent this process ends a command whose time is over. The command can
/// stop the parent, which is in its job, but not this process.
const PARENT_LATE: Duration = Duration::from_millis(500);
/// The most children that are reaped before the channels are looked at again.
const MAX_REAPED: usize = 256;
/// The exit code when the parent is gone, which nobody sees.
const EXIT_PARENT_GONE: i32 = 4;
const EXIT_TIMED_OUT: i32 = 5;
const EXIT_FAILED: i32 = 1;

/// The namespaces of the sandbox besides those that the process is born in.
pub(crate) const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNET
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// The processes whose end is the sandbox's.
#[derive(Debug, Clone, Copy)]
struct Watched {
    command: Pid,
    /// Who carries out `connect` calls, if somebody does.
    supervisor: Option<Pid>,
}

/// Everything the first process works with.
pub(crate) struct Init {
    pub(crate) parent: Channel,
    pub(crate) gateway: Channel,
    /// Open as long as the command may run.
    pub(crate) lifeline: Option<OwnedFd>,
    pub(crate) maps: IdMaps,
    pub(crate) name_files: NameFiles,
    pub(crate) unix_sockets: UnixSockets,
    pub(crate) plan: Plan,
    /// Files of root that the command sees as its own.
    pub(crate) root_files: Vec<RootFile>,
    pub(crate) cwd: PathBuf,
    pub(crate) inside: Inside,
    pub(crate) timeout: Option<Duration>,
    pub(crate) trust: bool,
    pub(crate) probe_refused: std::net::SocketAddr,
    pub(crate) command: Command,
    pub(crate) kept: Vec<RawFd>,
    pub(crate) signals: Saved,
    pub(crate) descriptors: Descriptors,
    pub(crate) keyring: Keyring,
}

impl Init {
    /// Runs in the new process, in its new user and PID namespaces; never returns.
    pub(crate) fn main(mut self) -> ! {
        // A panic must end here: what is above on the stack is the caller's own code.
        let code = match catch_unwind(AssertUnwindSafe(|| self.run())) {
            Ok(Ok(code)) => code,
            Ok(Err(error)) => {
                let _ = self.parent.send(&Report::Failed(error).encode(), &[]);
                EXIT_FAILED
            }
            Err(_) => EXIT_FAILED,
        };
        // And with this process everything inside.
        sys::exit(code)
    }

    fn run(&mut self) -> Result<i32, SandboxError> {
        let namespace_limits = self.enter_namespaces()?;
        // It prepares while the rest is built.
        let (teller, refusals) = Channel::pair().at(Step::Prepare, "channel")?;
        let (watched, supervisor) = self.supervisor(teller)?.unzip();
        let refusals = watched.is_some().then_some(refusals);
        let log = self.build_network(refusals)?;
        let question = probe::ask(&self.inside.addresses)?;
        self.build_files()?;
        let confinement = Confinement {
            maps: &self.maps,
            kept: &self.kept,
            signals: &self.signals,
            descriptors: self.descriptors,
            keyring: self.keyring,
            unix_sockets: self.unix_sockets,
            let_in: &self.plan.let_in,
            supervisor,
        };
        let waiting = command::fork(&self.command, &confinement)?;
        // The command's process alone speaks to it.
        drop(confinement);
        // While the command's process makes its namespace.
        namespace_limits
            .set()
            .at(Step::Confine, "limits of namespaces")?;
        drop(namespace_limits);
        waiting.map(&self.maps)?;
        self.gateway_ready()?;
        probe::refused(self.probe_refused)?;
        question.answered()?;
        // Only now, so that the probe itself leaves no record.
        refused::begin_refusal_log(log.as_fd()).at(Step::Rules, "log of refusals")?;
        drop(log);
        // What is opened later may be refused: the command can use up what the host has.
        let null = streams::null().at(Step::Prepare, "/dev/null")?;
        let children = SignalFd::for_children().at(Step::Prepare, "signals")?;
        let pid = waiting.pid;
        // From here on a signal is the command's: before, it ends everything.
        let _ = self.parent.send(&Report::Starting.encode(), &[]);
        match waiting.start()? {
            Started::Running => {}
            Started::NoExec(errno) => {
                let _ = self.parent.send(&Report::NoExec(errno).encode(), &[]);
                return Ok(0);
            }
        }
        // What fails from here on is not reported as if the command had never started.
        if self
            .release_standard_streams(null, children.as_fd().as_raw_fd())
            .is_err()
        {
            return Ok(EXIT_FAILED);
        }
        let watched = Watched {
            command: pid,
            supervisor: watched,
        };
        Ok(self.serve(&watched, &children))
    }

    /// Starts who carries out the command's `connect` calls, where somebody may have to.
    fn supervisor(&self, teller: Channel) -> Result<Option<(Pid, ToSupervisor)>, SandboxError> {
        if !matches!(
            self.unix_sockets,
            UnixSockets::Auto | UnixSockets::Supervised
        ) {
            return Ok(None);
        }
        if !unix_supervisor::is_permitted() {
            return match self.unix_sockets {
                UnixSockets::Auto => Ok(None),
                _ => Err(Errno::PERM).at(Step::SuperviseSockets, ""),
            };
        }
        let plan = unix_supervisor::Plan {
            let_in: &self.plan.let_in,
            many_users: self.maps.privileged(),
        };
        unix_supervisor::start(&plan, teller).map(Some)
    }

    /// Everything that is this process's own copy of the caller's is closed.
    fn close_others(&self, also: &[RawFd]) -> Result<(), SandboxError> {
        let mut needed = also.to_vec();
        needed.extend([&self.parent, &self.gateway].map(|channel| channel.as_fd().as_raw_fd()));
        needed.extend(self.lifeline.as_ref().map(AsRawFd::as_raw_fd));
        // SAFETY: nothing else that owns a descriptor is used or dropped from here on: this
        // process ends with `_exit`, and files opened later get new numbers.
        unsafe { fds::close_all_but(&mut needed) }.at(Step::Prepare, "descriptors")
    }

    /// The command's streams are its own: no copy here keeps a pipe open that it has closed.
    fn release_standard_streams(&self, null: File, also: RawFd) -> Result<(), SandboxError> {
        streams::replace_by(&null).at(Step::Prepare, "/dev/null")?;
        drop(null);
        self.close_others(&[0, 1, 2, also])
    }

    fn enter_namespaces(&self) -> Result<NamespaceLimits, SandboxError> {
        let mut also = vec![0, 1, 2];
        also.extend_from_slice(&self.kept);
        self.close_others(&also)?;
        set_parent_process_death_signal(Some(Signal::KILL)).at(Step::Prepare, "")?;
        unshare(NAMESPACES).at(Step::Namespaces, "")?;
        if !self.maps.privileged() {
            self.maps.write_own().at(Step::IdMap, "")?;
        }
        mounts::begin()?;
        NamespaceLimits::open().at(Step::Confine, "limits of namespaces")
    }

    /// Makes the network and hands its sockets over; returns the log's, which is not heard yet.
    fn build_network(&self, refusals: Option<Channel>) -> Result<OwnedFd, SandboxError> {
        if self.inside.tap.is_some() {
            // The device is given to a user, who must have a name here.
            self.await_maps()?;
        }
        let mut sockets = self.inside.build()?;
        if let Some(refusals) = refusals {
            sockets.add(SocketName::UnixRefusals, refusals.into());
        }
        // Only now: the gateway may open destinations as soon as it has the sockets.
        if let Err(error) = sockets.send(self.gateway.as_fd()) {
            // What a gateway that has ended said before is why.
            return Err(match self.await_gateway(ToInit::Ready) {
                Err(said @ SandboxError::Refused { .. }) => said,
                _ => SandboxError::setup(Step::HandOver, "", error),
            });
        }
        sockets.take(SocketName::RefusalLog).at(Step::HandOver, "")
    }

    /// Waits until the parent has written the id maps, where that is its part.
    fn await_maps(&self) -> Result<(), SandboxError> {
        if !self.maps.privileged() {
            return Ok(());
        }
        let message = self.parent.receive(MAPS_TIMEOUT);
        let message = message.at(Step::IdMap, "waiting")?.bytes;
        if Order::decode(&message) == Some(Order::Mapped) {
            Ok(())
        } else {
            Err(SandboxError::refused(
                Step::IdMap,
                "the parent process exited",
            ))
        }
    }

    fn build_files(&self) -> Result<(), SandboxError> {
        if self.inside.tap.is_none() {
            self.await_maps()?;
        }
        // A namespace where that cannot be set has no ping, as before.
        let _ = self.maps.permit_ping();
        mounts::arrange(&self.plan)?;
        masks::resolver_files(&self.inside.addresses, &self.name_files)?;
        root_files::cover(&self.root_files);
        if self.trust {
            trust::install(self.await_gateway(ToInit::Trust)?)?;
        }
        mounts::protect(&self.plan)?;
        // By path, also when it does not change: the old one would still be the host's folder,
        // under the masks.
        let cwd = self.cwd.to_string_lossy();
        std::env::set_current_dir(&self.cwd).at(Step::WorkingDirectory, &cwd)?;
        // Nobody inside may look into this process, which has capabilities over the sandbox.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Step::Confine, "")
    }

    fn gateway_ready(&self) -> Result<(), SandboxError> {
        self.await_gateway(ToInit::Ready).map(drop)
    }

    /// Waits for what the gateway says next, which must be this, and for what comes with it.
    fn await_gateway(&self, expected: ToInit) -> Result<Vec<OwnedFd>, SandboxError> {
        let message = self.gateway.receive(GATEWAY_READY_TIMEOUT);
        let message = message.at(Step::Gateway, "waiting")?;
        match message.bytes.split_first() {
            Some((code, _)) if *code == expected as u8 => Ok(message.fds),
            Some((code, rest)) if *code == ToInit::Failed as u8 => {
                let (errno, text) = rest.split_at(rest.len().min(size_of::<i32>()));
                let errno = errno.try_into().map_or(0, i32::from_ne_bytes);
                let text = String::from_utf8_lossy(text);
                Err(SandboxError::refused_for(Step::Gateway, text, errno))
            }
            Some(_) => Err(SandboxError::refused(
                Step::Gateway,
                "it sent an unexpected message while it started",
            )),
            None => Err(SandboxError::refused(Step::GatewayEnd, "it said nothing")),
        }
    }

    /// Serves both channels and reaps until the command ends, or until nobody carries out its
    /// `connect` calls any more.
    fn serve(&mut self, watched: &Watched, children: &SignalFd) -> i32 {
        let limit = self
            .timeout
            .map(|limit| limit.saturating_add(GRACE + PARENT_LATE));
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut state = State::default();
        let mut reaped = Reaped::All;
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return EXIT_TIMED_OUT;
            }
            let left = match reaped {
                Reaped::More => Some(Duration::ZERO),
                _ => left,
            };
            let fds = [self.parent.as_fd(), self.gateway.as_fd(), children.as_fd()];
            let [parent, gateway, _] = sys::poll_or_pause(fds, left);
            // One at a time: the next is there at once.
            let _ = children.next();
            reaped = reap(watched, &mut state);
            match reaped {
                Reaped::End(report) => {
                    // There is room: at most one other report is on its way.
                    let _ = self.parent.send(&report.encode(), &[]);
                    // The gateway may begin to write its last records while the rest ends here.
                    drop(self.lifeline.take());
                    return 0;
                }
                Reaped::SupervisorGone => return EXIT_FAILED,
                Reaped::All | Reaped::More => {}
            }
            if parent && !self.carry_out_order(watched.command, &mut state) {
                return EXIT_PARENT_GONE;
            }
            if gateway && !self.answer_gateway() {
                return EXIT_GATEWAY_GONE;
            }
            if let Some(stop) = state.unreported_stop() {
                let _ = self.parent.send(&Report::Stopped(stop).encode(), &[]);
            }
        }
    }

    /// Takes one order of the parent; false when it is gone.
    fn carry_out_order(&self, command: Pid, state: &mut State) -> bool {
        let Ok(message) = self.parent.receive_now() else {
            return false;
        };
        let Some(message) = message else {
            return true;
        };
        let signal = match Order::decode(&message.bytes) {
            Some(Order::Signal(signal)) => Signal::from_named_raw(signal),
            // To continue it when it does not stand still would undo a stop that is on its way.
            Some(Order::Continue(stop)) if state.stands_in(stop) => Some(Signal::CONT),
            Some(Order::Followed(_)) => {
                state.unanswered = false;
                None
            }
            Some(Order::Continue(_) | Order::Mapped) => None,
            None => return false,
        };
        if let Some(signal) = signal {
            // The command is this process's child and not reaped yet.
            let _ = kill_process(command, signal);
        }
        true
    }

    /// Serves one request of the gateway; false when it is gone.
    fn answer_gateway(&self) -> bool {
        let Ok(message) = self.gateway.receive_now() else {
            return false;
        };
        let Some(message) = message else {
            return true;
        };
        match &*message.bytes {
            [] => false,
            [code, family, number @ ..] if *code == ToInit::NewTcpSocket as u8 => {
                listeners::answer_new_socket(&self.gateway, *family, number)
            }
            _ => true,
        }
    }
}

/// Where the command stands, as far as its parent's job control goes. States are reported, not each of
/// their changes: a program that stops and continues the command ten thousand times makes one report,
/// until that has been followed.
#[derive(Debug, Default)]
struct State {
    /// How often it has stopped.
    stops: i32,
    standing: bool,
    /// The stop that was reported last.
    told: i32,
    /// Whether that report has not been followed yet.
    unanswered: bool,
}

impl State {
    fn stopped(&mut self) {
        self.stops = self.stops.wrapping_add(1);
        self.standing = true;
    }

    fn stands_in(&self, stop: i32) -> bool {
        self.standing && self.stops == stop
    }

    /// The stop that is to be reported now, if any.
    fn unreported_stop(&mut self) -> Option<i32> {
        if !self.standing || self.unanswered || self.told == self.stops {
            return None;
        }
        (self.told, self.unanswered) = (self.stops, true);
        Some(self.stops)
    }
}

/// What a look at the children found.
enum Reaped {
    /// Nothing is left to be reaped.
    All,
    /// There may be more.
    More,
    /// The command has ended.
    End(Report),
    /// Nobody carries out the command's calls any more.
    SupervisorGone,
}

/// Reaps what has ended, a bounded number: who makes orphans faster than they are reaped must not keep
/// the rest from being looked after.
fn reap(watched: &Watched, state: &mut State) -> Reaped {
    for _ in 0..MAX_REAPED {
        let Some((pid, change)) = signals::reap_any() else {
            return Reaped::All;
        };
        // It ends in order where it was not needed.
        if Some(pid) == watched.supervisor && change.is_end() && change != Change::Exited(0) {
            return Reaped::SupervisorGone;
        }
        if pid != watched.command {
            continue;
        }
        match change {
            Change::Continued => state.standing = false,
            Change::Stopped => state.stopped(),
            Change::Exited(code) => return Reaped::End(Report::Exited(code)),
            Change::Signaled(signal) => return Reaped::End(Report::Signaled(signal)),
        }
    }
    Reaped::More
}
