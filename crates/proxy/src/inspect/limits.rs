//! Every limit of inspected connections. Answers "exhaustion": floods of streams, resets and fields
//! cost a bounded number of bytes, and end the connection that they come by.

use std::time::Duration;

/// Requests at once on one connection of HTTP/2 (RFC 9113 section 6.5.2).
pub(super) const MAX_STREAMS: u32 = 100;
/// The same towards upstream until it says how many it takes: a number that none says, so that what it
/// says is noticed.
pub(super) const UNTOLD_STREAMS: usize = MAX_STREAMS as usize + 1;
/// For upstream's settings in HTTP/2, which are the first that it says.
pub(super) const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is looked whether they are there.
pub(super) const SETTINGS_LOOK: Duration = Duration::from_millis(2);
/// Streams that were reset before they were served, at once (a "rapid reset" flood).
pub(super) const MAX_RESET_STREAMS: usize = 20;
/// Streams that we reset since the program broke the protocol on them, in all.
pub(super) const MAX_ERROR_RESETS: usize = 128;
/// All fields of one request or answer, in bytes as HTTP/2 counts them.
pub(super) const MAX_FIELDS_BYTES: u32 = 64 * 1024;
/// Most fields in a request or an answer.
pub(super) const MAX_FIELDS: usize = 200;
/// What is read of an HTTP/1.1 connection ahead of what is passed on; heads must fit.
pub(super) const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// What waits on one stream for a slow reader.
pub(super) const MAX_STREAM_BUFFER_BYTES: usize = 64 * 1024;
/// What a program may send on one stream of HTTP/2 before upstream has taken it.
pub(super) const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// The same for all streams of a connection together.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// How often a connection is looked at that may have been silent for too long.
pub(super) const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// The same where the time limits are short: so many times within the shortest.
pub(super) const WATCH_PARTS: u32 = 8;
/// But no more often than this.
pub(super) const MIN_WATCH_INTERVAL: Duration = Duration::from_millis(50);
/// What passes in one piece on a WebSocket, each direction.
pub(super) const SOCKET_BUFFER_BYTES: usize = 16 * 1024;
