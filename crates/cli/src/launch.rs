//! What `run`, `learn` and `diagnose` share: one sandbox with its gateway, and what the gateway
//! reports when it ends.

use crate::child_env::{Proxies, ProxyEnv};
use crate::debug_log::DebugLog;
use crate::exit::BEFORE_START;
use crate::output::Hinted;
use crate::record_options::RecordOptions;
use crate::written_file::WrittenFile;
use crate::{child_env, hidden_credentials, socket_env, trust_env};
use anyhow::{Context, bail};
use portcullis_gateway::{host_resolv_conf, interface_index, usable_resolvers};
use portcullis_policy::{Policy, Resolve, Resolver};
use portcullis_runner::{GuestConfig, Publish, Reload, Report, RunConfig, Unresolved};
use portcullis_sandbox::{
    Addresses, ExitStatus, Keyring, NameFiles, OpenRules, SandboxError, Spec, Tap, TapUser,
    UnixSockets,
};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Largest report that is read back from the gateway, bytes.
const MAX_REPORT_BYTES: u64 = 16 * 1024 * 1024;

/// One command to run behind one policy.
pub struct Launch {
    /// The policy in force.
    pub policy: Policy,
    /// Files the sandbox must not change.
    pub read_only: Vec<PathBuf>,
    /// Files the sandbox must not see.
    pub hidden: Vec<PathBuf>,
    /// The host's resolvers, asked where the policy names none.
    pub resolvers: Vec<SocketAddr>,
    /// What is recorded, and where.
    pub records: RecordOptions,
    /// Where the gateway's steps are written, in the order that they happen.
    pub debug_log: Option<DebugLog>,
    /// Ports of the host that lead inside.
    pub publish: Vec<PublishedPort>,
    /// Name of the TAP device.
    pub tap: Option<String>,
    /// The largest packet of its guest, in bytes.
    pub tap_mtu: u16,
    /// Which proxy variables the command has.
    pub proxy_env: ProxyEnv,
    /// How the command is kept from Unix sockets of the host.
    pub unix_sockets: UnixSockets,
    /// Those that it may reach.
    pub let_in: Vec<PathBuf>,
    /// Which kernel keyrings the command has.
    pub keyring: Keyring,
    /// When to end the tree.
    pub timeout: Option<Duration>,
    /// Whether the report lists what was used and what failed too.
    pub collect: bool,
    /// When names are resolved, where the policy's own word does not count.
    pub resolve: Option<Resolve>,
    /// How the policy is followed, where it is.
    pub reload: Option<Reload>,
    /// The command.
    pub command: Vec<OsString>,
}

impl Launch {
    /// A command behind a policy, with no options and the host's resolvers.
    ///
    /// # Errors
    /// The host names no resolver, and one is needed.
    pub fn new(policy: Policy, command: Vec<OsString>) -> anyhow::Result<Launch> {
        Ok(Launch {
            resolvers: host_resolvers(&policy)?,
            policy,
            command,
            read_only: Vec::new(),
            hidden: Vec::new(),
            records: RecordOptions::default(),
            debug_log: None,
            publish: Vec::new(),
            tap: None,
            tap_mtu: GuestConfig::DEFAULT_MTU,
            proxy_env: ProxyEnv::default(),
            unix_sockets: UnixSockets::default(),
            let_in: Vec::new(),
            keyring: Keyring::Fresh,
            timeout: None,
            collect: false,
            resolve: None,
            reload: None,
        })
    }
}

/// What a launch came to.
pub struct Finished {
    /// How the command ended.
    pub status: ExitStatus,
    /// What the gateway left behind, if it ended in order.
    pub report: Option<Report>,
}

/// A port of the host's loopback that leads to a port of the sandbox's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// On the host.
    pub host: u16,
    /// Inside.
    pub inside: u16,
}

/// Runs it.
pub fn launch(launch: Launch) -> anyhow::Result<Finished> {
    free_range(&launch.policy)?;
    let log = launch.records.open()?;
    let checked = (launch.records.log.as_deref().zip(log.as_ref()))
        .map(|(path, file)| WrittenFile::check("--log", path, file));
    let records = checked.transpose()?;
    let debug_log = launch.debug_log;
    let (mut read_only, mut hidden) = (launch.read_only, launch.hidden);
    let steps = debug_log.as_ref().map(|log| log.written().clone());
    let mut others = Vec::new();
    others.extend(
        read_only
            .iter()
            .map(|path| (path.clone(), "a file of the policy")),
    );
    others.extend(
        hidden
            .iter()
            .map(|path| (path.clone(), "a file of credentials")),
    );
    if let Some(records) = &records {
        records.check_apart("--log", &others)?;
        others.push((records.path().to_owned(), "the file of decision records"));
    }
    if let Some(steps) = &steps {
        steps.check_apart("--debug-log", &others)?;
    }
    for written in records.iter().chain(&steps) {
        let covered = if written.is_pipe() {
            &mut hidden
        } else {
            &mut read_only
        };
        covered.push(written.path().to_owned());
    }
    let addresses = if launch.tap.is_some() {
        Addresses::with_tap()
    } else {
        Addresses::new()
    };
    let mut spec = Spec {
        argv: launch.command,
        env: BTreeMap::new(),
        cwd: None,
        read_only,
        hidden,
        tap: launch.tap.map(|name| Tap {
            name,
            mtu: launch.tap_mtu,
            user: TapUser::Program,
        }),
        timeout: launch.timeout,
        open: OpenRules::default(),
        probe_refused: SocketAddr::from(([240, 0, 0, 1], 9)),
        addresses,
        unix_sockets: launch.unix_sockets,
        let_in: launch.let_in,
        trust: false,
        keyring: launch.keyring,
        name_files: NameFiles::default(),
    };
    portcullis_runner::prepare(&launch.policy, &mut spec);
    spec.env = environment(&launch.policy, &spec, launch.proxy_env);
    let mut more_roots = Vec::new();
    if spec.trust {
        more_roots = trust_env::roots(&spec.env);
        trust_env::add(&mut spec.env);
    }
    let mut reload = launch.reload;
    if let Some(reload) = &mut reload {
        // CMD runs soon: from now on paths may lead where it likes.
        reload
            .files
            .seal()
            .context("cannot keep the policy's files open")?;
    }
    let config = RunConfig {
        sandbox: format!("run-{}", std::process::id()),
        policy: launch.policy,
        resolvers: launch.resolvers,
        guest_mtu: launch.tap_mtu,
        records: launch.records.config(log)?,
        publish: bind(launch.publish)?,
        addresses,
        collect: launch.collect,
        resolve: launch.resolve,
        more_roots,
        build: crate::version::BUILD,
        reload,
    };
    // The gateway is another process: it leaves its report in a file that only lives in memory.
    let report = rustix::fs::memfd_create("portcullis-report", rustix::fs::MemfdFlags::CLOEXEC)
        .context("cannot create the report")?;
    let report = File::from(report);
    let mut writer = report.try_clone().context("cannot create the report")?;
    let status = portcullis_sandbox::run(spec, move |side| {
        if let Some(log) = debug_log {
            log.start();
        }
        let report = portcullis_runner::run_in_sandbox(side, config);
        match serde_json::to_vec(&report).map(|bytes| writer.write_all(&bytes)) {
            Ok(Ok(())) => 0,
            _ => 1,
        }
    });
    let mut report = read_report(report);
    if let Some(report) = &mut report {
        let moved = || records.as_ref().and_then(WrittenFile::moved);
        report.record_error = report.record_error.take().or_else(moved);
        report.misplaced = steps.as_ref().and_then(WrittenFile::moved);
    }
    match status {
        Ok(status) => Ok(Finished { status, report }),
        // Which names, and why, is in the report: there may be many.
        Err(error) => match report.and_then(|report| report.unresolved) {
            Some(unresolved) => Err(unresolved.into()),
            None => Err(error.into()),
        },
    }
}

/// Listens on the ports of the host that lead inside.
pub fn bind(ports: Vec<PublishedPort>) -> anyhow::Result<Vec<Publish>> {
    let bind = |PublishedPort { host, inside }| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, host)).map_err(|error| {
            let hinted = Hinted::listening(format!("cannot publish on 127.0.0.1:{host}"), &error);
            anyhow::Error::new(error).context(hinted)
        })?;
        Ok(Publish {
            listener,
            port: inside,
        })
    };
    ports.into_iter().map(bind).collect()
}

/// The caller's environment without secrets and sockets of the host, and with the sandbox's proxies.
fn environment(policy: &Policy, spec: &Spec, wanted: ProxyEnv) -> BTreeMap<OsString, OsString> {
    let mut env: BTreeMap<_, _> = std::env::vars_os().collect();
    env.remove(OsStr::new(hidden_credentials::VARIABLE));
    for name in &policy.settings().upstream.secret_variables {
        env.remove(OsStr::new(name));
    }
    socket_env::remove_sockets(&mut env, &spec.let_in);
    let proxies = Proxies {
        wanted,
        http: spec.addresses.http(),
        upstream: policy.settings().upstream.any(),
    };
    child_env::set_proxies(&mut env, proxies);
    env
}

/// Says why CMD never ran, and what to do.
pub fn failed(error: &anyhow::Error) {
    if let Some(unresolved) = error.downcast_ref::<Unresolved>() {
        return crate::output::unresolved(unresolved);
    }
    match error.downcast_ref::<SandboxError>() {
        // Its own text ends with the cause: the chain would say it twice.
        Some(error) => crate::output::error(error, error.fix()),
        None => crate::output::failure(error),
    }
}

/// Turns a status into the exit code, with a word where CMD itself could not say it.
pub fn finish(status: ExitStatus, report: Option<&Report>, command: &str) -> ExitCode {
    // Why is told whether somebody reads the closing paragraph or not: CMD was ended for it.
    if let Some(why) = report.and_then(|report| report.failed.as_deref()) {
        crate::output::error(format_args!("the gateway ended the sandbox: {why}"), None);
    } else if let Some(message) = status.message(command) {
        crate::output::error(message, None);
    }
    // Exit codes are a byte; the sandbox gives nothing larger.
    ExitCode::from(u8::try_from(status.exit_code()).unwrap_or(BEFORE_START))
}

/// Dies of the terminal's signal that ended CMD, where one did, as CMD's own caller would have seen it:
/// a shell stops its loop then. Returns where it did not, or where this process ignores the signal.
pub fn die_of_terminal_signal(status: ExitStatus) {
    use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};
    let signal = status.terminal_signal().and_then(Signal::from_named_raw);
    if let Some(signal) = signal {
        // What CMD left is CMD's; a core of this process would be none of it.
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        let _ = setrlimit(Resource::Core, none);
        let _ = kill_process(getpid(), signal);
    }
}

fn read_report(mut file: File) -> Option<Report> {
    file.seek(SeekFrom::Start(0)).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_REPORT_BYTES).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Makes sure that the range of synthetic addresses, where one is needed, means nothing else here.
pub fn free_range(policy: &Policy) -> anyhow::Result<()> {
    portcullis_gateway::check_synthetic_range(policy).map_err(|error| {
        let hinted = Hinted::new("cannot use synthetic addresses", Some(error.fix()));
        anyhow::Error::new(error).context(hinted)
    })
}

/// The host's own resolvers: they are asked where neither flags nor policy name any, and for the
/// names of encrypted resolvers where no plain one is named. Where nobody needs them, they may be
/// missing.
pub fn host_resolvers(policy: &Policy) -> anyhow::Result<Vec<SocketAddr>> {
    let settings = policy.settings();
    let missing = |resolver: &Resolver| {
        let interface = resolver.interface()?;
        let is_there = interface.parse::<u32>().is_ok() || interface_index(interface).is_some();
        (!is_there).then(|| interface.to_owned())
    };
    // One that is not there may come: where another resolver can be asked meanwhile, that is no error.
    let all_missing: Option<Vec<String>> = settings.resolvers.iter().map(missing).collect();
    if let Some([interface, ..]) = all_missing.as_deref() {
        bail!(Hinted::new(
            format!("no resolver can be asked: there is no network interface `{interface}`"),
            Some("`ip link` lists the interfaces of this host"),
        ));
    }
    let zones = settings.dns.zones.iter().flat_map(|zone| &zone.resolvers);
    let mut all = settings.resolvers.iter().chain(zones);
    let to_find = all.find(|resolver| resolver.name().is_some());
    let give = match to_find {
        _ if settings.resolvers.is_empty() => "name a resolver with --resolver ADDR".to_owned(),
        Some(resolver) if settings.dns.bootstrap.is_empty() => {
            format!("to find {resolver}, set `bootstrap` in [network.dns] to a plain resolver")
        }
        _ => {
            let host = host_resolv_conf().unwrap_or_default();
            return Ok(usable_resolvers(&host));
        }
    };
    // Where addresses are made up inside and an upstream proxy is asked by name, nobody needs a resolver.
    let by_proxy = !settings.upstream.is_empty();
    let may_lack = by_proxy
        && settings.resolvers.is_empty()
        && settings.dns.answers == portcullis_policy::Answers::Synthetic;
    let hint =
        by_proxy.then_some("if the upstream proxy resolves all names, use `--answers synthetic`");
    let host = match host_resolv_conf() {
        Err(_) if may_lack => return Ok(Vec::new()),
        host => host.with_context(|| {
            Hinted::new(format!("cannot read the host's resolv.conf; {give}"), hint)
        })?,
    };
    let resolvers = usable_resolvers(&host);
    // A resolver whose interface is not there yet is asked as soon as it is.
    if resolvers.is_empty() && host.links().next().is_none() && !may_lack {
        let what = format!("the host's resolv.conf lists no resolver; {give}");
        bail!(Hinted::new(what, hint));
    }
    Ok(resolvers)
}
