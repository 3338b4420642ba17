//! Errors and warnings about a policy, for the person who wrote it.
//!
//! Answers *failing open* (docs/threats.md): nothing runs on a policy with an error in it, so each
//! error says where it is and what would be right.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// Longest source line that an error shows, in bytes; longer ones are cut around the place.
const MAX_SHOWN_LINE_BYTES: usize = 400;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The policy does not load.
    Error,
    /// The policy loads.
    Warning,
}

/// One error or warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, or the flag or variable (`--allow`), that it is about.
    pub path: String,
    /// The line, from 1; 0 where there is none.
    pub line: usize,
    /// The column in characters, from 1; 0 where there is none.
    pub column: usize,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
    /// The line of the source that it is about.
    pub snippet: Option<SourceLine>,
}

/// A line of a policy, with the part that an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLine {
    /// The line without its line break.
    pub text: String,
    /// The part, as bytes of `text`.
    pub marked: Range<usize>,
}

/// A place in a source's text.
pub(crate) struct Location<'t> {
    pub path: &'t str,
    /// The line, from 1.
    pub line: usize,
    pub text: &'t str,
    /// The place, as bytes of `text`.
    pub span: Range<usize>,
}

impl Diagnostic {
    /// About a place in a text.
    pub(crate) fn at(
        severity: Severity,
        at: Location<'_>,
        message: impl Into<String>,
    ) -> Diagnostic {
        let Location {
            path,
            line,
            text,
            span,
        } = at;
        let start = floor(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..]
            .find(['\n', '\r'])
            .map_or(text.len(), |at| start + at);
        let end = floor(text, span.end).clamp(start, line_end.max(start));
        let (from, to) = window(text, line_start..line_end, start);
        let marked = start - from..end.clamp(start, to.max(start)) - from;
        Diagnostic {
            path: path.to_owned(),
            line,
            column: text[line_start..start].chars().count() + 1,
            severity,
            message: message.into(),
            hint: None,
            snippet: Some(SourceLine {
                text: without_credentials(&text[from..to.max(start)]),
                marked,
            }),
        }
    }

    /// About a whole file, or no file at all.
    pub(crate) fn whole(path: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            path: path.to_owned(),
            line: 0,
            column: 0,
            severity: Severity::Error,
            message: message.into(),
            hint: None,
            snippet: None,
        }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<Option<String>>) -> Diagnostic {
        self.hint = hint.into().or(self.hint);
        self
    }

    /// The diagnostic as a few lines for a terminal, with the source line and a mark below it;
    /// `colour` writes ANSI styles.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.message.as_str());
        let mut group = match &self.snippet {
            Some(line) => title.element(
                Snippet::source(line.text.as_str())
                    .path(self.path.as_str())
                    .line_start(self.line)
                    .annotation(AnnotationKind::Primary.span(line.marked.clone())),
            ),
            None => Group::with_title(title)
                .element(annotate_snippets::Origin::path(self.path.as_str())),
        };
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        renderer.render(&[group])
    }
}

/// One line: `file:line:column: error: message (hint)`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, ": {severity}: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// The nearest character boundary at or before a byte.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The line, or if it is very long the part around `at`.
fn window(text: &str, line: Range<usize>, at: usize) -> (usize, usize) {
    if line.len() <= MAX_SHOWN_LINE_BYTES {
        return (line.start, line.end);
    }
    let from = floor(
        text,
        at.saturating_sub(MAX_SHOWN_LINE_BYTES / 4).max(line.start),
    );
    (
        from,
        floor(text, (from + MAX_SHOWN_LINE_BYTES).min(line.end)),
    )
}

/// The line with a star for each byte between `://` and `@`, where a URL has its password. Positions
/// stay as they are.
fn without_credentials(line: &str) -> String {
    let mut masked = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at + "://".len());
        let quoted_by = before.rfind(['"', '\'']).map(|at| &before[at..=at]);
        let end = quoted_by.and_then(|quote| {
            let mut ends = url.match_indices(quote).map(|(at, _)| at);
            ends.find(|at| !url[..*at].ends_with('\\'))
        });
        // Nothing but the quote ends it: a password may hold all the rest.
        let userinfo = url[..end.unwrap_or(url.len())].rfind('@').unwrap_or(0);
        // What is no scheme belongs to a URL without one, whose password holds the `://`.
        let word = before.rfind(['"', '\'', ' ', '\t', ',', '[']);
        let (outside, word) = before.split_at(word.map_or(0, |at| at + 1));
        masked.push_str(outside);
        match userinfo > 0 && word[..word.len() - "://".len()].contains([':', '@']) {
            true => masked.extend(std::iter::repeat_n('*', word.len())),
            false => masked.push_str(word),
        }
        masked.extend(std::iter::repeat_n('*', userinfo));
        rest = &url[userinfo..];
    }
    masked.push_str(rest);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_of_a_url_s_user_and_password_is_shown() {
        for (line, shown) in [
            ("a = \"http://u:p@h:1\"", "a = \"http://***@h:1\""),
            (
                "[\"http://u:p@h\", 'http://v:q@i']",
                "[\"http://***@h\", 'http://***@i']",
            ),
            (
                "a = \"http://u:it's@h\" # b@c",
                "a = \"http://******@h\" # b@c",
            ),
            ("a = \"http://u:\\\"p@h\"", "a = \"http://*****@h\""),
            // Flags and variables have no quotes.
            (
                "socks4://alice:s3'c ret@proxy:1",
                "socks4://**************@proxy:1",
            ),
            ("http://u:p\"q@h", "http://*****@h"),
            ("user:pa://ss@h:1", "************@h:1"),
            ("http://h:1/", "http://h:1/"),
        ] {
            let masked = without_credentials(line);
            assert_eq!(masked, shown);
            assert_eq!(masked.len(), line.len());
        }
    }
}
