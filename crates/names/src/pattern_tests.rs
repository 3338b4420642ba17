//! Tests of patterns: what they match, what is too broad, which is more specific.

use proptest::prelude::*;

use super::*;

fn pattern(text: &str) -> Pattern {
    Pattern::from_policy(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn matches(text: &str, name: &str) -> bool {
    pattern(text).matches(Name::from_policy(name).unwrap().as_ref())
}

#[test]
fn exact_matches_itself_alone() {
    assert!(matches("allowed.com", "allowed.com"));
    for other in [
        "a.allowed.com",
        "notallowed.com",
        "allowed.com.evil.com",
        "allowed.co",
        "com",
    ] {
        assert!(!matches("allowed.com", other), "{other}");
    }
}

#[test]
fn star_matches_any_depth_below_but_not_the_apex() {
    assert!(matches("*.allowed.com", "a.allowed.com"));
    assert!(matches("*.allowed.com", "a.b.c.allowed.com"));
    for other in [
        "allowed.com",
        "notallowed.com",
        "allowed.com.evil.com",
        "xallowed.com",
    ] {
        assert!(!matches("*.allowed.com", other), "{other}");
    }
}

#[test]
fn two_stars_match_the_apex_too() {
    assert!(matches("**.allowed.com", "allowed.com"));
    assert!(matches("**.allowed.com", "a.b.allowed.com"));
    assert!(!matches("**.allowed.com", "notallowed.com"));
    assert!(!matches("**.allowed.com", "allowed.com.evil.com"));
}

#[test]
fn what_anybody_can_register_is_too_broad() {
    for text in [
        "*",
        "**",
        "*.",
        "*.com",
        "**.com",
        "*.COM.",
        "*.co.uk",
        "**.co.uk",
        "*.arpa",
        "*.in-addr.arpa",
    ] {
        let error = Pattern::from_policy(text).unwrap_err();
        assert!(
            matches!(error, PatternError::TooBroad { .. }),
            "{text}: {error}"
        );
        assert!(error.hint().is_some());
    }
    for text in [
        "*.githubusercontent.com",
        "*.example.co.uk",
        "*.corp.example",
        "*.github.io",
        "*.test",
        "com",
    ] {
        pattern(text);
    }
}

#[test]
fn customer_suffixes_and_whole_private_domains_are_advised_against() {
    assert!(
        pattern("*.github.io")
            .advice()
            .unwrap()
            .contains("customers")
    );
    assert!(pattern("**.corp").advice().unwrap().contains("top-level"));
    assert_eq!(pattern("*.example.org").advice(), None);
    assert_eq!(pattern("github.io").advice(), None);
}

#[test]
fn stars_stand_alone_in_front() {
    for text in [
        "*foo.com",
        "a.*.com",
        "foo.*",
        "*.*.example.com",
        "***.example.com",
        "*.a*.com",
        "**",
    ] {
        assert!(Pattern::from_policy(text).is_err(), "{text}");
    }
    assert_eq!(
        Pattern::from_policy("a.*.com"),
        Err(PatternError::MisplacedWildcard)
    );
    assert!(matches!(
        Pattern::from_policy(""),
        Err(PatternError::Name(NameError::Empty))
    ));
}

#[test]
fn patterns_are_canonical() {
    assert_eq!(
        pattern("*.Bücher.Example."),
        pattern("*.xn--bcher-kva.example")
    );
    for text in ["a.example", "*.a.example", "**.a.example"] {
        assert_eq!(pattern(text).to_string(), text);
    }
}

#[test]
fn the_most_specific_wins_whatever_the_order() {
    // Each covers a.b.example.com, from the broadest to the narrowest.
    let mut all = [
        "**.example.com",
        "*.example.com",
        "**.b.example.com",
        "*.b.example.com",
        "**.a.b.example.com",
        "a.b.example.com",
    ]
    .map(pattern);
    let sorted = all.clone();
    all.reverse();
    all.sort_by_key(Pattern::specificity);
    assert_eq!(all, sorted);
}

use crate::NameError;

proptest! {
    #[test]
    fn covering_agrees_with_matching(a in "(\\*\\.|\\*\\*\\.)?([ab]\\.){0,3}x\\.y", b in "(\\*\\.|\\*\\*\\.)?([ab]\\.){0,3}x\\.y", name in "([ab]\\.){0,4}x\\.y") {
        let (a, b) = (pattern(&a), pattern(&b));
        let name = Name::from_policy(&name).unwrap();
        if a.covers(&b) && b.matches(name.as_ref()) {
            prop_assert!(a.matches(name.as_ref()));
        }
        if a.covers(&b) && b.covers(&a) {
            prop_assert_eq!(&a, &b);
        }
        prop_assert!(a.covers(&a));
    }

    #[test]
    fn matching_agrees_with_its_definition(base in "([ab]\\.){0,2}x\\.y", name in "([abx]\\.){0,4}(x\\.)?y") {
        let name = Name::from_policy(&name).unwrap();
        let below = name.as_str().ends_with(&format!(".{base}"));
        let same = name.as_str() == base;
        prop_assert_eq!(pattern(&base).matches(name.as_ref()), same);
        prop_assert_eq!(pattern(&format!("*.{base}")).matches(name.as_ref()), below);
        prop_assert_eq!(pattern(&format!("**.{base}")).matches(name.as_ref()), same || below);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,30}") {
        if let Ok(pattern) = Pattern::from_policy(&text) {
            prop_assert_eq!(Pattern::from_policy(&pattern.to_string()).unwrap(), pattern);
        }
    }
}
