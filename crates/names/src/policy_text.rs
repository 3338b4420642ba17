//! Names as operators write them: IDNA in, canonical ASCII out.
//!
//! An operator is trusted, but may paste a name that only looks like the one he means. UTS 46
//! maps full-width letters, superscript digits and other dots to plain ASCII without a word; here
//! such text is refused with the plain form as a suggestion, so that what stands in the policy is
//! what is enforced.

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::buf::NameBuf;
use crate::error::NameError;
use crate::name::Name;

impl Name {
    /// Reads a name that an operator wrote: as [`Name::from_program`], and international names are
    /// accepted and made ASCII (UTS 46, non-transitional).
    ///
    /// # Errors
    /// [`NameError::NotPlain`] for text that IDNA would silently turn into another
    /// (full-width letters or dots, superscript digits, invisible characters),
    /// [`NameError::BadIdna`] for `xn--` labels that do not round-trip, and the rest.
    pub fn from_policy(text: &str) -> Result<Name, NameError> {
        canonical(text).map(|name| name.to_name())
    }
}

/// Reads one name, without wildcard.
fn canonical(text: &str) -> Result<NameBuf, NameError> {
    // Plain ASCII without xn-- is what nearly every policy has; IDNA adds nothing to it.
    if text.is_ascii() && !has_punycode(text) {
        return NameBuf::from_program(text.as_bytes());
    }
    if let Some((at, c)) = text
        .char_indices()
        .find(|(_, c)| c.is_control() || *c == ' ')
    {
        let byte = text.as_bytes().get(at).copied().unwrap_or(c as u8);
        return Err(NameError::BadByte { byte, at });
    }
    let uts46 = Uts46::new();
    let ascii = uts46
        .to_ascii(
            text.as_bytes(),
            AsciiDenyList::EMPTY,
            Hyphens::Allow,
            DnsLength::Ignore,
        )
        .map_err(|_| NameError::BadIdna)?;
    let canonical = NameBuf::from_program(ascii.as_bytes())?;
    let (shown, valid) = uts46.to_unicode(
        canonical.as_str().as_bytes(),
        AsciiDenyList::EMPTY,
        Hyphens::Allow,
    );
    if valid.is_err() {
        return Err(NameError::BadIdna);
    }
    // What was written must be the name itself, in its own script or as xn--, in any case.
    let written = text.to_lowercase();
    let written = written.strip_suffix('.').unwrap_or(&written);
    let same = written.split('.').count() == shown.split('.').count()
        && written
            .split('.')
            .zip(shown.split('.'))
            .zip(canonical.as_ref().labels())
            .all(|((written, shown), ascii)| written == shown || written == ascii);
    if !same {
        return Err(NameError::NotPlain {
            plain: canonical.as_str().into(),
        });
    }
    Ok(canonical)
}

/// Whether a label starts with `xn--`, in any case.
fn has_punycode(text: &str) -> bool {
    text.split('.').any(|label| {
        label
            .get(..4)
            .is_some_and(|p| p.eq_ignore_ascii_case("xn--"))
    })
}

#[cfg(test)]
#[path = "policy_text_tests.rs"]
mod tests;
