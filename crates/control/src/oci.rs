//! Containers as an OCI runtime tells its hooks of them (the sections "State" and "POSIX-platform Hooks" of the OCI
//! runtime specification), and the sandboxes that are made of them.
//!
//! Answers *failing open* (docs/threats.md): what is not understood is an error, and a hook that fails keeps the
//! container from starting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::api::{AttachTo, Name, NewSandbox, PolicyText};

/// The annotation that names a container's policy.
pub const POLICY_ANNOTATION: &str = "portcullis.policy";
/// The label of a sandbox that holds its container's id.
pub const CONTAINER_LABEL: &str = "container";
/// What sandboxes of containers are called before their id.
const PREFIX: &str = "oci-";

/// The state of a container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerState {
    /// The version of the specification that the runtime follows.
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    /// The container's id, unique on this host.
    pub id: String,
    /// Where it is in its life.
    pub status: ContainerStatus,
    /// Its first process; 0 where there is none.
    #[serde(default)]
    pub pid: u32,
    /// Its bundle's folder.
    pub bundle: PathBuf,
    /// What whoever made it has noted. Values that are no text are kept as they are: not all are ours.
    #[serde(default)]
    annotations: Option<BTreeMap<String, Value>>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerStatus {
    /// It is being made; its programs do not run.
    Creating,
    /// It is made; its programs do not run.
    Created,
    /// Its programs run.
    Running,
    /// Its programs have ended.
    Stopped,
}

impl ContainerState {
    /// Reads what a runtime wrote.
    ///
    /// # Errors
    /// It is no state of a container, or one that contradicts itself.
    pub fn read(text: &[u8]) -> Result<ContainerState, String> {
        let state: ContainerState =
            serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if state.id.is_empty() {
            return Err("`id` is empty".to_owned());
        }
        if !state.bundle.is_absolute() {
            return Err("`bundle` is no absolute path".to_owned());
        }
        if state.status != ContainerStatus::Stopped && state.pid == 0 {
            return Err("`pid` is missing: the container has no process yet".to_owned());
        }
        Ok(state)
    }

    /// What the container's annotations say of its policy.
    ///
    /// # Errors
    /// The annotation is there and is no text.
    pub fn policy_annotation(&self) -> Result<Option<&str>, String> {
        let annotations = self.annotations.as_ref();
        match annotations.and_then(|all| all.get(POLICY_ANNOTATION)) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("the annotation {POLICY_ANNOTATION} is no text")),
        }
    }

    /// What its sandbox is called.
    pub fn sandbox_name(&self) -> Name {
        Name::of_foreign(PREFIX, &self.id)
    }

    /// The sandbox that it becomes under this policy. `root` is [`bundle_root`].
    pub fn sandbox(&self, root: PathBuf, policy: PolicyText) -> NewSandbox {
        NewSandbox {
            name: self.sandbox_name(),
            attach: AttachTo::Pid {
                pid: self.pid,
                root: Some(root),
            },
            policy,
            labels: BTreeMap::from([(CONTAINER_LABEL.to_owned(), self.id.clone())]),
            audit: false,
        }
    }
}

/// The folder that becomes a container's root directory, from the `config.json` of its bundle.
///
/// # Errors
/// It is no such file.
pub fn bundle_root(bundle: &Path, config: &[u8]) -> Result<PathBuf, String> {
    #[derive(Deserialize)]
    struct Config {
        root: Root,
    }
    #[derive(Deserialize)]
    struct Root {
        path: PathBuf,
    }
    let config: Config = serde_json::from_slice(config).map_err(|error| error.to_string())?;
    if config.root.path.as_os_str().is_empty() {
        return Err("`root.path` is empty".to_owned());
    }
    Ok(bundle.join(config.root.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &str = r#"{"ociVersion": "1.0.2", "id": "box", "status": "creating", "pid": 4242,
        "bundle": "/b", "annotations": {"portcullis.policy": "/p.toml", "other": 7, "none": null}}"#;

    #[test]
    fn a_state_becomes_a_sandbox() {
        let state = ContainerState::read(STATE.as_bytes()).unwrap();
        assert_eq!(state.policy_annotation(), Ok(Some("/p.toml")));
        let root = bundle_root(&state.bundle, br#"{"root": {"path": "rootfs"}}"#).unwrap();
        let new = state.sandbox(root, PolicyText::default());
        assert_eq!(new.name.as_str(), "oci-box");
        let root = Some(PathBuf::from("/b/rootfs"));
        assert_eq!(new.attach, AttachTo::Pid { pid: 4242, root });
        assert_eq!(new.labels["container"], "box");
    }

    #[test]
    fn what_is_no_state_is_an_error() {
        for (from, to) in [
            ("\"box\"", "\"\""),
            ("\"box\"", "7"),
            ("4242", "0"),
            ("4242", "-1"),
            ("4242", "4294967296"),
            ("4242", "1.5"),
            ("4242", "\"4242\""),
            ("\"creating\"", "\"paused\""),
            ("\"creating\"", "null"),
            ("\"/b\"", "\"b\""),
            ("\"/b\"", "[]"),
            ("\"1.0.2\"", "1"),
            ("\"annotations\": {", "\"annotations\": [{"),
            ("}}", "}"),
        ] {
            let text = STATE.replace(from, to);
            assert_ne!(text, STATE);
            assert!(ContainerState::read(text.as_bytes()).is_err(), "{text}");
        }
        for text in ["", "null", "[]", "\0\0", "{}"] {
            assert!(ContainerState::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn annotations_of_other_types_are_told_from_none() {
        let with = |value: &str| STATE.replace("\"/p.toml\"", value);
        for value in ["7", "null", "[]", "{}", "true"] {
            let state = ContainerState::read(with(value).as_bytes()).unwrap();
            assert!(state.policy_annotation().is_err(), "{value}");
        }
        let none = r#"{"ociVersion": "1.0.2", "id": "box", "status": "stopped", "bundle": "/b", "annotations": null}"#;
        let state = ContainerState::read(none.as_bytes()).unwrap();
        assert_eq!(state.policy_annotation(), Ok(None));
    }

    #[test]
    fn a_bundle_without_a_root_is_an_error() {
        let root = |text: &str| bundle_root(Path::new("/b"), text.as_bytes());
        assert_eq!(root(r#"{"root": {"path": "/r"}}"#), Ok(PathBuf::from("/r")));
        for bad in [
            "{}",
            r#"{"root": {}}"#,
            r#"{"root": {"path": ""}}"#,
            r#"{"root": {"path": 1}}"#,
            "x",
        ] {
            assert!(root(bad).is_err(), "{bad}");
        }
    }
}
