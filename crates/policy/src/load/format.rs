//! Which parser reads a file.

use std::path::Path;

use super::document::{Node, SyntaxError};
use super::source::SourceId;
use super::{json, toml, yaml};

/// Reads a text in the format that its file's extension names; TOML if it names none.
pub(super) fn parse(path: &Path, source: SourceId, text: &str) -> Result<Node, Vec<SyntaxError>> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("yaml" | "yml") => yaml::parse(source, text).map_err(|error| vec![error]),
        Some("json") => json::parse(source, text).map_err(|error| vec![error]),
        _ => toml::parse(source, text),
    }
}
