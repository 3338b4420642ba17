//! Top-level names that no resolver is ever asked for (RFC 6761 "special-use domain names").

use portcullis_names::NameRef;

/// These do not leave, even where the policy lists them or only watches: the question alone would
/// tell a resolver what was meant for nobody. With each name, what the record says.
const NEVER_ASKED: [(&str, &str); 3] = [
    (
        "onion",
        "names below onion are never asked of a resolver (RFC 7686)",
    ),
    ("invalid", "names below invalid do not exist (RFC 6761 6.4)"),
    ("alt", "names below alt are not DNS names (RFC 9476)"),
];

/// Why no resolver is asked for this name; `None` for ordinary names.
pub(crate) fn never_asked(name: NameRef<'_>) -> Option<&'static str> {
    let top = name.labels().next_back()?;
    NEVER_ASKED
        .iter()
        .find(|(special, _)| *special == top)
        .map(|(_, why)| *why)
}
