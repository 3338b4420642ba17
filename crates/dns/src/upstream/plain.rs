//! One resolver without encryption: UDP and, where the answer is too long, TCP.
//!
//! Answers *resolution as a way out* (docs/threats.md): each question goes out from its own socket
//! on a port that the kernel picks at random, connected to the server so that nobody else's
//! datagrams arrive. Only a response from that socket with that id for that question, spelt as it
//! was sent, counts.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, FutureExt, pending};
use hickory_proto::op::Message;
use portcullis_policy::Resolver;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::ExchangeError;
use super::network::{Network, interface_index};
use super::question::{Form, Match, Question, has_upper_case, matches};
use super::server::{Server, ServerState};
use crate::reply::HEADER_BYTES;

/// Room for an answer over UDP, bytes: more than we announce, since some servers ignore it.
const UDP_BUFFER_BYTES: usize = 4096;

/// Wrong datagrams read on one socket before the attempt is given up: somebody is guessing.
const MAX_WRONG_DATAGRAMS: usize = 32;

/// One resolver without encryption.
#[derive(Debug)]
pub(super) struct PlainServer {
    at: At,
    state: ServerState,
    network: Arc<dyn Network>,
}

/// Where it is.
#[derive(Debug)]
pub(super) enum At {
    Address(SocketAddr),
    /// A link-local address, its port, and the name or number of its interface, which may come and go.
    OnLink(Ipv6Addr, u16, Box<str>),
}

impl At {
    /// The address to ask at now.
    fn now(&self) -> io::Result<SocketAddr> {
        match self {
            At::Address(address) => Ok(*address),
            At::OnLink(address, port, interface) => {
                let index = interface
                    .parse()
                    .ok()
                    .or_else(|| interface_index(interface));
                let absent = || format!("there is no network interface `{interface}`");
                let index = index.ok_or_else(|| io::Error::other(absent()))?;
                Ok(SocketAddrV6::new(*address, *port, 0, index).into())
            }
        }
    }
}

/// The bit of the third header byte that says that an answer was truncated.
const TC: u8 = 0x02;

/// What UDP brought.
enum Datagram {
    /// The answer.
    Answer(Vec<u8>),
    /// The beginning of an answer (TC).
    Truncated,
    /// The answer in another case, from a server that is not known to preserve case.
    OtherCase,
}

impl PlainServer {
    /// `resolver` is how it is written in records.
    pub(super) fn new(resolver: &Resolver, at: At, network: Arc<dyn Network>) -> PlainServer {
        PlainServer {
            at,
            state: ServerState::new(resolver.to_string()),
            network,
        }
    }

    async fn exchange(&self, question: Question<'_>, edns: bool) -> Result<Message, ExchangeError> {
        let mut form = Form {
            edns,
            mixed_case: self.state.quirks.accepts_mixed_case(),
            padded: false,
        };
        let mut found = self.over_udp(question, form).await?;
        if matches!(found, Datagram::OtherCase) {
            form.mixed_case = false;
            found = self.over_udp(question, form).await?;
            self.state.quirks.case_folded();
        }
        let answer = match found {
            Datagram::Answer(answer) => answer,
            Datagram::Truncated => self.over_tcp(question, form).await?,
            Datagram::OtherCase => return Err(ExchangeError::Mismatch),
        };
        Message::from_vec(&answer).map_err(|_| ExchangeError::Malformed)
    }

    async fn over_udp(
        &self,
        question: Question<'_>,
        form: Form,
    ) -> Result<Datagram, ExchangeError> {
        let socket = self.network.udp(self.at.now()?).await?;
        let sent = question.write(form)?;
        socket.send(&sent).await?;
        let mut buffer = vec![0; UDP_BUFFER_BYTES];
        // Nobody can forge an answer over TCP: asked where a datagram is not believed.
        let mut sure = pin!(Either::Left(pending()));
        let mut asked_again = false;
        for _ in 0..MAX_WRONG_DATAGRAMS {
            let length = tokio::select! {
                biased;
                length = socket.recv(&mut buffer) => length?,
                answer = &mut sure => match answer {
                    Ok(answer) => return Ok(Datagram::Answer(answer)),
                    Err(_) => {
                        // The datagram that is waited for may still come.
                        sure.set(Either::Left(pending()));
                        continue;
                    }
                },
            };
            match matches(&buffer[..length], &sent) {
                Match::No => {}
                Match::OtherCase if form.mixed_case && !self.state.quirks.preserves_case() => {
                    return Ok(Datagram::OtherCase);
                }
                Match::OtherCase if form.mixed_case => {
                    self.state.quirks.case_changed();
                    if !asked_again {
                        asked_again = true;
                        sure.set(Either::Right(self.over_tcp(question, form).boxed()));
                    }
                }
                Match::OtherCase | Match::Exact => {
                    if form.mixed_case && has_upper_case(&sent) && buffer[5] == 1 {
                        self.state.quirks.case_preserved();
                    }
                    if buffer[2] & TC != 0 {
                        return Ok(Datagram::Truncated);
                    }
                    buffer.truncate(length);
                    return Ok(Datagram::Answer(buffer));
                }
            }
        }
        Err(ExchangeError::Mismatch)
    }

    async fn over_tcp(&self, question: Question<'_>, form: Form) -> Result<Vec<u8>, ExchangeError> {
        let mut stream = self.network.stream(self.at.now()?).await?;
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

impl Server for PlainServer {
    fn state(&self) -> &ServerState {
        &self.state
    }

    async fn ask(&self, question: Question<'_>, _retry: usize) -> Result<Message, ExchangeError> {
        self.state
            .with_edns_fallback(move |edns| self.exchange(question, edns))
            .await
    }
}
