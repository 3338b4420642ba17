//! `portcullis cni`: a network plugin of the Container Network Interface.

use crate::command::Command;
use crate::control::{ControlOptions, text_of};
use crate::handed_in;
use crate::output;
use portcullis_control::{
    AttachTo, CNI_VERSIONS, ClientError, CniCode, CniConfig, CniContainer, CniError, CniMade,
    NewSandbox, PolicyText, Problem, ProblemKind, Sandbox, State,
};
use portcullis_sandbox::Addresses;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// What the engine asks for.
const COMMAND: &str = "CNI_COMMAND";
/// More that an engine says, as `KEY=VALUE;…`, and what of it becomes a label.
const ARGUMENTS: &str = "CNI_ARGS";
const LABELS: [(&str, &str); 2] = [("K8S_POD_NAMESPACE", "namespace"), ("K8S_POD_NAME", "pod")];
/// The length of a host's prefix, IPv4 and IPv6.
const HOST4: u8 = 32;
const HOST6: u8 = 128;

/// The exit codes, as `--help` tells them.
const EXITS: &str = "\
Exit codes: 0 if it is done; 1 if not, with an error as JSON on standard output; 2 for bad flags.";

/// Be a network plugin (CNI): give a container's network namespace a gateway of the daemon
///
/// Takes ADD, DEL, CHECK and VERSION from CNI_COMMAND, the other CNI_ variables, and the network's configuration on
/// standard input, with `policy` (a file) and `control` (the daemon's socket). Alone, or chained after others: the
/// devices that they have made are taken down. A link to this program in the folder of plugins does the same.
#[derive(clap::Args)]
#[command(after_help = EXITS)]
pub struct Cni {}

/// Whether an engine started this program as a plugin: it names no command, and says so in the environment.
pub fn is_called(arguments: usize) -> bool {
    arguments <= 1 && variable(COMMAND).is_some()
}

impl Command for Cni {
    fn run(self) -> ExitCode {
        main()
    }
}

/// Answers the engine.
pub fn main() -> ExitCode {
    let newest = CNI_VERSIONS[CNI_VERSIONS.len() - 1];
    let message = handed_in::message().unwrap_or_default();
    let config = CniConfig::read(&message);
    let version = match &config {
        Ok(config) => config.cni_version.clone(),
        Err(_) => newest.to_owned(),
    };
    let answer = match variable(COMMAND).as_deref() {
        Some("VERSION") => {
            // An engine that asks for versions need not speak one of them.
            let versions = json!({"cniVersion": newest, "supportedVersions": CNI_VERSIONS});
            Ok(Some(versions))
        }
        Some("ADD") => config.and_then(|config| add(&config).map(Some)),
        Some("DEL") => config.and_then(|config| delete(&config).map(|()| None)),
        Some("CHECK") => config.and_then(|config| check(&config).map(|()| None)),
        _ => {
            let message = "CNI_COMMAND is none of ADD, DEL, CHECK and VERSION";
            Err(CniError::new(CniCode::Environment, message))
        }
    };
    let (said, code) = match answer {
        Ok(result) => (result, ExitCode::SUCCESS),
        Err(error) => (Some(error.json(&version)), ExitCode::FAILURE),
    };
    match said {
        Some(said) if !output::data(&format!("{said}\n")) => ExitCode::FAILURE,
        _ => code,
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn container() -> Result<CniContainer, CniError> {
    CniContainer::new(variable("CNI_CONTAINERID"), variable("CNI_IFNAME"))
}

/// The network namespace.
fn namespace() -> Result<PathBuf, CniError> {
    let path = variable("CNI_NETNS").map(PathBuf::from);
    path.filter(|path| path.is_absolute()).ok_or_else(|| {
        CniError::new(
            CniCode::Environment,
            "CNI_NETNS is missing, or no path from the root",
        )
    })
}

fn control(config: &CniConfig) -> ControlOptions {
    ControlOptions {
        control: config.control.clone(),
    }
}

fn failed(error: ClientError) -> CniError {
    let code = match &error {
        ClientError::Unreachable { .. } | ClientError::Broken(_) => CniCode::Later,
        ClientError::Refused(_) => CniCode::Refused,
    };
    let (message, details) = text_of(&error);
    CniError {
        details,
        ..CniError::new(code, message)
    }
}

fn add(config: &CniConfig) -> Result<serde_json::Value, CniError> {
    let container = container()?;
    let path = namespace()?;
    let shown = path.to_string_lossy().into_owned();
    let new = NewSandbox {
        name: container.sandbox_name(),
        attach: AttachTo::Netns { path },
        policy: policy(config)?,
        labels: labels(config, &container)?,
        audit: false,
    };
    let made = control(config).try_ask(async |client| client.create(&new).await);
    is_served(&made.map_err(failed)?)?;
    let addresses = Addresses::new();
    let made = CniMade {
        namespace: &shown,
        addresses: [
            format!("{}/{HOST4}", addresses.own4),
            format!("{}/{HOST6}", addresses.own6),
        ],
        gateway: addresses.gateway4.to_string(),
        resolver: addresses.resolver4.to_string(),
    };
    Ok(made.result(config))
}

fn is_served(sandbox: &Sandbox) -> Result<(), CniError> {
    match sandbox.state {
        State::Serving => Ok(()),
        State::CutOff => {
            let why = sandbox.error.as_deref().unwrap_or("its gateway is gone");
            let message = format!("the container is cut off: {why}");
            Err(CniError::new(CniCode::NotServed, message))
        }
    }
}

/// What is missing is deleted already: the namespace may be gone, and the daemon has then forgotten it.
fn delete(config: &CniConfig) -> Result<(), CniError> {
    let container = container()?;
    let name = container.sandbox_name();
    let missing = |problem: Box<Problem>| match problem.is(ProblemKind::NotFound) {
        true => Ok(()),
        false => Err(ClientError::Refused(problem)),
    };
    let removed = control(config).try_ask(async |client| {
        let there = match client.get(&name).await {
            Err(ClientError::Refused(problem)) => return missing(problem),
            there => there?,
        };
        // Another container's, whose name became the same.
        let own = [("container", &container.id), ("device", &container.device)];
        if own
            .iter()
            .any(|(key, value)| there.labels.get(*key) != Some(value))
        {
            return Ok(());
        }
        match client.remove(&name).await {
            Err(ClientError::Refused(problem)) => missing(problem),
            removed => removed,
        }
    });
    removed.map_err(failed)
}

fn check(config: &CniConfig) -> Result<(), CniError> {
    let name = container()?.sandbox_name();
    let path = namespace()?;
    if config.prev_result.is_none() {
        return Err(CniError::new(CniCode::Config, "`prevResult` is missing"));
    }
    let there = control(config).try_ask(async |client| client.get(&name).await);
    let there = there.map_err(|error| match &error {
        ClientError::Refused(problem) if problem.is(ProblemKind::NotFound) => {
            CniError::new(CniCode::NotServed, "the container has no gateway")
        }
        _ => failed(error),
    })?;
    if there.attach != (AttachTo::Netns { path }) {
        let message = "the container's gateway is in another namespace";
        return Err(CniError::new(CniCode::NotServed, message));
    }
    is_served(&there)
}

fn policy(config: &CniConfig) -> Result<PolicyText, CniError> {
    let invalid = |message: &str| CniError::new(CniCode::Config, message);
    let path = config.policy.as_deref();
    let path = path.ok_or_else(|| invalid("`policy` is missing: the path of a policy file"))?;
    if !path.is_absolute() {
        return Err(invalid("`policy` is no path from the root"));
    }
    let read = handed_in::policy(path);
    read.map_err(|()| CniError {
        details: "standard error says why".to_owned(),
        ..invalid(&format!("the policy {} does not load", path.display()))
    })
}

fn labels(
    config: &CniConfig,
    container: &CniContainer,
) -> Result<BTreeMap<String, String>, CniError> {
    let own = [
        ("container", &container.id),
        ("device", &container.device),
        ("network", &config.name),
    ];
    let own = own.map(|(key, value)| (key.to_owned(), value.clone()));
    let mut labels = BTreeMap::from(own);
    let arguments = variable(ARGUMENTS).unwrap_or_default();
    for argument in arguments.split(';').filter(|argument| !argument.is_empty()) {
        let Some((key, value)) = argument.split_once('=') else {
            let message = format!("{ARGUMENTS} is not KEY=VALUE;…");
            return Err(CniError::new(CniCode::Environment, message));
        };
        let label = LABELS.iter().find(|(argument, _)| *argument == key);
        labels.extend(label.map(|(_, label)| ((*label).to_owned(), value.to_owned())));
    }
    Ok(labels)
}
