//! From texts to a policy: files with what they include, variables and flags.
//!
//! *Failing open*, docs/threats.md: a policy with any error in it does not load, and what loads is complete.
//! All errors of all files are reported at once.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::document::{Node, Value};
use super::draft::Draft;
use super::flags::flags;
use super::proxy::Outside;
use super::source::{Place, SourceId, SourceKind};
use super::{codex, conflict, format, list, own, totals};
use crate::diagnostic::Diagnostic;
use crate::input::{Input, Loaded};
use crate::policy::Policy;
use crate::rules::MAX_SOURCES;
use crate::verdict::Mode;

/// Largest policy file, in bytes.
pub const MAX_FILE_BYTES: usize = 256 * 1024 * 1024;
/// Most files of one policy, included ones too.
pub const MAX_FILES: usize = 256;
/// Largest file of certificates (`ca_file`), in bytes.
const MAX_CA_FILE_BYTES: usize = 1024 * 1024;
/// Most files of certificates of one policy.
const MAX_CA_FILES: usize = 64;
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
        let mut loader = Loader {
            draft: Draft::default(),
            read,
            stack: Vec::new(),
            done: Vec::new(),
            read_beside: Vec::new(),
        };
        if inputs.len() + MAX_FILES > MAX_SOURCES {
            let message = format!("a policy has at most {MAX_SOURCES} files and flags");
            return Err(vec![Diagnostic::whole("policy", message)]);
        }
        for input in inputs {
            if let Input::File { path, text } = input {
                loader.file(&normal(path), path.display().to_string(), text.clone());
            }
        }
        let Loader {
            mut draft,
            read,
            read_beside,
            ..
        } = loader;
        flags(&mut draft, inputs);
        let limited = draft.settings.limited.clone();
        let mut outside = Outside {
            read,
            environment: inputs.iter().find_map(|input| match input {
                Input::Environment(environment) => Some(environment),
                _ => None,
            }),
            files: read_beside,
            secrets: Vec::new(),
        };
        let settings = draft.settle(&mut outside);
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
        totals::report(&mut draft, &rules, limited.as_ref());
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
        files.append(&mut outside.files);
        Ok(Loaded {
            policy,
            files,
            secrets: outside.secrets,
            warnings: draft.sources.warnings,
        })
    }
}

/// Reads files and what they include.
struct Loader<'r> {
    draft: Draft,
    read: &'r mut dyn FnMut(&Path) -> io::Result<String>,
    /// The files that are being read, each included by the one before.
    stack: Vec<PathBuf>,
    /// The files that have been read.
    done: Vec<PathBuf>,
    /// The files of certificates that have been read.
    read_beside: Vec<PathBuf>,
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
        let start = Place { source, span: 0..0 };
        if too_large {
            let message = format!("the file is larger than {MAX_FILE_BYTES} bytes");
            return self.draft.sources.error(&start, message);
        }
        if !self.stack.is_empty() && is_list(path) {
            list::read(&mut self.draft, source);
            self.done.push(path.to_owned());
            return;
        }
        let root = match format::parse(path, &self.draft.sources.get(source).text) {
            Ok(root) => root,
            Err(errors) => {
                for error in errors {
                    self.draft.sources.error(
                        &Place {
                            source,
                            span: error.span,
                        },
                        error.message,
                    );
                }
                return;
            }
        };
        self.stack.push(path.to_owned());
        if codex::is_codex(&root) {
            codex::read(&mut self.draft, source, &root);
        } else {
            // what is included comes first, so that this file's settings replace it
            self.includes(source, path, &root);
            self.ca_files(source, path, &root);
            own::read(&mut self.draft, source, &root);
        }
        self.stack.pop();
        self.done.push(path.to_owned());
    }

    fn includes(&mut self, source: SourceId, path: &Path, root: &Node) {
        let Some(node) = root.get("include") else {
            return;
        };
        let Value::List(items) = &node.value else {
            let place = Place {
                source,
                span: node.span.clone(),
            };
            let message = format!("`include` must be a list of files, and is {}", node.kind());
            return self.draft.sources.error(&place, message);
        };
        for item in items {
            let place = Place {
                source,
                span: item.span.clone(),
            };
            match &item.value {
                Value::Text(file) if !file.is_empty() => self.include(&place, path, file),
                _ => {
                    let message = format!("a file's path is text in quotes, not {}", item.kind());
                    self.draft.sources.error(&place, message);
                }
            }
        }
    }

    /// Reads the certificates that rules name.
    fn ca_files(&mut self, source: SourceId, from: &Path, root: &Node) {
        let mut files = Vec::new();
        ca_files_of(root, &mut files);
        for file in files {
            let key = (source, file.to_owned());
            if self.draft.ca_files.contains_key(&key) {
                continue;
            }
            let path = normal(&from.parent().unwrap_or(Path::new("")).join(file));
            let read = if self.draft.ca_files.len() >= MAX_CA_FILES {
                Err(format!(
                    "rules name more than {MAX_CA_FILES} files of certificates"
                ))
            } else {
                match (self.read)(&path) {
                    Ok(text) if text.len() <= MAX_CA_FILE_BYTES => Ok(text.into()),
                    Ok(_) => Err(format!("`{file}` is larger than {MAX_CA_FILE_BYTES} bytes")),
                    Err(error) => Err(format!("cannot read `{}`: {error}", path.display())),
                }
            };
            self.read_beside.push(path);
            self.draft.ca_files.insert(key, read);
        }
    }

    fn include(&mut self, place: &Place, from: &Path, file: &str) {
        let named = from.parent().unwrap_or(Path::new("")).join(file);
        let path = normal(&named);
        if self.stack.contains(&path) {
            let message = format!("`{file}` includes itself, by this file or by one between");
            return self
                .draft
                .sources
                .error_with(place, message, "remove it".to_owned());
        }
        if self.done.contains(&path) {
            return;
        }
        if self.stack.len() >= MAX_INCLUDE_DEPTH {
            let message = format!("files include each other more than {MAX_INCLUDE_DEPTH} deep");
            return self.draft.sources.error(place, message);
        }
        if self.done.len() + self.stack.len() >= MAX_FILES {
            let message = format!("the policy has more than {MAX_FILES} files");
            return self.draft.sources.error(place, message);
        }
        match (self.read)(&path) {
            Ok(text) => self.file(&path, path.display().to_string(), text),
            Err(error) => {
                self.draft
                    .sources
                    .error(place, format!("cannot read `{}`: {error}", path.display()));
            }
        }
    }
}

/// The texts that stand behind `ca_file` anywhere in a document.
fn ca_files_of<'n>(node: &'n Node, found: &mut Vec<&'n str>) {
    let Value::Table(entries) = &node.value else {
        return;
    };
    for (key, node) in entries {
        match &node.value {
            Value::Text(file) if key.text == "ca_file" => found.push(file),
            Value::Table(_) => ca_files_of(node, found),
            _ => {}
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

/// The path without `.` and `..`, so that a file has one name. No I/O: symbolic links stay.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if normal.file_name().is_some() => {
                normal.pop();
            }
            component => normal.push(component),
        }
    }
    normal
}
