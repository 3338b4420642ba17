//! The sandbox's first process: builds the inside, proves it, starts the command, reaps.
//!
//! It is process 1 of the sandbox: when it ends, the kernel ends everything inside. It ends as
//! soon as the gateway or the terminal's parent is gone, so nothing ever runs inside without
//! them. It has one thread, holds no policy and parses nothing that the command sends.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::channel::{Channel, FromInit, ToInit};
use crate::command::{self, Command, Confinement, Started};
use crate::error::{At, SandboxError, Step};
use crate::gateway_side::{Family, Sockets};
use crate::ids::IdMaps;
use crate::message::{Order, Report};
use crate::mounts::Plan;
use crate::parent::GRACE;
use crate::signals::{Change, Saved, SignalFd};
use crate::spec::{Addresses, OpenRules};
use crate::{fds, link, listeners, masks, mounts, probe, refused, rules, signals, sys, tap, trust};

/// How long the gateway may take to say that it serves.
const GATEWAY_READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the parent may take to write the id maps.
const MAPS_TIMEOUT: Duration = Duration::from_secs(10);
/// The exit code when the gateway is gone; the parent tells the two apart by it.
pub(crate) const EXIT_GATEWAY_GONE: i32 = 3;
/// How much later than the parent this process ends a command whose time is over. The command can
/// stop the parent, which is in its job, but not this process.
const PARENT_LATE: Duration = Duration::from_millis(500);
/// The exit code when the parent is gone, which nobody sees.
const EXIT_PARENT_GONE: i32 = 4;
const EXIT_TIMED_OUT: i32 = 5;
const EXIT_FAILED: i32 = 1;
/// Where the socket for rules is among the sockets made inside.
const SET_SOCKET: usize = Sockets::COUNT - 2;
const PORT_START: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Everything the first process works with.
pub(crate) struct Init {
    pub(crate) parent: Channel,
    pub(crate) gateway: Channel,
    pub(crate) lifeline: OwnedFd,
    pub(crate) maps: IdMaps,
    pub(crate) unix_sockets: File,
    pub(crate) plan: Plan,
    pub(crate) cwd: PathBuf,
    pub(crate) addresses: Addresses,
    pub(crate) open: OpenRules,
    pub(crate) tap: Option<String>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) trust: bool,
    pub(crate) probe_refused: std::net::SocketAddr,
    pub(crate) command: Command,
    pub(crate) kept: Vec<RawFd>,
    pub(crate) signals: Saved,
}

impl Init {
    /// Runs in the new process, in its new user and PID namespaces; never returns.
    pub(crate) fn main(&self) -> ! {
        // A panic must end here: what is above on the stack is the caller's own code.
        let code = match catch_unwind(AssertUnwindSafe(|| self.run())) {
            Ok(Ok(code)) => code,
            Ok(Err(error)) => {
                let _ = self.parent.send(&Report::Failed(error).encode(), &[]);
                EXIT_FAILED
            }
            Err(_) => EXIT_FAILED,
        };
        // SAFETY: ends this process, and with it everything inside.
        unsafe { libc::_exit(code) }
    }

    fn run(&self) -> Result<i32, SandboxError> {
        self.leave_the_host()?;
        let log = self.build_network()?;
        let question = probe::ask(&self.addresses)?;
        self.build_files()?;
        let confinement = Confinement {
            maps: &self.maps,
            kept: &self.kept,
            signals: &self.signals,
        };
        let waiting = command::fork(&self.command, &confinement)?;
        waiting.map(&self.maps)?;
        self.gateway_ready()?;
        probe::refused(self.probe_refused)?;
        question.answered()?;
        // Only now, so that the probe itself leaves no record.
        refused::begin(log.as_fd()).at(Step::Rules, "log of refusals")?;
        drop(log);
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
        self.let_go_of_standard_descriptors()?;
        self.serve(pid)
    }

    /// Everything that is this process's own copy of the caller's is closed.
    fn forget(&self, also: &[RawFd]) -> Result<(), SandboxError> {
        let mut needed = also.to_vec();
        needed.extend([&self.parent, &self.gateway].map(|channel| channel.as_fd().as_raw_fd()));
        needed.push(self.lifeline.as_raw_fd());
        // SAFETY: nothing else that owns a descriptor is used or dropped from here on: this
        // process ends with `_exit`, and files opened later get new numbers.
        unsafe { fds::close_all_but(&mut needed) }.at(Step::Prepare, "descriptors")
    }

    /// The command's streams are its own: no copy here keeps a pipe open that it has closed.
    fn let_go_of_standard_descriptors(&self) -> Result<(), SandboxError> {
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = null.at(Step::Prepare, "/dev/null")?.into_raw_fd();
        for fd in 0..=2 {
            // SAFETY: nothing here owns the standard descriptors.
            sys::check(unsafe { libc::dup2(null, fd) }).at(Step::Prepare, "/dev/null")?;
        }
        self.forget(&[0, 1, 2])
    }

    fn leave_the_host(&self) -> Result<(), SandboxError> {
        let mut also = vec![0, 1, 2, self.unix_sockets.as_raw_fd()];
        also.extend_from_slice(&self.kept);
        self.forget(&also)?;
        // SAFETY: plain system calls; this process has one thread.
        unsafe {
            sys::check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))
                .at(Step::Prepare, "")?;
            let spaces =
                libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
            sys::check(libc::unshare(spaces)).at(Step::Namespaces, "")?;
        }
        if !self.maps.privileged() {
            self.maps.write_own().at(Step::IdMap, "")?;
        }
        mounts::begin()
    }

    /// Makes the doors and the rules; returns the log's socket, which is not heard yet.
    fn build_network(&self) -> Result<OwnedFd, SandboxError> {
        let sockets = listeners::make(&self.addresses).at(Step::Listeners, "")?;
        let datagrams =
            listeners::datagrams(&self.open.datagram_ports).at(Step::Listeners, "udp")?;
        let tap = self.tap.as_deref();
        if tap.is_some() {
            // The device is given to a user, who must have a name here.
            self.await_maps()?;
        }
        let tap_index = tap.map(tap::make).transpose().at(Step::Tap, tap::DEVICE)?;
        link::configure(&self.addresses, tap_index).at(Step::Network, "")?;
        fs::write(PORT_START, "0").at(Step::Network, PORT_START)?;
        let set = &sockets[SET_SOCKET];
        for batch in rules::transactions(&self.addresses, &self.open, tap) {
            crate::netlink::transact(set.as_fd(), batch).at(Step::Rules, "")?;
        }
        // Only now: the gateway may open destinations as soon as it has the sockets.
        let borrowed: Vec<_> = sockets.iter().chain(&datagrams).map(AsFd::as_fd).collect();
        self.gateway
            .send(&[FromInit::Sockets as u8], &borrowed)
            .at(Step::HandOver, "")?;
        let [.., log] = sockets;
        Ok(log)
    }

    /// Waits until the parent has written the id maps, where that is its part.
    fn await_maps(&self) -> Result<(), SandboxError> {
        if !self.maps.privileged() {
            return Ok(());
        }
        let (message, _) = self
            .parent
            .receive_with_fds(MAPS_TIMEOUT)
            .at(Step::IdMap, "waiting")?;
        if Order::decode(&message) == Some(Order::Mapped) {
            Ok(())
        } else {
            Err(SandboxError::refused(Step::IdMap, "the parent ended"))
        }
    }

    fn build_files(&self) -> Result<(), SandboxError> {
        if self.tap.is_none() {
            self.await_maps()?;
        }
        mounts::arrange(&self.plan)?;
        masks::resolver_files(&self.addresses)?;
        if self.trust {
            trust::install(self.await_gateway(ToInit::Trust)?)?;
        }
        masks::cover_sockets(&self.unix_sockets, &self.cwd)?;
        mounts::protect(&self.plan)?;
        // By path, also when it does not change: the old one would still be the host's folder,
        // under the masks.
        let cwd = self.cwd.to_string_lossy();
        std::env::set_current_dir(&self.cwd).at(Step::WorkingDirectory, &cwd)?;
        // Nobody inside may look into this process, which has capabilities over the sandbox.
        // SAFETY: plain system call.
        sys::check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })
            .at(Step::Confine, "")
            .map(drop)
    }

    fn gateway_ready(&self) -> Result<(), SandboxError> {
        self.await_gateway(ToInit::Ready).map(drop)
    }

    /// Waits for what the gateway says next, which must be this, and for what comes with it.
    fn await_gateway(&self, expected: ToInit) -> Result<Vec<OwnedFd>, SandboxError> {
        let (message, fds) = self
            .gateway
            .receive_with_fds(GATEWAY_READY_TIMEOUT)
            .at(Step::Gateway, "waiting")?;
        match message.split_first() {
            Some((code, _)) if *code == expected as u8 => Ok(fds),
            Some((code, text)) if *code == ToInit::Failed as u8 => Err(SandboxError::refused(
                Step::Gateway,
                String::from_utf8_lossy(text),
            )),
            Some(_) => Err(SandboxError::refused(
                Step::Gateway,
                "it broke the order of its start",
            )),
            None => Err(SandboxError::refused(
                Step::Gateway,
                "it ended before it was ready",
            )),
        }
    }

    /// Serves both channels and reaps until the command ends.
    fn serve(&self, command: libc::pid_t) -> Result<i32, SandboxError> {
        let children = SignalFd::for_children().at(Step::Prepare, "signals")?;
        let limit = self
            .timeout
            .map(|limit| limit.saturating_add(GRACE + PARENT_LATE));
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        // How often the command has stopped, and whether it stands still now.
        let (mut stops, mut standing) = (0i32, false);
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(EXIT_TIMED_OUT);
            }
            let fds = [self.parent.as_fd(), self.gateway.as_fd(), children.as_fd()];
            let [parent, gateway, _] = sys::poll(fds, left).at(Step::Prepare, "poll")?;
            while children.next().is_some() {}
            while let Some((pid, change)) = signals::reap(-1) {
                if pid != command {
                    continue;
                }
                standing = change == Change::Stopped;
                let report = match change {
                    Change::Continued => continue,
                    Change::Stopped => Report::Stopped,
                    Change::Exited(code) => Report::Exited(code),
                    Change::Signaled(signal) => Report::Signaled(signal),
                };
                let _ = self.parent.send(&report.encode(), &[]);
                if change == Change::Stopped {
                    stops = stops.wrapping_add(1);
                } else {
                    // The gateway may begin to write its last records while the rest ends here.
                    // SAFETY: the descriptor is not used again: this process ends with `_exit`.
                    unsafe { libc::close(self.lifeline.as_raw_fd()) };
                    return Ok(0);
                }
            }
            if parent && !self.obey(command, standing.then_some(stops)) {
                return Ok(EXIT_PARENT_GONE);
            }
            if gateway && !self.answer_gateway() {
                return Ok(EXIT_GATEWAY_GONE);
            }
        }
    }

    /// Takes one order of the parent; false when it is gone. `stop` is the number of the stop in
    /// which the command stands still, if it does: to continue it when it does not would undo a
    /// stop that is on its way.
    fn obey(&self, command: libc::pid_t, stop: Option<i32>) -> bool {
        let Ok((message, _)) = self.parent.receive_with_fds(Duration::ZERO) else {
            return false;
        };
        let signal = match Order::decode(&message) {
            Some(Order::Signal(signal)) => signal,
            Some(Order::Continue(known)) if stop == Some(known) => libc::SIGCONT,
            Some(Order::Continue(_) | Order::Mapped) => return true,
            None => return false,
        };
        // SAFETY: the command is this process's child and not reaped yet.
        unsafe { libc::kill(command, signal) };
        true
    }

    /// Serves one request of the gateway; false when it is gone.
    fn answer_gateway(&self) -> bool {
        let Ok((message, _)) = self.gateway.receive_with_fds(Duration::ZERO) else {
            return false;
        };
        match message.as_slice() {
            [] => false,
            [code, family] if *code == ToInit::NewTcpSocket as u8 => {
                let family = if *family == 6 { Family::V6 } else { Family::V4 };
                let sent = match listeners::unconnected(family) {
                    Ok(fd) => self
                        .gateway
                        .send(&[FromInit::TcpSocket as u8], &[fd.as_fd()]),
                    Err(_) => self.gateway.send(&[FromInit::NoSocket as u8], &[]),
                };
                sent.is_ok()
            }
            _ => true,
        }
    }
}
