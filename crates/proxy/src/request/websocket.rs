//! Which requests of HTTP/1.1 may become a WebSocket.

use portcullis_wire::http1::{BodyLength, RequestHead, Upgrade};

/// Whether the request asks for a WebSocket, the one change of protocol that is passed on: behind h2c,
/// requests for other hosts would go unseen.
pub(crate) fn wants_websocket(head: &RequestHead) -> bool {
    head.upgrade == Upgrade::WebSocket
        && &*head.method == "GET"
        && head.minor_version == 1
        && matches!(head.body, BodyLength::None | BodyLength::Length(0))
}

#[cfg(test)]
mod tests {
    use portcullis_wire::http1::{HeadParse, read_head};

    use super::*;

    #[test]
    fn only_a_plain_request_for_a_websocket_is_one() {
        let wants = |line: &str, fields: &str| {
            let head = format!("{line}\r\nhost: a.example\r\n{fields}\r\n\r\n");
            match read_head(head.as_bytes()) {
                HeadParse::Head(head) => wants_websocket(&head),
                other => panic!("{other:?}"),
            }
        };
        let ask = "connection: keep-alive, Upgrade\r\nupgrade: WebSocket";
        assert!(wants("GET / HTTP/1.1", ask));
        assert!(!wants("POST / HTTP/1.1", ask));
        assert!(!wants("GET / HTTP/1.0", ask));
        for odd in [
            "connection: upgrade\r\nupgrade: h2c",
            "connection: upgrade\r\nupgrade: websocket, h2c",
            "upgrade: websocket",
            &format!("{ask}\r\nupgrade: h2c"),
            &format!("{ask}\r\ncontent-length: 5"),
            &format!("{ask}\r\ntransfer-encoding: chunked"),
        ] {
            assert!(!wants("GET / HTTP/1.1", odd), "{odd}");
        }
    }
}
