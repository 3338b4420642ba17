//! The request head that goes upstream: written anew from what was decided on, never passed on as
//! it came.
//!
//! Answers *HTTP framing* (docs/threats.md):
//! request line, `Host` and framing are written by the gateway.

use std::fmt::Write as _;

use portcullis_dial::AbsoluteForm;
use portcullis_wire::http1::{BodyLength, RequestHead};

use crate::request::{GATEWAY, Passing, Section};

/// What the head is written from, beside the client's own.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// `host` or `host:port`, as decided on.
    pub(crate) authority: &'a str,
    /// The path with its query.
    pub(crate) path: &'a str,
    /// The next hop is the upstream proxy: the target is written in absolute form.
    pub(crate) absolute: Option<&'a AbsoluteForm>,
    /// The protocols that a change is asked to.
    pub(crate) upgrade: Option<&'a [u8]>,
    /// We are a proxy to the client, and say so upstream (RFC 9110 section 7.6.3).
    pub(crate) explicit: bool,
}

/// Writes the head.
pub(crate) fn write(request: &RequestHead, raw: &[u8], plan: &Plan<'_>) -> Vec<u8> {
    let mut start = String::with_capacity(raw.len() + 128);
    let _ = write!(start, "{} ", request.method);
    match plan.absolute.map(|absolute| absolute.address) {
        // Host keeps the name: the proxy is to connect to what was checked.
        Some(Some(address)) => start.push_str(&format!("http://{address}")),
        Some(None) => start.push_str(&format!("http://{}", plan.authority)),
        None => {}
    }
    let minor = request.minor_version.min(1);
    let _ = write!(
        start,
        "{} HTTP/1.{minor}\r\nHost: {}\r\n",
        plan.path, plan.authority
    );
    let mut head = start.into_bytes();
    let passing = Passing::of(Section::Request, request.headers(raw));
    for (name, value) in request.headers(raw).filter(|(name, _)| passing.lets(name)) {
        field(&mut head, name, value);
    }
    match request.body {
        BodyLength::None => {}
        BodyLength::Length(length) => {
            field(&mut head, "Content-Length", length.to_string().as_bytes());
        }
        BodyLength::Chunked => field(&mut head, "Transfer-Encoding", b"chunked"),
    }
    if let Some(secret) = plan.absolute.and_then(|a| a.authorization.as_deref()) {
        field(&mut head, "Proxy-Authorization", secret.as_bytes());
    }
    if plan.explicit {
        field(&mut head, "Via", format!("1.{minor} {GATEWAY}").as_bytes());
    }
    if let Some(upgrade) = plan.upgrade {
        field(&mut head, "Connection", b"Upgrade");
        field(&mut head, "Upgrade", upgrade);
    } else if minor == 0 {
        // An answer to HTTP/1.0 ends with the connection, on both sides.
        head.extend_from_slice(b"Connection: close\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// One field line.
pub(super) fn field(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use portcullis_wire::http1::{HeadParse, read_head};
    use proptest::prelude::*;

    use super::*;

    /// A field that a client may send: names of every kind, values of printable bytes.
    fn any_field() -> impl Strategy<Value = String> {
        let name = prop_oneof![
            Just("Connection".to_owned()),
            Just("Proxy-Authorization".to_owned()),
            Just("X-Forwarded-For".to_owned()),
            Just("Via".to_owned()),
            Just("TE".to_owned()),
            "[A-Za-z][A-Za-z0-9-]{0,12}",
        ];
        let value = prop_oneof![Just("X-A, close".to_owned()), "[!-~]{0,12}( [!-~]{1,8})?"];
        (name, value).prop_map(|(name, value)| format!("{name}: {value}\r\n"))
    }

    proptest! {
        /// Whatever head was accepted, the one that is sent is accepted too, names what was
        /// decided on, and ends where ours ends.
        #[test]
        fn what_is_sent_reads_as_what_was_decided(
            method in "[A-Z]{1,8}",
            fields in proptest::collection::vec(any_field(), 0..8),
            length in proptest::option::of(0u64..1_000_000),
        ) {
            prop_assume!(method != "CONNECT");
            let length = length.map(|n| format!("Content-Length: {n}\r\n")).unwrap_or_default();
            let raw = format!(
                "{method} http://a.example/p?q=1 HTTP/1.1\r\nHost: a.example\r\n{}{length}\r\n",
                fields.concat()
            );
            let HeadParse::Head(request) = read_head(raw.as_bytes()) else { return Ok(()) };
            let plan = Plan {
                authority: "a.example:8080",
                path: "/p?q=1",
                absolute: None,
                upgrade: None,
                explicit: true,
            };
            let sent = write(&request, raw.as_bytes(), &plan);
            let HeadParse::Head(read) = read_head(&sent) else {
                panic!("{}", String::from_utf8_lossy(&sent))
            };
            prop_assert_eq!(read.head_len, sent.len());
            prop_assert_eq!(&read.method, &request.method);
            prop_assert_eq!(read.body, request.body);
            let (host, port) = read.host.clone().unwrap();
            prop_assert_eq!((host.to_string(), port), ("a.example".to_owned(), Some(8080)));
            let ours = |name: &str| {
                let name = name.to_ascii_lowercase();
                !name.starts_with("proxy-") && !name.starts_with("x-forwarded-")
            };
            prop_assert!(read.headers(&sent).all(|(name, _)| ours(name)));
            prop_assert_eq!(read.headers(&sent).filter(|(n, _)| n.eq_ignore_ascii_case("via")).count(), 1);
        }
    }

    fn rewrite<'p>(raw: &str, change: impl FnOnce(&mut Plan<'p>)) -> String {
        let HeadParse::Head(request) = read_head(raw.as_bytes()) else {
            panic!("not a head: {raw}")
        };
        let mut plan = Plan {
            authority: "a.example",
            path: "/p?q=1",
            absolute: None,
            upgrade: None,
            explicit: true,
        };
        change(&mut plan);
        String::from_utf8(write(&request, raw.as_bytes(), &plan)).unwrap()
    }

    #[test]
    fn the_target_is_what_was_decided_on() {
        let raw = "GET http://a.example/p?q=1 HTTP/1.1\r\nhost: A.EXAMPLE.\r\nAccept: */*\r\n\r\n";
        assert_eq!(
            rewrite(raw, |_| {}),
            "GET /p?q=1 HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nVia: 1.1 portcullis\r\n\r\n"
        );
        let form = |authorization, address| AbsoluteForm {
            authorization,
            address,
        };
        let to_proxy = |form: &AbsoluteForm| rewrite(raw, |plan| plan.absolute = Some(form));
        let sent = to_proxy(&form(None, None));
        assert!(sent.starts_with("GET http://a.example/p?q=1 HTTP/1.1\r\nHost: a.example\r\n"));
        assert!(!sent.contains("Proxy-Authorization"));
        let sent = to_proxy(&form(None, Some(([192, 0, 2, 1], 80).into())));
        assert!(sent.starts_with("GET http://192.0.2.1:80/p?q=1 HTTP/1.1\r\nHost: a.example\r\n"));
        let sent = to_proxy(&form(Some("Basic dTpw".into()), None));
        assert_eq!(
            sent.matches("Proxy-Authorization: Basic dTpw\r\n").count(),
            1,
            "{sent}"
        );
        assert!(!rewrite(raw, |plan| plan.explicit = false).contains("Via"));
    }

    #[test]
    fn framing_is_written_once_and_anew() {
        let raw =
            "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 007\r\n\r\n";
        let sent = rewrite(raw, |_| {});
        assert_eq!(sent.matches("Content-Length: 7\r\n").count(), 1, "{sent}");
        let raw = "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\
                   transfer-encoding: Chunked\r\n\r\n";
        let sent = rewrite(raw, |_| {});
        assert_eq!(
            sent.to_ascii_lowercase()
                .matches("transfer-encoding: chunked\r\n")
                .count(),
            1
        );
    }

    #[test]
    fn an_upgrade_to_websocket_is_asked_for_in_our_words_and_h2c_is_not() {
        let raw = "GET /p HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                   Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n\r\n";
        let sent = rewrite(raw, |_| {}).to_ascii_lowercase();
        assert!(
            !sent.contains("upgrade") && !sent.contains("http2"),
            "{sent}"
        );
        let raw = "GET /p HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
        let sent = rewrite(raw, |plan| plan.upgrade = Some(b"websocket"));
        assert!(
            sent.ends_with("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
            "{sent}"
        );
        assert!(sent.contains("Sec-WebSocket-Key: x"));
    }
}
