//! Tests of operators' spelling.

use proptest::prelude::*;

use crate::{Name, NameError};

fn policy(text: &str) -> Result<String, NameError> {
    Name::from_policy(text).map(|n| n.as_str().to_owned())
}

fn plain(text: &str) -> Result<String, NameError> {
    Err(NameError::NotPlain { plain: text.into() })
}

#[test]
fn international_names_become_ascii() {
    assert_eq!(policy("bücher.example").unwrap(), "xn--bcher-kva.example");
    assert_eq!(policy("BÜCHER.Example.").unwrap(), "xn--bcher-kva.example");
    assert_eq!(
        policy("XN--BCHER-KVA.example").unwrap(),
        "xn--bcher-kva.example"
    );
    assert_eq!(policy("例え.テスト").unwrap(), "xn--r8jz45g.xn--zckzah");
    assert_eq!(policy("straße.example").unwrap(), "xn--strae-oqa.example");
    assert_eq!(policy("пример.example").unwrap(), "xn--e1afmkfd.example");
    assert_eq!(
        policy("a_b.bücher.example").unwrap(),
        "a_b.xn--bcher-kva.example"
    );
}

#[test]
fn full_width_letters_and_dots_are_refused_with_the_plain_form() {
    assert_eq!(policy("evil\u{3002}com"), plain("evil.com"));
    assert_eq!(policy("evil\u{ff0e}com"), plain("evil.com"));
    assert_eq!(policy("evil\u{ff61}com"), plain("evil.com"));
    assert_eq!(policy("\u{ff45}vil.com"), plain("evil.com"));
    assert_eq!(policy("ｅｖｉｌ．ｃｏｍ"), plain("evil.com"));
}

#[test]
fn superscript_and_circled_digits_are_refused() {
    assert_eq!(policy("a\u{b2}.com"), plain("a2.com"));
    assert_eq!(policy("①.com"), plain("1.com"));
    assert_eq!(policy("127.0.0.\u{b9}"), Err(NameError::EndsInNumber));
    assert_eq!(policy("１２７.0.0.1"), Err(NameError::EndsInNumber));
}

#[test]
fn invisible_characters_are_refused() {
    for hidden in [
        '\u{ad}', '\u{200b}', '\u{2060}', '\u{feff}', '\u{200d}', '\u{202e}', '\u{fe0f}',
    ] {
        let text = format!("al{hidden}lowed.com");
        assert!(policy(&text).is_err(), "{hidden:?}");
    }
    for control in ['\n', '\r', '\0', '\u{85}', ' '] {
        assert!(
            policy(&format!("bücher{control}.com")).is_err(),
            "{control:?}"
        );
        assert!(policy(&format!("a{control}.com")).is_err(), "{control:?}");
    }
}

#[test]
fn broken_punycode_is_refused() {
    // not punycode; not in canonical form; an ASCII label in disguise; a full-width letter inside
    for text in [
        "xn--\u{fc}.com",
        "xn--a-.com",
        "xn--abc-.com",
        "xn--.com",
        "xn--0.com",
    ] {
        assert!(policy(text).is_err(), "{text}");
    }
}

#[test]
fn look_alikes_are_other_names() {
    // Cyrillic а: a name of its own, never the Latin one.
    let cyrillic = policy("\u{430}pple.com").unwrap();
    assert_ne!(cyrillic, "apple.com");
    assert!(cyrillic.starts_with("xn--"));
}

proptest! {
    #[test]
    fn any_text_gives_a_name_that_round_trips_or_an_error(text in "\\PC{0,40}(\\.\\PC{1,10}){0,2}") {
        if let Ok(name) = Name::from_policy(&text) {
            prop_assert!(name.as_str().is_ascii());
            prop_assert_eq!(Name::from_policy(name.as_str()).unwrap(), name.clone());
            prop_assert_eq!(Name::from_program(name.as_str().as_bytes()).unwrap(), name);
        }
    }

    #[test]
    fn plain_ascii_reads_the_same_for_operators_and_programs(text in "[A-Wa-w0-9_.-]{0,80}") {
        prop_assert_eq!(Name::from_policy(&text), Name::from_program(text.as_bytes()));
    }
}
