//! What one sandbox may use (*exhaustion*, docs/threats.md).

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

/// The limits of one sandbox, over all of its flows; those for names are in
/// [`DnsSettings`](crate::DnsSettings).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Flows at once.
    pub connections: Option<NonZeroU32>,
    /// New flows per second.
    pub connections_per_second: Option<NonZeroU32>,
    /// Bytes per second, up and down together.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Bytes in the sandbox's life, up and down together.
    pub total_bytes: Option<NonZeroU64>,
    /// From a connection's start to the end of its handshake (TLS, SOCKS).
    pub handshake_timeout: Option<Duration>,
    /// From a request's first byte to the end of its head.
    pub header_timeout: Option<Duration>,
    /// How long a flow may carry nothing.
    pub idle_timeout: Option<Duration>,
}
