//! Patterns over names: exact, below, apex and below.
//!
//! A pattern is anchored at a label: `*.allowed.com` matches neither `notallowed.com` nor
//! `allowed.com.evil.com`. Patterns so broad that anybody could register a match are refused when
//! the policy is read, not when somebody has used them.

use std::fmt;

use crate::error::PatternError;
use crate::name::{Name, NameRef};

/// What a rule says about names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// This one name.
    Exact(Name),
    /// `*.x`: any depth below x, not x itself.
    Below(Name),
    /// `**.x`: x and any depth below.
    ApexAndBelow(Name),
}

impl Pattern {
    /// Reads `x`, `*.x` or `**.x` as an operator writes it.
    ///
    /// # Errors
    /// [`PatternError::TooBroad`] for `*`, `**` and wildcards below a public suffix of the ICANN
    /// section (`*.com`, `**.co.uk`); suffixes that companies registered for their customers
    /// (`*.github.io`) are accepted with [`Pattern::advice`].
    pub fn from_policy(text: &str) -> Result<Pattern, PatternError> {
        if matches!(text, "*" | "**" | "*." | "**.") {
            return Err(PatternError::TooBroad {
                pattern: text.into(),
                what: "every name",
            });
        }
        let (base, wrap): (&str, fn(Name) -> Pattern) = if let Some(base) = text.strip_prefix("**.")
        {
            (base, Pattern::ApexAndBelow)
        } else if let Some(base) = text.strip_prefix("*.") {
            (base, Pattern::Below)
        } else {
            (text, Pattern::Exact)
        };
        if base.contains('*') {
            return Err(PatternError::MisplacedWildcard);
        }
        let pattern = wrap(Name::from_policy(base)?);
        if !matches!(pattern, Pattern::Exact(_)) && suffix(pattern.base()) == Some(Suffix::Public) {
            return Err(PatternError::TooBroad {
                pattern: pattern.to_string().into(),
                what: "names that anyone can register",
            });
        }
        Ok(pattern)
    }

    /// Whether the pattern covers this name. Allocates nothing.
    pub fn matches(&self, name: NameRef<'_>) -> bool {
        match self {
            Pattern::Exact(base) => name == base.as_ref(),
            Pattern::Below(base) => name.is_below(base.as_ref()),
            Pattern::ApexAndBelow(base) => name == base.as_ref() || name.is_below(base.as_ref()),
        }
    }

    /// The name without its wildcard.
    pub fn base(&self) -> NameRef<'_> {
        match self {
            Pattern::Exact(base) | Pattern::Below(base) | Pattern::ApexAndBelow(base) => {
                base.as_ref()
            }
        }
    }

    /// Whether it covers more than one name.
    pub fn is_wildcard(&self) -> bool {
        !matches!(self, Pattern::Exact(_))
    }

    /// Whether every name that `other` covers is covered by this pattern.
    pub fn covers(&self, other: &Pattern) -> bool {
        match (self, other) {
            (_, Pattern::Exact(name)) => self.matches(name.as_ref()),
            (Pattern::Exact(_), _) => false,
            (Pattern::Below(base), Pattern::Below(other))
            | (Pattern::ApexAndBelow(base), Pattern::Below(other) | Pattern::ApexAndBelow(other)) => {
                base == other || other.as_ref().is_below(base.as_ref())
            }
            (Pattern::Below(base), Pattern::ApexAndBelow(other)) => {
                other.as_ref().is_below(base.as_ref())
            }
        }
    }

    /// Orders patterns that match one name: the greater one is the more specific.
    pub fn specificity(&self) -> Specificity {
        let kind = match self {
            Pattern::ApexAndBelow(_) => Kind::ApexAndBelow,
            Pattern::Below(_) => Kind::Below,
            Pattern::Exact(_) => Kind::Exact,
        };
        // At most 127 labels fit in 253 bytes.
        let labels = u8::try_from(self.base().labels().count()).unwrap_or(u8::MAX);
        Specificity { labels, kind }
    }

    /// A warning for an operator whose wildcard reaches names of other people, or of a whole
    /// top-level domain; `None` if there is nothing to say.
    pub fn advice(&self) -> Option<String> {
        if !self.is_wildcard() {
            return None;
        }
        match suffix(self.base())? {
            Suffix::Public => None, // refused by from_policy
            Suffix::Private => Some(format!(
                "`{self}` matches names that customers of `{}` choose",
                self.base()
            )),
            Suffix::Unknown => Some(format!(
                "`{self}` matches every name of the top-level domain `{}`",
                self.base()
            )),
        }
    }
}

/// How narrow a pattern is; the greater, the more specific. Only comparable between patterns that
/// match the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Specificity {
    labels: u8,
    kind: Kind,
}

/// Among equal bases, from broad to narrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    ApexAndBelow,
    Below,
    Exact,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Exact(base) => write!(f, "{base}"),
            Pattern::Below(base) => write!(f, "*.{base}"),
            Pattern::ApexAndBelow(base) => write!(f, "**.{base}"),
        }
    }
}

impl serde::Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Suffix {
    /// A registry's, such as `com` or `co.uk`.
    Public,
    /// One that a company listed for its customers, such as `github.io`.
    Private,
    /// A top-level domain that the list does not know, such as `corp` or `internal`.
    Unknown,
}

/// What the public suffix list says, if the whole name is a suffix.
fn suffix(name: NameRef<'_>) -> Option<Suffix> {
    let text = name.as_str().as_bytes();
    let found = psl::suffix(text)?;
    if found.as_bytes() != text {
        return None;
    }
    Some(match found.typ() {
        Some(psl::Type::Icann) => Suffix::Public,
        Some(psl::Type::Private) => Suffix::Private,
        None => Suffix::Unknown,
    })
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
