//! Request heads on their way to hyper: read strictly first, and within their time.
//!
//! Answers *HTTP framing*
//! (docs/threats.md) inside TLS: hyper repairs what it can, and a head that is repaired is one that two
//! readers take differently. So HTTP/1.1 passes here head by head, each read by the reader that plain
//! HTTP has; what that refuses hyper never sees. HTTP/2 leaves no choice in framing: its frames are only
//! followed, to know how long a head has been under way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use portcullis_wire::http1::{
    BodyLength, BodyScanner, BodyStep, HeadParse, HeadScanner, Upgrade, read_scanned_head,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::io::Activity;
use crate::request::HeadFault;

/// What is read at once of a head, in bytes.
const HEAD_READ_BYTES: usize = 4 * 1024;
/// What may come behind a request for a WebSocket before it is answered, in bytes.
const MAX_EARLY_BYTES: usize = 16 * 1024;
/// The connection preface of HTTP/2 (RFC 9113 section 3.4), in bytes.
const PREFACE_BYTES: usize = 24;
/// The head of a frame (RFC 9113 section 4.1), in bytes.
const FRAME_HEAD_BYTES: usize = 9;

/// A TLS stream whose request heads are checked and timed.
#[derive(Debug)]
pub(super) struct Checked<S> {
    stream: S,
    activity: Arc<Activity>,
    state: State,
    /// What has come and has not been passed on, of which `passing` bytes may.
    held: Vec<u8>,
    passing: usize,
    /// Bytes of the refusal that are written.
    refused: usize,
}

#[derive(Debug)]
enum State {
    /// In a head, or before one.
    Head(HeadScanner),
    Body(BodyScanner),
    /// Behind a request for a WebSocket, which is not answered yet.
    Upgrade,
    /// In what is no HTTP/1.1 any more.
    Raw,
    Http2(Frames),
    /// Nothing more is read.
    Ended,
}

/// What is known of the bytes that are held.
enum Look {
    /// So many may pass.
    Pass(usize),
    /// More are needed.
    More,
    /// They wait for an answer.
    Wait,
    Malformed(&'static str),
}

impl<S> Checked<S> {
    pub(super) fn http1(stream: S, activity: Arc<Activity>) -> Checked<S> {
        Checked::new(stream, activity, State::Head(HeadScanner::new()))
    }

    pub(super) fn http2(stream: S, activity: Arc<Activity>) -> Checked<S> {
        Checked::new(stream, activity, State::Http2(Frames::default()))
    }

    fn new(stream: S, activity: Arc<Activity>, state: State) -> Checked<S> {
        Checked {
            stream,
            activity,
            state,
            held: Vec::new(),
            passing: 0,
            refused: 0,
        }
    }

    fn look(&mut self) -> Look {
        loop {
            match &mut self.state {
                State::Head(_) if self.held.is_empty() => return Look::More,
                State::Head(scanner) => {
                    self.activity.head_began();
                    match read_scanned_head(&self.held, scanner) {
                        HeadParse::NeedMore => return Look::More,
                        HeadParse::Malformed(why) => return Look::Malformed(why),
                        HeadParse::Head(head) => {
                            self.activity.head_passed();
                            let bodiless =
                                matches!(head.body, BodyLength::None | BodyLength::Length(0));
                            self.state = match head.upgrade {
                                Upgrade::WebSocket if bodiless => {
                                    self.activity.upgrade_asked();
                                    State::Upgrade
                                }
                                _ if bodiless => State::Head(HeadScanner::new()),
                                _ => State::Body(BodyScanner::new(head.body)),
                            };
                            return Look::Pass(head.head_len);
                        }
                    }
                }
                State::Body(scanner) => match scanner.scan(&self.held) {
                    BodyStep::More if self.held.is_empty() => return Look::More,
                    BodyStep::More => return Look::Pass(self.held.len()),
                    BodyStep::Trailers(bytes) => return Look::Pass(bytes),
                    BodyStep::End(bytes) => {
                        self.state = State::Head(HeadScanner::new());
                        if bytes > 0 {
                            return Look::Pass(bytes);
                        }
                    }
                    // Hyper sees no byte more: it takes the body for one that broke off, and the
                    // request is refused.
                    BodyStep::Malformed(why) => {
                        self.activity.refuse_body(why);
                        self.held.clear();
                        self.state = State::Ended;
                    }
                },
                State::Upgrade => match self.activity.upgraded() {
                    None => return Look::Wait,
                    Some(true) => self.state = State::Raw,
                    Some(false) => self.state = State::Head(HeadScanner::new()),
                },
                State::Raw | State::Http2(_) | State::Ended => {
                    return match self.held.len() {
                        0 => Look::More,
                        held => Look::Pass(held),
                    };
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Checked<S> {
    /// Adds what has come to what is held; how many bytes those are.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let held = self.held.len();
        self.held.resize(held + HEAD_READ_BYTES, 0);
        let mut buffer = ReadBuf::new(&mut self.held[held..]);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
        let came = buffer.filled().len();
        self.held.truncate(held + came);
        if self.held.is_empty() {
            self.held = Vec::new(); // an idle connection holds no buffer
        }
        ready!(read)?;
        Poll::Ready(Ok(came))
    }

    /// Reads what may pass as it comes, without a copy.
    fn poll_through(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let came = &buffer.filled()[before..];
        match &mut self.state {
            State::Http2(frames) => frames.follow(came, &self.activity),
            State::Body(scanner) => {
                let mut at = 0;
                loop {
                    match scanner.scan(&came[at..]) {
                        BodyStep::More => break,
                        BodyStep::Trailers(bytes) => at += bytes,
                        BodyStep::End(bytes) => {
                            at += bytes;
                            self.held = came[at..].to_vec();
                            self.state = State::Head(HeadScanner::new());
                            buffer.set_filled(before + at);
                            break;
                        }
                        BodyStep::Malformed(why) => {
                            self.activity.refuse_body(why);
                            self.state = State::Ended;
                            buffer.set_filled(before);
                            break;
                        }
                    }
                }
            }
            _ => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Checked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let checked = self.get_mut();
        loop {
            if checked.passing > 0 {
                let bytes = checked.passing.min(buffer.remaining());
                buffer.put_slice(&checked.held[..bytes]);
                checked.held.drain(..bytes);
                checked.passing -= bytes;
                return Poll::Ready(Ok(()));
            }
            if checked.activity.fault().is_some() {
                // For hyper the program is done, once what came before is answered.
                return checked.activity.poll_answered(cx).map(Ok);
            }
            match checked.look() {
                Look::Pass(bytes) => checked.passing = bytes,
                Look::Malformed(why) => {
                    let fault = HeadFault::malformed(why, &checked.held);
                    checked.activity.refuse_head(fault);
                }
                Look::Wait if checked.held.len() >= MAX_EARLY_BYTES => return Poll::Pending,
                Look::Wait => {
                    if ready!(checked.poll_hold(cx))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Look::More => match checked.state {
                    State::Ended => return Poll::Ready(Ok(())),
                    State::Head(_) => {
                        let inside = !checked.held.is_empty();
                        match ready!(checked.poll_hold(cx))? {
                            0 if inside => {
                                let why = "the connection ended inside a request head";
                                let fault = HeadFault::malformed(why, &checked.held);
                                checked.activity.refuse_head(fault);
                            }
                            0 => return Poll::Ready(Ok(())),
                            _ => {}
                        }
                    }
                    _ => return checked.poll_through(cx, buffer),
                },
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Checked<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    /// A head that was refused is answered here, behind all other answers.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let checked = self.get_mut();
        if checked.activity.fault().is_some() {
            let Some(answer) = checked.activity.refusal() else {
                // Whoever makes the answer polls again.
                return Poll::Pending;
            };
            while checked.refused < answer.len() {
                let rest = &answer[checked.refused..];
                let written = ready!(Pin::new(&mut checked.stream).poll_write(cx, rest))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                checked.refused += written;
            }
        }
        Pin::new(&mut checked.stream).poll_shutdown(cx)
    }
}

/// Follows the frames of HTTP/2, to see heads that do not come to their end: a frame that is not data,
/// and a header block whose last frame is still to come (RFC 9113 section 4.3).
#[derive(Debug, Default)]
struct Frames {
    /// Bytes of the preface that came.
    preface: usize,
    head: [u8; FRAME_HEAD_BYTES],
    /// Bytes of `head` that came; all of them inside a frame.
    came: usize,
    /// Bytes of the frame's payload that are to come.
    left: usize,
    /// A header block is open.
    block: bool,
}

impl Frames {
    fn follow(&mut self, mut bytes: &[u8], activity: &Activity) {
        let skipped = bytes.len().min(PREFACE_BYTES - self.preface);
        self.preface += skipped;
        bytes = &bytes[skipped..];
        while !bytes.is_empty() {
            if self.came < FRAME_HEAD_BYTES {
                let taken = bytes.len().min(FRAME_HEAD_BYTES - self.came);
                self.head[self.came..self.came + taken].copy_from_slice(&bytes[..taken]);
                self.came += taken;
                bytes = &bytes[taken..];
                if self.came == FRAME_HEAD_BYTES {
                    let [high, middle, low, ..] = self.head.map(usize::from);
                    self.left = high << 16 | middle << 8 | low;
                }
            }
            let taken = bytes.len().min(self.left);
            self.left -= taken;
            bytes = &bytes[taken..];
            if self.came == FRAME_HEAD_BYTES && self.left == 0 {
                self.came = 0;
                self.frame_ended();
                if !self.block {
                    activity.head_ended();
                }
            }
        }
        if self.in_head() {
            activity.head_began();
        }
    }

    fn frame_ended(&mut self) {
        const HEADERS: u8 = 1;
        const CONTINUATION: u8 = 9;
        const END_HEADERS: u8 = 4;
        if matches!(self.head[3], HEADERS | CONTINUATION) {
            self.block = self.head[4] & END_HEADERS == 0;
        }
    }

    fn in_head(&self) -> bool {
        const DATA: u8 = 0;
        let in_data = self.came == FRAME_HEAD_BYTES && self.head[3] == DATA;
        self.block || (self.came > 0 && !in_data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    #[tokio::test]
    async fn nothing_behind_a_body_framed_badly_is_passed_on() {
        use tokio::io::AsyncReadExt;
        let head = "POST /a HTTP/1.1\r\nHost: n.example\r\nTransfer-Encoding: chunked\r\n\r\n";
        let rest = "1;\x01\r\nA\r\n0\r\n\r\nGET /b HTTP/1.1\nHost: n.example\n\n";
        // In one piece, and with the body in a piece of its own.
        for pieces in [
            vec![format!("{head}{rest}")],
            vec![head.to_owned(), rest.to_owned()],
        ] {
            let (mut program, ours) = tokio::io::duplex(4096);
            let mut checked = Checked::http1(ours, Activity::new());
            let mut passed = Vec::new();
            for piece in pieces {
                tokio::io::AsyncWriteExt::write_all(&mut program, piece.as_bytes())
                    .await
                    .unwrap();
                let mut buffer = [0; 4096];
                let came = checked.read(&mut buffer).await.unwrap();
                passed.extend_from_slice(&buffer[..came]);
            }
            drop(program);
            checked.read_to_end(&mut passed).await.unwrap();
            assert_eq!(String::from_utf8(passed).unwrap(), head);
        }
    }

    #[tokio::test]
    async fn a_header_block_is_under_way_until_its_last_frame_ended() {
        let activity = Activity::new();
        let mut frames = Frames::default();
        let mut says = |bytes: &[u8]| {
            frames.follow(bytes, &activity);
            activity.head_waits().is_some()
        };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        assert!(!says(&preface[..10]) && !says(&preface[10..]));
        let settings = frame(4, 0, &[0; 6]);
        assert!(says(&settings[..3]) && says(&settings[3..12]) && !says(&settings[12..]));
        assert!(says(&frame(1, 1, b"half")), "HEADERS without END_HEADERS");
        assert!(says(&frame(9, 0, b"more")) && !says(&frame(9, 4, b"end")));
        let data = frame(0, 0, b"slow data is no head");
        assert!(!says(&data[..12]) && !says(&data[12..]));
        assert!(!says(
            &[frame(1, 4, b"whole"), frame(0, 1, b"body")].concat()
        ));
    }
}
