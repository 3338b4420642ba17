//! What one sandbox, or one rule, may use (*exhaustion*, docs/threats.md).

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

/// The limits of a sandbox's flows, or of a rule's flows in one sandbox, over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowLimits {
    /// Flows at once.
    pub connections: Option<NonZeroU32>,
    /// New flows per second.
    pub connections_per_second: Option<NonZeroU32>,
    /// Bytes per second, up and down together.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Bytes in the sandbox's life, up and down together.
    pub total_bytes: Option<NonZeroU64>,
    /// How long a flow may carry nothing.
    pub idle_timeout: Option<Duration>,
}

impl FlowLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == FlowLimits::default()
    }

    /// Whether the number of bytes is limited, a second or altogether.
    pub fn limits_bytes(&self) -> bool {
        self.bytes_per_second.is_some() || self.total_bytes.is_some()
    }
}

/// The limits of one sandbox; those for names are in [`DnsSettings`](crate::DnsSettings).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of all its flows together.
    pub flows: FlowLimits,
    /// From a connection's start to the end of its handshake (TLS, SOCKS).
    pub handshake_timeout: Option<Duration>,
    /// From a request's first byte to the end of its head.
    pub header_timeout: Option<Duration>,
}
