//! The client's first bytes in a tunnel, held until it is known what they are.
//!
//! Answers "CONNECT to A with SNI B", "SNI split over records or segments" and "ClientHello of
//! 16 KiB": not a byte goes upstream before the whole ClientHello was read. What the server says
//! meanwhile is passed on, so protocols in which the server speaks first do not stall.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use portcullis_record::CloseReason;
use portcullis_wire::{http1, tls};
use tokio::time::{Sleep, sleep};

use crate::limits::HELLO_TIMEOUT;
use crate::relay::Relay;

/// What a client's first bytes are.
#[derive(Debug)]
pub(crate) enum First {
    /// A whole ClientHello.
    Tls(Box<tls::ClientHello>),
    /// TLS that no honest client sends.
    BadTls(&'static str),
    /// HTTP/1: read its head.
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// Something else, or nothing at all.
    Other,
    /// Bytes that did not tell in time.
    Slow,
    /// The flow is over.
    Over(CloseReason),
}

/// Which protocols make a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// TLS only: the name is known, everything else passes.
    Tls,
    /// HTTP too: only an address is known.
    TlsAndHttp,
}

/// Waits for the first bytes.
pub(crate) struct Peek {
    pending: Vec<u8>,
    look: Look,
    ended: bool,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Peek {
    /// `pending` holds what the client has sent already.
    pub(crate) fn new(look: Look, pending: Vec<u8>) -> Peek {
        Peek {
            pending,
            look,
            ended: false,
            deadline: None,
        }
    }

    /// What the client sent so far.
    pub(crate) fn into_pending(self) -> Vec<u8> {
        self.pending
    }

    /// Waits until the first bytes are known. Dropping the future loses nothing: call it again.
    pub(crate) async fn first(&mut self, relay: &mut Relay) -> First {
        if let Some(first) = self.classify() {
            return first;
        }
        poll_fn(|cx| self.poll(cx, relay)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, relay: &mut Relay) -> Poll<First> {
        while let Poll::Ready(read) = relay.poll_client(cx, &mut self.pending) {
            match read {
                Ok(read) => self.ended = read == 0,
                Err(end) => return Poll::Ready(First::Over(end)),
            }
            if let Some(first) = self.classify() {
                return Poll::Ready(first);
            }
        }
        if self.pending.is_empty() {
            return Poll::Pending; // the client may be silent for as long as it likes
        }
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep(HELLO_TIMEOUT)));
        deadline.as_mut().poll(cx).map(|()| First::Slow)
    }

    fn classify(&self) -> Option<First> {
        if self.pending.is_empty() {
            return self.ended.then_some(First::Other);
        }
        match tls::read_client_hello(&self.pending) {
            tls::Hello::ClientHello(hello) => Some(First::Tls(Box::new(hello))),
            tls::Hello::Malformed(why) => Some(First::BadTls(why)),
            tls::Hello::NeedMore if !self.ended => None,
            tls::Hello::NeedMore => Some(match tls::looks_like_tls(&self.pending) {
                tls::Sniff::Yes => First::BadTls("the stream ends inside the ClientHello"),
                tls::Sniff::NeedMore | tls::Sniff::No => First::Other,
            }),
            tls::Hello::NotTls if self.look == Look::Tls => Some(First::Other),
            tls::Hello::NotTls => match http1::sniff(&self.pending) {
                http1::Sniff::NeedMore => self.ended.then_some(First::Other),
                http1::Sniff::Http => Some(First::Http),
                http1::Sniff::Http2 => Some(First::Http2),
                http1::Sniff::Other => Some(First::Other),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(look: Look, bytes: &[u8], ended: bool) -> Option<First> {
        let mut peek = Peek::new(look, bytes.to_vec());
        peek.ended = ended;
        peek.classify()
    }

    #[test]
    fn a_silent_client_is_waited_for_and_its_end_passes() {
        assert!(first(Look::Tls, b"", false).is_none());
        assert!(matches!(first(Look::Tls, b"", true), Some(First::Other)));
    }

    #[test]
    fn a_hello_that_ends_early_never_passes() {
        let start = [22, 3, 1, 0, 100, 1, 0, 0, 96];
        assert!(first(Look::Tls, &start, false).is_none());
        assert!(matches!(
            first(Look::Tls, &start, true),
            Some(First::BadTls(_))
        ));
    }

    #[test]
    fn http_matters_only_where_nothing_but_an_address_is_known() {
        let request = b"GET / HTTP/1.1\r\n";
        assert!(matches!(
            first(Look::Tls, request, false),
            Some(First::Other)
        ));
        assert!(matches!(
            first(Look::TlsAndHttp, request, false),
            Some(First::Http)
        ));
        assert!(matches!(
            first(Look::TlsAndHttp, b"SSH-2.0-x\r\n", false),
            Some(First::Other)
        ));
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        assert!(matches!(
            first(Look::TlsAndHttp, preface, false),
            Some(First::Http2)
        ));
        assert!(first(Look::TlsAndHttp, b"GE", false).is_none());
        assert!(matches!(
            first(Look::TlsAndHttp, b"GE", true),
            Some(First::Other)
        ));
    }
}
