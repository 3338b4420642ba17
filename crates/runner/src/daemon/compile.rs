//! From a policy that a client sent to one that is served.
//!
//! Answers *around the gateway* (docs/threats.md): the daemon may read what its clients may not, so it reads
//! no path and no variable that a client's text names.

use std::io;
use std::path::{Path, PathBuf};

use portcullis_control::{Finding, Name, PolicyText, Problem};
use portcullis_gateway::{Environment, Input, Loaded, Mode, Policy};

/// The longest text, in bytes.
const MAX_TEXT_BYTES: usize = portcullis_policy::MAX_FILE_BYTES;

/// A client's policy, compiled.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn compile(name: &Name, policy: &PolicyText, mode: Mode) -> Result<Loaded, Problem> {
    if policy.text.len() > MAX_TEXT_BYTES {
        let title = format!("the policy is longer than {MAX_TEXT_BYTES} bytes");
        return Err(Problem::new(
            portcullis_control::ProblemKind::Invalid,
            title,
        ));
    }
    let path = PathBuf::from(format!("{name}.{}", policy.format.extension()));
    // A sandbox without a policy has no network.
    let file = (!policy.text.is_empty()).then(|| Input::File {
        path,
        text: policy.text.clone(),
    });
    // A policy names no variable of the daemon's: none is set.
    let nothing = Input::Environment(Environment::new(|_| None));
    let inputs: Vec<Input> = [nothing].into_iter().chain(file).collect();
    let mut no_files = |_: &Path| {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "a policy that is sent to the daemon names no other files: put everything into one text",
        ))
    };
    match Policy::load(&inputs, &mut no_files) {
        Ok(mut loaded) => {
            loaded.policy = loaded.policy.with_mode(mode);
            Ok(loaded)
        }
        Err(diagnostics) => Err(Problem::policy(
            diagnostics.iter().map(Finding::from).collect(),
        )),
    }
}

/// Whether decisions hold, or are only recorded.
pub(crate) fn mode(audit: bool) -> Mode {
    match audit {
        true => Mode::Audit,
        false => Mode::Enforce,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_control::PolicyFormat;

    fn findings(format: PolicyFormat, text: &str) -> Result<usize, Problem> {
        let policy = PolicyText {
            format,
            text: text.to_owned(),
        };
        let name = "a".parse().unwrap();
        compile(&name, &policy, Mode::Enforce).map(|loaded| loaded.policy.rule_count())
    }

    #[test]
    fn each_format_is_read() {
        let toml = "version = 1\n[network.domains]\n\"a.example\" = \"allow\"\n";
        assert_eq!(findings(PolicyFormat::Toml, toml), Ok(1));
        let yaml = "version: 1\nnetwork:\n  domains:\n    a.example: allow\n";
        assert_eq!(findings(PolicyFormat::Yaml, yaml), Ok(1));
        let json = r#"{"version": 1, "network": {"domains": {"a.example": "allow"}}}"#;
        assert_eq!(findings(PolicyFormat::Json, json), Ok(1));
        assert_eq!(findings(PolicyFormat::Toml, ""), Ok(0));
    }

    #[test]
    fn a_finding_has_its_place() {
        let text = "version = 1\n[network.domains]\n\"*.com\" = \"allow\"\n";
        let problem = findings(PolicyFormat::Toml, text).unwrap_err();
        assert_eq!(problem.status, 422);
        assert_eq!(problem.findings[0].line, 3);
    }

    #[test]
    fn no_file_of_the_host_is_read() {
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), "version = 1\n").unwrap();
        let path = secret.path().display();
        let text = format!("version = 1\ninclude = [\"{path}\"]\n");
        let problem = findings(PolicyFormat::Toml, &text).unwrap_err();
        assert!(
            problem.findings[0].message.contains("names no other files"),
            "{problem:?}"
        );
    }
}
