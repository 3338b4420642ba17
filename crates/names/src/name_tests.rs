//! Tests of borrowed and owned names.

use std::collections::HashMap;

use super::*;
use crate::buf::NameBuf;

fn name(text: &str) -> Name {
    Name::from_policy(text).unwrap()
}

#[test]
fn below_means_strictly_and_at_a_label() {
    let base = name("allowed.com");
    let below = |text: &str| name(text).as_ref().is_below(base.as_ref());
    assert!(below("a.allowed.com"));
    assert!(below("a.b.allowed.com"));
    assert!(!below("allowed.com"));
    assert!(!below("notallowed.com"));
    assert!(!below("allowed.com.evil.com"));
    assert!(!below("com"));
}

#[test]
fn labels_and_parents() {
    let name = name("a.b.example");
    assert_eq!(
        name.as_ref().labels().collect::<Vec<_>>(),
        ["a", "b", "example"]
    );
    assert_eq!(name.as_ref().labels().next_back(), Some("example"));
    let parent = name.as_ref().parent().unwrap();
    assert_eq!(parent, "b.example");
    assert_eq!(parent.parent().unwrap(), "example");
    assert_eq!(parent.parent().unwrap().parent(), None);
}

#[test]
fn a_map_of_names_is_searched_by_text_without_allocating() {
    let map = HashMap::from([(name("a.example"), 1)]);
    let asked = NameBuf::from_program(b"A.Example.").unwrap();
    assert_eq!(map.get(asked.as_str()), Some(&1));
}

#[test]
fn canonical_text_is_borrowed_and_nothing_else() {
    assert_eq!(NameRef::from_canonical("a.example").unwrap(), "a.example");
    for text in ["A.example", "a.example.", ""] {
        assert!(NameRef::from_canonical(text).is_err(), "{text}");
    }
}

#[test]
fn serialises_as_text() {
    assert_eq!(
        serde_json::to_string(&name("a.example")).unwrap(),
        r#""a.example""#
    );
    assert_eq!(
        serde_json::to_string(&name("a.example").as_ref()).unwrap(),
        r#""a.example""#
    );
}
