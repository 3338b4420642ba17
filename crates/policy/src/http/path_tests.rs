//! Tests of the one form of a path.

use super::*;

#[test]
fn rfc_3986_equal_paths_have_one_form() {
    for (path, form) in [
        ("/", "/"),
        ("/public/a.txt", "/public/a.txt"),
        ("/p%75blic/%61.txt", "/public/a.txt"),
        ("/%7euser/", "/~user/"),
        ("/%7Euser/", "/~user/"),
        ("/a%3ab", "/a%3Ab"),
        ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
        ("/a%20b", "/a%20b"),
        ("/b%c3%bccher", "/b%C3%BCcher"),
        ("/a{b}[c]|d", "/a%7Bb%7D%5Bc%5D%7Cd"),
        ("/100%25", "/100%25"),
        ("/100%25/x", "/100%25/x"),
        ("/file.", "/file."),
        ("/.well-known/x", "/.well-known/x"),
        ("/...a", "/...a"),
    ] {
        let found = canonical_path(path);
        assert_eq!(found.as_deref(), Ok(form), "{path}");
        assert_eq!(
            canonical_path(form).as_deref(),
            Ok(form),
            "it is its own form"
        );
    }
    assert!(matches!(canonical_path("/a/b.c"), Ok(Cow::Borrowed(_))));
}

#[test]
fn a_path_that_could_be_another_has_none() {
    use PathError::*;
    for (path, error) in [
        ("", NoSlash),
        ("*", NoSlash),
        ("a/b", NoSlash),
        ("/a/../b", DotSegment),
        ("/a/..", DotSegment),
        ("/a/./b", DotSegment),
        ("/a/.", DotSegment),
        ("/a/%2e%2E/b", DotSegment),
        ("/a/.%2e/b", DotSegment),
        ("/a/.../b", DotSegment),
        ("/a/..%20/b", DotSegment),
        ("/a/%20/b", DotSegment),
        ("/a/..%C2%A0/b", DotSegment),
        ("/a/.%E2%80%8B./b", DotSegment),
        ("//a", EmptySegment),
        ("/a//b", EmptySegment),
        ("/a//", EmptySegment),
        ("/a%2fb", EncodedDelimiter),
        ("/a/..%2Fb", EncodedDelimiter),
        ("/a%3fb", EncodedDelimiter),
        ("/a%23b", EncodedDelimiter),
        ("/a\\b", Backslash),
        ("/a%5cb", Backslash),
        ("/a/..;/b", Semicolon),
        ("/a;x=1", Semicolon),
        ("/a%3B/b", Semicolon),
        ("/a%00b", BadByte),
        ("/a%0ab", BadByte),
        ("/a%7fb", BadByte),
        ("/a b", BadByte),
        ("/a?b", BadByte),
        ("/a#b", BadByte),
        ("/b\u{fc}cher", BadByte),
        ("/a%", BadPercent),
        ("/a%2", BadPercent),
        ("/a%2g", BadPercent),
        ("/a%u002e", BadPercent),
        ("/a%252e%252e/b", EncodedTwice),
        ("/a%25%32%65/b", EncodedTwice),
        ("/a%25u002e/b", EncodedTwice),
        ("/a%25252e/b", EncodedTwice),
        ("/a/%c0%ae%c0%ae/b", NotUtf8),
        ("/a%c0%afb", NotUtf8),
        ("/a%e0%80%afb", NotUtf8),
        ("/a%ffb", NotUtf8),
        ("/a/%EF%BC%8E%EF%BC%8E/b", Lookalike),
        ("/a%EF%BC%8Fb", Lookalike),
        ("/a%E2%88%95b", Lookalike),
        ("/a%C2%A5b", Lookalike),
        ("/a/%E2%80%A5/b", Lookalike),
    ] {
        assert_eq!(canonical_path(path), Err(error), "{path}");
        assert!(!error.describe().is_empty());
    }
}
