//! Tests of body framing: where a body ends, nobody may disagree.

use proptest::prelude::*;

use super::*;

/// Scans a body in pieces of one size; where it ended.
fn body_end(length: BodyLength, stream: &[u8], size: usize) -> Result<Option<usize>, &'static str> {
    let mut scanner = BodyScanner::new(length);
    let mut before = 0;
    for mut piece in stream.chunks(size) {
        loop {
            match scanner.scan(piece) {
                BodyStep::More => {
                    before += piece.len();
                    break;
                }
                BodyStep::Trailers(at) => {
                    let seen = &stream[..before + at];
                    assert!(seen.ends_with(b"\r\n"), "behind the last chunk's line");
                    before += at;
                    piece = &piece[at..];
                }
                BodyStep::End(at) => return Ok(Some(before + at)),
                BodyStep::Malformed(why) => return Err(why),
            }
        }
    }
    Ok(None)
}

#[test]
fn bodies_end_where_they_say() {
    let next = "GET /evil HTTP/1.1\r\n";
    let chunked = "4\r\nabcd\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
    for size in 1..90 {
        let end = |length, body: &str| body_end(length, format!("{body}{next}").as_bytes(), size);
        assert_eq!(end(BodyLength::None, ""), Ok(Some(0)));
        assert_eq!(end(BodyLength::Length(0), ""), Ok(Some(0)));
        assert_eq!(end(BodyLength::Length(5), "hello"), Ok(Some(5)));
        assert_eq!(end(BodyLength::Chunked, chunked), Ok(Some(chunked.len())));
        assert_eq!(end(BodyLength::Chunked, "0\r\n\r\n"), Ok(Some(5)));
    }
    assert_eq!(body_end(BodyLength::Length(500), b"hello", 2), Ok(None));
    assert_eq!(
        body_end(
            BodyLength::Chunked,
            &chunked.as_bytes()[..chunked.len() - 1],
            3
        ),
        Ok(None)
    );
}

#[test]
fn ambiguous_chunks_are_refused() {
    for body in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "0x4\r\n",
        "4\nabcd\r\n",
        "4\r\nabcde\r\n",
        "4\r\nabcd\n",
        "4\r\nabcdX\r\n",
        "4\rabcd",
        "4;a\nb\r\n",
        "4;a\0\r\n",
        "0\r\n\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX\0\r\n",
        ";\r\n",
        "1111111111111111\r\n",
        " 4\r\n",
        "4\r\r\n",
    ] {
        for size in [1, 2, 100] {
            assert!(
                body_end(BodyLength::Chunked, body.as_bytes(), size).is_err(),
                "{body:?}"
            );
        }
    }
    let long = format!("4;{}\r\n", "a".repeat(2000));
    assert!(body_end(BodyLength::Chunked, long.as_bytes(), 100).is_err());
    let trailers = format!("0\r\n{}", "X: y\r\n".repeat(2000));
    assert!(body_end(BodyLength::Chunked, trailers.as_bytes(), 100).is_err());
    // and it stays refused
    let mut scanner = BodyScanner::new(BodyLength::Chunked);
    let first = scanner.scan(b"zz");
    assert!(matches!(first, BodyStep::Malformed(_)));
    assert_eq!(scanner.scan(b"0\r\n\r\n"), first);
}

proptest! {
    #[test]
    fn how_a_body_is_cut_does_not_matter(
        body in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..60),
            "([0-9a-f]{0,2};?[a-z]{0,3}\r?\n[a-z]{0,6}\r?\n){0,4}(0\r\n\r\n)?".prop_map(String::into_bytes),
        ],
        size in 1usize..20,
    ) {
        let whole = body_end(BodyLength::Chunked, &body, usize::MAX);
        prop_assert_eq!(body_end(BodyLength::Chunked, &body, size), whole);
    }

    #[test]
    fn chunks_of_any_size_are_followed(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..5), size in 1usize..400) {
        let mut body = Vec::new();
        for part in &parts {
            body.extend(format!("{:x}\r\n", part.len()).bytes());
            body.extend(part);
            body.extend(b"\r\n");
        }
        body.extend(b"0\r\n\r\n");
        let end = body.len();
        body.extend(b"GET / HTTP/1.1\r\n");
        prop_assert_eq!(body_end(BodyLength::Chunked, &body, size), Ok(Some(end)));
    }
}
