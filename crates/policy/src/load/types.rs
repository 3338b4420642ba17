//! `types`: which record types are answered.

use super::section::{Section, nearest};
use super::source::{Sources, Written};
use crate::types::{TypeError, TypeSet};

/// The types of a `types` key, and where it stands.
pub(super) fn types(sources: &mut Sources, section: &mut Section<'_>) -> Option<Written<TypeSet>> {
    let texts = section.list(sources, "types")?;
    if texts.value.is_empty() {
        let hint = "to serve the default types, leave it out; to serve none, deny the name";
        sources.error_with(texts.place, "`types` is empty", hint.to_owned());
        return None;
    }
    let mut all = TypeSet::EMPTY;
    for text in &texts.value {
        match TypeSet::parse(text.value) {
            Ok(one) => all = all.union(one),
            Err(error) => bad_type(sources, *text, error),
        }
    }
    Some(texts.map(|_| all))
}

fn bad_type(sources: &mut Sources, kind: Written<&str>, error: TypeError) {
    let text = kind.value;
    let (message, hint) = match error {
        TypeError::NeverServed => (
            format!("`{text}` is never served"),
            "it means a whole zone or one message, not a record of a name".to_owned(),
        ),
        TypeError::Unknown => {
            let names = TypeSet::names();
            let hint = match nearest(text, &names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known types: {}", names.join(", ")),
            };
            (format!("`{text}` is not a record type"), hint)
        }
    };
    sources.error_with(kind.place, message, hint);
}
