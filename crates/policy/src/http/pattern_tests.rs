//! Tests of path patterns: tables, and what no server may make of a path that matched.

use proptest::prelude::*;

use super::*;

fn set(patterns: &[&str]) -> PathSet {
    PathSet::new(
        patterns
            .iter()
            .map(|text| PathPattern::parse(text).unwrap()),
    )
}

#[test]
fn what_stars_stand_for() {
    for (pattern, matching, others) in [
        ("/", &["/"][..], &["/a", "/a/"][..]),
        ("/a", &["/a", "/%61"], &["/", "/a/", "/A", "/ab", "/a/b"]),
        ("/a/", &["/a/"], &["/a", "/a/b"]),
        (
            "/public/**",
            &[
                "/public",
                "/public/",
                "/public/a",
                "/public/a/b.c",
                "/public/a/",
            ],
            &[
                "/",
                "/publi",
                "/publicx",
                "/Public/a",
                "/x/public/a",
                "/public/../a",
            ],
        ),
        ("/**", &["/", "/a", "/a/b/"], &["*", "/a/../b"]),
        (
            "/a/*",
            &["/a/b", "/a/b.c"],
            &["/a", "/a/", "/a/b/", "/a/b/c"],
        ),
        (
            "/repos/*/issues",
            &["/repos/x/issues", "/repos/a.b/issues"],
            &[
                "/repos/issues",
                "/repos/x/y/issues",
                "/repos//issues",
                "/repos/x/issues/1",
            ],
        ),
        (
            "/v*/a*c.json",
            &["/v1/ac.json", "/v/abc.json", "/v10/abcc.json"],
            &["/w1/ac.json", "/v1/ac.jsonx", "/v1/a/c.json"],
        ),
        (
            "/a/**/z",
            &["/a/z", "/a/b/z", "/a/b/c/z", "/a/z/z"],
            &["/a", "/az", "/a/b", "/a/z/b"],
        ),
        (
            "/**/*.css",
            &["/a.css", "/x/y/.css"],
            &["/a.css/b", "/a.cs"],
        ),
        (
            "/**/a/**/b",
            &["/a/b", "/x/a/y/b", "/a/a/b/b"],
            &["/b/a", "/a/x"],
        ),
        (
            "/b\u{fc}cher/*",
            &["/b%C3%BCcher/1", "/b%c3%bccher/1"],
            &["/bucher/1"],
        ),
        ("/a b", &["/a%20b"], &["/a+b", "/a"]),
        ("/star%2A", &["/star%2a"], &["/star*", "/starx"]),
    ] {
        let set = set(&[pattern]);
        for path in matching {
            assert!(set.allows(path), "{pattern} should match {path}");
        }
        for path in others {
            assert!(!set.allows(path), "{pattern} should not match {path}");
        }
    }
}

#[test]
fn patterns_that_mean_nothing_are_refused() {
    use super::super::PathError;
    for (text, error) in [
        ("", PatternError::Path(PathError::NoSlash)),
        ("public/**", PatternError::Path(PathError::NoSlash)),
        ("/a/../b", PatternError::Path(PathError::DotSegment)),
        ("/a//b", PatternError::Path(PathError::EmptySegment)),
        ("/a;x", PatternError::Path(PathError::Semicolon)),
        ("/a%2fb", PatternError::Path(PathError::EncodedDelimiter)),
        ("/a%", PatternError::Path(PathError::BadPercent)),
        ("/a\u{ff0e}", PatternError::Path(PathError::Lookalike)),
        ("/a?b=*", PatternError::Query),
        ("/a#b", PatternError::Query),
        ("https://a.example/x", PatternError::Url),
        ("/a**", PatternError::Misplaced),
        ("/**a/b", PatternError::Misplaced),
        ("/***", PatternError::Misplaced),
    ] {
        assert_eq!(PathPattern::parse(text), Err(error), "{text}");
    }
    let long = format!("/{}", "x".repeat(MAX_PATTERN_BYTES));
    assert_eq!(PathPattern::parse(&long), Err(PatternError::TooLong));
}

#[test]
fn sets_are_unions_and_narrow_each_other() {
    let one = set(&["/a/**", "/b"]);
    assert!(one.allows("/a/x") && one.allows("/b") && !one.allows("/c"));
    let both = one.and(&set(&["/a/x", "/c"]));
    assert!(both.allows("/a/x") && !both.allows("/a/y") && !both.allows("/c"));
    assert_eq!(one.and(&one), one);
    assert_eq!(one.and(&both), both.and(&one), "in either order");
    assert_eq!(one.to_string(), "/a/**, /b");
}

#[test]
fn matching_allocates_nothing_and_long_paths_end() {
    let set = set(&["/**/a*a*a*a*b/**/c", "/public/**"]);
    let path = format!("/{}", "aaaaaaaa/".repeat(1000));
    let used = allocation_counter::measure(|| assert!(!set.allows(&path)));
    assert_eq!(used.count_total, 0);
}

/// What a server may take a path for: each step is done by some server in use.
fn readings(path: &str) -> Vec<Vec<u8>> {
    let raw = path.as_bytes().to_vec();
    let once = decode(&raw);
    let twice = decode(&once);
    let mut all = vec![raw, once, twice];
    for step in [
        cut_query,
        fold_letters,
        backslashes,
        without_parameters,
        cut_at_nul,
        trimmed,
        merged,
    ] {
        let more: Vec<Vec<u8>> = all.iter().map(|reading| step(reading)).collect();
        all.extend(more);
        all.sort();
        all.dedup();
    }
    all.into_iter()
        .map(|reading| without_dots(&reading))
        .collect()
}

/// Percent-decoding as servers do it: what is no escape stays, `%u002e` is one.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    let hex = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).ok()?;
        text.bytes().all(|b| b.is_ascii_hexdigit()).then_some(())?;
        u32::from_str_radix(text, 16).ok()
    };
    while at < path.len() {
        let short = path.get(at + 1..at + 3).and_then(hex);
        let long = path.get(at + 2..at + 6).and_then(hex);
        match (path[at], short, long) {
            (b'%', Some(byte), _) => {
                out.push(byte as u8);
                at += 3;
            }
            (b'%', None, Some(c)) if path[at + 1] | 32 == b'u' => {
                let c = char::from_u32(c).unwrap_or('?');
                out.extend_from_slice(c.to_string().as_bytes());
                at += 6;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

fn cut_query(path: &[u8]) -> Vec<u8> {
    path.split(|b| matches!(b, b'?' | b'#'))
        .next()
        .unwrap_or_default()
        .to_vec()
}

/// Overlong UTF-8 and letters of the same look become ASCII.
fn fold_letters(path: &[u8]) -> Vec<u8> {
    let mut text = path.to_vec();
    for (from, to) in [
        (&b"\xc0\xae"[..], &b"."[..]),
        (b"\xc0\xaf", b"/"),
        (b"\xe0\x80\xaf", b"/"),
        ("\u{ff0e}".as_bytes(), b"."),
        ("\u{2024}".as_bytes(), b"."),
        ("\u{2025}".as_bytes(), b".."),
        ("\u{ff0f}".as_bytes(), b"/"),
        ("\u{2215}".as_bytes(), b"/"),
        ("\u{ff3c}".as_bytes(), b"\\"),
        ("\u{a5}".as_bytes(), b"\\"),
    ] {
        while let Some(at) = text.windows(from.len()).position(|part| part == from) {
            text.splice(at..at + from.len(), to.iter().copied());
        }
    }
    text
}

fn backslashes(path: &[u8]) -> Vec<u8> {
    path.iter()
        .map(|b| if *b == b'\\' { b'/' } else { *b })
        .collect()
}

fn without_parameters(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|b| *b == b'/');
    let bare = segments.map(|segment| segment.split(|b| *b == b';').next().unwrap_or_default());
    bare.collect::<Vec<_>>().join(&b'/')
}

fn cut_at_nul(path: &[u8]) -> Vec<u8> {
    path.split(|b| *b == 0).next().unwrap_or_default().to_vec()
}

/// White space around segments goes, as on some file systems.
fn trimmed(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|b| *b == b'/').map(<[u8]>::trim_ascii);
    segments.collect::<Vec<_>>().join(&b'/')
}

fn merged(path: &[u8]) -> Vec<u8> {
    let mut out = path.to_vec();
    out.dedup_by(|a, b| *a == b'/' && *b == b'/');
    out
}

fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<&[u8]> = Vec::new();
    for segment in path.split(|b| *b == b'/').skip(1) {
        match segment {
            b"." => {}
            b".." => drop(out.pop()),
            segment => out.push(segment),
        }
    }
    [b"/".as_slice(), &out.join(&b'/')].concat()
}

fn piece() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "/",
        "/",
        "/",
        "//",
        "\\",
        "%2f",
        "%2F",
        "%5c",
        "%252f",
        "%25",
        "%u002f",
        "%c0%af",
        "public",
        "p%75blic",
        "Public",
        "private",
        "a",
        "b.c",
        ".",
        "..",
        "%2e",
        "%2E%2e",
        "%252e",
        "...",
        "..;",
        ";x=1",
        "%3b",
        "%20",
        "%00",
        "%0a",
        "%09",
        "?",
        "%3f",
        "#",
        "%23",
        "*",
        "%EF%BC%8E",
        "%EF%BC%8F",
        "%E2%80%A4",
        "%C2%A5",
        "%c0%ae",
        "%E2%80%8B",
        "%32%65",
        "+",
        ":",
        "@",
        "~",
        "%",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// A path that matched stays below the prefix, whatever a server makes of what is sent on.
    #[test]
    fn a_path_that_matched_stays_below_its_prefix(
        pieces in proptest::collection::vec(piece(), 0..8),
    ) {
        let set = set(&["/public/**"]);
        for start in ["/", "/public", "/public/"] {
            let path = format!("{start}{}", pieces.concat());
            if !set.allows(&path) {
                continue;
            }
            let sent = canonical_path(&path).unwrap();
            for reading in readings(&sent) {
                let inside = reading == b"/public" || reading.starts_with(b"/public/");
                prop_assert!(inside, "{} as {}", path, String::from_utf8_lossy(&reading));
            }
        }
    }

    /// The one form of any text is its own form, and matches what the text matches.
    #[test]
    fn the_form_is_stable(path in "/[ -~]{0,40}", pattern in "/[a-z*/.]{0,12}") {
        if let Ok(form) = canonical_path(&path) {
            let again = canonical_path(&form);
            prop_assert_eq!(again.as_deref(), Ok(&*form));
            if let Ok(pattern) = PathPattern::parse(&pattern) {
                let set = PathSet::new([pattern]);
                prop_assert_eq!(set.allows(&path), set.allows(&form));
            }
        }
    }

    /// Against a matcher that tries everything.
    #[test]
    fn patterns_match_as_a_naive_matcher_does(
        pattern in "(/(\\*\\*|[ab*]{0,3})){1,4}",
        path in "(/[ab]{1,3}){1,5}/?",
    ) {
        let Ok(read) = PathPattern::parse(&pattern) else { return Ok(()) };
        let pattern: Vec<&str> = pattern.split('/').skip(1).collect();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        prop_assert_eq!(PathSet::new([read]).allows(&path), naive(&pattern, &segments));
    }
}

fn naive(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], path) => path.is_empty(),
        (["**", rest @ ..], path) => (0..=path.len()).any(|taken| naive(rest, &path[taken..])),
        ([first, rest @ ..], [segment, below @ ..]) => {
            let alone = *first == "*" && segment.is_empty();
            !alone && naive_segment(first.as_bytes(), segment.as_bytes()) && naive(rest, below)
        }
        _ => false,
    }
}

fn naive_segment(pattern: &[u8], segment: &[u8]) -> bool {
    match pattern {
        [] => segment.is_empty(),
        [b'*', rest @ ..] => (0..=segment.len()).any(|at| naive_segment(rest, &segment[at..])),
        [byte, rest @ ..] => segment.first() == Some(byte) && naive_segment(rest, &segment[1..]),
    }
}
