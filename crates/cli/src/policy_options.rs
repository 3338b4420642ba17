//! The options by which a command is told its policy, and the way from them and the operator's
//! environment to a compiled one. Nothing runs on a policy that has an error.

use crate::output;
use clap::{Args, ValueEnum};
use portcullis_control::{PolicyFormat, PolicyText};
use portcullis_policy::{
    CallersProxies, Diagnostic, Environment, Input, Loaded, MAX_FILE_BYTES, Mode, Policy, Resolve,
    Severity,
};
use portcullis_runner::{Load, PolicyFiles, Reload, is_nameless};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The folder of policies among a user's settings.
const SETTINGS_FOLDER: &str = "portcullis";
/// The same in a project.
const PROJECT_FOLDER: &str = ".portcullis";
/// The operator's list of hosts for direct TCP on port 443.
const DIRECT_TCP_HOSTS: &str = "OPENSHELL_DIRECT_TCP_HOSTS";
/// The `--upstream-proxy` that means the caller's own.
const CALLERS_OWN: &str = "env";

// Which policy is in force. (No documentation: clap would show it as the command's own.)
#[derive(Args, Clone, Default)]
pub struct PolicyOptions {
    /// Policy file (TOML, YAML or JSON by its extension); repeat to merge several
    #[arg(long = "policy", value_name = "FILE")]
    pub policy: Vec<PathBuf>,
    /// Allow TARGET: NAME, NAME:PORT, NAME:*, CIDR or CIDR:PORT (NAME alone means ports 80 and 443);
    /// append /udp to a port for datagrams
    #[arg(long = "allow", value_name = "TARGET")]
    pub allow: Vec<String>,
    /// Deny TARGET; a denial always wins
    #[arg(long = "deny", value_name = "TARGET")]
    pub deny: Vec<String>,
    /// Upstream resolver, ADDR[:PORT], tls://HOST or https://HOST/PATH; repeat for several (default:
    /// the host's own)
    #[arg(long = "resolver", value_name = "RESOLVER")]
    pub resolver: Vec<String>,
    /// Upstream proxy: http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT; env takes the one of
    /// your own https_proxy, http_proxy, all_proxy and no_proxy
    #[arg(long = "upstream-proxy", value_name = "URL")]
    pub upstream_proxy: Option<String>,
    /// When to resolve names without a wildcard (default: the policy's setting, or on-demand)
    #[arg(long = "resolve", value_enum)]
    pub resolve: Option<ResolveAt>,
    /// Which addresses DNS returns (default: the policy's setting, or real)
    #[arg(long = "answers", value_enum)]
    pub answers: Option<Answers>,
}

/// When names are resolved.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ResolveAt {
    /// When a program asks
    OnDemand,
    /// All of them before anything starts; nothing starts if one fails
    Startup,
}

/// Which addresses DNS returns.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Answers {
    /// The names' own
    Real,
    /// A private address for each name, so that raw TCP keeps its name
    Synthetic,
}

/// Reads a policy file, bounded by what is read: a pipe (`--policy <(…)`) does not tell its length.
pub fn read(path: &Path) -> io::Result<String> {
    PolicyFiles::new(MAX_FILE_BYTES).read(path)
}

/// A policy file for a daemon. What is wrong with it is already on stderr.
pub fn text(path: &Path) -> Result<PolicyText, ()> {
    sent(path, || read(path))
}

/// The same of a file that is open already; its name tells the format.
pub fn text_of(path: &Path, file: File) -> Result<PolicyText, ()> {
    sent(path, || {
        let mut text = String::new();
        // One byte more than a daemon takes, which says so.
        file.take(MAX_FILE_BYTES as u64 + 1)
            .read_to_string(&mut text)?;
        Ok(text)
    })
}

fn sent(path: &Path, read: impl FnOnce() -> io::Result<String>) -> Result<PolicyText, ()> {
    let format = match path.extension().and_then(|end| end.to_str()) {
        Some("toml") => PolicyFormat::Toml,
        Some("yaml" | "yml") => PolicyFormat::Yaml,
        Some("json") => PolicyFormat::Json,
        _ => {
            output::error(
                format_args!("the format of {} is not known", path.display()),
                Some("its name ends with .toml, .yaml, .yml or .json"),
            );
            return Err(());
        }
    };
    match read() {
        Ok(text) if text.trim().is_empty() => {
            output::error(
                format_args!("the policy {} is empty", path.display()),
                Some("a policy that lists nothing says `version = 1`"),
            );
            Err(())
        }
        Ok(text) => Ok(PolicyText { format, text }),
        Err(error) => {
            show(&[unreadable(path, &error)]);
            Err(())
        }
    }
}

/// A policy, and what it takes to make it anew when its files change.
pub struct Followed {
    /// The policy.
    pub loaded: Loaded,
    /// How it is made again.
    pub reload: Reload,
}

/// Loads what the options name. On failure everything that was wrong is already on stderr.
pub fn load(options: &PolicyOptions) -> Result<Loaded, ()> {
    load_by(options, variables(), &mut read).map_err(|diagnostics| show(&diagnostics))
}

/// The same where nothing will run on it: variables that hold credentials need not be there.
pub fn load_to_look(options: &PolicyOptions) -> Result<Loaded, ()> {
    load_by(options, Vec::new(), &mut read).map_err(|diagnostics| show(&diagnostics))
}

/// The upstream proxies that the variables of this process name.
pub fn callers_proxies() -> CallersProxies {
    CallersProxies::read(|name| std::env::var(name).ok())
}

/// The variables of this process, for those that a policy names.
fn variables() -> Vec<Input> {
    let environment = Environment::new(|name| std::env::var(name).ok());
    vec![Input::Environment(environment)]
}

/// The same for a policy that is followed, in this mode.
pub fn follow(options: PolicyOptions, mode: Mode) -> Result<Followed, ()> {
    load_to_follow(options, mode).map_err(|diagnostics| show(&diagnostics))
}

/// The same; what was wrong is the caller's to say.
pub fn load_to_follow(options: PolicyOptions, mode: Mode) -> Result<Followed, Vec<Diagnostic>> {
    let mut files = PolicyFiles::new(MAX_FILE_BYTES);
    let mut loaded = load_by(&options, variables(), &mut |path| files.read(path))?;
    loaded.policy = loaded.policy.with_mode(mode);
    let load = move |read: &mut dyn FnMut(&Path) -> io::Result<String>| {
        let mut loaded = load_by(&options, variables(), read)?;
        loaded.policy = loaded.policy.with_mode(mode);
        Ok(loaded)
    };
    let reload = Reload {
        load: Box::new(load),
        files,
        requests: None,
        tell: None,
    };
    Ok(Followed { loaded, reload })
}

/// Merges files, variables and flags into one policy.
fn load_by(
    options: &PolicyOptions,
    mut inputs: Vec<Input>,
    read: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Result<Loaded, Vec<Diagnostic>> {
    for path in &options.policy {
        match read(path) {
            Ok(text) => inputs.push(Input::File {
                path: path.clone(),
                text,
            }),
            Err(error) => return Err(vec![unreadable(path, &error)]),
        }
    }
    if let Ok(hosts) = std::env::var(DIRECT_TCP_HOSTS) {
        inputs.push(Input::DirectTcpHosts(hosts));
    }
    inputs.extend(options.allow.iter().cloned().map(Input::Allow));
    inputs.extend(options.deny.iter().cloned().map(Input::Deny));
    inputs.extend(options.resolver.iter().cloned().map(Input::Resolver));
    inputs.extend(
        (options.upstream_proxy.clone())
            .or_else(crate::hidden_credentials::hidden)
            .map(|url| match url == CALLERS_OWN {
                true => Input::CallersProxies(callers_proxies()),
                false => Input::UpstreamProxy(url),
            }),
    );
    inputs.extend(options.resolve.map(|resolve| {
        Input::Resolve(match resolve {
            ResolveAt::OnDemand => Resolve::OnDemand,
            ResolveAt::Startup => Resolve::Startup,
        })
    }));
    inputs.extend(options.answers.map(|answers| {
        Input::Answers(match answers {
            Answers::Real => portcullis_policy::Answers::Real,
            Answers::Synthetic => portcullis_policy::Answers::Synthetic,
        })
    }));
    Policy::load(&inputs, read)
}

/// What to say of a policy file that cannot be read.
pub fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    // Refused here, not by the kernel: no permission would help.
    let is_own = error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none();
    let lost = path.is_relative() && std::env::current_dir().is_err();
    let hint = match error.kind() {
        io::ErrorKind::NotFound if lost => {
            "the current folder was deleted or cannot be entered; name the policy by its full path"
        }
        io::ErrorKind::NotFound => "check the path; a policy is a TOML, YAML or JSON file",
        io::ErrorKind::PermissionDenied => {
            "let this user read the file and enter its folders, or name another file"
        }
        io::ErrorKind::IsADirectory => "name a file in that folder",
        _ => "a policy is a readable TOML, YAML or JSON file",
    };
    let hint = output::fix_of_limit(error).unwrap_or(hint);
    Diagnostic {
        path: path.display().to_string(),
        line: 0,
        column: 0,
        severity: Severity::Error,
        message: format!("cannot read the policy: {error}"),
        hint: (!is_own).then(|| hint.to_owned()),
        snippet: None,
    }
}

/// Refuses a change by which a file would hold credentials that the program inside can read, since it
/// was not hidden when that started.
pub fn keep_hidden(reload: &mut Reload, hidden: Vec<PathBuf>) {
    let nothing: Load = Box::new(|_| Err(Vec::new()));
    let mut load = std::mem::replace(&mut reload.load, nothing);
    reload.load = Box::new(move |read| {
        let loaded = load(read)?;
        let bare = secrets(&loaded)
            .into_iter()
            .find(|path| !hidden.contains(path));
        match bare {
            None => Ok(loaded),
            Some(path) => Err(vec![Diagnostic {
                path: path.display().to_string(),
                line: 0,
                column: 0,
                severity: Severity::Error,
                message: "the file now holds credentials that the sandboxed program can read"
                    .to_owned(),
                hint: Some("restart Portcullis to hide it".to_owned()),
                snippet: None,
            }]),
        }
    });
}

/// Shows diagnostics on stderr, in colour only on a terminal.
pub fn show(diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        output::line(diagnostic.render(output::stderr_is_terminal()));
    }
}

/// The files a policy was made of, which the sandbox must not change.
pub fn files(options: &PolicyOptions, loaded: &Loaded) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = options.policy.clone();
    files.extend(loaded.files.iter().cloned());
    // A shell's `--policy <(…)` has been read, and has no name by which CMD could change it.
    files.retain(|path| !is_nameless(path));
    files.sort();
    files.dedup();
    files
}

/// The folders of these files that hold nothing but policies: `.portcullis` anywhere, and `portcullis`
/// among the user's or the system's settings. Each is read-only inside as a whole, so that a file which
/// an editor puts in the place of another is surely the operator's.
pub fn own_folders(files: &[PathBuf]) -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let settings = variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let settings = settings.or_else(|| Some(variable("HOME")?.join(".config")));
    let known: Vec<PathBuf> = [settings, Some("/etc".into())]
        .into_iter()
        .flatten()
        .filter_map(|folder| folder.join(SETTINGS_FOLDER).canonicalize().ok())
        .collect();
    let mut folders: Vec<PathBuf> = files
        .iter()
        .filter_map(|file| Some(file.canonicalize().ok()?.parent()?.to_owned()))
        .filter(|folder| folder.ends_with(PROJECT_FOLDER) || known.contains(folder))
        .collect();
    folders.sort();
    folders.dedup();
    folders
}

/// The files that hold credentials, which the sandbox must not see.
pub fn secrets(loaded: &Loaded) -> Vec<PathBuf> {
    let mut secrets = loaded.secrets.clone();
    secrets.retain(|path| !is_nameless(path));
    secrets.sort();
    secrets.dedup();
    secrets
}

/// Those of them that others on this host may read, each with its permissions.
pub fn open_secrets(loaded: &Loaded) -> Vec<(PathBuf, u32)> {
    let mode = |path: &PathBuf| Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o777);
    let modes = secrets(loaded).into_iter().filter_map(|path| {
        let mode = mode(&path)?;
        Some((path, mode))
    });
    modes.filter(|(_, mode)| mode & 0o044 != 0).collect()
}
