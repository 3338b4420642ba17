//! From texts to a policy: files with what they include, variables and flags.
//!
//! *Failing open*, docs/threats.md: a policy with any error in it does not load, and what loads is complete.
//! All errors of all files are reported at once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::document::{Node, Value};
use super::draft::Draft;
use super::flags::flags;
use super::outside::{Outside, normal};
use super::source::{Place, SourceKind};
use super::{codex, conflict, format, list, own, totals};
use crate::diagnostic::Diagnostic;
use crate::input::{CallersProxies, Input, Loaded};
use crate::policy::Policy;
use crate::rules::MAX_SOURCES;
use crate::verdict::Mode;

/// Largest policy file, in bytes.
pub const MAX_FILE_BYTES: usize = 256 * 1024 * 1024;
/// Most files of one policy, included ones too.
pub const MAX_FILES: usize = 256;
/// Deepest chain of files that include each other.
pub const MAX_INCLUDE_DEPTH: usize = 8;

impl Policy {
    /// Loads a policy. `read` is called for every file that is included, with its path as the
    /// including file names it, relative to that file's folder.
    ///
    /// # Errors
    /// Everything that is wrong with it, up to [`MAX_DIAGNOSTICS`](crate::MAX_DIAGNOSTICS).
    pub fn load(
        inputs: &[Input],
        read: &mut dyn FnMut(&Path) -> io::Result<String>,
    ) -> Result<Loaded, Vec<Diagnostic>> {
        if inputs.len() + MAX_FILES > MAX_SOURCES {
            let message = format!("a policy can have at most {MAX_SOURCES} files and flags");
            return Err(vec![Diagnostic::whole("policy", message)]);
        }
        let mut loader = Loader {
            draft: Draft::new(Outside {
                read,
                environment: inputs.iter().find_map(|input| match input {
                    Input::Environment(environment) => Some(environment),
                    _ => None,
                }),
                files: Vec::new(),
                secrets: Vec::new(),
            }),
            stack: Vec::new(),
            done: Vec::new(),
        };
        for input in inputs {
            if let Input::File { path, text } = input {
                loader.file(&normal(path), path.display().to_string(), text.clone());
            }
        }
        let mut draft = loader.draft;
        flags(&mut draft, inputs);
        let mut settings = draft.settle();
        let environment = draft.outside.environment;
        settings.unused_proxy = environment
            .filter(|_| settings.upstream.is_empty() && settings.allow_upstream_proxy)
            .and_then(|environment| {
                let proxies = CallersProxies::read(|name| environment.get(name));
                proxies.first().map(|proxy| proxy.variable)
            });
        let rules =
            draft
                .take_rules()
                .build(draft.sources.names(), settings.dns.types, settings.limited);
        let rules = match (draft.full.take(), rules) {
            (None, Ok(rules)) => rules,
            (Some(why), _) | (None, Err(why)) => {
                return Err(vec![Diagnostic::whole("policy", why)]);
            }
        };
        conflict::report(&mut draft, &rules);
        totals::report(&mut draft, &rules);
        if !draft.sources.errors.is_empty() {
            return Err(draft.sources.into_errors());
        }
        let own_table = "network.domains".to_owned();
        let policy = Policy {
            rules: Arc::new(rules),
            settings: Arc::new(settings),
            mode: Mode::Enforce,
            names_carry_no_ports: draft.codex_domains.is_some(),
            domains_table: draft.codex_domains.take().unwrap_or(own_table).into(),
        };
        let mut files = draft.sources.files();
        files.append(&mut draft.outside.files);
        Ok(Loaded {
            policy,
            files,
            secrets: draft.outside.secrets,
            warnings: draft.sources.warnings,
        })
    }
}

/// Reads files and what they include.
struct Loader<'r> {
    draft: Draft<'r>,
    /// The files that are being read, each included by the one before.
    stack: Vec<PathBuf>,
    /// The files that have been read.
    done: Vec<PathBuf>,
}

impl Loader<'_> {
    fn file(&mut self, path: &Path, shown: String, text: String) {
        if self.done.iter().any(|done| done == path) {
            return; // included twice: its rules are there
        }
        let too_large = text.len() > MAX_FILE_BYTES;
        let text = if too_large { String::new() } else { text };
        let kind = SourceKind::File(path.to_owned());
        let source = self.draft.sources.add(shown, text, kind);
        if too_large {
            let message = format!("the file is larger than {MAX_FILE_BYTES} bytes");
            return self.draft.sources.error(source.at(0..0), message);
        }
        if !self.stack.is_empty() && is_list(path) {
            list::read(&mut self.draft, source);
            self.done.push(path.to_owned());
            return;
        }
        let root = match format::parse(path, source, &self.draft.sources.get(source).text) {
            Ok(root) => root,
            Err(errors) => {
                for error in errors {
                    self.draft.sources.error(error.place, error.message);
                }
                return;
            }
        };
        self.stack.push(path.to_owned());
        if codex::is_codex(&root) {
            codex::read(&mut self.draft, &root);
        } else {
            // what is included comes first, so that this file's settings replace it
            self.includes(path, &root);
            own::read(&mut self.draft, &root);
        }
        self.stack.pop();
        self.done.push(path.to_owned());
    }

    fn includes(&mut self, path: &Path, root: &Node) {
        let Some(node) = root.get("include") else {
            return;
        };
        let Value::List(items) = &node.value else {
            let message = format!("`include` must be a list of files, not {}", node.kind());
            return self.draft.sources.error(node.place, message);
        };
        for item in items {
            match &item.value {
                Value::Text(file) if !file.is_empty() => self.include(item.place, path, file),
                _ => {
                    let message =
                        format!("expected a file's path in quotes, found {}", item.kind());
                    self.draft.sources.error(item.place, message);
                }
            }
        }
    }

    fn include(&mut self, place: Place, from: &Path, file: &str) {
        let named = from.parent().unwrap_or(Path::new("")).join(file);
        let path = normal(&named);
        if self.stack.contains(&path) {
            let message = format!("`{file}` includes itself, directly or through another file");
            let hint = "remove this entry".to_owned();
            return self.draft.sources.error_with(place, message, hint);
        }
        if self.done.contains(&path) {
            return;
        }
        if self.stack.len() >= MAX_INCLUDE_DEPTH {
            let message = format!("includes are nested more than {MAX_INCLUDE_DEPTH} levels deep");
            return self.draft.sources.error(place, message);
        }
        if self.done.len() + self.stack.len() >= MAX_FILES {
            let message = format!("the policy has more than {MAX_FILES} files");
            return self.draft.sources.error(place, message);
        }
        match (self.draft.outside.read)(&path) {
            Ok(text) => self.file(&path, path.display().to_string(), text),
            Err(error) => {
                let message = format!("cannot read `{}`: {error}", path.display());
                self.draft.sources.error(place, message);
            }
        }
    }
}

/// Whether a file that is included is a plain list, by its extension.
fn is_list(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        let is = |known: &str| extension.eq_ignore_ascii_case(known);
        is("txt") || is("list")
    })
}
