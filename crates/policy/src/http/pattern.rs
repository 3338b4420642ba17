//! Which paths a rule allows.
//!
//! Patterns are matched segment by segment against the one form of a path
//! ([`canonical_path`]): `*` is any run of characters within a segment, `**` any number of whole
//! segments. Neither ever matches a slash in disguise, since a path with one has no form.

use std::fmt;
use std::sync::Arc;

use super::path::{MAX_PATTERN_BYTES, PathError, canonical_path};

/// Most patterns of one rule.
pub(crate) const MAX_PATHS: usize = 256;

/// A wildcard for whole segments.
const SEGMENTS: &str = "**";

/// One pattern, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PathPattern(Box<str>);

/// Why a text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatternError {
    /// No path that matches could have one form.
    Path(PathError),
    /// A `?` or `#`: queries are not matched.
    Query,
    /// A whole URL.
    Url,
    /// `**` beside something else in its segment.
    Misplaced,
    TooLong,
}

impl PathPattern {
    /// Reads a pattern as an operator writes it: letters of any script may stand unencoded.
    pub fn parse(text: &str) -> Result<PathPattern, PatternError> {
        if text.contains("://") {
            return Err(PatternError::Url);
        }
        if text.contains(['?', '#']) {
            return Err(PatternError::Query);
        }
        let mut encoded = String::with_capacity(text.len());
        for c in text.chars() {
            if c == ' ' || !c.is_ascii() {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    encoded.push_str(&format!("%{byte:02X}"));
                }
            } else {
                encoded.push(c);
            }
        }
        let form = canonical_path(&encoded).map_err(PatternError::Path)?;
        if form.len() > MAX_PATTERN_BYTES {
            return Err(PatternError::TooLong);
        }
        let misplaced = |segment: &str| segment.contains(SEGMENTS) && segment != SEGMENTS;
        if form.split('/').any(misplaced) {
            return Err(PatternError::Misplaced);
        }
        Ok(PathPattern(form.into()))
    }

    /// Whether a path in its one form matches. Allocates nothing; the work is bounded by the
    /// product of the two lengths.
    fn matches(&self, path: &str) -> bool {
        let segments = |text| str::split(text, '/').skip(1);
        let (mut pattern, mut path) = (segments(&self.0), segments(path));
        // behind the last `**`, and the first segment that it has not taken
        let mut wild = None;
        loop {
            let mut pattern_next = pattern.clone();
            let expected = pattern_next.next();
            if expected == Some(SEGMENTS) {
                wild = Some((pattern_next.clone(), path.clone()));
                pattern = pattern_next;
                continue;
            }
            let mut path_next = path.clone();
            match (expected, path_next.next()) {
                (None, None) => return true,
                (Some(expected), Some(segment)) if matches_segment(expected, segment) => {
                    (pattern, path) = (pattern_next, path_next);
                    continue;
                }
                _ => {}
            }
            // let the last `**` take one segment more
            let Some((behind, from)) = &mut wild else {
                return false;
            };
            if from.next().is_none() {
                return false;
            }
            (pattern, path) = (behind.clone(), from.clone());
        }
    }
}

/// Whether a segment matches a pattern in which `*` stands for any run of characters. A `*` that
/// is alone needs at least one: `/a/*` is something below `/a/`.
fn matches_segment(pattern: &str, segment: &str) -> bool {
    if pattern == "*" {
        return !segment.is_empty();
    }
    let (pattern, segment) = (pattern.as_bytes(), segment.as_bytes());
    let (mut p, mut s) = (0, 0);
    let mut wild = None;
    loop {
        match (pattern.get(p), segment.get(s)) {
            (Some(b'*'), _) => {
                p += 1;
                wild = Some((p, s));
            }
            (Some(a), Some(b)) if a == b => (p, s) = (p + 1, s + 1),
            (None, None) => return true,
            _ => match &mut wild {
                Some((behind, from)) if *from < segment.len() => {
                    *from += 1;
                    (p, s) = (*behind, *from);
                }
                _ => return false,
            },
        }
    }
}

/// The paths that a rule allows. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathSet(Arc<[Arc<[PathPattern]>]>);

impl PathSet {
    /// The set of these patterns.
    pub(crate) fn new(patterns: impl IntoIterator<Item = PathPattern>) -> PathSet {
        let mut all: Vec<PathPattern> = patterns.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        PathSet(Arc::new([all.into()]))
    }

    /// The paths that are in both.
    #[must_use]
    pub(crate) fn and(&self, other: &PathSet) -> PathSet {
        let mut all: Vec<Arc<[PathPattern]>> = self.0.iter().chain(&*other.0).cloned().collect();
        all.sort_unstable();
        all.dedup();
        PathSet(all.into())
    }

    /// Whether a request for this path (without query) may pass: it has one form, and that matches.
    pub fn allows(&self, path: &str) -> bool {
        canonical_path(path).is_ok_and(|path| self.allows_canonical(&path))
    }

    /// The same for a path in its one form.
    pub(crate) fn allows_canonical(&self, path: &str) -> bool {
        let any = |patterns: &Arc<[PathPattern]>| patterns.iter().any(|own| own.matches(path));
        self.0.iter().all(any)
    }

    /// The patterns, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|own| own.iter()).map(|own| &*own.0)
    }
}

/// The patterns, separated by commas.
impl fmt::Display for PathSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, pattern) in self.iter().enumerate() {
            f.write_str(if at > 0 { ", " } else { "" })?;
            f.write_str(pattern)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
