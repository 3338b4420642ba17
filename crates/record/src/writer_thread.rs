//! One thread that writes the records of many gateways.
//!
//! A recorder has a thread of its own unless it is told otherwise. A process that serves a thousand
//! sandboxes would have a thousand, each of which wakes several times a second to look at the time.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::bell::{Bell, Rung};
use crate::queue::Pause;
use crate::writer::{TICK, Writer, WriterSeat};

/// A thread that writes for every recorder that it is given to
/// ([`Recorder::with_writer_thread`](crate::Recorder::with_writer_thread)). Clones are the same thread. It
/// ends with the last of them and of those recorders.
///
/// A sink that blocks holds up the records of all of them, never a connection: give a recorder whose sink
/// is a pipe or another's code a thread of its own. A sink that fails, or panics, is its own recorder's
/// matter.
#[derive(Clone)]
pub struct WriterThread(pub(crate) Arc<WriterSeat>);

impl WriterThread {
    /// Starts it. Do so in the process that uses it: threads do not survive a fork.
    ///
    /// # Errors
    /// The host has no free thread.
    pub fn start() -> io::Result<WriterThread> {
        let bell = Arc::new(Bell::new());
        let thread = std::thread::Builder::new().name("records".to_owned());
        let own = bell.clone();
        thread.spawn(move || write(&own))?;
        Ok(WriterThread(Arc::new(WriterSeat(bell))))
    }
}

/// A recorder that the thread writes for, and when it has to look at it next.
struct Member {
    writer: Arc<Writer>,
    due: Option<Instant>,
}

fn write(bell: &Bell<Writer>) {
    let began = Instant::now();
    let mut members: HashMap<u64, Member> = HashMap::new();
    loop {
        let due = members.values().filter_map(|member| member.due).min();
        let Rung { new, rang, closed } = bell.wait(due, members.is_empty());
        let now = Instant::now();
        for (number, writer) in new {
            let due = Some(now);
            members.insert(number, Member { writer, due });
        }
        for number in rang {
            if let Some(member) = members.get_mut(&number) {
                member.due = Some(now);
            }
        }
        members.retain(|_, member| {
            if member.due.is_some_and(|due| due <= now) {
                match member.writer.turn() {
                    // All together, so that a thousand of them wake it once.
                    Some(Pause::Tick) => member.due = Some(next_tick(began)),
                    Some(Pause::Until(due)) => member.due = Some(due),
                    Some(Pause::Woken) => member.due = None,
                    None => return false,
                }
            }
            true
        });
        if closed && members.is_empty() {
            return;
        }
    }
}

/// The next of the moments at which all open windows are looked at.
fn next_tick(began: Instant) -> Instant {
    let ticks = began.elapsed().as_nanos() / TICK.as_nanos();
    began + TICK * u32::try_from(ticks + 1).unwrap_or(u32::MAX)
}
