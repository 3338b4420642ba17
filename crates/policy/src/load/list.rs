//! Plain lists: one target a line. The form of a blocklist or an allowlist of a million names, so it
//! is read line by line, without a tree of values and without a text for each line.

use std::rc::Rc;

use super::draft::{Draft, Expect};
use super::source::SourceId;
use crate::rules::Terms;

/// The word in front of a target that is denied.
const DENY: &str = "deny";

/// Reads a list: blank lines and what follows a `#` are left out, `deny TARGET` denies, everything
/// else is a target that is allowed.
pub(super) fn read(draft: &mut Draft<'_>, source: SourceId) {
    let text = Rc::clone(&draft.sources.get(source).text);
    let mut start = 0;
    for (line, number) in text.split('\n').zip(1..) {
        let at = start;
        start += line.len() + 1;
        let line = if number == 1 {
            line.trim_start_matches('\u{feff}')
        } else {
            line
        };
        let written = without_comment(line).trim_ascii();
        if written.is_empty() {
            continue;
        }
        let (denies, target) = match written.split_once([' ', '\t']) {
            Some((DENY, target)) => (true, target.trim_ascii_start()),
            _ => (false, written),
        };
        // both are pieces of the text
        let offset = (target.as_ptr() as usize)
            .saturating_sub(text.as_ptr() as usize)
            .max(at);
        let place = source.at(offset..offset + target.len());
        if target == DENY {
            // cut off, or the name of one label that nobody has
            let hint = "write `deny NAME`".to_owned();
            let message = "`deny` has no target";
            draft.sources.error_with(place, message, hint);
            continue;
        }
        draft.rule_on_line(place, number, target, Expect::Both, Terms::plain(denies));
    }
}

/// A line up to a `#` that begins it or stands behind a space.
fn without_comment(line: &str) -> &str {
    let mut from = 0;
    while let Some(found) = line[from..].find('#') {
        let at = from + found;
        if line[..at]
            .bytes()
            .last()
            .is_none_or(|b| b.is_ascii_whitespace())
        {
            return &line[..at];
        }
        from = at + 1;
    }
    line
}
