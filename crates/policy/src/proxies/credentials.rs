//! What an upstream proxy wants to know about its user.
//!
//! Answers "credentials never in records, messages, process lists": this type can be shown nowhere;
//! only the dialler takes it apart.

use std::fmt;

/// Longest user name or password, in bytes. SOCKS5 takes 255 of each (RFC 1929).
pub(crate) const MAX_CREDENTIAL_BYTES: usize = 4096;

/// A user name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: Box<str>,
    password: Box<str>,
}

impl Credentials {
    /// From `user:password`; what stands behind the first colon is the password, as it is. One line
    /// break at the end is not part of it.
    ///
    /// # Errors
    /// A sentence that says what is wrong, and repeats nothing of it.
    pub fn parse(text: &str) -> Result<Credentials, &'static str> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        match line.split_once(':') {
            Some((user, password)) => Credentials::new(user, password),
            None => Err("write credentials as `user:password`"),
        }
    }

    /// From its parts.
    ///
    /// # Errors
    /// As for [`Credentials::parse`].
    pub(crate) fn new(user: &str, password: &str) -> Result<Credentials, &'static str> {
        if user.is_empty() {
            return Err("the credentials have no user name");
        }
        if user.contains(':') {
            return Err("a user name cannot contain a colon (RFC 7617)");
        }
        if user.chars().chain(password.chars()).any(char::is_control) {
            return Err("credentials must be one line without control characters");
        }
        if user.len().max(password.len()) > MAX_CREDENTIAL_BYTES {
            return Err("a user name or password is longer than 4096 bytes");
        }
        Ok(Credentials {
            user: user.into(),
            password: password.into(),
        })
    }

    /// The user name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password.
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password() {
        for (text, user, password) in [
            ("u:p", "u", "p"),
            ("u:p:q\n", "u", "p:q"),
            ("u:\r\n", "u", ""),
            ("u: p ", "u", " p "),
        ] {
            let found = Credentials::parse(text).unwrap();
            assert_eq!((found.user(), found.password()), (user, password));
        }
        for bad in ["", "u", ":p", "u:p\nx", "u:p\r\nX: y\r\n", "u\0:p"] {
            assert!(Credentials::parse(bad).is_err(), "{bad:?}");
        }
        let long = format!("u:{}", "p".repeat(MAX_CREDENTIAL_BYTES + 1));
        assert!(Credentials::parse(&long).is_err());
        assert!(Credentials::parse(&long[..long.len() - 1]).is_ok());
    }

    #[test]
    fn they_are_not_shown() {
        let shown = format!("{:?}", Credentials::parse("alice:secret").unwrap());
        assert!(
            !shown.contains("alice") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
