//! `portcullis hook`: an OCI runtime hook, by which a container starts behind a gateway or not at all.

use crate::command::Command;
use crate::control::ControlOptions;
use crate::handed_in;
use crate::output;
use portcullis_control::{
    AttachTo, CONTAINER_LABEL, Client, ClientError, ContainerState, ContainerStatus, NewSandbox,
    POLICY_ANNOTATION, PolicyText, Problem, ProblemKind, Sandbox, State, bundle_root,
};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

/// A bundle's configuration.
const CONFIG: &str = "config.json";
/// What the names of policies end with, in a folder of them.
const ENDS: [&str; 4] = ["toml", "yaml", "yml", "json"];

/// The exit codes, as `--help` tells them.
const EXITS: &str = "\
Exit codes: 0 when the container has its gateway, or is gone; 1 if not, and then the runtime does not start the
container; 2 for bad flags.";

/// Be an OCI runtime's hook: start a container behind a gateway, or not at all
///
/// For the stages createRuntime (or prestart) and poststop. Reads the container's state on standard input, and
/// has the daemon (`portcullis serve`) serve the container, which must have a network namespace of its own and no
/// network: podman run --network none. The policy is the file that the annotation portcullis.policy names.
#[derive(clap::Args)]
#[command(after_help = EXITS)]
pub struct Hook {
    #[command(flatten)]
    control: ControlOptions,
    /// Policy file for containers without the annotation; without it, they do not start
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Annotations hold the name of a policy in FOLDER (`web` for FOLDER/web.toml), and no path
    #[arg(long, value_name = "FOLDER")]
    policies: Option<PathBuf>,
    /// Containers that bring the annotation do not start: --policy is for all of them
    #[arg(long, requires = "policy", conflicts_with = "policies")]
    no_annotations: bool,
}

impl Command for Hook {
    fn run(self) -> ExitCode {
        match run(&self) {
            Ok(()) => ExitCode::SUCCESS,
            Err(Refused) => ExitCode::FAILURE,
        }
    }
}

/// The container must not start; why is already on stderr.
#[derive(Debug)]
struct Refused;

fn run(hook: &Hook) -> Result<(), Refused> {
    let message = handed_in::message()
        .map_err(|error| refuse(&format!("the container's state on standard input: {error}")))?;
    let state = ContainerState::read(&message).map_err(|error| {
        refuse(&format!(
            "no state of a container on standard input: {error}"
        ))
    })?;
    if state.status == ContainerStatus::Stopped {
        return end(hook, &state);
    }
    let policy = policy(hook, &state)?;
    let config = state.bundle.join(CONFIG);
    let unreadable = |error: &str| refuse(&format!("{}: {error}", config.display()));
    let bundle =
        handed_in::bundle_config(&config).map_err(|error| unreadable(&error.to_string()))?;
    let root = bundle_root(&state.bundle, &bundle).map_err(|error| unreadable(&error))?;
    let new = state.sandbox(root, policy);
    let made = hook.control.ask(async |client| begin(&client, &new).await);
    let why = made.map_err(|_| refuse("the daemon does not serve the container"))?;
    match why {
        None => Ok(()),
        Some(why) => Err(refuse(&why)),
    }
}

fn refuse(why: &str) -> Refused {
    output::error(format_args!("the container must not start: {why}"), None);
    Refused
}

/// Has the container served; gives why it is not as it should be, if it is not.
async fn begin(client: &Client, new: &NewSandbox) -> Result<Option<String>, ClientError> {
    let made = match client.create(new).await {
        Err(ClientError::Refused(problem)) if problem.is(ProblemKind::Conflict) => {
            leave_dead(client, new, problem).await?;
            client.create(new).await?
        }
        made => made?,
    };
    let why = match (made.state, made.error, made.note) {
        (State::Serving, None, None) => return Ok(None),
        (_, Some(why), _) => why,
        (_, _, Some(note)) => format!("its files cannot be shown in it: {note}"),
        (State::CutOff, None, None) => "it is cut off".to_owned(),
    };
    client.remove(&new.name).await?;
    Ok(Some(why))
}

/// Removes what an earlier run of the same container has left: a sandbox whose process is gone.
async fn leave_dead(
    client: &Client,
    new: &NewSandbox,
    taken: Box<Problem>,
) -> Result<(), ClientError> {
    let there = client.get(&new.name).await;
    let is_dead = match &there {
        Ok(there) => !is_alive(there),
        Err(ClientError::Refused(problem)) => return missing(problem.clone()),
        Err(_) => false,
    };
    if !is_dead {
        return Err(ClientError::Refused(taken));
    }
    match client.remove(&new.name).await {
        Err(ClientError::Refused(problem)) => missing(problem),
        removed => removed,
    }
}

/// Whether a sandbox's process is there.
fn is_alive(sandbox: &Sandbox) -> bool {
    match &sandbox.attach {
        AttachTo::Pid { pid, .. } => {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            // The state stands behind the name, which may have brackets of its own; one that has ended waits as `Z`.
            stat.is_ok_and(|stat| {
                !stat
                    .rsplit(") ")
                    .next()
                    .is_some_and(|state| state.starts_with('Z'))
            })
        }
        _ => true,
    }
}

/// What is missing need not be removed.
fn missing(problem: Box<Problem>) -> Result<(), ClientError> {
    match problem.is(ProblemKind::NotFound) {
        true => Ok(()),
        false => Err(ClientError::Refused(problem)),
    }
}

/// Forgets a container that has ended; the daemon may have done so by itself.
fn end(hook: &Hook, state: &ContainerState) -> Result<(), Refused> {
    let name = state.sandbox_name();
    let removed = hook.control.ask(async |client| {
        let there = match client.get(&name).await {
            Err(ClientError::Refused(problem)) => return missing(problem),
            there => there?,
        };
        // Another container's, which has the same id with another runtime, or whose name became the same.
        if there.labels.get(CONTAINER_LABEL) != Some(&state.id) || is_alive(&there) {
            return Ok(());
        }
        match client.remove(&name).await {
            Err(ClientError::Refused(problem)) => missing(problem),
            removed => removed,
        }
    });
    removed.map_err(|_| Refused)
}

/// The container's policy.
fn policy(hook: &Hook, state: &ContainerState) -> Result<PolicyText, Refused> {
    let annotation = state.policy_annotation().map_err(|why| refuse(&why))?;
    let path = match (annotation, &hook.policy) {
        (Some(_), _) if hook.no_annotations => {
            return Err(refuse(&format!(
                "it brings the annotation {POLICY_ANNOTATION}, and the hook's --policy is for all"
            )));
        }
        (Some(named), _) => match &hook.policies {
            Some(folder) => in_folder(folder, named).map_err(|why| refuse(&why))?,
            None if Path::new(named).is_absolute() => PathBuf::from(named),
            None => {
                return Err(refuse(&format!(
                    "the annotation {POLICY_ANNOTATION} holds no absolute path of a policy file"
                )));
            }
        },
        (None, Some(policy)) => policy.clone(),
        (None, None) => {
            return Err(refuse(&format!(
                "it has no annotation {POLICY_ANNOTATION}, and the hook has no --policy"
            )));
        }
    };
    handed_in::policy(&path).map_err(|()| refuse("its policy does not load"))
}

/// The policy of this name in a folder: with its end, or without.
fn in_folder(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let mut parts = Path::new(name).components();
    let is_name = matches!(parts.next(), Some(Component::Normal(part)) if part == name)
        && parts.next().is_none()
        && !name.starts_with('.');
    if !is_name {
        return Err(format!(
            "the annotation {POLICY_ANNOTATION} is no name of a policy in {}",
            folder.display()
        ));
    }
    let plain = [folder.join(name)].into_iter();
    let with_end = ENDS.iter().map(|end| folder.join(format!("{name}.{end}")));
    let is_policy = |path: &PathBuf| {
        let end = path.extension().and_then(|end| end.to_str());
        end.is_some_and(|end| ENDS.contains(&end)) && path.is_file()
    };
    let found = plain.chain(with_end).find(is_policy);
    found.ok_or_else(|| format!("there is no policy of its name in {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_leads_out_of_no_folder() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("policies");
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        for file in [
            "../out.toml",
            "web.toml",
            "a.b.yaml",
            "sub/in.toml",
            ".hidden.toml",
        ] {
            std::fs::write(folder.join(file), "version = 1\n").unwrap();
        }
        for (name, file) in [
            ("web", "web.toml"),
            ("web.toml", "web.toml"),
            ("a.b", "a.b.yaml"),
        ] {
            assert_eq!(in_folder(&folder, name), Ok(folder.join(file)));
        }
        let out = top.path().join("out.toml").display().to_string();
        for name in [
            "",
            ".",
            "..",
            "../out",
            "../out.toml",
            &out,
            "sub/in",
            "./web",
            "web/",
            "web/.",
            ".hidden",
            "sub",
            "other",
            "web\0",
            "/",
        ] {
            assert!(in_folder(&folder, name).is_err(), "{name:?}");
        }
    }
}
