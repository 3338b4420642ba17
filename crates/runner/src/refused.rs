//! What the kernel refused, as decision records.
//!
//! A connect() that fails in the kernel never reaches the gateway, yet every denial at every layer
//! leaves a record: the sandbox's rules log each refusal, and this reads the log.

use portcullis_gateway::{CancellationToken, Leases, PolicyHandle};
use portcullis_policy::{Reason, Request, Verdict};
use portcullis_record::{Client, Event, Layer, Protocol, Recorder, Transport};
use portcullis_sandbox::{Refused, RefusedLog, RefusedProtocol};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What the record of a ping says.
const ICMP: &str = "icmp: no rule can allow it beyond the sandbox itself; `portcullis diagnose` shows \
                    whether a host is reached";

/// The type of frames that carry ARP.
const ETHER_TYPE_ARP: u16 = 0x0806;

/// Turns kernel refusals of one sandbox into records.
pub(crate) struct RefusedReader {
    pub policy: PolicyHandle,
    pub leases: Arc<Leases>,
    pub recorder: Recorder,
}

impl RefusedReader {
    /// Reads until `token` is cancelled, then once more for what is left.
    pub(crate) async fn run(
        self,
        log: RefusedLog,
        token: CancellationToken,
    ) -> std::io::Result<()> {
        #[expect(
            deprecated,
            reason = "RefusedLog owns one descriptor for life, which is what the unsafe constructor asks for"
        )]
        let log = AsyncFd::with_interest(log, Interest::READABLE)?;
        // Whether refusals were lost, and how many has not been seen yet.
        let mut unknown = false;
        loop {
            tokio::select! {
                ready = log.readable() => {
                    let mut ready = ready?;
                    if !self.drain(log.get_ref(), &mut unknown)? {
                        ready.clear_ready();
                    }
                }
                () = token.cancelled() => {
                    while self.drain(log.get_ref(), &mut unknown)? {}
                    if unknown {
                        self.record_end_lost();
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Reads one batch; true when more may be waiting.
    fn drain(&self, log: &RefusedLog, unknown: &mut bool) -> std::io::Result<bool> {
        let batch = log.read()?;
        *unknown |= batch.overflowed;
        for refused in &batch.refused {
            *unknown &= refused.lost_before == 0;
            self.record(refused);
        }
        Ok(batch.more)
    }

    fn record(&self, refused: &Refused) {
        self.record_lost(refused.protocol, refused.lost_before);
        let destination = refused.destination;
        let addresses = [destination.ip()];
        if let Some(hardware) = refused.spoofed {
            return self.record_frame(refused, hardware);
        }
        match refused.protocol {
            RefusedProtocol::Tcp => self.record_tcp(destination),
            RefusedProtocol::Udp => {
                // Unlike a socket whose connect() was refused, which has lost its address, this one
                // may still be there. A guest's packets come from no process.
                let client = refused.uid.map(|_| Client {
                    transport: Transport::Udp,
                    address: refused.source,
                    server: None,
                });
                let _id = self.recorder.decision(
                    not_allowed()
                        .client(client)
                        .port(destination.port())
                        .addresses(&addresses)
                        .detail("udp"),
                );
            }
            RefusedProtocol::Icmp => {
                let address = destination.ip();
                let to = self.leases.owner(address).asked(address);
                let mut event = not_allowed().addresses(&addresses).detail(ICMP);
                event.name = to.owner().map(|name| name.as_str());
                self.recorder.decision(event);
            }
            RefusedProtocol::Frame(_) => {}
            RefusedProtocol::Other(number) => {
                let detail = format!("ip protocol {number}");
                self.recorder
                    .decision(not_allowed().addresses(&addresses).detail(&detail));
            }
        }
    }

    /// What a guest's device dropped before anything looked at it.
    fn record_frame(&self, refused: &Refused, hardware: [u8; 6]) {
        let [a, b, c, d, e, f] = hardware;
        let hardware = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let Refused { source, .. } = refused;
        let destination = [refused.destination.ip()];
        let spoofed = || Event {
            reason: Reason::SpoofedSource,
            ..not_allowed()
        };
        match refused.protocol {
            RefusedProtocol::Frame(ETHER_TYPE_ARP) => {
                let detail = format!("arp from {hardware}");
                self.recorder.decision(spoofed().detail(&detail));
            }
            RefusedProtocol::Frame(kind) => {
                let detail = format!("ethertype {kind:#06x} from {hardware}");
                self.recorder.decision(not_allowed().detail(&detail));
            }
            RefusedProtocol::Tcp
            | RefusedProtocol::Udp
            | RefusedProtocol::Icmp
            | RefusedProtocol::Other(_) => {
                let detail = format!("from {} at {hardware}", source.ip());
                let mut event = spoofed().addresses(&destination).detail(&detail);
                if refused.protocol == RefusedProtocol::Tcp {
                    event.layer = Layer::Tcp;
                }
                if refused.destination.port() != 0 {
                    event = event.port(refused.destination.port());
                }
                self.recorder.decision(event);
            }
        }
    }

    /// Refusals for which the kernel's log had no room, taken for ones like that which came behind them.
    /// They are equal, so each costs little and all of a second share a record.
    fn record_lost(&self, protocol: RefusedProtocol, times: u32) {
        let lost = match protocol {
            RefusedProtocol::Tcp => Event {
                layer: Layer::Tcp,
                ..not_allowed()
            },
            _ => not_allowed(),
        };
        let detail =
            "refusals for which the kernel's log had no room: where they went is not known";
        self.recorder.decisions(&lost.detail(detail), times);
    }

    fn record_end_lost(&self) {
        let reason = Reason::Internal;
        let event = Event::new(Layer::Gateway, Protocol::Kernel, reason.verdict(), reason);
        let detail =
            "the kernel's log of refused packets overflowed: the last refusals are missing";
        self.recorder.decision(event.detail(detail));
    }

    fn record_tcp(&self, destination: SocketAddr) {
        let (address, port) = (destination.ip(), destination.port());
        let to = self.leases.owner(address).asked(address).unshown();
        let request = Request::connect(&to, port);
        let policy = self.policy.load();
        let decision = policy.decide(&request);
        // Refused although the policy would let it pass: the lease ran out before the program came,
        // or a rule denies the made-up address itself.
        let reason = match decision.permits().then(|| policy.guard(address, port)) {
            None => decision.reason,
            Some(Err(Reason::DeniedByRule)) => Reason::DeniedByRule,
            Some(_) => Reason::AddressNotLeased,
        };
        let rule = decision.rule.map(|id| policy.rule(id));
        let suggestion = policy.suggestion(&request);
        let addresses = [address];
        let mut event = Event::new(Layer::Tcp, Protocol::Kernel, Verdict::Deny, reason)
            .port(port)
            .addresses(&addresses);
        if let Some(rule) = &rule {
            event = event.rule(rule.text, rule.source);
        }
        event.name = to.asked.owner().map(|name| name.as_str());
        event.suggestion = suggestion.as_deref();
        if reason == Reason::PortNotAllowed {
            event.detail = policy.ftp_hint(&to, port);
        }
        self.recorder.decision(event);
    }
}

fn not_allowed<'a>() -> Event<'a> {
    Event::new(
        Layer::Udp,
        Protocol::Kernel,
        Verdict::Deny,
        Reason::ProtocolNotAllowed,
    )
}
