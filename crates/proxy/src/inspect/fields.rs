//! The core's lists of fields, applied to hyper's messages.

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::{Method, Version};

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

/// The two fields of a change to WebSocket.
pub(super) fn to_websocket(fields: &mut HeaderMap) {
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Whether the request asks for a WebSocket. Nothing else is changed to: behind h2c, requests for
/// other hosts would go unseen.
pub(super) fn wants_websocket(method: &Method, version: Version, fields: &HeaderMap) -> bool {
    let has = |name: HeaderName, word: &str| {
        fields.get_all(name).iter().any(|value| {
            let mut tokens = value
                .as_bytes()
                .split(|b| *b == b',')
                .map(<[u8]>::trim_ascii);
            tokens.any(|token| token.eq_ignore_ascii_case(word.as_bytes()))
        })
    };
    let bodiless = !fields.contains_key(TRANSFER_ENCODING)
        && fields
            .get(CONTENT_LENGTH)
            .is_none_or(|length| length.as_bytes() == b"0");
    version == Version::HTTP_11
        && method == Method::GET
        && bodiless
        && fields.get_all(UPGRADE).iter().count() == 1
        && fields
            .get(UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && has(CONNECTION, "upgrade")
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

    #[test]
    fn only_a_plain_request_for_a_websocket_is_one() {
        let ask = "connection: keep-alive, Upgrade\nupgrade: WebSocket\nsec-websocket-key: x";
        let wants = |text: &str| wants_websocket(&Method::GET, Version::HTTP_11, &fields(text));
        assert!(wants(ask));
        assert!(!wants_websocket(
            &Method::POST,
            Version::HTTP_11,
            &fields(ask)
        ));
        assert!(!wants_websocket(
            &Method::GET,
            Version::HTTP_10,
            &fields(ask)
        ));
        for odd in [
            "connection: upgrade\nupgrade: h2c",
            "connection: upgrade\nupgrade: websocket, h2c",
            "upgrade: websocket",
            &format!("{ask}\nupgrade: h2c"),
            &format!("{ask}\ncontent-length: 5"),
            &format!("{ask}\ntransfer-encoding: chunked"),
        ] {
            assert!(!wants(odd), "{odd}");
        }
    }
}
