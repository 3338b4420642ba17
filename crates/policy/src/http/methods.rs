//! Which HTTP methods a rule allows.
//!
//! Methods are compared as they stand: they are case-sensitive (RFC 9110 section 9.1), and a server
//! that reads `get` as GET is no reason to let it through. HEAD comes with GET: it answers with a
//! part of what GET answers with, and tools ask for it first.

use std::fmt;
use std::sync::Arc;

use portcullis_wire::http1::{MAX_METHOD_BYTES, is_token_byte};

/// Most methods of one rule.
pub(crate) const MAX_METHODS: usize = 32;

/// What `mode = "limited"` leaves of every rule (RFC 9110 section 9.2.1: the safe methods that
/// programs use).
pub const LIMITED_METHODS: [&str; 3] = ["GET", "HEAD", "OPTIONS"];

/// Methods that a lower-case word probably stands for.
const KNOWN: [&str; 16] = [
    "DELETE",
    "GET",
    "HEAD",
    "LOCK",
    "MKCOL",
    "MOVE",
    "OPTIONS",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PUT",
    "QUERY",
    "REPORT",
    "TRACE",
    "UNLOCK",
];

/// A set of HTTP methods. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodSet(Arc<[Box<str>]>);

impl MethodSet {
    /// The set of these methods, and HEAD where GET is one of them.
    pub(crate) fn new<'m>(methods: impl IntoIterator<Item = &'m str>) -> MethodSet {
        let mut all: Vec<Box<str>> = methods.into_iter().map(Box::from).collect();
        if all.iter().any(|method| &**method == "GET") {
            all.push("HEAD".into());
        }
        all.sort_unstable();
        all.dedup();
        MethodSet(all.into())
    }

    /// What `mode = "limited"` leaves.
    pub(crate) fn limited() -> MethodSet {
        MethodSet::new(LIMITED_METHODS)
    }

    /// Whether a request with this method may pass. Allocates nothing.
    pub fn allows(&self, method: &str) -> bool {
        self.0.iter().any(|own| **own == *method)
    }

    /// The methods of both.
    #[must_use]
    pub(crate) fn intersection(&self, other: &MethodSet) -> MethodSet {
        let both = self.0.iter().filter(|method| other.allows(method));
        MethodSet(both.cloned().collect())
    }

    /// Whether no request can pass.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The methods, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|method| &**method)
    }
}

/// The methods, separated by commas.
impl fmt::Display for MethodSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, method) in self.iter().enumerate() {
            f.write_str(if at > 0 { ", " } else { "" })?;
            f.write_str(method)?;
        }
        Ok(())
    }
}

/// Why a word is not a method that a rule can list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MethodError {
    /// Not a token (RFC 9110 section 5.6.2).
    NotAToken,
    TooLong,
    /// CONNECT asks for a tunnel, and what goes through one is for the rule's ports to say.
    Connect,
    /// A method that everybody knows, in another case.
    Case(&'static str),
}

/// Checks a method of a rule.
pub(crate) fn check(method: &str) -> Result<(), MethodError> {
    if method.is_empty() || !method.bytes().all(is_token_byte) {
        return Err(MethodError::NotAToken);
    }
    if method.len() > MAX_METHOD_BYTES {
        return Err(MethodError::TooLong);
    }
    if method.eq_ignore_ascii_case("CONNECT") {
        return Err(MethodError::Connect);
    }
    let known = |known: &&&'static str| method.eq_ignore_ascii_case(known) && method != **known;
    match KNOWN.iter().find(known) {
        Some(known) => Err(MethodError::Case(known)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_compared_as_they_stand_and_get_brings_head() {
        let set = MethodSet::new(["POST", "GET", "POST"]);
        assert_eq!(set.to_string(), "GET, HEAD, POST");
        for allowed in ["GET", "HEAD", "POST"] {
            assert!(set.allows(allowed), "{allowed}");
        }
        for refused in ["get", "Post", "PUT", "", "GET ", "CONNECT", "OPTIONS"] {
            assert!(!set.allows(refused), "{refused}");
        }
        assert!(!MethodSet::new(["POST"]).allows("HEAD"));
        assert_eq!(MethodSet::limited().to_string(), "GET, HEAD, OPTIONS");
        let both = MethodSet::limited().intersection(&set);
        assert_eq!(both.to_string(), "GET, HEAD");
        assert!(both.intersection(&MethodSet::new(["PUT"])).is_empty());
    }

    #[test]
    fn rfc_9110_tokens() {
        for good in ["GET", "PROPFIND", "M-SEARCH", "x", "$%"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "GE T", "GET,POST", "G\u{c9}T", "GET\r", "(x)"] {
            assert_eq!(check(bad), Err(MethodError::NotAToken), "{bad}");
        }
        assert_eq!(check(&"X".repeat(33)), Err(MethodError::TooLong));
        assert_eq!(check("connect"), Err(MethodError::Connect));
        assert_eq!(check("get"), Err(MethodError::Case("GET")));
    }
}
