//! The fields of requests and answers that pass through an inspected connection: those of one hop
//! stay behind, and nobody speaks for the gateway.
//!
//! Answers "client-sent `Proxy-*`, `X-Forwarded-*`, `Via` do not steer anything": what the plain
//! entrance takes out (see `http::request`) is taken out here too.

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Method, Version};

use crate::http_only;

/// Fields of one hop (RFC 9110 section 7.6.1) and fields by which somebody would speak as a proxy.
const HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
    "te",
    "via",
    "forwarded",
];
/// The fields that upstream would speak by as the gateway.
const OURS: &str = "x-proxy-error";

/// Takes out of a request what is not for upstream. `Host` is written anew by the caller.
pub(super) fn for_upstream(fields: &mut HeaderMap, version: Version) {
    // gRPC asks for trailers by it; in HTTP/2 it has no other meaning (RFC 9113 section 8.2.2).
    let trailers = version == Version::HTTP_2
        && fields
            .get(TE)
            .is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip(fields);
    fields.remove(HOST);
    fields.remove("http2-settings");
    // The gateway itself asks the program for its body (100 Continue) once upstream takes it.
    fields.remove(EXPECT);
    if trailers {
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes out of a request's trailers what no request may say of itself there: servers add them to
/// the fields that were decided on.
pub(super) fn behind_body(trailers: &mut HeaderMap) {
    let version = Version::HTTP_11;
    for_upstream(trailers, version);
    trailers.remove(CONTENT_LENGTH);
    let known: Vec<HeaderName> = trailers.keys().cloned().collect();
    for name in known
        .into_iter()
        .filter(|name| http_only::is_steering(name.as_str()))
    {
        trailers.remove(name);
    }
}

/// Takes out of an answer what is not for the program.
pub(super) fn for_program(fields: &mut HeaderMap) {
    strip(fields);
    fields.remove(OURS);
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
        && has(UPGRADE, "websocket")
        && has(CONNECTION, "upgrade")
}

fn strip(fields: &mut HeaderMap) {
    let mut gone: Vec<HeaderName> = fields
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        // How a message ends is not the sender's to take back.
        .filter(|name| name != CONTENT_LENGTH && name != HOST)
        .collect();
    gone.extend(HOP.map(HeaderName::from_static));
    let speaks = |name: &&HeaderName| {
        name.as_str().starts_with("proxy-") || name.as_str().starts_with("x-forwarded-")
    };
    gone.extend(fields.keys().filter(speaks).cloned());
    for name in gone {
        fields.remove(name);
    }
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
    fn trailers_do_not_say_what_fields_may_not() {
        let mut sent = fields(
            "host: evil.example\ncontent-length: 9\ntransfer-encoding: chunked\n\
             x-forwarded-host: evil.example\nproxy-authorization: x\nx-original-url: /secret\n\
             grpc-status: 0",
        );
        behind_body(&mut sent);
        assert_eq!(names(&sent), ["grpc-status"]);
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
    fn upstream_does_not_speak_as_the_gateway() {
        let mut sent = fields(
            "x-proxy-error: blocked-by-allowlist\nproxy-status: portcullis\nserver: x\n\
             connection: close, x-hop\nx-hop: 1\ntrailer: grpc-status",
        );
        for_program(&mut sent);
        assert_eq!(names(&sent), ["server", "trailer"]);
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
            "upgrade: websocket",
            &format!("{ask}\nupgrade: h2c"),
            &format!("{ask}\ncontent-length: 5"),
            &format!("{ask}\ntransfer-encoding: chunked"),
        ] {
            assert!(!wants(odd), "{odd}");
        }
    }
}
