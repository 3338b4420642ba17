//! The keys of a rule that say what its flows may carry: `inspect`, `ca_file`, `ftp`, `methods`, `paths`.

use std::sync::Arc;

use super::draft::Draft;
use super::limit_keys;
use super::section::{PresentKey, Section};
use super::source::{Sources, Written};
use crate::http::{
    MAX_METHODS, MAX_PATHS, MAX_PATTERN_BYTES, MethodError, MethodSet, PathError, PathPattern,
    PathSet, PatternError, check_method,
};
use crate::rules::RuleTerms;

/// The rule's terms for its flows; adds the keys that are there to `present`. Inspection needs a
/// certificate for the server's name, so only a rule for `names` can ask for it.
pub(super) fn terms(
    draft: &mut Draft<'_>,
    rule: &mut Section<'_>,
    names: bool,
    present: &mut Vec<PresentKey>,
) -> Option<Arc<RuleTerms>> {
    let mut add = |key, place| present.push(PresentKey { key, place });
    let mut terms = RuleTerms::default();
    if names {
        if let Some(inspect) = rule.truth(&mut draft.sources, "inspect")
            && inspect.value
        {
            terms.inspect = true;
            add("inspect", inspect.place);
        }
        if let Some(file) = rule.text(&mut draft.sources, "ca_file") {
            terms.ca_pem = draft.ca_file(file);
            if !terms.inspect {
                let message = "`ca_file` has no effect without inspection";
                let hint = "add `inspect = true`, or remove it".to_owned();
                draft.sources.error_with(file.place, message, hint);
            }
            add("ca_file", file.place);
        }
    }
    let ftp = match names {
        true => rule
            .truth(&mut draft.sources, "ftp")
            .filter(|ftp| ftp.value),
        false => None,
    };
    if let Some(ftp) = ftp {
        terms.ftp = true;
        add("ftp", ftp.place);
    }
    let sources = &mut draft.sources;
    if let Some(methods) = methods(sources, rule) {
        terms.methods = Some(methods.value);
        add("methods", methods.place);
    }
    if let Some(paths) = paths(sources, rule) {
        terms.paths = Some(paths.value);
        add("paths", paths.place);
    }
    if let Some(ftp) = ftp.filter(|_| terms.inspect || terms.only_http()) {
        let message = "`ftp` has no effect in a rule that lets nothing but HTTP pass";
        let hint =
            "write a rule of its own for the port of FTP, as in \"ftp.example.com:21\"".to_owned();
        sources.error_with(ftp.place, message, hint);
    }
    terms.limits = limit_keys::of_rule(sources, rule, present);
    (terms != RuleTerms::default()).then(|| Arc::new(terms))
}

fn methods(sources: &mut Sources, rule: &mut Section<'_>) -> Option<Written<MethodSet>> {
    let texts = rule.list(sources, "methods")?;
    let mut methods = Vec::with_capacity(texts.value.len());
    for text in &texts.value {
        let method = text.value;
        let (message, hint) = match check_method(method) {
            Ok(()) => {
                methods.push(method);
                continue;
            }
            Err(MethodError::Case(known)) => (
                format!("`{method}` is not a method: methods are in capitals"),
                format!("write \"{known}\""),
            ),
            Err(MethodError::Connect) => (
                "`CONNECT` opens a tunnel, and cannot be listed in `methods`".to_owned(),
                "to allow tunnels, list the port in the rule's target".to_owned(),
            ),
            Err(MethodError::NotAToken | MethodError::TooLong) => (
                format!("`{method}` is not a method"),
                "write one word, as in \"GET\"".to_owned(),
            ),
        };
        sources.error_with(text.place, message, hint);
    }
    if texts.value.is_empty() {
        let hint = "to allow every method, leave it out; to allow none, deny the name".to_owned();
        sources.error_with(texts.place, "`methods` is empty", hint);
        return None;
    }
    if texts.value.len() > MAX_METHODS {
        let message = format!("`methods` has more than {MAX_METHODS} methods");
        sources.error(texts.place, message);
    }
    Some(texts.map(|_| MethodSet::new(methods)))
}

fn paths(sources: &mut Sources, rule: &mut Section<'_>) -> Option<Written<PathSet>> {
    let texts = rule.list(sources, "paths")?;
    let mut patterns = Vec::with_capacity(texts.value.len());
    for text in &texts.value {
        match PathPattern::parse(text.value) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => bad_pattern(sources, *text, error),
        }
    }
    if texts.value.is_empty() {
        let hint = "to allow every path, leave it out; to allow none, deny the name".to_owned();
        sources.error_with(texts.place, "`paths` is empty", hint);
        return None;
    }
    if texts.value.len() > MAX_PATHS {
        let message = format!("`paths` has more than {MAX_PATHS} patterns");
        sources.error(texts.place, message);
    }
    Some(texts.map(|_| PathSet::new(patterns)))
}

fn bad_pattern(sources: &mut Sources, pattern: Written<&str>, error: PatternError) {
    let text = pattern.value;
    let (message, hint) = match error {
        PatternError::Path(PathError::NoSlash) => (
            format!("`{text}` is not a path: paths begin with `/`"),
            Some(format!("write \"/{text}\"")),
        ),
        PatternError::Path(error) => (format!("`{text}` can match no request: {error}"), None),
        PatternError::Query => (
            format!("`{text}` has a query, but queries are not matched"),
            text.split(['?', '#'])
                .next()
                .map(|path| format!("write \"{path}\"")),
        ),
        PatternError::Url => (
            format!("`{text}` is a URL, not a path"),
            Some("write the path alone, as in \"/public/**\"".to_owned()),
        ),
        PatternError::Misplaced => (
            format!("`{text}`: `**` must stand alone between two slashes"),
            Some("to match characters within a segment, write `*`".to_owned()),
        ),
        PatternError::TooLong => (
            format!("the path is longer than {MAX_PATTERN_BYTES} bytes"),
            None,
        ),
    };
    sources.error_with(pattern.place, message, hint);
}
