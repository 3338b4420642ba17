//! The keys of a rule that say what its flows may carry: `inspect`, `ca_file`, `methods`, `paths`.

use std::sync::Arc;

use super::draft::Draft;
use super::limit_keys;
use super::section::{PresentKey, Section};
use super::source::Place;
use crate::http::{
    MAX_METHODS, MAX_PATHS, MAX_PATTERN_BYTES, MethodError, MethodSet, PathPattern, PathSet,
    PatternError, check_method,
};
use crate::rules::RuleTerms;

/// The rule's terms for its flows; adds the keys that are there to `present`. Inspection needs a
/// certificate for the server's name, so only a rule for `names` can ask for it.
pub(super) fn terms(
    draft: &mut Draft,
    rule: &mut Section<'_>,
    names: bool,
    present: &mut Vec<PresentKey>,
) -> Option<Arc<RuleTerms>> {
    let mut add = |key, place| present.push(PresentKey { key, place });
    let mut terms = RuleTerms::default();
    if names {
        if let Some((truth, at)) = rule.truth(&mut draft.sources, "inspect") {
            terms.inspect = truth;
            if truth {
                add("inspect", at);
            }
        }
        if let Some((file, at)) = rule.text(&mut draft.sources, "ca_file") {
            terms.ca_pem = draft.ca_file(&at, file);
            if !terms.inspect {
                let message =
                    "`ca_file` is for upstreams whose TLS is opened, and this rule opens none";
                let hint = "add `inspect = true`, or remove it".to_owned();
                draft.sources.error_with(&at, message, hint);
            }
            add("ca_file", at);
        }
    }
    if let Some((methods, at)) = methods(draft, rule) {
        terms.methods = Some(methods);
        add("methods", at);
    }
    if let Some((paths, at)) = paths(draft, rule) {
        terms.paths = Some(paths);
        add("paths", at);
    }
    terms.limits = limit_keys::of_rule(&mut draft.sources, rule, present);
    (terms != RuleTerms::default()).then(|| Arc::new(terms))
}

fn methods(draft: &mut Draft, rule: &mut Section<'_>) -> Option<(MethodSet, Place)> {
    let (place, texts) = rule.list(&mut draft.sources, "methods")?;
    let mut methods = Vec::with_capacity(texts.len());
    for (text, at) in &texts {
        let (message, hint) = match check_method(text) {
            Ok(()) => {
                methods.push(*text);
                continue;
            }
            Err(MethodError::Case(known)) => (
                format!("`{text}` is not a method: they are written in capitals"),
                Some(format!("write \"{known}\"")),
            ),
            Err(MethodError::Connect) => (
                "`CONNECT` asks for a tunnel, and has no place in `methods`".to_owned(),
                Some("a tunnel passes where the rule has its port".to_owned()),
            ),
            Err(MethodError::NotAToken | MethodError::TooLong) => (
                format!("`{text}` is not a method"),
                Some("write one word, as in \"GET\"".to_owned()),
            ),
        };
        draft.sources.error_with(at, message, hint);
    }
    if texts.is_empty() {
        let hint = "leave it out for every method, or deny the name".to_owned();
        draft.sources.error_with(&place, "`methods` is empty", hint);
        return None;
    }
    if texts.len() > MAX_METHODS {
        let message = format!("`methods` has more than {MAX_METHODS} methods");
        draft.sources.error(&place, message);
    }
    Some((MethodSet::new(methods), place))
}

fn paths(draft: &mut Draft, rule: &mut Section<'_>) -> Option<(PathSet, Place)> {
    let (place, texts) = rule.list(&mut draft.sources, "paths")?;
    let mut patterns = Vec::with_capacity(texts.len());
    for (text, at) in &texts {
        match PathPattern::parse(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => bad_pattern(draft, at, text, error),
        }
    }
    if texts.is_empty() {
        let hint = "leave it out for every path, or deny the name".to_owned();
        draft.sources.error_with(&place, "`paths` is empty", hint);
        return None;
    }
    if texts.len() > MAX_PATHS {
        let message = format!("`paths` has more than {MAX_PATHS} patterns");
        draft.sources.error(&place, message);
    }
    Some((PathSet::new(patterns), place))
}

fn bad_pattern(draft: &mut Draft, at: &Place, text: &str, error: PatternError) {
    use crate::http::PathError;
    let (message, hint) = match error {
        PatternError::Path(PathError::NoSlash) => (
            format!("`{text}` is not a path: a path begins with `/`"),
            Some(format!("write \"/{text}\"")),
        ),
        PatternError::Path(error) => (
            format!("`{text}` matches nothing: {error}, and such requests are refused"),
            None,
        ),
        PatternError::Query => (
            format!("`{text}` has a query, and queries are not matched"),
            text.split(['?', '#'])
                .next()
                .map(|path| format!("write \"{path}\"")),
        ),
        PatternError::Url => (
            format!("`{text}` is a URL, and the name stands in front of the rule already"),
            Some("write the path alone, as in \"/public/**\"".to_owned()),
        ),
        PatternError::Misplaced => (
            format!("`{text}`: `**` stands for whole segments, and alone between two slashes"),
            Some("write `*` for any run of characters within a segment".to_owned()),
        ),
        PatternError::TooLong => (
            format!("a path of a rule has at most {MAX_PATTERN_BYTES} bytes"),
            None,
        ),
    };
    draft.sources.error_with(at, message, hint);
}
