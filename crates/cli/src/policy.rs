//! From `--policy`, `--allow`, `--deny`, `--resolver` and the operator's environment to a compiled
//! policy. Nothing runs on a policy that has an error.

use crate::args::{self, PolicyOptions, ResolveAt};
use portcullis_policy::{Answers, Diagnostic, Input, Loaded, MAX_FILE_BYTES, Policy, Resolve};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The operator's list of hosts for direct TCP on port 443.
const DIRECT_TCP_HOSTS: &str = "OPENSHELL_DIRECT_TCP_HOSTS";

/// Reads a policy file, bounded by what is read: a pipe (`--policy <(…)`) does not tell its length.
pub fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more, so that the policy's reader sees that the file is too large and says so.
    let most = MAX_FILE_BYTES as u64 + 1;
    File::open(path)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}

/// Loads what the options name. On failure everything that was wrong is already on stderr.
pub fn load(options: &PolicyOptions) -> Result<Loaded, ()> {
    let mut inputs = Vec::new();
    for path in &options.policy {
        match read(path) {
            Ok(text) => inputs.push(Input::File {
                path: path.clone(),
                text,
            }),
            Err(error) => {
                crate::talk::error(
                    format_args!("{}: {error}", path.display()),
                    Some("a policy is a readable TOML, YAML or JSON file"),
                );
                return Err(());
            }
        }
    }
    if let Ok(hosts) = std::env::var(DIRECT_TCP_HOSTS) {
        inputs.push(Input::DirectTcpHosts(hosts));
    }
    inputs.extend(options.allow.iter().cloned().map(Input::Allow));
    inputs.extend(options.deny.iter().cloned().map(Input::Deny));
    inputs.extend(options.resolver.iter().cloned().map(Input::Resolver));
    inputs.extend(
        options
            .upstream_proxy
            .iter()
            .cloned()
            .map(Input::UpstreamProxy),
    );
    inputs.extend(options.resolve.map(|resolve| {
        Input::Resolve(match resolve {
            ResolveAt::OnDemand => Resolve::OnDemand,
            ResolveAt::Startup => Resolve::Startup,
        })
    }));
    inputs.extend(options.answers.map(|answers| {
        Input::Answers(match answers {
            args::Answers::Real => Answers::Real,
            args::Answers::Synthetic => Answers::Synthetic,
        })
    }));
    match Policy::load(&inputs, &mut |path| read(path)) {
        Ok(loaded) => Ok(loaded),
        Err(diagnostics) => {
            show(&diagnostics);
            Err(())
        }
    }
}

/// Shows diagnostics on stderr, in colour only on a terminal.
pub fn show(diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        crate::talk::line(diagnostic.render(crate::talk::stderr_is_terminal()));
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

/// Whether this leads to something without a place among the files: a pipe or a socket that is
/// open under `/dev/fd`, as `/dev/stdin` often is.
pub fn is_nameless(path: &Path) -> bool {
    path.exists() && path.canonicalize().is_err()
}
