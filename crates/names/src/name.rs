//! Canonical names, borrowed and owned.
//!
//! Invariant of every type here: lower-case ASCII, no trailing dot, 1 to 253 bytes, labels of 1 to
//! 63 bytes from `[a-z0-9_-]`, and a last label that is not a number. Two names are the same name
//! exactly if their bytes are equal. The parsers make them: [`crate::NameBuf`] of what programs
//! send, `policy_text` of what operators write.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A borrowed canonical name. `Hash` and `Eq` agree with `str`'s.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameRef<'a>(&'a str);

impl<'a> NameRef<'a> {
    /// Wraps text that one of this crate's parsers has checked.
    pub(crate) fn trusted(text: &'a str) -> NameRef<'a> {
        NameRef(text)
    }

    /// The name as text.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The labels, from the host's own to the top-level domain.
    pub fn labels(self) -> impl DoubleEndedIterator<Item = &'a str> {
        self.0.split('.')
    }

    /// Whether it means the loopback interface of whoever asks: `localhost` and what is below it (RFC 6761
    /// section 6.3).
    pub fn is_localhost(self) -> bool {
        self.0 == "localhost" || self.0.ends_with(".localhost")
    }

    /// The name without its first label; `None` for a single label.
    pub fn parent(self) -> Option<NameRef<'a>> {
        // A suffix that starts at a label keeps every invariant.
        self.0.split_once('.').map(|(_, rest)| NameRef(rest))
    }

    /// Whether this name is strictly below `base`, at any depth.
    pub fn is_below(self, base: NameRef<'_>) -> bool {
        self.0
            .strip_suffix(base.0)
            .is_some_and(|front| front.ends_with('.'))
    }

    /// An owned, shareable copy; allocates.
    pub fn to_name(self) -> Name {
        Name(Arc::from(self.0))
    }
}

impl fmt::Display for NameRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl fmt::Debug for NameRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NameRef({})", self.0)
    }
}

impl PartialEq<str> for NameRef<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for NameRef<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl serde::Serialize for NameRef<'_> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.0)
    }
}

/// An owned canonical name; clones share their text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name, borrowed.
    pub fn as_ref(&self) -> NameRef<'_> {
        NameRef(&self.0)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<NameRef<'_>> for Name {
    fn from(name: NameRef<'_>) -> Name {
        name.to_name()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({})", self.0)
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl serde::Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

#[cfg(test)]
#[path = "name_tests.rs"]
mod tests;
