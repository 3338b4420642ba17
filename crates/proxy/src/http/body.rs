//! Bodies on their way through: as they are framed, but for trailers that may not pass.
//!
//! Answers *HTTP framing* (docs/threats.md): servers add trailers to the fields
//! that a request was decided by.

use portcullis_wire::http1::{BodyLength, BodyScanner, BodyStep};

use super::request_head::field;
use crate::request::{Passing, Section};

/// Most fields behind one body.
const MAX_TRAILERS: usize = 64;
/// The end of a body without trailers.
const NO_TRAILERS: &[u8] = b"\r\n";

/// One body.
pub(super) struct Body {
    scanner: BodyScanner,
    /// Where its trailers stand.
    section: Section,
    /// What came of the trailers, from their beginning on.
    trailers: Option<Vec<u8>>,
    /// Only the content passes: no chunks and no trailers.
    bare: bool,
}

/// What is to be done with the bytes that have come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// So many are dealt with.
    pub(super) taken: usize,
    /// So many of these pass on as they are.
    pub(super) passing: usize,
    /// This passes behind them.
    pub(super) rewritten: Vec<u8>,
    /// The body ends here.
    pub(super) end: bool,
}

impl Step {
    pub(super) fn pass(bytes: usize, end: bool) -> Step {
        Step {
            taken: bytes,
            passing: bytes,
            rewritten: Vec::new(),
            end,
        }
    }
}

impl Body {
    pub(super) fn new(length: BodyLength, section: Section) -> Body {
        Body {
            scanner: BodyScanner::new(length),
            section,
            trailers: None,
            bare: false,
        }
    }

    /// For a reader that knows no chunks (HTTP/1.0): what they hold, and nothing else.
    pub(super) fn bare(self) -> Body {
        Body { bare: true, ..self }
    }

    /// The same as [`Body::step`], of which the content alone passes.
    fn bare_step(&mut self, came: &[u8]) -> Result<Step, &'static str> {
        let mut step = Step::pass(0, false);
        while step.taken < came.len() && !step.end {
            let data = |data: &[u8]| step.rewritten.extend_from_slice(data);
            step.taken += match self.scanner.scan_data(&came[step.taken..], data) {
                BodyStep::More => came.len() - step.taken,
                BodyStep::Trailers(bytes) => bytes,
                BodyStep::End(bytes) => {
                    step.end = true;
                    bytes
                }
                BodyStep::Malformed(why) => return Err(why),
            };
        }
        Ok(step)
    }

    /// Looks at what has come, of which nothing was seen before.
    ///
    /// # Errors
    /// What is wrong with the framing or the trailers.
    pub(super) fn step(&mut self, came: &[u8]) -> Result<Step, &'static str> {
        if self.bare {
            return self.bare_step(came);
        }
        let before = match self.trailers {
            Some(_) => 0,
            None => match self.scanner.scan(came) {
                BodyStep::More => return Ok(Step::pass(came.len(), false)),
                BodyStep::End(bytes) => return Ok(Step::pass(bytes, true)),
                BodyStep::Malformed(why) => return Err(why),
                BodyStep::Trailers(bytes) => bytes,
            },
        };
        let rest = &came[before..];
        let held = self.trailers.get_or_insert_default();
        let (bytes, end) = match self.scanner.scan(rest) {
            BodyStep::End(bytes) => (bytes, true),
            BodyStep::More | BodyStep::Trailers(_) => (rest.len(), false),
            BodyStep::Malformed(why) => return Err(why),
        };
        if end && held.is_empty() && &rest[..bytes] == NO_TRAILERS {
            return Ok(Step::pass(before + bytes, true));
        }
        held.extend_from_slice(&rest[..bytes]);
        Ok(Step {
            taken: before + bytes,
            passing: before,
            rewritten: if end {
                self.passing_trailers()?
            } else {
                Vec::new()
            },
            end,
        })
    }

    fn passing_trailers(&mut self) -> Result<Vec<u8>, &'static str> {
        let raw = self.trailers.take().unwrap_or_default();
        let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILERS];
        let fields = match httparse::parse_headers(&raw, &mut fields) {
            Ok(httparse::Status::Complete((len, fields))) if len == raw.len() => fields,
            Err(httparse::Error::TooManyHeaders) => return Err("more than 64 trailers"),
            _ => return Err("a bad trailer"),
        };
        let pairs = || fields.iter().map(|field| (field.name, field.value));
        let passing = Passing::of(self.section, pairs());
        let mut written = Vec::with_capacity(raw.len());
        for (name, value) in pairs().filter(|(name, _)| passing.lets(name)) {
            field(&mut written, name, value);
        }
        written.extend_from_slice(NO_TRAILERS);
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes of a chunked body that comes in pieces of this size.
    fn passed(text: &str, piece: usize) -> Result<String, &'static str> {
        let body = Body::new(BodyLength::Chunked, Section::RequestTrailers);
        passed_by(body, text, piece)
    }

    fn passed_by(mut body: Body, text: &str, piece: usize) -> Result<String, &'static str> {
        let (mut inbox, mut passed, mut ended) = (Vec::new(), Vec::new(), false);
        for piece in text.as_bytes().chunks(piece) {
            inbox.extend_from_slice(piece);
            while !inbox.is_empty() && !ended {
                let step = body.step(&inbox)?;
                passed.extend_from_slice(&inbox[..step.passing]);
                passed.extend_from_slice(&step.rewritten);
                inbox.drain(..step.taken);
                ended = step.end;
            }
        }
        assert!(ended, "{text:?}");
        Ok(String::from_utf8(passed).unwrap())
    }

    #[test]
    fn trailers_that_steer_are_taken_out_however_they_come() {
        let text = "3;x=y\r\none\r\n0;z\r\nHost: evil.example\r\nX-Kept: 1\r\nx_original_url: /secret\r\n\r\n";
        for piece in 1..text.len() {
            let passed = passed(text, piece).unwrap();
            assert_eq!(
                passed, "3;x=y\r\none\r\n0;z\r\nX-Kept: 1\r\n\r\n",
                "{piece}"
            );
        }
    }

    #[test]
    fn a_reader_without_chunks_gets_what_they_hold() {
        let text = "3;x=y\r\none\r\n4\r\n\r\ntw\r\n0\r\nX-Kept: 1\r\n\r\n";
        for piece in 1..text.len() {
            let body = Body::new(BodyLength::Chunked, Section::ResponseTrailers).bare();
            assert_eq!(
                passed_by(body, text, piece).unwrap(),
                "one\r\ntw",
                "{piece}"
            );
        }
        let body = Body::new(BodyLength::Chunked, Section::ResponseTrailers).bare();
        assert!(passed_by(body, "3\r\nfour\r\n0\r\n\r\n", 5).is_err());
    }

    #[test]
    fn a_body_without_trailers_passes_as_it_is() {
        let text = "3\r\none\r\n0\r\n\r\n";
        for piece in 1..text.len() {
            assert_eq!(passed(text, piece).unwrap(), text, "{piece}");
        }
    }

    #[test]
    fn trailers_that_are_none_are_malformed() {
        for bad in ["no colon", "Bad Name: x", " folded: x", ": x"] {
            let text = format!("0\r\n{bad}\r\n\r\n");
            assert_eq!(passed(&text, 1), Err("a bad trailer"), "{bad}");
        }
        let many = format!("0\r\n{}\r\n", "X: y\r\n".repeat(MAX_TRAILERS + 1));
        assert_eq!(passed(&many, 7), Err("more than 64 trailers"));
    }
}
