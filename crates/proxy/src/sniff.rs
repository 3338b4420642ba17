//! The client's first bytes in a tunnel, held until it is known what they are.
//!
//! Answers *CONNECT to A with SNI B*, *SNI split over records or segments* and *ClientHello of
//! 16 KiB* (docs/threats.md): not a byte goes upstream before the whole ClientHello was read. What the server says
//! meanwhile is passed on, so protocols in which the server speaks first do not stall.
//!
//! One exception keeps other protocols alive: a line that has not ended is no request to any server. One
//! that begins like a method (`PU`) is held for [`UNDECIDED_WAIT`] or [`LINE_WAIT`] only, any other (`ruok`, a
//! binary protocol) not at all. What follows is looked at together with it, so that
//! a request in pieces is still found before its line or its Host is out.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use portcullis_record::CloseReason;
use portcullis_wire::{http1, tls};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::limits::{HELLO_TIMEOUT, LINE_WAIT, UNDECIDED_WAIT};
use crate::relay::Relay;

/// What a client's first bytes are.
#[derive(Debug)]
pub(crate) enum Sniffed {
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
    /// A word that may still become a request, and for now nothing more: let it through with
    /// [`Sniffer::release`], and go on looking.
    Undecided,
    /// Bytes that did not tell in time.
    Slow,
    /// The flow is over.
    Over(CloseReason),
}

impl Sniffed {
    /// What it is, for a trace.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Sniffed::Tls(_) => "tls",
            Sniffed::BadTls(why) => why,
            Sniffed::Http => "http",
            Sniffed::Http2 => "http2",
            Sniffed::Other => "other",
            Sniffed::Undecided => "undecided",
            Sniffed::Slow => "slow",
            Sniffed::Over(_) => "over",
        }
    }
}

/// What has to be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// TLS and HTTP, which show a name; everything else passes.
    TlsAndHttp,
    /// The same, and nothing passes before it is known to be that.
    OnlyHttp,
}

/// Waits for the first bytes.
pub(crate) struct Sniffer {
    pending: Vec<u8>,
    /// How much of `pending` is upstream already.
    released: usize,
    look: Look,
    ended: bool,
    /// Bytes of a first line that passes while it is watched.
    watched: Option<usize>,
    /// How long it may take until it is known what the bytes are, from the first one on.
    patience: Duration,
    /// When the first of the bytes that are held came, and how long they may be.
    held: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Sniffer {
    /// `pending` holds what the client has sent already.
    pub(crate) fn new(look: Look, pending: Vec<u8>) -> Sniffer {
        Sniffer {
            pending,
            released: 0,
            look,
            ended: false,
            watched: None,
            patience: HELLO_TIMEOUT,
            held: None,
        }
    }

    /// Another time than [`HELLO_TIMEOUT`].
    pub(crate) fn within(self, patience: Duration) -> Sniffer {
        Sniffer { patience, ..self }
    }

    /// What the client sent so far and upstream has not got.
    pub(crate) fn into_pending(mut self) -> Vec<u8> {
        self.pending.split_off(self.released)
    }

    /// What the client sent, as far as it is kept.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Whether the client has said nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Gives what is held to be passed on. It is kept for what is still to come, of a watched line as
    /// much as is needed.
    pub(crate) fn release(&mut self) -> Vec<u8> {
        let bytes = self.pending[self.released..].to_vec();
        if let Some(watched) = &mut self.watched {
            *watched += bytes.len();
            let tail = self.pending.len().min(http1::WATCHED_TAIL_BYTES);
            self.pending = self.pending.split_off(self.pending.len() - tail);
        }
        self.released = self.pending.len();
        self.held = None;
        bytes
    }

    /// Whether some of the client's bytes passed before it was known what they are.
    pub(crate) fn has_released(&self) -> bool {
        self.released > 0
    }

    /// Waits until the first bytes are known. Dropping the future loses nothing: call it again.
    pub(crate) async fn sniff(&mut self, relay: &mut Relay) -> Sniffed {
        if let Some(first) = self.classify() {
            return first;
        }
        poll_fn(|cx| self.poll(cx, relay)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, relay: &mut Relay) -> Poll<Sniffed> {
        while let Poll::Ready(read) = relay.poll_client(cx, &mut self.pending) {
            match read {
                Ok(read) => self.ended = read == 0,
                Err(end) => return Poll::Ready(Sniffed::Over(end)),
            }
            if let Some(first) = self.classify() {
                return Poll::Ready(first);
            }
        }
        if self.watched.is_some() && relay.upstream_spoke() {
            // A server of HTTP says nothing before it has read a line.
            return Poll::Ready(Sniffed::Other);
        }
        if self.pending.len() == self.released {
            return Poll::Pending; // the client may be silent for as long as it likes
        }
        let (wait, then) = match self.hold() {
            http1::Hold::Short => (UNDECIDED_WAIT, Sniffed::Undecided),
            http1::Hold::Long => (LINE_WAIT, Sniffed::Undecided),
            http1::Hold::Firm => (self.patience, Sniffed::Slow),
        };
        let (since, sleep) = self.held.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(sleep_until(now + wait)))
        });
        let deadline = *since + wait;
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx).map(|()| then)
    }

    /// How long what is undecided is held. TLS is, and whatever comes where nothing but HTTP may.
    fn hold(&self) -> http1::Hold {
        match tls::looks_like_tls(&self.pending) {
            tls::Sniff::No if self.look == Look::TlsAndHttp => http1::hold(&self.pending),
            _ => http1::Hold::Firm,
        }
    }

    fn classify(&mut self) -> Option<Sniffed> {
        if let Some(watched) = self.watched {
            return match http1::watch(&self.pending) {
                http1::Sniff::Http => Some(Sniffed::Http),
                http1::Sniff::Watch if !self.ended && watched < http1::MAX_WATCHED_BYTES => {
                    (self.pending.len() > self.released).then_some(Sniffed::Undecided)
                }
                _ => Some(Sniffed::Other),
            };
        }
        if self.pending.is_empty() {
            return self.ended.then_some(Sniffed::Other);
        }
        match tls::read_client_hello(&self.pending) {
            tls::Hello::ClientHello(hello) => Some(Sniffed::Tls(Box::new(hello))),
            tls::Hello::Malformed(why) => Some(Sniffed::BadTls(why)),
            tls::Hello::NeedMore if !self.ended => None,
            tls::Hello::NeedMore => Some(match tls::looks_like_tls(&self.pending) {
                tls::Sniff::Yes => Sniffed::BadTls("the stream ends inside the ClientHello"),
                tls::Sniff::NeedMore | tls::Sniff::No => Sniffed::Other,
            }),
            tls::Hello::NotTls => match http1::sniff(&self.pending) {
                http1::Sniff::NeedMore => self.ended.then_some(Sniffed::Other),
                http1::Sniff::Http => Some(Sniffed::Http),
                http1::Sniff::Http2 => Some(Sniffed::Http2),
                http1::Sniff::Watch if self.look == Look::TlsAndHttp => {
                    self.watched = Some(0);
                    self.classify()
                }
                http1::Sniff::Watch | http1::Sniff::Other => Some(Sniffed::Other),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(look: Look, bytes: &[u8], ended: bool) -> Option<Sniffed> {
        let mut peek = Sniffer::new(look, bytes.to_vec());
        peek.ended = ended;
        peek.classify()
    }

    #[test]
    fn a_silent_client_is_waited_for_and_its_end_passes() {
        assert!(first(Look::TlsAndHttp, b"", false).is_none());
        assert!(matches!(
            first(Look::TlsAndHttp, b"", true),
            Some(Sniffed::Other)
        ));
    }

    #[test]
    fn a_hello_that_ends_early_never_passes() {
        let start = [22, 3, 1, 0, 100, 1, 0, 0, 96];
        assert!(first(Look::TlsAndHttp, &start, false).is_none());
        assert!(matches!(
            first(Look::TlsAndHttp, &start, true),
            Some(Sniffed::BadTls(_))
        ));
    }

    #[test]
    fn only_a_word_is_let_through_undecided() {
        let may =
            |look, bytes: &[u8]| Sniffer::new(look, bytes.to_vec()).hold() != http1::Hold::Firm;
        for word in [&b"ruok"[..], b"12345"] {
            let passes = first(Look::TlsAndHttp, word, false);
            assert!(matches!(passes, Some(Sniffed::Undecided)), "{word:?}");
            assert!(
                !matches!(first(Look::OnlyHttp, word, false), Some(Sniffed::Undecided)),
                "{word:?} passes where only HTTP may"
            );
        }
        for word in [&b"GE"[..], b"GET", b"PRI", b"\r\n"] {
            assert!(first(Look::TlsAndHttp, word, false).is_none(), "{word:?}");
            assert!(may(Look::TlsAndHttp, word), "{word:?}");
            assert!(!may(Look::OnlyHttp, word), "a word is not a request yet");
        }
        let tls = [22, 3, 1, 0, 100, 1, 0, 0, 96];
        for held in [&tls[..1], &tls[..3], &tls, b"GET ", b"PRI *"] {
            assert!(first(Look::TlsAndHttp, held, false).is_none(), "{held:?}");
            assert!(!may(Look::TlsAndHttp, held), "{held:?}");
        }
    }

    #[test]
    fn a_request_in_pieces_is_seen_whole() {
        let mut peek = Sniffer::new(Look::TlsAndHttp, b"GE".to_vec());
        assert_eq!(peek.release(), b"GE");
        peek.pending.extend_from_slice(b"T");
        assert!(peek.classify().is_none());
        assert_eq!(peek.release(), b"T", "nothing twice");
        peek.pending.extend_from_slice(b" / HTTP/1.1\r\n");
        assert!(matches!(peek.classify(), Some(Sniffed::Http)));
        assert!(peek.has_released());
        assert_eq!(peek.into_pending(), b" / HTTP/1.1\r\n");
        // And blank lines, of which there is no end, have one.
        let blank = vec![b'\n'; http1::MAX_SNIFF_BYTES];
        assert!(matches!(
            first(Look::TlsAndHttp, &blank, false),
            Some(Sniffed::Http)
        ));
    }

    #[test]
    fn http_is_told_from_what_passes() {
        let found = |bytes: &[u8], ended| first(Look::TlsAndHttp, bytes, ended);
        let request = b"GET / HTTP/1.1\r\n";
        assert!(matches!(found(request, false), Some(Sniffed::Http)));
        let other = b"SSH-2.0-x\r\n";
        assert!(matches!(found(other, false), Some(Sniffed::Other)));
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        assert!(matches!(found(preface, false), Some(Sniffed::Http2)));
        assert!(found(b"GE", false).is_none());
        assert!(matches!(found(b"GE", true), Some(Sniffed::Other)));
    }

    #[test]
    fn a_binary_protocol_passes_at_once_and_is_watched_to_the_line_s_end() {
        let start = b"\0\0\0\x08\x04\xd2\x16\x2f";
        let strict = first(Look::OnlyHttp, start, false);
        assert!(matches!(strict, Some(Sniffed::Other)), "refused there");
        let mut peek = Sniffer::new(Look::TlsAndHttp, start.to_vec());
        assert!(matches!(peek.classify(), Some(Sniffed::Undecided)));
        assert_eq!(peek.release(), start);
        assert!(peek.classify().is_none(), "nothing new");
        peek.pending.extend_from_slice(b" / HTT");
        assert!(matches!(peek.classify(), Some(Sniffed::Undecided)));
        assert_eq!(peek.release(), b" / HTT");
        peek.pending.extend_from_slice(b"P/1.1\r\n");
        assert!(matches!(peek.classify(), Some(Sniffed::Http)) && peek.has_released());
        let mut peek = Sniffer::new(Look::TlsAndHttp, start.to_vec());
        peek.classify();
        peek.release();
        peek.pending.extend_from_slice(b"more\nGET / HTTP/1.1\r\n");
        assert!(matches!(peek.classify(), Some(Sniffed::Other)));
    }
}
