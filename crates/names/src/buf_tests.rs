//! Tests of program input: *names* (docs/threats.md), line by line.

use proptest::prelude::*;

use super::*;

fn program(text: &[u8]) -> Result<String, NameError> {
    NameBuf::from_program(text).map(|n| n.as_str().to_owned())
}

#[test]
fn case_and_one_trailing_dot_are_dropped() {
    assert_eq!(program(b"API.GitHub.COM").unwrap(), "api.github.com");
    assert_eq!(program(b"api.github.com.").unwrap(), "api.github.com");
    assert_eq!(program(b"localhost").unwrap(), "localhost");
    assert_eq!(
        program(b"_http._tcp.x-1.example").unwrap(),
        "_http._tcp.x-1.example"
    );
    assert_eq!(program(b"api.github.com.."), Err(NameError::EmptyLabel));
}

#[test]
fn control_bytes_and_delimiters_are_refused() {
    for byte in (0..=b' ')
        .chain(*b"%@[]/\\:?#\"'()<>,;*~|^`{}!$&+=")
        .chain(127..=255)
    {
        let text = [b"allowed.com".as_slice(), &[byte], b".evil.com"].concat();
        assert_eq!(
            program(&text),
            Err(NameError::BadByte { byte, at: 11 }),
            "{byte:#x}"
        );
        assert!(program(&[byte]).is_err());
        assert!(
            program(&[b"example.com".as_slice(), &[byte]].concat()).is_err(),
            "{byte:#x}"
        );
    }
}

#[test]
fn empty_names_and_labels_are_refused() {
    assert_eq!(program(b""), Err(NameError::Empty));
    assert_eq!(program(b"."), Err(NameError::Root));
    for text in ["..", ".example.com", "a..b", "..a"] {
        assert_eq!(
            program(text.as_bytes()),
            Err(NameError::EmptyLabel),
            "{text}"
        );
    }
}

#[test]
fn label_of_63_bytes_passes_and_64_is_refused() {
    let label = "a".repeat(63);
    assert_eq!(
        program(format!("{label}.com").as_bytes()).unwrap(),
        format!("{label}.com")
    );
    assert_eq!(
        program(format!("a{label}.com").as_bytes()),
        Err(NameError::LabelTooLong)
    );
    assert_eq!(
        program(format!("x.a{label}").as_bytes()),
        Err(NameError::LabelTooLong)
    );
}

#[test]
fn name_of_253_bytes_passes_and_254_is_refused() {
    let label = "a".repeat(49);
    let name = format!("{label}.{label}.{label}.{label}.{label}.com");
    assert_eq!(name.len(), 253);
    assert_eq!(program(name.as_bytes()).unwrap(), name);
    assert_eq!(program(format!("{name}.").as_bytes()).unwrap(), name);
    assert_eq!(
        program(format!("{name}m").as_bytes()),
        Err(NameError::TooLong)
    );
    assert_eq!(
        program(format!("{name}.a").as_bytes()),
        Err(NameError::TooLong)
    );
    assert!(program(&[b'a'; 70_000]).is_err());
}

#[test]
fn numeric_hosts_are_refused() {
    for text in [
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "1.2.3.4",
        "1.2.3.4.",
        "0x7f000001",
        "0x",
        "example.0x",
        "example.1",
        "1.2.3.04",
        "127.0.0.1.5",
        "a.0XfF",
        "0",
    ] {
        assert_eq!(
            program(text.as_bytes()),
            Err(NameError::EndsInNumber),
            "{text}"
        );
    }
    for text in [
        "1.2.3.4a",
        "4.in-addr.arpa",
        "x.0xg",
        "3com",
        "0x7f.com",
        "1-2",
    ] {
        assert_eq!(program(text.as_bytes()).unwrap(), text);
    }
}

#[test]
fn wire_labels_follow_the_same_rules() {
    let wire = |labels: &[&[u8]]| {
        NameBuf::from_wire(labels.iter().copied()).map(|n| n.as_str().to_owned())
    };
    assert_eq!(
        wire(&[b"WwW", b"Example", b"com"]).unwrap(),
        "www.example.com"
    );
    assert_eq!(wire(&[]), Err(NameError::Root));
    // On the wire a dot is data: two labels must not be made of one.
    assert_eq!(
        wire(&[b"a.b", b"com"]),
        Err(NameError::BadByte { byte: b'.', at: 1 })
    );
    assert_eq!(wire(&[b"a", b"", b"com"]), Err(NameError::EmptyLabel));
    assert_eq!(
        wire(&[b"a\0", b"com"]),
        Err(NameError::BadByte { byte: 0, at: 1 })
    );
    assert_eq!(
        wire(&[b"a", b"b c"]),
        Err(NameError::BadByte { byte: b' ', at: 3 })
    );
    assert_eq!(wire(&[b"127", b"1"]), Err(NameError::EndsInNumber));
    assert_eq!(wire(&[&[b'a'; 64]]), Err(NameError::LabelTooLong));
    assert_eq!(wire(&[[b'a'; 63].as_slice(); 4]), Err(NameError::TooLong));
}

#[test]
fn errors_are_one_printable_line() {
    for byte in 0..=255u8 {
        let error = NameError::BadByte { byte, at: 0 };
        let text = error.to_string() + &error.hint().unwrap_or_default();
        assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)), "{text:?}");
    }
}

/// What every canonical name promises, checked without the parser.
pub(crate) fn assert_canonical(name: &str) {
    assert!((1..=MAX_NAME_BYTES).contains(&name.len()));
    for label in name.split('.') {
        assert!((1..=MAX_LABEL_BYTES).contains(&label.len()), "{name}");
        assert!(
            label
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')),
            "{name}"
        );
    }
    assert!(name.parse::<std::net::IpAddr>().is_err());
    assert!(
        !name
            .rsplit('.')
            .next()
            .unwrap()
            .bytes()
            .all(|b| b.is_ascii_digit())
    );
}

proptest! {
    #[test]
    fn any_bytes_give_a_canonical_name_or_an_error(
        text in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Ok(name) = NameBuf::from_program(&text) {
            assert_canonical(name.as_str());
        }
    }

    #[test]
    fn name_like_text_is_canonical_once_and_for_all(text in "[A-Za-z0-9_.-]{0,260}") {
        if let Ok(name) = NameBuf::from_program(text.as_bytes()) {
            assert_canonical(name.as_str());
            let lower = text.to_lowercase();
            prop_assert_eq!(name.as_str(), lower.trim_end_matches('.'));
            let again = NameBuf::from_program(name.as_str().as_bytes()).unwrap();
            prop_assert_eq!(&again, &name);
            let labels = name.as_ref().labels().map(str::as_bytes).collect::<Vec<_>>();
            prop_assert_eq!(NameBuf::from_wire(labels).unwrap(), name);
        }
    }

    #[test]
    fn any_labels_give_a_canonical_name_or_an_error(
        labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..70), 0..10),
    ) {
        if let Ok(name) = NameBuf::from_wire(labels.iter().map(Vec::as_slice)) {
            assert_canonical(name.as_str());
            prop_assert_eq!(name.as_ref().labels().count(), labels.len());
        }
    }
}
