//! DNS over TLS (RFC 7858): questions of many programs at once on one stream, answers in any order.
//!
//! Each question on a stream has an id that no other one under way has. A frame of an impossible
//! length, or a run of answers to nothing, ends the connection.

use std::collections::HashMap;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::connector::SecureStream;
use super::error::ExchangeError;
use super::exchange::{IDLE_LIMIT, Job, Raw, SILENCE_LIMIT};
use super::question::{Match, matches};
use crate::reply::HEADER_BYTES;

/// Questions under way on one connection.
const MAX_UNDER_WAY: usize = 128;

/// Read at once, bytes.
const READ_BYTES: usize = 4096;

/// Answers to no question on one connection, before it ends.
const MAX_STRAYS: usize = 128;

/// A question whose answer has not come yet.
struct InFlight {
    query: Vec<u8>,
    reply: oneshot::Sender<Result<Raw, ExchangeError>>,
}

/// One connection's state.
struct Framed {
    reader: ReadHalf<SecureStream>,
    writer: WriteHalf<SecureStream>,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// Whether there is something to write or to flush.
    unsent: bool,
    in_flight: HashMap<u16, InFlight>,
    strays: usize,
    /// When an answer was taken last, or began to be waited for.
    heard: Instant,
}

/// Serves questions until the connection is idle, broken or no longer wanted; says what becomes of
/// questions that were not answered.
pub(super) async fn serve(stream: SecureStream, jobs: &mut mpsc::Receiver<Job>) -> ExchangeError {
    let (reader, writer) = tokio::io::split(stream);
    let mut framed = Framed {
        reader,
        writer,
        inbox: Vec::with_capacity(READ_BYTES),
        outbox: Vec::new(),
        unsent: false,
        in_flight: HashMap::new(),
        strays: 0,
        heard: Instant::now(),
    };
    let end = framed.run(jobs).await;
    jobs.close();
    for (_, in_flight) in framed.in_flight.drain() {
        let _ = in_flight.reply.send(Err(end.clone()));
    }
    end
}

/// Writes some of `outbox`, or flushes what was written; `None` once that is done. May be dropped at
/// any time.
async fn push(writer: &mut WriteHalf<SecureStream>, outbox: &[u8]) -> io::Result<Option<usize>> {
    if outbox.is_empty() {
        writer.flush().await?;
        return Ok(None);
    }
    match writer.write(outbox).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        length => Ok(Some(length)),
    }
}

impl Framed {
    async fn run(&mut self, jobs: &mut mpsc::Receiver<Job>) -> ExchangeError {
        let mut chunk = vec![0; READ_BYTES];
        loop {
            let limit = if self.in_flight.is_empty() {
                IDLE_LIMIT
            } else {
                SILENCE_LIMIT
            };
            if self.in_flight.len() >= MAX_UNDER_WAY {
                // Nobody waits for these any more, and their answers will be strays.
                self.in_flight
                    .retain(|_, in_flight| !in_flight.reply.is_closed());
            }
            let room = self.in_flight.len() < MAX_UNDER_WAY;
            tokio::select! {
                read = self.reader.read(&mut chunk) => {
                    let taken = match read {
                        Ok(0) | Err(_) => return ExchangeError::Closed,
                        Ok(length) => self.take(&chunk[..length]),
                    };
                    if let Err(error) = taken {
                        return error;
                    }
                }
                pushed = push(&mut self.writer, &self.outbox), if self.unsent => match pushed {
                    Err(_) => return ExchangeError::Closed,
                    Ok(Some(length)) => drop(self.outbox.drain(..length)),
                    Ok(None) => self.unsent = false,
                },
                job = jobs.recv(), if room => {
                    let Some(job) = job else { return ExchangeError::Closed };
                    if self.send(job).is_err() {
                        return ExchangeError::Closed;
                    }
                }
                () = sleep_until(self.heard + limit) => return ExchangeError::Closed,
            }
        }
    }

    /// Gives a question an id of its own and puts it into the outbox.
    fn send(&mut self, job: Job) -> io::Result<()> {
        if job.reply.is_closed() {
            return Ok(());
        }
        if self.in_flight.is_empty() {
            self.heard = Instant::now();
        }
        let mut query = job.query;
        let mut id = [query[0], query[1]];
        while self.in_flight.contains_key(&u16::from_be_bytes(id)) {
            getrandom::fill(&mut id).map_err(io::Error::other)?;
        }
        query[..2].copy_from_slice(&id);
        // A query has at most a few hundred bytes.
        self.outbox
            .extend_from_slice(&(query.len() as u16).to_be_bytes());
        self.outbox.extend_from_slice(&query);
        self.unsent = true;
        let in_flight = InFlight {
            query,
            reply: job.reply,
        };
        self.in_flight.insert(u16::from_be_bytes(id), in_flight);
        Ok(())
    }

    /// Takes what was read, and hands out each answer that is complete with it.
    fn take(&mut self, read: &[u8]) -> Result<(), ExchangeError> {
        self.inbox.extend_from_slice(read);
        let mut rest = self.inbox.as_slice();
        while let Some((length, behind)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            if length < HEADER_BYTES {
                return Err(ExchangeError::Malformed);
            }
            let Some((answer, behind)) = behind.split_at_checked(length) else {
                break;
            };
            rest = behind;
            let id = u16::from_be_bytes([answer[0], answer[1]]);
            let Some(in_flight) = self.in_flight.remove(&id) else {
                self.strays += 1;
                if self.strays > MAX_STRAYS {
                    return Err(ExchangeError::Mismatch);
                }
                continue;
            };
            // An answer counts, not a byte: a server that drips must not keep a line for ever.
            self.heard = Instant::now();
            let _ = in_flight
                .reply
                .send(match matches(answer, &in_flight.query) {
                    Match::No => Err(ExchangeError::Mismatch),
                    Match::OtherCase | Match::Exact => Ok(Raw {
                        bytes: answer.to_vec(),
                        age: 0,
                    }),
                });
        }
        let used = self.inbox.len() - rest.len();
        self.inbox.drain(..used);
        Ok(())
    }
}
