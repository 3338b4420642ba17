//! The texts that a policy is made from, and what was found wrong in them.

use std::ops::Range;
use std::path::PathBuf;

use crate::diagnostic::{Diagnostic, Severity};

/// Most errors and warnings of one load; the rest are only counted.
pub const MAX_DIAGNOSTICS: usize = 100;

/// A file, or the value of a flag or variable.
pub(super) struct Source {
    /// How errors call it.
    pub path: String,
    pub text: String,
    pub kind: SourceKind,
    /// Where lines begin, so that a million rules find their line quickly.
    line_starts: Vec<usize>,
}

/// Where a source came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SourceKind {
    File(PathBuf),
    /// A flag or variable; a rule's source is then this text instead of `file:line`.
    Flag(String),
}

/// Which source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SourceId(usize);

/// A place in a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub source: SourceId,
    pub span: Range<usize>,
}

/// All sources and diagnostics of one load.
#[derive(Default)]
pub(super) struct Sources {
    all: Vec<Source>,
    pub errors: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
    dropped: usize,
}

impl Sources {
    pub fn add(&mut self, path: String, text: String, kind: SourceKind) -> SourceId {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
        let line_starts = starts.collect();
        self.all.push(Source {
            path,
            text,
            kind,
            line_starts,
        });
        SourceId(self.all.len() - 1)
    }

    pub fn get(&self, id: SourceId) -> &Source {
        &self.all[id.0]
    }

    /// The paths of the files, in order of reading.
    pub fn files(&self) -> Vec<PathBuf> {
        let files = self.all.iter().filter_map(|source| match &source.kind {
            SourceKind::File(path) => Some(path.clone()),
            SourceKind::Flag(_) => None,
        });
        files.collect()
    }

    /// `file:line`, or the flag.
    pub fn name(&self, place: &Place) -> String {
        let source = self.get(place.source);
        match &source.kind {
            SourceKind::File(_) => format!("{}:{}", source.path, self.line(place)),
            SourceKind::Flag(text) => text.clone(),
        }
    }

    /// The line of a place, from 1.
    pub fn line(&self, place: &Place) -> usize {
        self.get(place.source)
            .line_starts
            .partition_point(|&start| start <= place.span.start)
    }

    pub fn error(&mut self, place: &Place, message: impl Into<String>) {
        self.error_with(place, message, None);
    }

    pub fn error_with(
        &mut self,
        place: &Place,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        if self.errors.len() >= MAX_DIAGNOSTICS {
            self.dropped += 1;
            return;
        }
        let diagnostic = self
            .diagnostic(Severity::Error, place, message.into())
            .hint(hint);
        self.errors.push(diagnostic);
    }

    pub fn warn(
        &mut self,
        place: &Place,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        if self.warnings.len() < MAX_DIAGNOSTICS {
            let warning = self
                .diagnostic(Severity::Warning, place, message.into())
                .hint(hint);
            self.warnings.push(warning);
        }
    }

    fn diagnostic(&self, severity: Severity, place: &Place, message: String) -> Diagnostic {
        let source = self.get(place.source);
        Diagnostic::at(
            severity,
            &source.path,
            &source.text,
            place.span.clone(),
            message,
        )
    }

    /// The errors, file by file and line by line, with a last one for those that were only counted.
    pub fn into_errors(mut self) -> Vec<Diagnostic> {
        let order = |path: &str| self.all.iter().position(|source| source.path == path);
        self.errors
            .sort_by_cached_key(|error| (order(&error.path), error.line, error.column));
        if self.dropped > 0 {
            let more = format!("{} more errors are not shown", self.dropped);
            self.errors.push(Diagnostic::whole("policy", more));
        }
        self.errors
    }
}
