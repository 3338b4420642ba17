//! Notices that files of the policy may have changed.
//!
//! inotify tells at once, a look at the files' stamps every few seconds tells where it cannot (a
//! network file system, no watches left). Neither is believed in what it says: what counts is what the
//! files hold. Folders are watched by the descriptors that are held, so that a watch stays on the
//! folder that is read. A program in the sandbox may make as many events in such a folder as it likes:
//! names that are not the policy's only cost their reading.

use crate::files::{PolicyFiles, Stamp};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use std::collections::HashMap;
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// How long nothing may happen until files are read: an editor's save is several steps.
const QUIET: Duration = Duration::from_millis(60);
/// The longest wait for quiet.
const MAX_UNREST: Duration = Duration::from_millis(600);
/// The longest wait for a program that writes in place to close the file.
const MAX_WRITING: Duration = Duration::from_secs(3);
/// How often stamps are compared.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);
/// What is read of events at once, bytes.
const EVENT_BYTES: usize = 8 * 1024;
/// Reads of events in one turn, before the other tasks of the gateway get theirs.
const MAX_READS: usize = 64;

/// Watches the files of a policy.
pub(crate) struct Watch {
    events: Option<Events>,
    stamps: Vec<Option<Stamp>>,
    next_look: Instant,
}

/// What happened to the files since the last question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct News {
    touched: bool,
    /// Somebody has written and not closed yet; `None` where nothing of it was heard.
    writing: Option<bool>,
}

struct Events {
    queue: AsyncFd<OwnedFd>,
    /// Names that matter in the folder of each watch; for a file's own watch none.
    names: HashMap<i32, Vec<OsString>>,
}

impl Watch {
    pub(crate) fn new(files: &PolicyFiles) -> Watch {
        Watch {
            events: Events::new(files),
            stamps: files.stamps(),
            next_look: Instant::now() + LOOK_INTERVAL,
        }
    }

    /// Ends when the files may have changed and whoever changed them seems to be done. Dropping it
    /// half-way loses the news: use it for the whole life of the watch, or make another watch.
    pub(crate) async fn changed(&mut self, files: &PolicyFiles) {
        loop {
            let news = tokio::select! {
                news = heard(self.events.as_ref()) => news,
                () = sleep_until(self.next_look) => News::default(),
            };
            self.next_look = Instant::now() + LOOK_INTERVAL;
            if news.touched {
                self.settle(news).await;
                return;
            }
            let now = files.stamps();
            if now != self.stamps {
                self.stamps = now;
                sleep(QUIET).await;
                return;
            }
        }
    }

    async fn settle(&mut self, mut news: News) {
        let start = Instant::now();
        loop {
            let writing = news.writing == Some(true);
            let end = start + if writing { MAX_WRITING } else { MAX_UNREST };
            let until = end.min(Instant::now() + QUIET);
            let waits = if writing { end } else { until };
            match timeout_at(waits, heard(self.events.as_ref())).await {
                Ok(more) => news.writing = more.writing.or(news.writing),
                Err(_) => return,
            }
            if Instant::now() >= end && news.writing != Some(true) {
                return;
            }
        }
    }
}

async fn heard(events: Option<&Events>) -> News {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

impl Events {
    /// `None` where the kernel gives no watches: the stamps are left then.
    fn new(files: &PolicyFiles) -> Option<Events> {
        let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
        let mut names: HashMap<i32, Vec<OsString>> = HashMap::new();
        let folder_flags = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB;
        let file_flags = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB;
        for (folder, name) in files.places() {
            let folder_path = format!("/proc/self/fd/{}", folder.as_raw_fd());
            let watch = inotify::add_watch(&queue, folder_path.as_str(), folder_flags).ok()?;
            let known = names.entry(watch).or_default();
            known.push(name.as_os_str().to_owned());
            // A folder of links (Kubernetes) changes by one link in the middle of the way.
            if let Ok(link) = rustix::fs::readlinkat(folder, name, Vec::new())
                && let Some(first) =
                    std::path::Path::new(std::ffi::OsStr::from_bytes(link.to_bytes()))
                        .components()
                        .next()
            {
                known.push(first.as_os_str().to_owned());
            }
            let path = std::path::Path::new(&folder_path).join(name);
            // One that is missing now is awaited by its folder.
            if let Ok(watch) = inotify::add_watch(&queue, path, file_flags) {
                names.entry(watch).or_default();
            }
        }
        #[expect(
            deprecated,
            reason = "the queue owns its descriptor for as long as it is registered"
        )]
        let queue = AsyncFd::with_interest(queue, Interest::READABLE).ok()?;
        Some(Events { queue, names })
    }

    /// Waits for something that matters.
    async fn next(&self) -> News {
        loop {
            let Ok(mut ready) = self.queue.readable().await else {
                // Nothing will be heard any more; the stamps are left.
                return std::future::pending().await;
            };
            let (news, more) = self.drain();
            if !more {
                ready.clear_ready();
            }
            if news.touched {
                return news;
            }
            if more {
                tokio::task::yield_now().await;
            }
        }
    }

    fn drain(&self) -> (News, bool) {
        let mut news = News::default();
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut reader = Reader::new(self.queue.get_ref(), &mut buffer);
        for _ in 0..MAX_READS * (EVENT_BYTES / 16) {
            let Ok(event) = reader.next() else {
                return (news, false);
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
            news.touched = true;
            if kind.contains(ReadFlags::MODIFY) {
                news.writing = Some(true);
            }
            if kind.contains(ReadFlags::CLOSE_WRITE) {
                news.writing = Some(false);
            }
        }
        (news, true)
    }
}
