//! `portcullis serve --config FILE`: a daemon of many sandboxes, controlled over a Unix socket.

use crate::control::{default_socket, default_state};
use crate::debug_log;
use crate::exit::USAGE;
use crate::hold;
use crate::output::{self, Hinted};
use crate::policy_options::{self, Followed, PolicyOptions};
use crate::service_manager;
use crate::signals::signals;
use crate::version;
use anyhow::{Context, bail};
use nix::unistd::Group;
use portcullis_gateway::{host_resolv_conf, usable_resolvers};
use portcullis_policy::{Diagnostic, Loaded, Mode};
use portcullis_runner::{ConfiguredSandbox, Daemon, DaemonError, Reload, Settings, serve_daemon};
use portcullis_sandbox::{SandboxError, daemon_capabilities, handed_over_socket};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;
use std::sync::Arc;

/// The longest configuration file, in bytes.
const MAX_CONFIG_BYTES: u64 = 16 * 1024 * 1024;

/// What `serve` takes of its own listeners, none of which goes with a daemon.
const LISTENERS: [&str; 16] = [
    "dns",
    "http",
    "socks5",
    "allow_from",
    "ca_cert",
    "log",
    "log_budget",
    "log_host",
    "label",
    "policy",
    "allow",
    "deny",
    "resolver",
    "upstream_proxy",
    "resolve",
    "answers",
];

// A daemon instead of listeners. (No documentation: clap would show it as the command's own.)
#[derive(clap::Args)]
pub struct DaemonOptions {
    /// Hold the sandboxes that this file (TOML) names, and those that clients make
    #[arg(long, value_name = "FILE", conflicts_with_all = LISTENERS)]
    config: Option<PathBuf>,
    /// Take requests on this Unix socket (default with --config: $PORTCULLIS_CONTROL, or
    /// portcullis/control.sock in /run or $XDG_RUNTIME_DIR)
    #[arg(long, value_name = "SOCKET", conflicts_with_all = LISTENERS)]
    control: Option<PathBuf>,
    /// Keep what clients have made in this folder (default: /var/lib/portcullis, or portcullis in
    /// $XDG_STATE_HOME or ~/.local/state)
    #[arg(long, value_name = "FOLDER", conflicts_with_all = LISTENERS)]
    state: Option<PathBuf>,
}

impl DaemonOptions {
    /// Whether a daemon is wanted at all.
    pub fn is_wanted(&self) -> bool {
        self.config.is_some() || self.control.is_some() || self.state.is_some()
    }
}

/// Serves until SIGINT or SIGTERM; SIGHUP has the configuration read again. Exits 0 then, 1 when it cannot serve, 2 for bad flags and files.
pub fn run(args: &DaemonOptions) -> ExitCode {
    // First: it is given as a number, and threads have what this one has.
    let listener = match handed_over_socket() {
        Ok(listener) => listener,
        Err(error) => {
            output::error(
                error,
                Some("start it without socket activation, or with one socket"),
            );
            return ExitCode::from(USAGE);
        }
    };
    if let Err(error) = daemon_capabilities::drop_others() {
        output::error(&error, SandboxError::fix(&error));
        return ExitCode::FAILURE;
    }
    if let Err(error) = debug_log::start_on_stderr() {
        output::failure(&error);
        return ExitCode::from(USAGE);
    }
    let (daemon, end) = match daemon(args, listener) {
        Ok(Some(both)) => both,
        // Said already.
        Ok(None) => return ExitCode::from(USAGE),
        Err(error) => {
            output::failure(&error);
            return ExitCode::from(USAGE);
        }
    };
    match serve(daemon, end) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::failure(&error);
            ExitCode::FAILURE
        }
    }
}

/// What is served; nothing if a policy does not load, and then that is said.
fn daemon(
    args: &DaemonOptions,
    listener: Option<UnixListener>,
) -> anyhow::Result<Option<(Daemon, impl Future<Output = std::io::Result<()>>)>> {
    let settings = match &args.config {
        Some(path) => read(path)?,
        None => Settings::default(),
    };
    let handed_over = listener.as_ref().map(path_of).transpose()?;
    let named = args.control.clone().or_else(|| settings.control.clone());
    let control = handed_over
        .or(named)
        .or_else(default_socket)
        .context(Hinted::new(
            "there is no place for the control socket",
            Some("name one with --control SOCKET"),
        ))?;
    let named = args.state.clone().or_else(|| settings.state.clone());
    let state = named.or_else(default_state).context(Hinted::new(
        "there is no place for what the daemon keeps",
        Some("name a folder with --state FOLDER"),
    ))?;
    // A holder has another working folder.
    let (control, state) = (absolute(control)?, absolute(state)?);
    for sandbox in &settings.sandboxes {
        match load(sandbox) {
            Ok(loaded) => policy_options::show(&loaded.0.warnings),
            Err(found) => {
                policy_options::show(&found);
                return Ok(None);
            }
        }
    }
    let (end, requests) = signals()?;
    let config = args.config.clone();
    let read_again = move || match &config {
        Some(path) => read(path).map_err(|error| format!("{error:#}")),
        None => Ok(Settings::default()),
    };
    let admin_group = settings.admin_group.as_deref().map(group).transpose()?;
    let node = rustix::system::uname();
    let host =
        (settings.host.clone()).unwrap_or_else(|| node.nodename().to_string_lossy().into_owned());
    let daemon = Daemon {
        settings,
        load: Arc::new(load),
        read: Arc::new(read_again),
        requests,
        tell: |said| output::line(format_args!("portcullis: {said}")),
        control,
        listener,
        state,
        admin_group,
        resolvers: usable_resolvers(&host_resolv_conf().unwrap_or_default()),
        host,
        holder: hold::command,
        build: version::BUILD,
    };
    Ok(Some((daemon, end)))
}

/// The policy of a sandbox that the configuration names, and how it is followed.
fn load(sandbox: &ConfiguredSandbox) -> Result<(Loaded, Reload), Vec<Diagnostic>> {
    let options = PolicyOptions {
        policy: sandbox.policy.clone(),
        ..PolicyOptions::default()
    };
    let mode = match sandbox.audit {
        true => Mode::Audit,
        false => Mode::Enforce,
    };
    let Followed { loaded, mut reload } = policy_options::load_to_follow(options, mode)?;
    let name = sandbox.name.clone();
    reload.tell = Some(Box::new(move |result| {
        if let Some(why) = result.rejection() {
            output::line(format_args!("portcullis: `{name}` keeps its policy: {why}"));
        }
    }));
    Ok((loaded, reload))
}

/// Where a socket that was handed over is.
fn path_of(listener: &UnixListener) -> anyhow::Result<PathBuf> {
    let address = listener.local_addr()?;
    let path = address.as_pathname().context(Hinted::new(
        "the socket of the service manager has no file",
        Some("let `ListenStream=` name a path"),
    ))?;
    Ok(path.to_owned())
}

fn read(path: &Path) -> anyhow::Result<Settings> {
    let what = || format!("cannot read the configuration {}", path.display());
    let hint = "--config takes a readable TOML file";
    let read = || -> std::io::Result<String> {
        use std::io::Read as _;
        let mut text = String::new();
        let file = std::fs::File::open(path)?;
        file.take(MAX_CONFIG_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().with_context(|| Hinted::new(what(), Some(hint)))?;
    let path = absolute(path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let parsed = Settings::parse(&text, folder);
    parsed.with_context(|| {
        Hinted::new(
            what(),
            Some("deploy/daemon.toml, which comes with Portcullis, shows every key"),
        )
    })
}

fn notify(state: &str) {
    if let Err(error) = service_manager::tell(state) {
        output::line(format_args!(
            "portcullis: warning: the service manager cannot be told {state}: {error}"
        ));
    }
}

fn group(name: &str) -> anyhow::Result<u32> {
    match Group::from_name(name)? {
        Some(group) => Ok(group.gid.as_raw()),
        None => bail!(Hinted::new(
            format!("there is no group `{name}`, which `admin_group` names"),
            Some("make it with `groupadd`, or name another"),
        )),
    }
}

fn serve(daemon: Daemon, end: impl Future<Output = std::io::Result<()>>) -> anyhow::Result<()> {
    let socket = daemon.control.clone();
    // Only then: whoever waits for this line may ask at once.
    let ready = |cut_off: Option<String>| {
        if let Some(cut_off) = cut_off {
            let say = "`portcullis ps` says why";
            output::line(format_args!("portcullis: warning: {cut_off}; {say}"));
        }
        output::line(format_args!(
            "portcullis: serving the control socket {}",
            socket.display()
        ));
        notify(service_manager::READY);
    };
    let end = async {
        let ended = end.await;
        notify(service_manager::STOPPING);
        ended
    };
    serve_daemon(daemon, ready, end).map_err(|error| {
        let hint = match &error {
            DaemonError::Taken(_) => Some("stop it, or choose another socket with --control"),
            DaemonError::Path { .. } => {
                Some("choose others with --control, --state and `log_dir` in the configuration")
            }
            DaemonError::Io(_) => None,
        };
        anyhow::Error::new(error).context(Hinted::new("cannot serve", hint))
    })
}
