//! Request heads on their way to hyper: read strictly first, and within their time.
//!
//! Answers *HTTP framing*
//! (docs/threats.md) inside TLS: hyper repairs what it can, and a head that is repaired is one that two
//! readers take differently. So HTTP/1.1 passes here head by head, each read by the reader that plain
//! HTTP has; what that refuses hyper never sees. HTTP/2 passes frame by frame ([`Frames`]).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use portcullis_wire::http1::{
    BodyLength, BodyScanner, BodyStep, HeadParse, HeadScanner, MAX_EMPTY_LINES, Scan, read_head,
    with_ascii_target,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Frames, Front, without_websockets};
use super::io::Activity;
use crate::request::{Change, HeadError};

/// See [`MAX_EMPTY_LINES`].
const EMPTY_LINE: &[u8] = b"\r\n";
/// What is wrong with a head that the reader does not see the end of.
const NO_END: &str = "the request head does not end where its lines do";
/// What is read at once of a head, in bytes.
const HEAD_READ_BYTES: usize = 4 * 1024;
/// How much of a head under way is looked at with every byte of it, for what it asks for. Of a longer one
/// that is done each time it has doubled.
const MAX_EAGER_BYTES: usize = 1024;
/// What may come behind a request for another protocol before it is answered, in bytes.
const MAX_EARLY_BYTES: usize = 16 * 1024;

/// A TLS stream whose request heads are checked and timed.
#[derive(Debug)]
pub(super) struct Checked<S> {
    stream: S,
    activity: Arc<Activity>,
    state: State,
    /// What has come and has not been passed on, of which `passing` bytes may.
    held: Vec<u8>,
    passing: usize,
    /// Empty lines that were passed over in front of it.
    empty_lines: usize,
    /// Bytes of the head under way when it was last looked at for what it asks for.
    asked_at: usize,
    /// Bytes of the refusal that are written.
    refused: usize,
    /// The first frame that is written must not offer WebSockets.
    unsaid: bool,
}

#[derive(Debug)]
enum State {
    /// In a head, or before one.
    Head(HeadScanner),
    Body {
        scanner: BodyScanner,
        /// It belongs to a request for another protocol.
        upgrade: bool,
    },
    /// Behind such a request, which is not answered yet.
    Upgrade,
    /// In what is no HTTP/1.1 any more.
    Raw,
    Http2(Frames),
    /// Nothing more is read.
    Ended,
}

impl State {
    /// Behind a whole request.
    fn behind(upgrade: bool) -> State {
        match upgrade {
            true => State::Upgrade,
            false => State::Head(HeadScanner::new()),
        }
    }
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

    /// `websockets`: whether our settings may say that streams can become WebSockets.
    pub(super) fn http2(stream: S, activity: Arc<Activity>, websockets: bool) -> Checked<S> {
        let state = State::Http2(Frames::default());
        Checked {
            unsaid: !websockets,
            ..Checked::new(stream, activity, state)
        }
    }

    fn new(stream: S, activity: Arc<Activity>, state: State) -> Checked<S> {
        Checked {
            stream,
            activity,
            state,
            held: Vec::new(),
            passing: 0,
            empty_lines: 0,
            asked_at: 0,
            refused: 0,
            unsaid: false,
        }
    }

    fn look(&mut self) -> Look {
        loop {
            match &mut self.state {
                State::Head(_) if self.held.is_empty() => return Look::More,
                State::Head(scanner) => {
                    while self.empty_lines < MAX_EMPTY_LINES && self.held.starts_with(EMPTY_LINE) {
                        self.held.drain(..EMPTY_LINE.len());
                        self.empty_lines += 1;
                    }
                    let may_be_empty =
                        self.empty_lines < MAX_EMPTY_LINES && EMPTY_LINE.starts_with(&self.held);
                    if may_be_empty {
                        return Look::More;
                    }
                    self.activity.head_began();
                    match scanner.scan(&self.held) {
                        Scan::NeedMore => {
                            let len = self.held.len();
                            if len <= MAX_EAGER_BYTES || len >= 2 * self.asked_at {
                                self.asked_at = len;
                                self.activity.head_asks(&self.held);
                            }
                            return Look::More;
                        }
                        Scan::Malformed(why) => return Look::Malformed(why),
                        Scan::End(len) => {
                            let rest = self.held.split_off(len);
                            self.held = with_ascii_target(std::mem::take(&mut self.held));
                            let read = read_head(&self.held);
                            self.held.extend_from_slice(&rest);
                            let head = match read {
                                HeadParse::Head(head) => head,
                                HeadParse::Malformed(why) => return Look::Malformed(why),
                                HeadParse::NeedMore => return Look::Malformed(NO_END),
                            };
                            self.empty_lines = 0;
                            self.activity.head_passed();
                            self.asked_at = 0;
                            let change = Change::of(&head);
                            let upgrade = change != Change::None;
                            if upgrade {
                                self.activity.change_asked(change);
                            }
                            self.state = match head.body {
                                BodyLength::None | BodyLength::Length(0) => State::behind(upgrade),
                                length => State::Body {
                                    scanner: BodyScanner::new(length),
                                    upgrade,
                                },
                            };
                            return Look::Pass(head.head_len);
                        }
                    }
                }
                State::Body { scanner, upgrade } => match scanner.scan(&self.held) {
                    BodyStep::More if self.held.is_empty() => return Look::More,
                    BodyStep::More => return Look::Pass(self.held.len()),
                    BodyStep::Trailers(bytes) => return Look::Pass(bytes),
                    BodyStep::End(bytes) => {
                        self.state = State::behind(*upgrade);
                        if bytes > 0 {
                            return Look::Pass(bytes);
                        }
                    }
                    // Hyper sees no byte more: it takes the body for one that broke off, and the
                    // request is refused.
                    BodyStep::Malformed(why) => self.refuse_rest(why),
                },
                State::Upgrade => match self.activity.upgraded() {
                    None => return Look::Wait,
                    Some(true) => self.state = State::Raw,
                    Some(false) => self.state = State::Head(HeadScanner::new()),
                },
                State::Http2(_) if self.held.is_empty() => return Look::More,
                State::Http2(frames) => {
                    let passing = frames.pass(&self.held);
                    if passing > 0 {
                        return Look::Pass(passing);
                    }
                    match frames.block(&mut self.held) {
                        Ok(Front::Pass(passing)) => {
                            self.activity.head_ended();
                            return Look::Pass(passing);
                        }
                        Ok(Front::More) => {
                            self.activity.head_began();
                            return Look::More;
                        }
                        Ok(Front::Unknown) => return Look::More,
                        Err(why) => self.refuse_rest(why),
                    }
                }
                State::Raw | State::Ended => {
                    return match self.held.len() {
                        0 => Look::More,
                        held => Look::Pass(held),
                    };
                }
            }
        }
    }
}

impl<S> Checked<S> {
    /// Nothing of what is held or comes is passed on.
    fn refuse_rest(&mut self, why: &'static str) {
        self.activity.head_ended();
        self.activity.refuse_body(why);
        self.held.clear();
        self.state = State::Ended;
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
            State::Http2(frames) => {
                let passing = frames.pass(came);
                self.held = came[passing..].to_vec();
                // Part of a head, or a block: looked at where it is held.
                buffer.set_filled(before + passing);
            }
            State::Body { scanner, upgrade } => {
                let mut at = 0;
                loop {
                    match scanner.scan(&came[at..]) {
                        BodyStep::More => break,
                        BodyStep::Trailers(bytes) => at += bytes,
                        BodyStep::End(bytes) => {
                            at += bytes;
                            self.held = came[at..].to_vec();
                            self.state = State::behind(*upgrade);
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
            if checked.activity.head_error().is_some() {
                // For hyper the program is done, once what came before is answered.
                return checked.activity.poll_answered(cx).map(Ok);
            }
            match checked.look() {
                Look::Pass(bytes) => checked.passing = bytes,
                Look::Malformed(why) => {
                    let error = HeadError::malformed(why, &checked.held);
                    checked.activity.refuse_head(error);
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
                                let error = HeadError::malformed(why, &checked.held);
                                checked.activity.refuse_head(error);
                            }
                            0 => return Poll::Ready(Ok(())),
                            _ => {}
                        }
                    }
                    State::Http2(_) if !checked.held.is_empty() => {
                        if ready!(checked.poll_hold(cx))? == 0 {
                            checked.state = State::Raw; // for hyper to see that it broke off
                        }
                    }
                    _ => {
                        let before = buffer.filled().len();
                        ready!(checked.poll_through(cx, buffer))?;
                        // Nothing is the end, unless it is held.
                        if buffer.filled().len() > before || checked.held.is_empty() {
                            return Poll::Ready(Ok(()));
                        }
                    }
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
        let checked = self.get_mut();
        let stream = Pin::new(&mut checked.stream);
        if !checked.unsaid {
            return stream.poll_write(cx, bytes);
        }
        let settings = without_websockets(bytes);
        let written = ready!(stream.poll_write(cx, &settings))?;
        if written < settings.len() {
            // Never so early: what stands there now would have to be changed as well.
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        checked.unsaid = false;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    /// A head that was refused is answered here, behind all other answers.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let checked = self.get_mut();
        if checked.activity.head_error().is_some() {
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn nothing_behind_a_body_framed_badly_is_passed_on() {
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
                program.write_all(piece.as_bytes()).await.unwrap();
                let mut buffer = [0; 4096];
                let came = checked.read(&mut buffer).await.unwrap();
                passed.extend_from_slice(&buffer[..came]);
            }
            drop(program);
            checked.read_to_end(&mut passed).await.unwrap();
            assert_eq!(String::from_utf8(passed).unwrap(), head);
        }
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    #[tokio::test]
    async fn a_header_block_is_under_way_until_its_last_frame_ended() {
        let (mut program, ours) = tokio::io::duplex(4096);
        let activity = Activity::new();
        let mut checked = Checked::http2(ours, activity.clone(), true);
        // What is said next; whether a head is under way then.
        let mut says = async |bytes: &[u8]| {
            program.write_all(bytes).await.unwrap();
            let mut buffer = [0; 4096];
            let mut passed = Vec::new();
            while let Some(read) = checked.read(&mut buffer).now_or_never() {
                let came = read.unwrap();
                if came == 0 {
                    break;
                }
                passed.extend_from_slice(&buffer[..came]);
            }
            (activity.head_waits().is_some(), passed.len())
        };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        assert_eq!(says(&preface[..10]).await, (false, 10));
        assert_eq!(says(&preface[10..]).await, (false, 14));
        let settings = frame(4, 0, &[0; 6]);
        assert_eq!(says(&settings[..3]).await, (false, 0), "of what?");
        assert_eq!(says(&settings[3..12]).await, (false, 12));
        assert_eq!(says(&settings[12..]).await, (false, 3));
        let half = frame(1, 1, b"\x82");
        assert_eq!(says(&half).await, (true, 0), "HEADERS without END_HEADERS");
        assert_eq!(says(&frame(9, 0, b"\x87")).await, (true, 0));
        assert_eq!(
            says(&frame(9, 4, b"\x84")).await,
            (false, 30),
            "all of it at once"
        );
        let data = frame(0, 0, b"slow data is no head");
        assert_eq!(says(&data[..12]).await, (false, 12));
        assert_eq!(says(&data[12..]).await, (false, 17));
        let whole = [frame(1, 4, b"\x82"), frame(0, 1, b"body")].concat();
        assert_eq!(says(&whole).await, (false, 23));
        let twice = [frame(0, 1, b"body"), frame(1, 4, b"\x82")].concat();
        assert_eq!(says(&twice).await, (false, 23));
        assert_eq!(says(&frame(1, 4, b"\xbe")).await, (false, 0), "the end");
        assert!(activity.bad_body().is_some());
    }
}
