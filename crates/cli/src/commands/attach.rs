//! `portcullis attach`: puts a running sandbox without a network behind a gateway.

use super::attach_by_daemon::ByDaemon;
use super::run::parse_publish;
use super::serve::tell;
use crate::command::Command;
use crate::debug_log::{self, DebugLog};
use crate::exit::USAGE;
use crate::hold;
use crate::launch::{PublishedPort, bind, free_range, host_resolvers};
use crate::output::{self, line};
use crate::policy_options::{self, Followed, PolicyOptions};
use crate::record_options::RecordOptions;
use crate::signals::signals;
use portcullis_control::AttachTo;
use portcullis_policy::{Mode, Policy};
use portcullis_runner::{AttachConfig, AttachError, GuestConfig, Reload, serve_attached};
use portcullis_sandbox::{Attachment, SandboxError, cut_off};
use rustix::process::geteuid;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The exit codes, as `--help` tells them.
const EXITS: &str = "\
Exit codes: 0 when the sandbox has ended, or when stopped by Ctrl-C or SIGTERM; 1 if the sandbox cannot
be attached or served, or if names did not resolve at start-up; 2 for bad flags and policies.";

/// Put a running sandbox without a network behind a gateway
///
/// For containers and namespaces that others start: podman run --network none, bwrap --unshare-net,
/// unshare --net, ip netns add. The gateway runs in the foreground and ends with the sandbox. Stopped by
/// Ctrl-C or SIGTERM, it takes away what it has put into the sandbox, which has no network then. Changes to
/// the policy files apply at once; SIGHUP reloads the files. With --daemon, a daemon (`portcullis serve
/// --config`) serves the sandbox, until it ends or until `portcullis detach NAME`.
#[derive(clap::Args)]
#[command(
    override_usage = "portcullis attach [OPTIONS] <--pid PID|--netns PATH|--shared>",
    after_help = EXITS
)]
pub struct Attach {
    #[command(flatten)]
    place: Place,
    /// With --shared: the gateway's user, which no other program of the namespace should have (default: this one)
    #[arg(long, value_name = "UID", requires = "shared")]
    user: Option<u32>,
    /// With --shared: cut the namespace off and end, before its programs start; a gateway serves it later
    #[arg(long, requires = "shared")]
    cut_off: bool,
    #[command(flatten)]
    by_daemon: ByDaemon,
    #[command(flatten)]
    policy: PolicyOptions,
    #[command(flatten)]
    records: RecordOptions,
    /// Append what the gateway does, step by step, to FILE (PORTCULLIS_LOG sets how much)
    #[arg(long, value_name = "FILE")]
    debug_log: Option<PathBuf>,
    /// Record decisions but refuse nothing except private addresses
    #[arg(long)]
    audit: bool,
    /// Forward 127.0.0.1:HOST_PORT of this host to PORT in the sandbox; repeatable
    #[arg(long, value_name = "HOST_PORT:PORT", value_parser = parse_publish)]
    publish: Vec<PublishedPort>,
    /// Write the sandbox's resolv.conf to FILE, and leave the files in the sandbox as they are
    #[arg(long, value_name = "FILE")]
    resolv_conf: Option<PathBuf>,
    /// Write the certificate (PEM) that programs must trust for inspected names to FILE
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
}

// Which sandbox. (No documentation: clap would show it as the command's own.)
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// A process in the sandbox; the gateway ends with it
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// The sandbox's network namespace (/run/netns/NAME); the gateway ends when PATH is removed
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// This process's own network namespace, which it shares with the sandbox's programs (a sidecar): only sockets of
    /// the gateway's user that have its mark leave. It stays cut off when the gateway ends
    #[arg(long, conflicts_with = "daemon")]
    shared: bool,
}

impl Place {
    /// The same for a daemon.
    fn for_daemon(&self) -> Option<AttachTo> {
        let by_path = |path: &PathBuf| {
            // The daemon has another working folder.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            AttachTo::Netns { path }
        };
        let by_pid = self.pid.map(|pid| AttachTo::Pid { pid, root: None });
        by_pid.or_else(|| self.netns.as_ref().map(by_path))
    }

    /// The sandbox, and its name in records. One of the two is there.
    fn sandbox(self, user: Option<u32>) -> Option<(Attachment, String)> {
        if self.shared {
            let attachment = Attachment::Shared {
                user: gateway_user(user),
            };
            return Some((attachment, "attach-shared".to_owned()));
        }
        let by_pid = |pid| {
            let attachment = Attachment::Process { pid, root: None };
            (attachment, format!("attach-{pid}"))
        };
        let by_path = |path: PathBuf| {
            let name = path.file_name().unwrap_or(path.as_os_str());
            let name = format!("attach-{}", name.to_string_lossy());
            (Attachment::Namespace(path), name)
        };
        self.pid.map(by_pid).or_else(|| self.netns.map(by_path))
    }
}

impl Command for Attach {
    fn upstream_proxy(&self) -> Option<&str> {
        self.policy.upstream_proxy.as_deref()
    }

    fn run(self) -> ExitCode {
        run(self)
    }
}

/// The user that a gateway beside the sandbox's programs has.
fn gateway_user(wanted: Option<u32>) -> u32 {
    wanted.unwrap_or_else(|| geteuid().as_raw())
}

/// What is checked before anything is attached.
pub struct Before<'a> {
    pub policy: &'a PolicyOptions,
    pub records: &'a RecordOptions,
    pub debug_log: Option<&'a Path>,
    pub audit: bool,
    /// Whether a certificate is wanted.
    pub ca_cert: bool,
}

impl Before<'_> {
    /// Starts the debug log and loads the policy; what is wrong is already on stderr.
    pub fn check(&self) -> Result<Followed, ()> {
        let mode = if self.audit {
            Mode::Audit
        } else {
            Mode::Enforce
        };
        self.records.check()?;
        let logging = match self.debug_log {
            Some(path) => DebugLog::open(path).map(DebugLog::start),
            None => debug_log::start_on_stderr(),
        };
        logging.map_err(|error| output::failure(&error))?;
        let followed = policy_options::follow(self.policy.clone(), mode)?;
        policy_options::show(&followed.loaded.warnings);
        free_range(&followed.loaded.policy).map_err(|error| output::failure(&error))?;
        if self.ca_cert && followed.loaded.policy.inspected().next().is_none() {
            output::error(
                "there is no certificate to write: no rule says `inspect = true`",
                Some("remove --ca-cert"),
            );
            return Err(());
        }
        Ok(followed)
    }
}

/// Serves until the sandbox is gone, or until SIGINT or SIGTERM.
fn run(args: Attach) -> ExitCode {
    if args.cut_off {
        return match cut_off(gateway_user(args.user)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                output::error(&error, error.fix());
                ExitCode::FAILURE
            }
        };
    }
    // clap does not miss `--shared` where `--pid` or `--netns` excludes it.
    if !args.place.shared && (args.cut_off || args.user.is_some()) {
        let flag = if args.cut_off { "--cut-off" } else { "--user" };
        output::error(
            format_args!("{flag} is for a gateway in the network namespace of its sandbox"),
            Some(&format!("use it with --shared, or remove {flag}")),
        );
        return ExitCode::from(USAGE);
    }
    if args.by_daemon.check().is_err() {
        return ExitCode::from(USAGE);
    }
    if let (Some(name), Some(attach)) = (args.by_daemon.daemon.clone(), args.place.for_daemon()) {
        let labels = args.records.label_values();
        return (args.by_daemon).attach(name, attach, &args.policy, labels, args.audit);
    }
    let before = Before {
        policy: &args.policy,
        records: &args.records,
        debug_log: args.debug_log.as_deref(),
        audit: args.audit,
        ca_cert: args.ca_cert.is_some(),
    };
    let Ok(Followed { loaded, reload }) = before.check() else {
        return ExitCode::from(USAGE);
    };
    match attach(args, loaded.policy, reload) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            failed(&error);
            ExitCode::FAILURE
        }
    }
}

fn attach(args: Attach, policy: Policy, mut reload: Reload) -> anyhow::Result<()> {
    let (end, requests) = signals()?;
    reload.requests = Some(requests);
    reload.tell = Some(Box::new(tell));
    let Some((attachment, sandbox)) = args.place.sandbox(args.user) else {
        anyhow::bail!("no sandbox is named");
    };
    let shown = match &attachment {
        Attachment::Process { pid, .. } => format!("process {pid}"),
        Attachment::Namespace(path) => path.display().to_string(),
        Attachment::Device(tap) => tap.name.clone(),
        Attachment::Shared { user } => format!("this network namespace, as user {user}"),
    };
    let is_shared = matches!(attachment, Attachment::Shared { .. });
    let inspects = policy.inspected().next().is_some();
    let unseen = Unseen {
        inspects,
        ca_cert: args.ca_cert.clone(),
    };
    let config = AttachConfig {
        attachment,
        sandbox,
        resolvers: host_resolvers(&policy)?,
        policy,
        records: args.records.config(args.records.open()?)?,
        publish: bind(args.publish)?,
        resolve: None,
        resolv_conf: args.resolv_conf,
        ca_cert: args.ca_cert,
        build: crate::version::BUILD,
        reload,
        guest: GuestConfig::default(),
        holder: hold::command(),
    };
    let ready = |unbound: Option<&str>| {
        // Other containers' files are their own, and their resolvers' addresses lead here.
        if let Some(why) = unbound.filter(|_| !is_shared || unseen.inspects) {
            unseen.warn(why);
        }
        // Last: whoever waits for this line may use the sandbox at once.
        line(format_args!("portcullis: attached {shown}"));
    };
    Ok(serve_attached(config, ready, end)?)
}

/// What programs inside miss where the sandbox keeps its own files.
struct Unseen {
    inspects: bool,
    ca_cert: Option<PathBuf>,
}

impl Unseen {
    fn warn(&self, why: &str) {
        line(format_args!(
            "portcullis: warning: programs in the sandbox see its own resolv.conf and hosts: {why}"
        ));
        if self.inspects {
            let file = self.ca_cert.as_deref().map(Path::display);
            line(match file {
                Some(file) => format!("  for inspected names they must trust {file}"),
                None => {
                    "  for inspected names they must trust a certificate: --ca-cert FILE writes it"
                        .to_owned()
                }
            });
        }
    }
}

/// Says why the sandbox is not attached, or not any more, and what to do.
pub(super) fn failed(error: &anyhow::Error) {
    match error.downcast_ref::<AttachError>() {
        Some(AttachError::Unresolved(unresolved)) => output::unresolved(unresolved),
        Some(AttachError::Sandbox(error)) => output::error(error, SandboxError::fix(error)),
        _ => output::failure(error),
    }
}
