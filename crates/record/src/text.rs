//! Hostile text into one line of JSON.
//!
//! A record is pure ASCII: every character outside printable ASCII is written as `\uXXXX`, so that
//! line breaks, terminal escapes, bidi controls, invisible characters and homoglyphs are all dealt
//! with by one rule that needs no list of bad characters. A JSON reader gets the original back.
//! Bytes that are not UTF-8 become U+FFFD.

use std::borrow::Cow;

/// A line under construction.
pub(crate) struct LineBuf {
    bytes: Vec<u8>,
    cut: bool,
}

impl LineBuf {
    pub(crate) fn with_capacity(bytes: usize) -> LineBuf {
        LineBuf {
            bytes: Vec::with_capacity(bytes),
            cut: false,
        }
    }

    /// Whether some value did not fit its share of the line.
    pub(crate) fn was_cut(&self) -> bool {
        self.cut
    }

    pub(crate) fn mark_cut(&mut self) {
        self.cut = true;
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Text that is JSON already.
    pub(crate) fn json(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Formats straight into the line; for numbers, times and addresses, which need no escape.
    pub(crate) fn format(&mut self, arguments: std::fmt::Arguments<'_>) {
        use std::io::Write as _;
        // Writing into a Vec cannot fail.
        let _ = self.bytes.write_fmt(arguments);
    }

    /// `"value"`, its inside at most `limit` bytes once escaped; what is longer is cut at a
    /// character and marked.
    pub(crate) fn string(&mut self, value: &[u8], limit: usize) {
        self.bytes.push(b'"');
        let end = self.bytes.len() + limit;
        'value: for chunk in value.utf8_chunks() {
            for character in chunk.valid().chars() {
                if !self.character(character, end) {
                    self.cut = true;
                    break 'value;
                }
            }
            if !chunk.invalid().is_empty() && !self.character(char::REPLACEMENT_CHARACTER, end) {
                self.cut = true;
                break 'value;
            }
        }
        self.bytes.push(b'"');
    }

    /// One escaped character, or false if it would pass `end`.
    fn character(&mut self, character: char, end: usize) -> bool {
        let room = end - self.bytes.len();
        match character {
            '"' | '\\' => {
                if room < 2 {
                    return false;
                }
                self.bytes.extend_from_slice(&[b'\\', character as u8]);
            }
            ' '..='~' => {
                if room < 1 {
                    return false;
                }
                self.bytes.push(character as u8);
            }
            _ => {
                let mut units = [0u16; 2];
                let units = character.encode_utf16(&mut units);
                if room < 6 * units.len() {
                    return false;
                }
                for unit in units {
                    self.format(format_args!("\\u{unit:04x}"));
                }
            }
        }
        true
    }
}

/// The path of a request target: no scheme, no authority, no query, no fragment.
///
/// Query strings carry tokens and userinfo carries passwords: neither may reach the record.
pub(crate) fn path_only(target: &str) -> &str {
    let target = &target[..target.find(['?', '#']).unwrap_or(target.len())];
    let authority_and_path = match target.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => rest,
        _ if target.starts_with("//") && target.contains('@') => &target[2..],
        _ => return target,
    };
    match authority_and_path.find(['/', '\\']) {
        // A backslash does not end an authority for everyone: cut behind a later `@` as well.
        Some(at) => match authority_and_path[at..].rfind('@') {
            Some(later) => &authority_and_path[at + later + 1..],
            None => &authority_and_path[at..],
        },
        None => "",
    }
}

/// What may be shown of bytes that are no name: no userinfo, no query. The second value says
/// whether something was taken out.
pub(crate) fn shown_name(bytes: &[u8]) -> (Cow<'_, [u8]>, bool) {
    let end = bytes
        .iter()
        .position(|b| matches!(b, b'?' | b'#'))
        .unwrap_or(bytes.len());
    match bytes[..end].iter().rposition(|&b| b == b'@') {
        // The mark keeps `http://evil\@allowed` from reading like `allowed`.
        Some(at) => (Cow::Owned([b"[userinfo]", &bytes[at..end]].concat()), true),
        // An `@` behind the `?` still means that all before it may be a password.
        None if bytes[end..].contains(&b'@') => (Cow::Borrowed(b"[userinfo]"), true),
        None => (Cow::Borrowed(&bytes[..end]), end < bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(value: &[u8], limit: usize) -> (String, bool) {
        let mut line = LineBuf::with_capacity(64);
        line.string(value, limit);
        let cut = line.was_cut();
        (String::from_utf8(line.into_bytes()).unwrap(), cut)
    }

    #[test]
    fn line_breaks_escapes_and_bidi_controls_stay_inside_the_line() {
        let (json, cut) = escaped(
            "a\r\nb\u{1b}[31m\u{202e}\u{2028}\u{7f}\u{9b}".as_bytes(),
            200,
        );
        assert_eq!(
            json,
            r#""a\u000d\u000ab\u001b[31m\u202e\u2028\u007f\u009b""#
        );
        assert!(!cut);
    }

    #[test]
    fn quotes_and_backslashes_do_not_end_the_string() {
        assert_eq!(
            escaped(br#"","verdict":"allow\"#, 200).0,
            r#""\",\"verdict\":\"allow\\""#
        );
    }

    #[test]
    fn invalid_utf8_becomes_the_replacement_character() {
        assert_eq!(escaped(b"a\xff\xc3(", 200).0, r#""a\ufffd\ufffd(""#);
    }

    #[test]
    fn characters_beyond_the_first_plane_are_surrogate_pairs() {
        assert_eq!(escaped("\u{e0041}".as_bytes(), 200).0, r#""\udb40\udc41""#);
    }

    #[test]
    fn cut_values_end_at_a_whole_escape() {
        assert_eq!(escaped("ab\u{1b}".as_bytes(), 7), (r#""ab""#.into(), true));
        assert_eq!(
            escaped("ab\u{1b}".as_bytes(), 8),
            (r#""ab\u001b""#.into(), false)
        );
        assert_eq!(escaped("\u{e0041}".as_bytes(), 11), (r#""""#.into(), true));
    }

    #[test]
    fn paths_lose_query_fragment_and_userinfo() {
        for (target, path) in [
            ("/a/b?token=secret", "/a/b"),
            ("/a#frag?x", "/a"),
            ("http://user:secret@host/a?b", "/a"),
            ("http://host", ""),
            ("//user:secret@host/x", "/x"),
            ("//cdn/x", "//cdn/x"),
            ("/at/@user", "/at/@user"),
            ("/go?to=http://user:secret@host/", "/go"),
            (r"http://evil\user:secret@host/", "host/"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(path_only(target), path, "{target}");
        }
    }

    #[test]
    fn raw_names_lose_userinfo_and_query() {
        for (raw, shown, removed) in [
            ("evil.com\0allowed.com", "evil.com\0allowed.com", false),
            ("user:secret@host", "[userinfo]@host", true),
            (
                r"http://evil.com\@allowed.com",
                "[userinfo]@allowed.com",
                true,
            ),
            ("host?secret", "host", true),
            ("user:sec?ret@host", "[userinfo]", true),
        ] {
            let (got, cut) = shown_name(raw.as_bytes());
            assert_eq!((&*got, cut), (shown.as_bytes(), removed), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_make_one_ascii_json_string_that_reads_back(
            value in proptest::collection::vec(any::<u8>(), 0..300), limit in 0usize..400
        ) {
            let (json, cut) = escaped(&value, limit);
            prop_assert!(json.bytes().all(|b| (0x20..0x7f).contains(&b)));
            prop_assert!(json.len() <= limit + 2);
            let back: String = serde_json::from_str(&json).unwrap();
            let whole = String::from_utf8_lossy(&value);
            if cut { prop_assert!(whole.starts_with(&back)) } else { prop_assert_eq!(whole, back) }
        }

        #[test]
        fn no_path_keeps_a_password(target in "[a-z/:?#@\\\\]{0,40}") {
            let target = format!("http://user:SECRET@{target}");
            prop_assert!(!path_only(&target).contains("SECRET"));
        }
    }
}
