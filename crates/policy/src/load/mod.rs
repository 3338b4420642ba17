//! From texts to a policy: files with what they include, variables and flags.

mod codex;
mod conflict;
mod dns;
mod document;
mod draft;
mod flags;
mod flow;
mod format;
mod json;
mod limit_keys;
mod limits;
mod list;
mod loader;
mod outside;
mod own;
mod proxy;
mod rules;
mod section;
mod source;
mod target;
mod terms;
mod toml;
mod totals;
mod types;
mod units;
mod yaml;

pub use loader::{MAX_FILE_BYTES, MAX_FILES, MAX_INCLUDE_DEPTH};
pub use source::MAX_DIAGNOSTICS;
