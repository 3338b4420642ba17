//! The daemon's configuration file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use portcullis_control::{AttachTo, Name};
use portcullis_record::{Label, Labels};
use serde::Deserialize;

/// The only version of the file.
const VERSION: u32 = 1;
/// Sandboxes at once, where the file does not say how many.
const MAX_SANDBOXES: usize = 1024;

/// Sandboxes at once of one user, likewise.
const MAX_SANDBOXES_PER_USER: usize = 128;

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The text is no TOML, or not what is expected; with the place.
    #[error(transparent)]
    Text(#[from] toml::de::Error),
    /// Something that the text says cannot be.
    #[error("{0}")]
    Meaning(String),
}

/// The daemon's configuration: TOML.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The version of the file: 1.
    version: u32,
    /// The control socket.
    pub control: Option<PathBuf>,
    /// Where the daemon keeps what it must know after a restart.
    pub state: Option<PathBuf>,
    /// Where each sandbox's records go, as `NAME.jsonl`; without it they are only counted and followed.
    pub log_dir: Option<PathBuf>,
    /// A group whose members may do everything.
    pub admin_group: Option<String>,
    /// The host's name in records; without it the system's.
    pub host: Option<String>,
    /// Labels of every record.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Sandboxes at once.
    #[serde(default = "max_sandboxes")]
    pub max_sandboxes: usize,
    /// Sandboxes at once of one user who is no administrator.
    #[serde(default = "max_sandboxes_per_user")]
    pub max_sandboxes_per_user: usize,
    /// Sandboxes that are there from the start.
    #[serde(default, rename = "sandbox")]
    pub sandboxes: Vec<ConfiguredSandbox>,
}

/// A sandbox that the configuration file names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfiguredSandbox {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub attach: AttachTo,
    /// Policy files, which are followed; relative to the configuration file.
    #[serde(default)]
    pub policy: Vec<PathBuf>,
    /// Labels of its records, besides those of all.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Decide and record only.
    #[serde(default)]
    pub audit: bool,
}

const fn max_sandboxes_per_user() -> usize {
    MAX_SANDBOXES_PER_USER
}

const fn max_sandboxes() -> usize {
    MAX_SANDBOXES
}

/// A file that says nothing but its version.
impl Default for Settings {
    fn default() -> Settings {
        Settings {
            version: VERSION,
            control: None,
            state: None,
            log_dir: None,
            admin_group: None,
            host: None,
            labels: BTreeMap::new(),
            max_sandboxes: MAX_SANDBOXES,
            max_sandboxes_per_user: MAX_SANDBOXES_PER_USER,
            sandboxes: Vec::new(),
        }
    }
}

impl Settings {
    /// Whether anything but the sandboxes is different.
    pub(crate) fn differs_beside_sandboxes(&self, other: &Settings) -> bool {
        let without = |settings: &Settings| Settings {
            sandboxes: Vec::new(),
            ..settings.clone()
        };
        without(self) != without(other)
    }

    /// Reads the text of a file that stands in `folder`.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn parse(text: &str, folder: &Path) -> Result<Settings, SettingsError> {
        let mut settings: Settings = toml::from_str(text)?;
        let refuse = |why: String| Err(SettingsError::Meaning(why));
        if settings.version != VERSION {
            let version = settings.version;
            return refuse(format!(
                "version {version} is unknown: this build reads version {VERSION}"
            ));
        }
        if settings.max_sandboxes == 0 {
            return refuse("`max_sandboxes` is at least 1".to_owned());
        }
        if let Err(error) = labels(&settings.labels, &BTreeMap::new()) {
            return refuse(format!("labels: {error}"));
        }
        let mut names: Vec<&Name> = settings.sandboxes.iter().map(|one| &one.name).collect();
        names.sort();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse(format!("two sandboxes are called `{}`", pair[0]));
        }
        if settings.sandboxes.len() > settings.max_sandboxes {
            return refuse("there are more sandboxes than `max_sandboxes`".to_owned());
        }
        for one in &settings.sandboxes {
            if let Err(error) = labels(&settings.labels, &one.labels) {
                return refuse(format!("labels of `{}`: {error}", one.name));
            }
        }
        let paths = [
            &mut settings.control,
            &mut settings.state,
            &mut settings.log_dir,
        ];
        for path in paths.into_iter().flatten() {
            *path = folder.join(&*path);
        }
        for path in settings
            .sandboxes
            .iter_mut()
            .flat_map(|one| &mut one.policy)
        {
            *path = folder.join(&*path);
        }
        Ok(settings)
    }
}

/// The labels of one sandbox's records: all have the first, and its own win.
pub(crate) fn labels(
    all: &BTreeMap<String, String>,
    own: &BTreeMap<String, String>,
) -> Result<Labels, String> {
    let mut labels = all.clone();
    labels.extend(own.clone());
    let labels = labels
        .into_iter()
        .map(|(key, value)| Label::new(key, value));
    let labels: Result<Vec<Label>, _> = labels.collect();
    let labels = labels.map_err(|error| error.to_string())?;
    Labels::new(labels).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(text, Path::new("/etc/portcullis")).map_err(|error| error.to_string())
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let text = "version = 1\ncontrol = \"/run/p.sock\"\nlog_dir = \"log\"\n\
            [[sandbox]]\nname = \"a\"\nattach = { kind = \"listeners\" }\npolicy = [\"a.toml\"]\n";
        let settings = parse(text).unwrap();
        assert_eq!(settings.control.unwrap(), Path::new("/run/p.sock"));
        assert_eq!(settings.log_dir.unwrap(), Path::new("/etc/portcullis/log"));
        assert_eq!(
            settings.sandboxes[0].policy[0],
            Path::new("/etc/portcullis/a.toml")
        );
        assert_eq!(settings.max_sandboxes, MAX_SANDBOXES);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let sandbox = |name: &str| {
            format!("[[sandbox]]\nname = \"{name}\"\nattach = {{ kind = \"listeners\" }}\n")
        };
        for (text, why) in [
            (String::new(), "missing field `version`"),
            ("version = 2".to_owned(), "version 2 is unknown"),
            (
                "version = 1\ncontol = \"/x\"".to_owned(),
                "unknown field `contol`",
            ),
            (
                format!("version = 1\n{}", sandbox("A")),
                "a name is 1 to 63",
            ),
            (
                format!("version = 1\n{0}{0}", sandbox("a")),
                "two sandboxes are called `a`",
            ),
            (
                format!(
                    "version = 1\nmax_sandboxes = 1\n{}{}",
                    sandbox("a"),
                    sandbox("b")
                ),
                "more sandboxes than",
            ),
            (
                format!(
                    "version = 1\n{}labels = {{ \"a b\" = \"c\" }}\n",
                    sandbox("a")
                ),
                "labels of `a`",
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(why), "{text}\n{error}");
        }
    }
}
