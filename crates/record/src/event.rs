//! What callers hand in: a decision ([`Event`]) or the end of a flow ([`Close`]), borrowed.
//!
//! Nothing here allocates: an event is a bundle of references that lives for one call.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portcullis_names::RecordType;
use portcullis_policy::{Reason, RuleSource, Verdict};

use crate::prepared::Prepared;

macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $code:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }
        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];
            /// The code as it stands in a record.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $($name::$variant => $code,)+ }
            }
            /// What the code means: a sentence for people.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $($name::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.code())
            }
        }
    };
}

codes! {
    /// The layer at which the decision was made: what a person checks bottom-up when a program
    /// fails.
    Layer {
        /// A name was looked up.
        Dns = "dns",
        /// A connection to an address and port, SOCKS5 requests included.
        Tcp = "tcp",
        /// A name shown in a TLS handshake.
        Tls = "tls",
        /// A request to the HTTP proxy, CONNECT included, or a `Host` seen on a connection.
        Http = "http",
        /// A datagram that is not DNS.
        Udp = "udp",
        /// The gateway itself: a policy that did not load, records that were lost. Such records have
        /// no destination.
        Gateway = "gateway",
    }
}

codes! {
    /// How the request reached the gateway.
    Protocol {
        /// DNS over UDP.
        DnsUdp = "dns-udp",
        /// DNS over TCP.
        DnsTcp = "dns-tcp",
        /// A plain HTTP request in absolute form.
        Http = "http",
        /// HTTP CONNECT.
        Connect = "connect",
        /// SOCKS5.
        Socks5 = "socks5",
        /// A direct connection, intercepted in the sandbox's own network.
        Transparent = "transparent",
        /// Refused by the sandbox's kernel before it reached the gateway.
        Kernel = "kernel",
        /// The gateway's own start and self-test, names resolved before CMD starts, policy changes,
        /// and the state of the record itself.
        Startup = "startup",
        /// A connection from the host to a published port of the sandbox.
        Publish = "publish",
    }
}

codes! {
    /// Why a flow ended.
    CloseReason {
        /// Both sides finished.
        Finished = "finished",
        /// The program ended the connection while upstream was still open.
        ClientClosed = "client-closed",
        /// Upstream ended the connection while the program's side was still open.
        UpstreamClosed = "upstream-closed",
        /// The program reset the connection.
        ClientReset = "client-reset",
        /// Upstream reset the connection.
        UpstreamReset = "upstream-reset",
        /// Nothing passed in either direction for too long, or one side stayed half-closed.
        IdleTimeout = "idle-timeout",
        /// Something that the flow showed later (a TLS name, a Host) was refused; a denial has the
        /// details.
        Denied = "denied",
        /// The policy changed and no longer allows the flow.
        PolicyChanged = "policy-changed",
        /// A limit cut the flow; `detail` says which.
        Limit = "limit",
        /// The program violated the protocol.
        ClientProtocol = "client-protocol",
        /// Upstream violated the protocol.
        UpstreamProtocol = "upstream-protocol",
        /// The sandbox or the gateway was shut down.
        Shutdown = "shutdown",
        /// The gateway itself failed.
        Internal = "internal",
    }
}

codes! {
    /// A stretch of a request's way through the gateway, for [`Timings`].
    Stage {
        /// Reading the program's request.
        Read = "read",
        /// The policy's decision.
        Decide = "decide",
        /// Looking the name up.
        Resolve = "resolve",
        /// Connecting to the destination, or to the upstream proxy.
        Connect = "connect",
        /// The upstream proxy answering CONNECT.
        Proxy = "proxy",
        /// From the first byte of the request to the outcome of the decision.
        Total = "total",
    }
}

/// How long each stage took. Stages that did not happen are absent. Small, since errors and the
/// tasks of flows carry it: microseconds, and what took longer than 71 minutes counts as that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Timings([u32; Stage::ALL.len()]);

/// A stage that did not happen.
const ABSENT: u32 = u32::MAX;

impl Default for Timings {
    fn default() -> Timings {
        Timings::NONE
    }
}

impl std::fmt::Debug for Timings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Timings {
    /// No stage at all.
    pub const NONE: Timings = Timings([ABSENT; Stage::ALL.len()]);

    /// Notes one stage, replacing an earlier value.
    pub fn set(&mut self, stage: Stage, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(ABSENT);
        self.0[stage as usize] = micros.min(ABSENT - 1);
    }

    /// The same, for building in one expression.
    #[must_use]
    pub fn with(mut self, stage: Stage, took: Duration) -> Self {
        self.set(stage, took);
        self
    }

    /// What a stage took, if it happened.
    #[must_use]
    pub fn get(&self, stage: Stage) -> Option<Duration> {
        let micros = self.0[stage as usize];
        (micros != ABSENT).then(|| Duration::from_micros(micros.into()))
    }

    /// Stages that `other` has replace ours: the dialler's timings join the proxy's.
    pub fn merge(&mut self, other: &Timings) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            if theirs != ABSENT {
                *mine = theirs;
            }
        }
    }

    /// The stages that happened, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Stage, Duration)> + '_ {
        Stage::ALL
            .iter()
            .filter_map(|&stage| Some((stage, self.get(stage)?)))
    }
}

/// The program behind a request, where it can be known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process<'a> {
    /// Its process id, as the host sees it.
    pub pid: u32,
    /// Its command name.
    pub command: &'a str,
}

/// The transport of a request's socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The sandbox's end of the socket that a request came by: what the program behind it is found
/// with ([`crate::Recorder::with_process_finder`]). Not part of the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client {
    /// Its transport.
    pub transport: Transport,
    /// Its address.
    pub address: SocketAddr,
    /// The gateway's end, for a connection.
    pub server: Option<SocketAddr>,
}

impl Protocol {
    /// The transport of requests that reach the gateway so.
    #[must_use]
    pub const fn transport(self) -> Transport {
        match self {
            Protocol::DnsUdp => Transport::Udp,
            _ => Transport::Tcp,
        }
    }
}

/// One decision, borrowed from whoever made it.
///
/// Start from [`Event::new`] and set fields directly or with the builder methods. Text may hold
/// anything: it is escaped and cut when the line is made.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Where in the stack.
    pub layer: Layer,
    /// By which entrance.
    pub protocol: Protocol,
    /// What was decided.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule that decided: its text, and `file:line` or the flag that it came from.
    pub rule: Option<(&'a str, RuleSource<'a>)>,
    /// The canonical name that was asked for.
    pub name: Option<&'a str>,
    /// What stood where a name should: bytes that are no name. Recorded as `name` when `name` is
    /// absent, with userinfo and anything from a `?` or `#` on taken out.
    pub raw_name: Option<&'a [u8]>,
    /// What a malformed request asked for, as it came. Recorded with userinfo and anything from a `?` or
    /// `#` on taken out.
    pub asked: Option<&'a [u8]>,
    /// The name at the end of the CNAME chain, if there was one.
    pub canonical_name: Option<&'a str>,
    /// The destination's port.
    pub port: Option<u16>,
    /// The DNS record type that was asked for.
    pub qtype: Option<RecordType>,
    /// Addresses answered, leased or dialled.
    pub addresses: &'a [IpAddr],
    /// Whether the record says of which families the addresses are (a name's at start-up).
    pub families: bool,
    /// Who answered: a resolver, an upstream proxy (without credentials), or the address connected.
    pub upstream: Option<&'a str>,
    /// The HTTP method.
    pub method: Option<&'a str>,
    /// The HTTP path. A query, fragment or userinfo in it is taken out here.
    pub path: Option<&'a str>,
    /// The program that asked, where the caller knows it.
    pub process: Option<Process<'a>>,
    /// The socket that the request came by, where the recorder may find the program itself.
    pub client: Option<Client>,
    /// Set where it is recorded later than it was made.
    pub prepared: Option<&'a Prepared>,
    /// How many tries upstream it took.
    pub attempts: Option<u32>,
    /// Time spent per stage.
    pub timings: Timings,
    /// The exact error text or circumstance, for the operator. Callers keep query strings,
    /// credentials and bodies out of it.
    pub detail: Option<&'a str>,
    /// The smallest policy line that would allow this. Kept for the closing paragraph and for
    /// subscribers; not part of the line.
    pub suggestion: Option<&'a str>,
}

impl Default for Event<'_> {
    /// An internal error: whoever forgets to say what happened has said that.
    fn default() -> Self {
        Event::new(
            Layer::Gateway,
            Protocol::Startup,
            Verdict::Error,
            Reason::Internal,
        )
    }
}

impl<'a> Event<'a> {
    /// An event with nothing but its four fixed parts.
    #[must_use]
    pub const fn new(layer: Layer, protocol: Protocol, verdict: Verdict, reason: Reason) -> Self {
        Event {
            layer,
            protocol,
            verdict,
            reason,
            rule: None,
            name: None,
            raw_name: None,
            asked: None,
            canonical_name: None,
            port: None,
            qtype: None,
            addresses: &[],
            families: false,
            upstream: None,
            method: None,
            path: None,
            process: None,
            client: None,
            prepared: None,
            attempts: None,
            timings: Timings::NONE,
            detail: None,
            suggestion: None,
        }
    }

    /// Sets the rule's text and its `file:line`.
    #[must_use]
    pub fn rule(mut self, text: &'a str, source: impl Into<RuleSource<'a>>) -> Self {
        self.rule = Some((text, source.into()));
        self
    }

    /// Sets the canonical name asked for.
    #[must_use]
    pub const fn name(mut self, name: &'a str) -> Self {
        self.name = Some(name);
        self
    }

    /// Sets the bytes that stood where a name should.
    #[must_use]
    pub const fn raw_name(mut self, bytes: &'a [u8]) -> Self {
        self.raw_name = Some(bytes);
        self
    }

    /// Sets the name at the end of the CNAME chain.
    #[must_use]
    pub const fn canonical_name(mut self, name: &'a str) -> Self {
        self.canonical_name = Some(name);
        self
    }

    /// Sets the destination's port.
    #[must_use]
    pub const fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Sets the DNS record type.
    #[must_use]
    pub const fn qtype(mut self, qtype: RecordType) -> Self {
        self.qtype = Some(qtype);
        self
    }

    /// Sets the addresses.
    #[must_use]
    pub const fn addresses(mut self, addresses: &'a [IpAddr]) -> Self {
        self.addresses = addresses;
        self
    }

    /// Sets who answered.
    #[must_use]
    pub const fn upstream(mut self, upstream: &'a str) -> Self {
        self.upstream = Some(upstream);
        self
    }

    /// Sets the HTTP method and path.
    #[must_use]
    pub const fn http(mut self, method: &'a str, path: Option<&'a str>) -> Self {
        self.method = Some(method);
        self.path = path;
        self
    }

    /// Sets the program that asked.
    #[must_use]
    pub const fn process(mut self, process: Option<Process<'a>>) -> Self {
        self.process = process;
        self
    }

    /// Sets the socket that the request came by.
    #[must_use]
    pub const fn client(mut self, client: Option<Client>) -> Self {
        self.client = client;
        self
    }

    /// Sets the number of tries upstream.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// Sets the timings.
    #[must_use]
    pub const fn timings(mut self, timings: Timings) -> Self {
        self.timings = timings;
        self
    }

    /// Sets the circumstance.
    #[must_use]
    pub const fn detail(mut self, detail: &'a str) -> Self {
        self.detail = Some(detail);
        self
    }

    /// Sets the policy line that would allow this.
    #[must_use]
    pub const fn suggestion(mut self, suggestion: &'a str) -> Self {
        self.suggestion = Some(suggestion);
        self
    }
}

/// The end of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Close<'a> {
    /// Bytes from the program to upstream.
    pub bytes_up: u64,
    /// Bytes from upstream to the program.
    pub bytes_down: u64,
    /// From the decision to the end.
    pub duration: Duration,
    /// Why it ended.
    pub close_reason: CloseReason,
    /// The exact error text, if there was one.
    pub detail: Option<&'a str>,
    /// Whether it was a part of another flow, in whose close its bytes are too: a request on an inspected
    /// connection. Not part of the line.
    pub within: bool,
}

impl Close<'_> {
    /// A flow that ended for `close_reason`, with nothing to add.
    #[must_use]
    pub const fn new(
        close_reason: CloseReason,
        bytes_up: u64,
        bytes_down: u64,
        duration: Duration,
    ) -> Self {
        Close {
            bytes_up,
            bytes_down,
            duration,
            close_reason,
            detail: None,
            within: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_keep_what_was_set_and_no_more() {
        let mut timings = Timings::default();
        assert_eq!(timings.iter().count(), 0);
        timings.set(Stage::Connect, Duration::from_micros(7));
        timings.set(Stage::Total, Duration::MAX);
        assert_eq!(timings.get(Stage::Connect), Some(Duration::from_micros(7)));
        assert!(timings.get(Stage::Total).unwrap() > Duration::from_secs(4000));
        assert_eq!(timings.get(Stage::Resolve), None);
        let mut other = Timings::default().with(Stage::Connect, Duration::ZERO);
        other.merge(&Timings::default().with(Stage::Read, Duration::from_micros(1)));
        timings.merge(&other);
        assert_eq!(timings.get(Stage::Connect), Some(Duration::ZERO));
        assert_eq!(timings.iter().count(), 3);
    }
}
