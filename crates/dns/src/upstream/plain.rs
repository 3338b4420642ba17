//! One question to one server over UDP and, where the answer is too long, TCP.
//!
//! Answers answer spoofing: each question goes out from its own socket on a port the kernel picks at
//! random, connected to the server so that nobody else's datagrams arrive. Only a response from that
//! socket with that id for that question, spelt as it was sent, counts.

use std::net::SocketAddr;
use std::pin::pin;

use futures_util::future::{Either, FutureExt, pending};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::ExchangeError;
use super::manners::Manners;
use super::network::Network;
use super::question::{Form, Match, Question, has_upper_case, matches};
use crate::reply::HEADER_BYTES;

/// Room for an answer over UDP, bytes: more than we announce, since some servers ignore it.
const UDP_BUFFER_BYTES: usize = 4096;

/// Wrong datagrams read on one socket before the attempt is given up: somebody is guessing.
const MAX_WRONG_DATAGRAMS: usize = 32;

/// One server, without encryption.
#[derive(Clone, Copy)]
pub(super) struct Plain<'a> {
    pub network: &'a dyn Network,
    pub server: SocketAddr,
    pub manners: &'a Manners,
}

/// What UDP brought.
enum Datagram {
    /// The answer; `true` where it is only the beginning of one (TC).
    Answer(Vec<u8>, bool),
    /// The answer, in another case, of a server of which no case was known.
    OtherCase,
}

impl Plain<'_> {
    /// Asks, and waits for the answer; the caller sets the time limit by dropping the future.
    pub(super) async fn ask(
        self,
        question: Question<'_>,
        edns: bool,
    ) -> Result<Vec<u8>, ExchangeError> {
        let mut form = Form {
            edns,
            mixed_case: self.manners.bears_case(),
            padded: false,
        };
        let mut found = self.over_udp(question, form).await?;
        if matches!(found, Datagram::OtherCase) {
            form.mixed_case = false;
            found = self.over_udp(question, form).await?;
            self.manners.folded_case();
        }
        match found {
            Datagram::Answer(answer, false) => Ok(answer),
            Datagram::Answer(_, true) => self.over_tcp(question, form).await,
            Datagram::OtherCase => Err(ExchangeError::Mismatch),
        }
    }

    async fn over_udp(
        &self,
        question: Question<'_>,
        form: Form,
    ) -> Result<Datagram, ExchangeError> {
        let socket = self.network.udp(self.server).await?;
        let sent = question.write(form)?;
        socket.send(&sent).await?;
        let mut buffer = vec![0; UDP_BUFFER_BYTES];
        // Nobody can answer for the server over TCP: asked where a datagram is not believed.
        let mut sure = pin!(Either::Left(pending()));
        let mut asked_again = false;
        for _ in 0..MAX_WRONG_DATAGRAMS {
            let length = tokio::select! {
                biased;
                length = socket.recv(&mut buffer) => length?,
                answer = &mut sure => match answer {
                    Ok(answer) => return Ok(Datagram::Answer(answer, false)),
                    Err(_) => {
                        // The datagram that is waited for may still come.
                        sure.set(Either::Left(pending()));
                        continue;
                    }
                },
            };
            match matches(&buffer[..length], &sent) {
                Match::No => {}
                Match::OtherCase if form.mixed_case && !self.manners.keeps_case() => {
                    return Ok(Datagram::OtherCase);
                }
                Match::OtherCase if form.mixed_case => {
                    self.manners.changed_case();
                    if !asked_again {
                        asked_again = true;
                        sure.set(Either::Right(self.over_tcp(question, form).boxed()));
                    }
                }
                Match::OtherCase | Match::Exact => {
                    if form.mixed_case && has_upper_case(&sent) && buffer[5] == 1 {
                        self.manners.kept_case();
                    }
                    let truncated = buffer[2] & 0x02 != 0;
                    buffer.truncate(length);
                    return Ok(Datagram::Answer(buffer, truncated));
                }
            }
        }
        Err(ExchangeError::Mismatch)
    }

    async fn over_tcp(&self, question: Question<'_>, form: Form) -> Result<Vec<u8>, ExchangeError> {
        let mut stream = self.network.stream(self.server).await?;
        let sent = question.write(form)?;
        let mut frame = Vec::with_capacity(sent.len() + 2);
        frame.extend_from_slice(&(sent.len() as u16).to_be_bytes());
        frame.extend_from_slice(&sent);
        stream.write_all(&frame).await?;
        let length = usize::from(stream.read_u16().await?);
        if length < HEADER_BYTES {
            return Err(ExchangeError::Malformed);
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).await?;
        // A stream cannot be guessed into: the case may be what it likes.
        match matches(&answer, &sent) {
            Match::No => Err(ExchangeError::Mismatch),
            Match::OtherCase | Match::Exact => Ok(answer),
        }
    }
}
