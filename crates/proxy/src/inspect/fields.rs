//! The core's lists of fields, applied to hyper's messages.

use hyper::ext::Protocol;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, TE, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Method, Version};

use super::frames::MARK;
use crate::request::{Passing, Section};

/// Takes out of a request what is not for upstream. `Host` is written anew by the caller.
pub(super) fn for_upstream(fields: &mut HeaderMap, version: Version) {
    // gRPC asks for trailers by it; in HTTP/2 it has no other meaning (RFC 9113 section 8.2.2).
    let trailers = version == Version::HTTP_2
        && fields
            .get(TE)
            .is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    retain_head(fields, Section::Request);
    // The gateway itself asks the program for its body (100 Continue) once upstream takes it.
    fields.remove(EXPECT);
    if trailers {
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes out of an answer what is not for the program.
pub(super) fn for_program(fields: &mut HeaderMap) {
    retain_head(fields, Section::Response);
}

/// Takes out of one section what does not pass.
pub(super) fn retain(fields: &mut HeaderMap, section: Section) {
    let passing = Passing::of(section, pairs(fields));
    let gone = fields.keys().filter(|name| !passing.lets(name.as_str()));
    let gone: Vec<HeaderName> = gone.cloned().collect();
    for name in gone {
        fields.remove(name);
    }
}

/// The same of a head, in which hyper takes the length of the body from its field.
fn retain_head(fields: &mut HeaderMap, section: Section) {
    let length = fields.get(CONTENT_LENGTH).cloned();
    retain(fields, section);
    if let Some(length) = length {
        fields.insert(CONTENT_LENGTH, length);
    }
}

/// Names and values, as the core reads them.
pub(super) fn pairs(fields: &HeaderMap) -> impl Iterator<Item = (&str, &[u8])> {
    let fields = fields.iter();
    fields.map(|(name, value)| (name.as_str(), value.as_bytes()))
}

/// The protocols that a head names in its `Upgrade` fields.
pub(super) fn upgrade(fields: &HeaderMap) -> Option<HeaderValue> {
    let named: Vec<&[u8]> = fields
        .get_all(UPGRADE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let named = HeaderValue::from_bytes(&named.join(&b", "[..])).ok();
    named.filter(|named| !named.is_empty())
}

/// The two fields of a change to these protocols.
pub(super) fn change_to(fields: &mut HeaderMap, protocols: HeaderValue) {
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(UPGRADE, protocols);
}

/// Whether the request is marked as one whose path was cut off at its `#`.
pub(super) fn is_marked(parts: &Parts) -> bool {
    parts.version == Version::HTTP_2 && parts.headers.contains_key(MARK)
}

/// Whether the request is one of HTTP/2 for a WebSocket (RFC 8441 section 4).
pub(super) fn is_extended_websocket(parts: &Parts) -> bool {
    let protocol = parts.extensions.get::<Protocol>();
    parts.method == Method::CONNECT && protocol.is_some_and(|own| own.as_str() == "websocket")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> HeaderMap {
        let line = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        };
        text.lines().map(line).collect()
    }

    fn names(fields: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = fields.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn client_sent_proxy_fields_do_not_get_through() {
        let mut sent = fields(
            "host: a.example\nproxy-authorization: Basic eA==\nProxy-Foo: x\nx-forwarded-for: 1.2.3.4\n\
             forwarded: for=1.2.3.4\nvia: 1.1 evil\nconnection: keep-alive, X-Secret, content-length\n\
             x-secret: y\nkeep-alive: 5\nte: trailers\nexpect: 100-continue\nupgrade: h2c\n\
             http2-settings: AAMA\ncontent-length: 3\nx-kept: z",
        );
        for_upstream(&mut sent, Version::HTTP_11);
        assert_eq!(names(&sent), ["content-length", "x-kept"]);
    }

    #[test]
    fn grpc_still_asks_for_trailers() {
        let mut sent = fields("te: trailers\ncontent-type: application/grpc");
        for_upstream(&mut sent, Version::HTTP_2);
        assert_eq!(sent[TE], "trailers");
        let mut other = fields("te: gzip");
        for_upstream(&mut other, Version::HTTP_2);
        assert!(other.is_empty());
    }
}
