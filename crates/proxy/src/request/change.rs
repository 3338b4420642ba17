//! Which requests of HTTP/1.1 may change to another protocol, and to which (RFC 9110 section 7.8).
//!
//! Answers *Upgrade* (docs/threats.md): HTTP itself is no other protocol. Behind `h2c`, requests for other
//! hosts would go unseen, so a request for it goes on without its `Upgrade` and is answered in HTTP/1.1.

use portcullis_wire::http1::{BodyLength, RequestHead, Upgrade};

/// A change of protocol that a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Change {
    /// None, or one that is not passed on.
    #[default]
    None,
    /// To a WebSocket, which belongs to the path that it was asked for by.
    WebSocket,
    /// To something else (Docker's `tcp`, `SPDY/3.1`).
    Other,
}

impl Change {
    /// What a request asks for.
    pub(crate) fn of(head: &RequestHead) -> Change {
        let bodiless = matches!(head.body, BodyLength::None | BodyLength::Length(0));
        match head.upgrade {
            _ if head.minor_version == 0 => Change::None,
            Upgrade::WebSocket if &*head.method == "GET" && bodiless => Change::WebSocket,
            Upgrade::Other => Change::Other,
            Upgrade::None | Upgrade::Http | Upgrade::WebSocket => Change::None,
        }
    }
}

/// Whether all protocols that an answer names are among those that a request asked for.
pub(crate) fn was_asked_for(answered: &[u8], asked: &[u8]) -> bool {
    let names = |list: &'_ [u8]| -> Vec<Vec<u8>> {
        let names = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.map(<[u8]>::to_ascii_lowercase).collect()
    };
    let asked = names(asked);
    names(answered).iter().all(|name| asked.contains(name))
}

#[cfg(test)]
mod tests {
    use portcullis_wire::http1::{HeadParse, read_head};

    use super::*;

    fn asked(line: &str, fields: &str) -> Change {
        let head = format!("{line}\r\nhost: a.example\r\n{fields}\r\n\r\n");
        match read_head(head.as_bytes()) {
            HeadParse::Head(head) => Change::of(&head),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_plain_request_for_a_websocket_is_one() {
        let ask = "connection: keep-alive, Upgrade\r\nupgrade: WebSocket";
        assert_eq!(asked("GET / HTTP/1.1", ask), Change::WebSocket);
        for (line, fields) in [
            ("POST / HTTP/1.1", ask),
            ("GET / HTTP/1.0", ask),
            ("GET / HTTP/1.1", "upgrade: websocket"),
            ("GET / HTTP/1.1", &format!("{ask}\r\ncontent-length: 5")),
            (
                "GET / HTTP/1.1",
                &format!("{ask}\r\ntransfer-encoding: chunked"),
            ),
        ] {
            assert_eq!(asked(line, fields), Change::None, "{line} {fields}");
        }
    }

    #[test]
    fn http_is_no_other_protocol_however_it_is_written() {
        let change = |protocols: &str| {
            let fields = format!("connection: upgrade\r\nupgrade: {protocols}");
            asked("POST / HTTP/1.1", &fields)
        };
        for other in [
            "tcp",
            "SPDY/3.1",
            "websocket, tcp",
            "irc/6.9, x-y",
            "httpx",
            "h2cc",
        ] {
            assert_eq!(change(other), Change::Other, "{other}");
        }
        for http in [
            "h2c",
            "h2c-14",
            "H2C",
            "tcp, h2c",
            "websocket, h2c",
            "h2c, websocket",
            "HTTP/2.0",
            "http/1.1, tcp",
            "TLS/1.0",
            "h2",
            "h2c/1",
            "tcp\r\nupgrade: h2c",
            "h2c\r\nupgrade: tcp",
        ] {
            assert_eq!(change(http), Change::None, "{http}");
        }
        assert_eq!(
            asked("GET / HTTP/1.0", "connection: upgrade\r\nupgrade: tcp"),
            Change::None
        );
    }

    #[test]
    fn an_answer_may_choose_among_what_was_asked_for() {
        for (answered, asked) in [
            ("tcp", "tcp"),
            ("SPDY/3.1", "irc, spdy/3.1"),
            ("a, b", "b,a"),
        ] {
            assert!(was_asked_for(answered.as_bytes(), asked.as_bytes()));
        }
        for (answered, asked) in [
            ("h2c", "tcp"),
            ("tcp, h2c", "tcp"),
            ("", "tcp"),
            ("tc", "tcp"),
        ] {
            assert!(!was_asked_for(answered.as_bytes(), asked.as_bytes()));
        }
    }
}
