//! The texts that a policy is made from, and what was found wrong in them.

use std::cell::OnceCell;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

use crate::diagnostic::{Diagnostic, Location, Severity};

/// Most errors and warnings of one load; the rest are only counted.
pub const MAX_DIAGNOSTICS: usize = 100;

/// A file, or the value of a flag or variable.
pub(super) struct Source {
    /// How errors call it.
    pub path: String,
    pub text: Rc<String>,
    pub kind: SourceKind,
    /// Where lines begin, so that many rules find their line quickly. A plain list knows its lines
    /// and needs none, unless there is something to say about it.
    line_starts: OnceCell<Vec<u32>>,
}

impl Source {
    fn line_starts(&self) -> &[u32] {
        self.line_starts.get_or_init(|| {
            let breaks = self.text.match_indices('\n').map(|(at, _)| at + 1);
            let starts = std::iter::once(0).chain(breaks);
            // a file's size is limited
            starts.filter_map(|at| u32::try_from(at).ok()).collect()
        })
    }
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
pub(super) struct SourceId(u16);

impl SourceId {
    /// The source with this number.
    pub fn of(number: u16) -> SourceId {
        SourceId(number)
    }

    /// The number that rules keep.
    pub fn number(self) -> u16 {
        self.0
    }

    /// A place in the source, in bytes of its text.
    pub fn at(self, span: Range<usize>) -> Place {
        Place {
            source: self,
            start: span.start,
            end: span.end,
        }
    }
}

/// A place in a source, in bytes of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub source: SourceId,
    pub start: usize,
    pub end: usize,
}

/// A value, and where it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written<T> {
    pub value: T,
    pub place: Place,
}

impl<T> Written<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Written<U> {
        Written {
            value: f(self.value),
            place: self.place,
        }
    }
}

/// Where credentials are, if not in the URL.
#[derive(Clone)]
pub(super) enum Secret {
    File(String),
    Variable(String),
}

/// All sources and diagnostics of one load.
#[derive(Default)]
pub(super) struct Sources {
    all: Vec<Source>,
    pub errors: Vec<Diagnostic>,
    pub warnings: Vec<Diagnostic>,
    /// Where credentials stand: in the source's own text, or where it says.
    pub credentials: Vec<Written<Option<Secret>>>,
    dropped: usize,
}

impl Sources {
    pub fn add(&mut self, path: String, text: String, kind: SourceKind) -> SourceId {
        self.all.push(Source {
            path,
            text: Rc::new(text),
            kind,
            line_starts: OnceCell::new(),
        });
        // the loader takes no more than `MAX_SOURCES`
        SourceId(u16::try_from(self.all.len() - 1).unwrap_or(u16::MAX))
    }

    pub fn get(&self, id: SourceId) -> &Source {
        &self.all[usize::from(id.0)]
    }

    /// What rules call their sources, by number.
    pub fn names(&self) -> Vec<Box<str>> {
        let names = self.all.iter().map(|source| match &source.kind {
            SourceKind::File(_) => source.path.as_str().into(),
            SourceKind::Flag(text) => text.as_str().into(),
        });
        names.collect()
    }

    /// Whether another error would be shown; if not, it is counted.
    pub fn wants_errors(&mut self) -> bool {
        let room = self.errors.len() < MAX_DIAGNOSTICS;
        self.dropped += usize::from(!room);
        room
    }

    /// Whether another warning would be shown.
    pub fn wants_warnings(&self) -> bool {
        self.warnings.len() < MAX_DIAGNOSTICS
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
    pub fn name(&self, place: Place) -> String {
        let source = self.get(place.source);
        match &source.kind {
            SourceKind::File(_) => format!("{}:{}", source.path, self.line(place)),
            SourceKind::Flag(text) => text.clone(),
        }
    }

    /// The line of a place, from 1.
    pub fn line(&self, place: Place) -> u32 {
        let starts = self.get(place.source).line_starts();
        let line = starts.partition_point(|&start| start as usize <= place.start);
        u32::try_from(line).unwrap_or(u32::MAX)
    }

    pub fn error(&mut self, place: Place, message: impl Into<String>) {
        self.error_with(place, message, None);
    }

    pub fn error_with(
        &mut self,
        place: Place,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        if !self.wants_errors() {
            return;
        }
        let error = self.diagnostic(Severity::Error, place, message.into());
        self.errors.push(error.hint(hint));
    }

    pub fn warn(
        &mut self,
        place: Place,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        if self.wants_warnings() {
            let warning = self.diagnostic(Severity::Warning, place, message.into());
            self.warnings.push(warning.hint(hint));
        }
    }

    fn diagnostic(&self, severity: Severity, place: Place, message: String) -> Diagnostic {
        let source = self.get(place.source);
        let location = Location {
            path: &source.path,
            line: self.line(place) as usize,
            text: &source.text,
            span: place.start..place.end,
        };
        Diagnostic::at(severity, location, message)
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
