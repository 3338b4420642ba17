//! Notices that files of the policy may have changed.
//!
//! inotify tells at once; a look at the files' stamps every second tells where it cannot (a network
//! file system, no watches left). Neither is believed in what it says: what counts is what the files
//! hold. Folders are watched by the descriptors that are held, so that a watch stays on the folder that
//! is read. A program in the sandbox may make as many events in such a folder as it likes: names that
//! are not the policy's only cost their reading.
//!
//! Answers *exhaustion* (docs/threats.md): the queue is made before the program starts, and waiting
//! takes no descriptor and no other thread.

use crate::policy_files::{PolicyFiles, Snapshot};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long nothing may happen until files are read: an editor's save is several steps.
const QUIET: Duration = Duration::from_millis(60);
/// The longest wait for quiet.
const MAX_UNREST: Duration = Duration::from_millis(600);
/// The longest wait for a program that writes in place to close the file.
const MAX_WRITING: Duration = Duration::from_secs(3);
/// What is read of events at once, bytes.
const EVENT_BYTES: usize = 8 * 1024;
/// Events that are read before the rest waits for the next turn.
const MAX_EVENTS: usize = 32 * 1024;

/// Watches the files of a policy.
pub(crate) struct Watch {
    /// `None` where the kernel gives no queue: the stamps are left then.
    queue: Option<OwnedFd>,
    /// Names that matter in the folder of each watch; for a file's own watch none.
    names: HashMap<i32, Vec<OsString>>,
    seen: Option<Snapshot>,
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WakeReason {
    /// The files may have changed, and whoever changed them seems to be done.
    Changed,
    /// One of the other descriptors is readable, or its other end is gone.
    Requested,
    /// The time was up.
    Time,
}

/// What happened to the files since the last question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FileEvents {
    touched: bool,
    /// Somebody has written and not closed yet; `None` where nothing of it was heard.
    writing: Option<bool>,
}

impl Watch {
    pub(crate) fn new() -> Watch {
        Watch {
            queue: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok(),
            names: HashMap::new(),
            seen: None,
        }
    }

    /// Watches these files from now on, and no others. What happened to them before is still told.
    pub(crate) fn renew(&mut self, files: &PolicyFiles) {
        self.seen = Some(files.snapshot());
        let Some(queue) = &self.queue else { return };
        let mut names: HashMap<i32, Vec<OsString>> = HashMap::new();
        for (folder, name) in files.places() {
            let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
            let folder_flags = WatchFlags::CREATE
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM
                | WatchFlags::DELETE
                | WatchFlags::ATTRIB;
            if let Ok(watch) = inotify::add_watch(queue, path.as_str(), folder_flags) {
                let known = names.entry(watch).or_default();
                known.push(name.as_os_str().to_owned());
                // A folder of links (Kubernetes) changes by one link in the middle of the way.
                known.extend(first_of_link(folder, name));
            }
            let file_flags = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB;
            // One that is missing now is awaited by its folder.
            if let Ok(watch) = inotify::add_watch(queue, Path::new(&path).join(name), file_flags) {
                names.entry(watch).or_default();
            }
        }
        for watch in self.names.keys().filter(|watch| !names.contains_key(watch)) {
            // It is gone already where its file is.
            let _ = inotify::remove_watch(queue, *watch);
        }
        self.names = names;
    }

    /// Waits for a change of the files, for one of `calls`, or until `until`.
    pub(crate) fn wait(
        &mut self,
        files: &PolicyFiles,
        calls: &[BorrowedFd<'_>],
        until: Instant,
    ) -> WakeReason {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let polled = calls.iter().copied();
            let polled = polled.chain(self.queue.as_ref().map(AsFd::as_fd));
            let mut fds: Vec<PollFd<'_>> = polled
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            if poll(&mut fds, Some(&timespec(left))).is_err() {
                // For want of memory: the looks go on.
                std::thread::sleep(QUIET);
            }
            let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
            let (called, queue) = fds.split_at(calls.len());
            if called.iter().any(is_ready) {
                return WakeReason::Requested;
            }
            if queue.iter().any(is_ready) {
                let events = self.drain();
                if events.touched {
                    self.settle(events);
                    return WakeReason::Changed;
                }
            }
            if Instant::now() >= until {
                let now = Some(files.snapshot());
                if now == self.seen {
                    return WakeReason::Time;
                }
                self.seen = now;
                std::thread::sleep(QUIET);
                return WakeReason::Changed;
            }
        }
    }

    fn settle(&self, mut events: FileEvents) {
        let start = Instant::now();
        loop {
            let writing = events.writing == Some(true);
            let end = start + if writing { MAX_WRITING } else { MAX_UNREST };
            let now = Instant::now();
            let wait = end.saturating_duration_since(now);
            let wait = if writing { wait } else { wait.min(QUIET) };
            let Some(queue) = self.queue.as_ref().filter(|_| !wait.is_zero()) else {
                return;
            };
            let mut fds = [PollFd::new(queue, PollFlags::IN)];
            match poll(&mut fds, Some(&timespec(wait))) {
                Ok(count) if count > 0 => {}
                _ => return,
            }
            let more = self.drain();
            events.writing = more.writing.or(events.writing);
        }
    }

    fn drain(&self) -> FileEvents {
        let mut events = FileEvents::default();
        let Some(queue) = &self.queue else {
            return events;
        };
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut reader = Reader::new(queue, &mut buffer);
        for _ in 0..MAX_EVENTS {
            let Ok(event) = reader.next() else {
                return events;
            };
            let kind = event.events();
            let matters = match self.names.get(&event.wd()) {
                _ if kind.contains(ReadFlags::QUEUE_OVERFLOW) => true,
                None => false,
                Some(names) => event.file_name().is_none_or(|name| {
                    let name = name.to_bytes();
                    names.iter().any(|known| known.as_bytes() == name)
                }),
            };
            if !matters || kind.contains(ReadFlags::IGNORED) {
                continue;
            }
            events.touched = true;
            if kind.contains(ReadFlags::MODIFY) {
                events.writing = Some(true);
            }
            if kind.contains(ReadFlags::CLOSE_WRITE) {
                events.writing = Some(false);
            }
        }
        events
    }
}

/// The first name of what a link leads to, where this is one.
fn first_of_link(folder: BorrowedFd<'_>, name: &Path) -> Option<OsString> {
    let link = rustix::fs::readlinkat(folder, name, Vec::new()).ok()?;
    let first = Path::new(OsStr::from_bytes(link.to_bytes()))
        .components()
        .next()?;
    Some(first.as_os_str().to_owned())
}

fn timespec(wait: Duration) -> Timespec {
    // Waits here are seconds at most.
    Timespec::try_from(wait).unwrap_or(Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    })
}
