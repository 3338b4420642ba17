//! The terminal's parent: starts the gateway and the sandbox, passes signals, returns how the command ended.
//!
//! Three processes: this one, which stays in the terminal's job; the gateway, in a session of its
//! own so that no key stops it; the sandbox's first process. This one has a single thread, since
//! it forks.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, getpid, getppid, kill_process, setsid, waitpid};

use crate::channel::Channel;
use crate::command::{self, Command};
use crate::error::{At, SandboxError, Step};
use crate::exit_status::{ExitStatus, Killed};
use crate::fds::Guarded;
use crate::gateway_side::GatewaySide;
use crate::ids::IdMaps;
use crate::init::Init;
use crate::inside::Inside;
use crate::limits::Descriptors;
use crate::message::{EXIT_GATEWAY_GONE, GRACE, Order, Report};
use crate::mounts::Plan;
use crate::orders::{Orders, Sent};
use crate::signals::{self, Change, Saved, SignalFd};
use crate::spec::{MAX_OPEN_RULES, Spec};
use crate::streams::{self, SavedStderr};
use crate::terminal::Terminal;
use crate::{fds, let_in, root_files, sys, tap};

/// How long the gateway may take to write its last records after the sandbox has ended.
const GATEWAY_END_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the gateway's end may follow the sandbox's when it was its cause.
const CAUSE_TIMEOUT: Duration = Duration::from_millis(200);
/// The most signals that are passed on before anything else is looked at.
const MAX_SIGNALS: usize = 64;
/// How soon an order that had no room is tried again.
const ORDER_RETRY: Duration = Duration::from_millis(20);
/// What a gateway that panicked exits with.
const EXIT_PANIC: i32 = 101;
/// What a gateway exits with that cannot let go of the command's standard streams.
const EXIT_NO_STREAMS: i32 = 102;
/// The links of `/proc/self/task`: itself, its parent, and one for each thread.
const LINKS_OF_ONE_THREAD: u64 = 3;

/// Runs a command in a sandbox whose only network is the given gateway.
///
/// `gateway` runs in a process of its own, forked from this one, and its result is that process's
/// exit code; what it has captured is dropped in this process too. The calling process must have
/// a single thread. While the command runs, this function passes signals on, follows stops and
/// continues of the terminal's job control, and returns when the command, everything it started,
/// and the gateway have ended.
///
/// # Errors
/// The sandbox could not be made; the command has not started.
pub fn run(
    spec: Spec,
    gateway: impl FnOnce(GatewaySide) -> i32,
) -> Result<ExitStatus, SandboxError> {
    check(&spec)?;
    let protected = spec.read_only.iter().chain(&spec.hidden);
    let guarded = Guarded::new(protected.map(PathBuf::as_path));
    fds::check_standard(&guarded)?;
    let kept = fds::inherited(&guarded).at(Step::Prepare, "descriptors")?;
    let command = Command::new(&spec.argv, &spec.env)?;
    let maps = IdMaps::of_caller().at(Step::IdMap, "reading")?;
    let cwd = working_directory(&spec)?;
    let plan = plan(&spec, &maps)?;
    // Where every id has its number inside, root's files are root's.
    let root_files = match maps.privileged() {
        true => Vec::new(),
        false => root_files::find(std::env::home_dir().as_deref()),
    };
    let terminal = Terminal::remember();
    let (parent, init_parent) = Channel::pair().at(Step::Prepare, "channel")?;
    // This process stops when the command does; news must reach it all the same.
    sys::signal_on_input(parent.as_fd(), libc::SIGCONT).at(Step::Prepare, "channel")?;
    let (gateway_channel, init_gateway) = Channel::pair().at(Step::Prepare, "channel")?;
    let pipe = pipe_with(PipeFlags::CLOEXEC).at(Step::Prepare, "pipe")?;
    let (gateway_life, init_life) = pipe;
    let saved = signals::take_over().at(Step::Prepare, "signals")?;
    let signals = SignalFd::for_parent().at(Step::Prepare, "signals")?;
    let descriptors = Descriptors::raise().at(Step::Prepare, "limits")?;
    let timeout = spec.timeout;
    let init = Init {
        parent: init_parent,
        gateway: init_gateway,
        lifeline: Some(init_life),
        maps,
        name_files: spec.name_files.clone(),
        unix_sockets: spec.unix_sockets,
        plan,
        root_files,
        cwd,
        inside: Inside {
            shared: None,
            addresses: spec.addresses,
            open: spec.open,
            tap: spec.tap,
        },
        timeout,
        trust: spec.trust,
        probe_refused: spec.probe_refused,
        command,
        kept,
        signals: saved,
        descriptors,
        keyring: spec.keyring,
    };
    let ends = GatewayEnds {
        channel: gateway_channel,
        lifeline: gateway_life,
    };
    let result = start(init, gateway, ends).and_then(|started| {
        let mut supervisor = Supervisor {
            parent,
            signals,
            init: Child::new(started.init),
            gateway: Child::new(started.gateway),
            stop: 0,
            orders: Orders::default(),
            started: false,
            interrupted: None,
            from_terminal: None,
        };
        // The command's process has its own copy of it by now.
        let aside = SavedStderr::put().at(Step::Prepare, "stderr");
        let followed = aside.and_then(|aside| {
            let mapped = supervisor.write_id_maps(&started.maps);
            let result = mapped.and_then(|()| supervisor.follow(timeout));
            aside.put_back();
            result
        });
        supervisor.end(followed)
    });
    terminal.take_back();
    saved.restore();
    descriptors.restore();
    result
}

/// The gateway's ends of what connects it with the sandbox.
struct GatewayEnds {
    channel: Channel,
    lifeline: OwnedFd,
}

/// The two processes that have been started.
struct Forked {
    init: Pid,
    gateway: Pid,
    maps: IdMaps,
}

/// Starts the sandbox's first process, then the gateway's.
///
/// The costly namespaces are left to the first process, so that they are made while the gateway
/// starts.
fn start(
    init: Init,
    gateway: impl FnOnce(GatewaySide) -> i32,
    ends: GatewayEnds,
) -> Result<Forked, SandboxError> {
    // SAFETY: this process has one thread, which `check` has seen.
    let Some(first) = unsafe { sys::fork_into_namespaces() }.at(Step::UserNamespace, "")? else {
        init.main();
    };
    let saved = init.signals;
    // SAFETY: as above.
    match unsafe { sys::fork() } {
        Ok(None) => {
            // The sandbox's ends must not stay open here: their closing is the news of its end.
            drop(init);
            let parent = getppid();
            become_gateway(&saved);
            let first = first.as_raw_pid().unsigned_abs();
            let side = GatewaySide::new(ends.channel, ends.lifeline, first);
            let code = catch_unwind(AssertUnwindSafe(|| gateway(side))).unwrap_or(EXIT_PANIC);
            wake(parent);
            sys::exit(code)
        }
        Ok(Some(second)) => Ok(Forked {
            init: first,
            gateway: second,
            maps: init.maps,
        }),
        Err(error) => {
            let _ = kill_process(first, Signal::KILL);
            let _ = waitpid(Some(first), WaitOptions::empty());
            Err(SandboxError::setup(Step::Fork, "", error))
        }
    }
}

/// A session of its own: no terminal, so no key reaches it. It reads nothing and prints nothing, not
/// even when it panics or is out of memory: its standard streams are the command's.
fn become_gateway(saved: &Saved) {
    let _ = setsid();
    let replaced = streams::null().and_then(|null| streams::replace_by(&null));
    if replaced.is_err() {
        sys::exit(EXIT_NO_STREAMS);
    }
    saved.restore();
}

/// Lets the parent go on if it is stopped: the command's job is, and nobody else would tell it that
/// the sandbox is gone.
fn wake(parent: Option<Pid>) {
    // The process is this one's parent still, or nothing is sent.
    if let Some(parent) = parent.filter(|_| getppid() == parent) {
        let _ = kill_process(parent, Signal::CONT);
    }
}

fn check(spec: &Spec) -> Result<(), SandboxError> {
    let rules = spec.open.rules.len() + spec.open.closed.len();
    if rules > MAX_OPEN_RULES {
        return Err(SandboxError::Invalid(format!(
            "{rules} address rules exceed the limit of {MAX_OPEN_RULES}"
        )));
    }
    let name = spec.tap.as_ref().map(|tap| tap.name.as_str());
    if let Some(name) = name.filter(|name| !tap::valid_name(name)) {
        return Err(SandboxError::Invalid(format!(
            "{name:?} is not a valid device name: use up to 15 letters, digits, '-' and '_'"
        )));
    }
    let threads = fs::metadata("/proc/self/task")
        .at(Step::Prepare, "threads")?
        .nlink();
    if threads != LINKS_OF_ONE_THREAD {
        return Err(SandboxError::Invalid(
            "the process that starts a sandbox must have a single thread".to_owned(),
        ));
    }
    Ok(())
}

fn working_directory(spec: &Spec) -> Result<PathBuf, SandboxError> {
    let here = || std::env::current_dir().at(Step::WorkingDirectory, "");
    match &spec.cwd {
        Some(path) if path.is_absolute() => Ok(path.clone()),
        Some(path) => Ok(here()?.join(path)),
        None => here(),
    }
}

fn plan(spec: &Spec, maps: &IdMaps) -> Result<Plan, SandboxError> {
    let runtime = spec.env.get(OsStr::new("XDG_RUNTIME_DIR"));
    let runtime = runtime.map(PathBuf::from);
    // A value that names more than a folder for runtime files would hide too much; its sockets
    // are covered one by one.
    let harmless = |path: &PathBuf| {
        path.is_absolute()
            && path.components().count() > 2
            && spec.cwd.as_deref().is_none_or(|cwd| !cwd.starts_with(path))
    };
    let let_in = spec.let_in.iter().map(|path| let_in::place(path));
    Ok(Plan {
        runtime_dir: runtime.filter(harmless),
        read_only: spec.read_only.iter().map(|path| fixed(path)).collect(),
        hidden: spec.hidden.iter().map(|path| fixed(path)).collect(),
        let_in: let_in.collect::<Result<_, _>>()?,
        real_root: maps.real_root(),
    })
}

/// A path that means the same in the sandbox's first process: absolute, and not by a descriptor of this
/// process (`/dev/fd/3`), which has another file there or none.
fn fixed(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let link = fs::read_link(&path).unwrap_or_default();
    let by_descriptor = [path.as_path(), &link].into_iter().any(|path| {
        let folder = path
            .parent()
            .and_then(|folder| fs::canonicalize(folder).ok());
        folder.is_some_and(|folder| folder.starts_with("/proc"))
    });
    if by_descriptor {
        return fs::canonicalize(&path).unwrap_or(path);
    }
    path
}

#[derive(Debug)]
struct Child {
    pid: Pid,
    end: Option<Change>,
}

impl Child {
    fn new(pid: Pid) -> Self {
        Self { pid, end: None }
    }

    /// Ends it, unless it has been reaped: its number may be another's then.
    fn kill(&self) {
        if self.end.is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }
}

/// The processes that this one looks after.
struct Supervisor {
    parent: Channel,
    signals: SignalFd,
    init: Child,
    gateway: Child,
    /// The number of the stop that was followed last.
    stop: i32,
    /// Orders that had no room yet.
    orders: Orders,
    /// Whether the command is about to be executed, or has been: signals are its own then.
    started: bool,
    /// The signal that ended everything before.
    interrupted: Option<Killed>,
    /// What the terminal sent last to the whole job to end it.
    from_terminal: Option<i32>,
}

impl Supervisor {
    fn write_id_maps(&mut self, maps: &IdMaps) -> Result<(), SandboxError> {
        if maps.privileged() {
            maps.write_for(self.init.pid)
                .at(Step::IdMap, "")
                .map_err(|error| {
                    // A process that has ended cannot be mapped; why it has ended is the news.
                    let news = self.parent.receive(Duration::ZERO).ok();
                    match news.and_then(|news| Report::decode(&news.bytes)) {
                        Some(Report::Failed(cause)) => cause,
                        _ => error,
                    }
                })?;
            self.order(Order::Mapped);
        }
        Ok(())
    }

    fn order(&mut self, order: Order) {
        self.orders.add(order);
        self.orders.send(&self.parent);
    }

    /// Follows the command to its end.
    fn follow(&mut self, timeout: Option<Duration>) -> Result<ExitStatus, SandboxError> {
        let mut deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut timed_out = false;
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                if !self.started {
                    return Ok(ExitStatus::TimedOutBeforeStart);
                }
                if timed_out {
                    return Ok(ExitStatus::TimedOut);
                }
                timed_out = true;
                self.order(Order::Signal(libc::SIGTERM));
                // A stopped command would not see it.
                self.order(Order::Signal(libc::SIGCONT));
                deadline = Some(Instant::now() + GRACE);
                continue;
            }
            let left = match self.orders.send(&self.parent) {
                Sent::All => left,
                Sent::Some => Some(left.unwrap_or(ORDER_RETRY).min(ORDER_RETRY)),
            };
            let fds = [self.parent.as_fd(), self.signals.as_fd()];
            let [report, _] = sys::poll_or_pause(fds, left);
            // The news that the command starts may be there already: it decides whose signals are.
            if self.started || !report {
                self.pass_signals();
            }
            if let Some(by) = self.interrupted {
                return Ok(ExitStatus::Interrupted(by));
            }
            if !report {
                continue;
            }
            let message = match self.parent.receive_now() {
                Ok(None) => continue,
                message => message.ok().flatten(),
            };
            match message.and_then(|message| Report::decode(&message.bytes)) {
                Some(Report::Starting) => self.started = true,
                Some(Report::Failed(error)) => return Err(error),
                Some(Report::NoExec(errno)) if command::not_found(errno) => {
                    return Ok(ExitStatus::NotFound(errno));
                }
                Some(Report::NoExec(errno)) => return Ok(ExitStatus::NotExecutable(errno)),
                Some(Report::Exited(_) | Report::Signaled(_)) if timed_out => {
                    return Ok(ExitStatus::TimedOut);
                }
                Some(Report::Exited(code)) => return Ok(ExitStatus::Exited(code)),
                Some(Report::Signaled(signal)) => {
                    let by_terminal = self.from_terminal == Some(signal);
                    return Ok(ExitStatus::Signaled(Killed {
                        signal,
                        by_terminal,
                    }));
                }
                Some(Report::Stopped(stop)) => {
                    self.stop = stop;
                    let old = deadline.is_some_and(|at| at <= Instant::now()) || self.init_ended();
                    // The shell sees this process stop, as it would see the command. Not for old news,
                    // where this process was stopped too: nobody would wake it once more.
                    if !old {
                        let _ = kill_process(getpid(), Signal::STOP);
                    }
                    self.order(Order::Followed(stop));
                }
                // The first process ends by itself what this one, stopped, could not.
                None if timed_out || deadline.is_some_and(|at| at <= Instant::now()) => {
                    return Ok(ExitStatus::TimedOut);
                }
                None if !self.started => {
                    return Err(SandboxError::refused(
                        Step::Prepare,
                        "its first process ended before the command was started",
                    ));
                }
                None => return Ok(self.who_died()),
            }
        }
    }

    /// Passes on what was sent to this process. The terminal's own signals have reached the
    /// command already: it is in the same job.
    fn pass_signals(&mut self) {
        for _ in 0..MAX_SIGNALS {
            let Some(signal) = self.signals.next() else {
                return;
            };
            match signal.number {
                libc::SIGCHLD => self.reap(),
                // Names may be resolved for seconds before the command starts. It never does then:
                // the terminal's own signals have not reached anybody yet.
                number @ (libc::SIGINT | libc::SIGTERM | libc::SIGQUIT | libc::SIGHUP)
                    if !self.started && !signals::is_ignored(number) =>
                {
                    self.interrupted = Some(Killed {
                        signal: number,
                        by_terminal: signal.from_kernel,
                    });
                }
                // What the terminal sends reached the command as well, which is in this process's
                // group; but a terminal that goes away tells the session's leader alone.
                libc::SIGHUP => self.order(Order::Signal(libc::SIGHUP)),
                number @ (libc::SIGINT | libc::SIGQUIT) if signal.from_kernel => {
                    self.from_terminal = Some(number);
                }
                _ if signal.from_kernel => {}
                // A shell continues the whole job, the command included. By the time this comes
                // through, the terminal may have stopped the command again, and means it.
                libc::SIGCONT => self.order(Order::Continue(self.stop)),
                number => self.order(Order::Signal(number)),
            }
        }
    }

    fn reap(&mut self) {
        for child in [&mut self.init, &mut self.gateway] {
            if child.end.is_none()
                && let Some(end) = signals::reap(child.pid)
                && end.is_end()
            {
                child.end = Some(end);
            }
        }
    }

    fn init_ended(&mut self) -> bool {
        self.reap();
        self.init.end.is_some()
    }

    /// The sandbox ended without a word: because its gateway had, or because it was killed.
    fn who_died(&mut self) -> ExitStatus {
        self.await_init();
        let gateway_gone = self.init.end == Some(Change::Exited(EXIT_GATEWAY_GONE));
        self.await_end(CAUSE_TIMEOUT, |supervisor| {
            !gateway_gone || supervisor.gateway.end.is_some()
        });
        match (gateway_gone, self.gateway.end, self.init.end) {
            (true, Some(Change::Signaled(signal)), _) => ExitStatus::GatewayDied {
                signal: Some(signal),
                code: None,
            },
            (true, Some(Change::Exited(code)), _) => ExitStatus::GatewayDied {
                signal: None,
                code: Some(code),
            },
            (true, ..) => ExitStatus::GatewayDied {
                signal: None,
                code: None,
            },
            (_, _, Some(Change::Signaled(signal))) => ExitStatus::SandboxDied {
                signal: Some(signal),
            },
            _ => ExitStatus::SandboxDied { signal: None },
        }
    }

    /// Ends everything that is left, whatever the result.
    fn end(mut self, result: Result<ExitStatus, SandboxError>) -> Result<ExitStatus, SandboxError> {
        if !matches!(result, Ok(ExitStatus::Exited(_) | ExitStatus::Signaled(_))) {
            self.init.kill();
        }
        self.await_init();
        self.await_end(GATEWAY_END_TIMEOUT, |supervisor| {
            supervisor.gateway.end.is_some()
        });
        if self.gateway.end.is_none() {
            self.gateway.kill();
            self.await_end(KILL_TIMEOUT, |supervisor| supervisor.gateway.end.is_some());
        }
        result
    }

    fn await_init(&mut self) {
        self.await_end(KILL_TIMEOUT, |supervisor| supervisor.init.end.is_some());
    }

    /// Waits for children to end until `done`. Other signals have no addressee any more.
    fn await_end(&mut self, wait: Duration, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + wait;
        loop {
            self.reap();
            let left = deadline.saturating_duration_since(Instant::now());
            if done(self) || left.is_zero() {
                return;
            }
            let _ = sys::poll_readable(self.signals.as_fd(), Some(left));
            while self.signals.next().is_some() {}
        }
    }
}
