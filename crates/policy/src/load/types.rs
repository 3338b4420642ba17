//! `types`: which record types are answered.

use super::draft::Draft;
use super::section::{Section, nearest};
use super::source::Place;
use crate::types::{TypeError, TypeSet};

/// The types of a `types` key, and where it stands.
pub(super) fn types(draft: &mut Draft, section: &mut Section<'_>) -> Option<(TypeSet, Place)> {
    let (place, texts) = section.list(&mut draft.sources, "types")?;
    if texts.is_empty() {
        let hint = "leave it out for the types of a plain allow, or deny the name".to_owned();
        draft.sources.error_with(&place, "`types` is empty", hint);
        return None;
    }
    let mut all = TypeSet::EMPTY;
    for (text, at) in texts {
        match TypeSet::parse(text) {
            Ok(one) => all = all.union(one),
            Err(error) => bad_type(draft, &at, text, error),
        }
    }
    Some((all, place))
}

fn bad_type(draft: &mut Draft, at: &Place, text: &str, error: TypeError) {
    let (message, hint) = match error {
        TypeError::NeverServed => (
            format!("`{text}` is never answered"),
            "it stands for a whole zone or one message, not for a record of a name".to_owned(),
        ),
        TypeError::Unknown => {
            let names = TypeSet::names();
            let hint = match nearest_type(text, &names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known types: {}", names.join(", ")),
            };
            (format!("`{text}` is not a record type"), hint)
        }
    };
    draft.sources.error_with(at, message, hint);
}

/// The nearest type; their names are in upper case, and short.
fn nearest_type<'n>(text: &str, names: &[&'n str]) -> Option<&'n str> {
    let lower: Vec<String> = names.iter().map(|name| name.to_lowercase()).collect();
    let words: Vec<&str> = lower.iter().map(String::as_str).collect();
    let near = nearest(text, &words)?;
    let at = words.iter().position(|word| *word == near)?;
    names.get(at).copied()
}
