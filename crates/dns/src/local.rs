//! Names that are answered here and never asked of anyone: the sandbox's own loopback, the
//! gateway's self-probe, and the host's name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use portcullis_names::{NameRef, RecordType};
use portcullis_policy::{Policy, Reason};

use crate::flight::Permits;
use crate::leases::{Grant, GrantError};
use crate::reply::{self, rcode};
use crate::service::Inner;
use crate::turn::{Judged, Refusal, Turn};

/// Below this name everything is the gateway's own probe: it shows that the resolver answers.
const PROBE_ZONE: &str = ".probe.portcullis.internal";

/// What the probe is told.
const PROBE_TEXT: &[u8] = b"\x0aportcullis";

/// How long answers about the sandbox itself may be cached, seconds.
const LOCAL_TTL: u32 = 60;

/// How long the answer to ANY may be cached, seconds.
const ANY_TTL: u32 = 3_600;

/// The data of the HINFO record that answers ANY (RFC 8482 4.2): CPU "RFC8482", no OS.
const ANY_HINFO: &[u8] = b"\x07RFC8482\x00";

/// Answers a name that is nobody else's business. `false`: it is not one.
///
/// RFC 6761 6.3: `localhost` and what is below it is the loopback, and never leaves.
pub(crate) fn answer(turn: &Turn<'_>, out: &mut Vec<u8>) -> bool {
    let name = turn.name.as_str();
    let qtype = turn.query.qtype;
    if qtype.is_transfer() {
        return false;
    }
    if name == "localhost" || name.ends_with(".localhost") {
        match qtype {
            RecordType::A => {
                let data = Ipv4Addr::LOCALHOST.octets();
                reply::one(out, &turn.asked, RecordType::A, LOCAL_TTL, &data);
            }
            RecordType::AAAA => {
                let data = Ipv6Addr::LOCALHOST.octets();
                reply::one(out, &turn.asked, RecordType::AAAA, LOCAL_TTL, &data);
            }
            _ => reply::negative(out, &turn.asked, rcode::NO_ERROR, None),
        }
        return true;
    }
    if name.ends_with(PROBE_ZONE) {
        match qtype {
            RecordType::TXT => reply::one(out, &turn.asked, RecordType::TXT, 0, PROBE_TEXT),
            _ => reply::negative(out, &turn.asked, rcode::NO_ERROR, None),
        }
        return true;
    }
    false
}

/// Top-level names that mean nothing to any resolver, and what says so. They do not leave, even
/// where the policy lists them or only watches: the question alone would tell a resolver what was
/// meant for nobody.
const NEVER_ASKED: [(&str, &str); 3] = [
    (
        "onion",
        "names below onion are never asked of a resolver (RFC 7686)",
    ),
    ("invalid", "names below invalid do not exist (RFC 6761 6.4)"),
    ("alt", "names below alt are not DNS names (RFC 9476)"),
];

/// Why no resolver is asked for this name; `None` for ordinary names.
pub(crate) fn never_leaves(name: NameRef<'_>) -> Option<&'static str> {
    let top = name.labels().next_back()?;
    NEVER_ASKED
        .iter()
        .find(|(special, _)| *special == top)
        .map(|(_, why)| *why)
}

impl Inner {
    /// Answers for the sandbox's own host name, which the hosts file has and the policy need not
    /// list: it exists, with nothing to say. `false`: it is not that name.
    pub(crate) fn answer_own_hostname(&self, turn: &Turn<'_>, out: &mut Vec<u8>) -> bool {
        let own = self.own.hostname.as_ref().map(|own| own.as_ref());
        let transfer = turn.query.qtype.is_transfer();
        if own != Some(turn.name) || transfer {
            return false;
        }
        reply::negative(out, &turn.asked, rcode::NO_ERROR, None);
        true
    }
}

/// Answers ANY for a permitted name with one small record (RFC 8482).
pub(crate) fn answer_any(turn: &Turn<'_>, out: &mut Vec<u8>) {
    reply::one(out, &turn.asked, RecordType::HINFO, ANY_TTL, ANY_HINFO);
}

impl Inner {
    /// Answers `host.portcullis.internal`, once the policy permits it: the address inside that the
    /// gateway maps to the host's loopback. It has no other records.
    pub(crate) fn answer_host(
        &self,
        turn: &Turn<'_>,
        policy: &Policy,
        judged: Judged,
        permits: Permits,
        out: &mut Vec<u8>,
    ) {
        if turn.query.qtype != RecordType::A {
            self.note_own(turn, policy, judged, &[]);
            reply::negative(out, &turn.asked, rcode::NO_ERROR, None);
            return;
        }
        let address = IpAddr::V4(self.own.host);
        for permit in &permits {
            let grant = Grant {
                name: permit.listed(),
                canonical: None,
                ports: permit.ports(),
                ttl: Duration::from_secs(LOCAL_TTL.into()),
            };
            let granted = self.leases.grant_chain(address, grant).and_then(|()| {
                let udp = permit.udp_ports();
                self.leases.open_datagrams(address, udp, grant.ttl)
            });
            if let Err(error) = granted {
                let judged = Judged::of(grant_reason(&error), judged.rule);
                let refusal = Refusal::Code(rcode::SERV_FAIL);
                return self.refuse(turn, policy, judged, refusal, out);
            }
        }
        self.note_own(turn, policy, judged, &[address]);
        reply::one(
            out,
            &turn.asked,
            RecordType::A,
            LOCAL_TTL,
            &self.own.host.octets(),
        );
    }
}

/// The reason that an address could not be given out.
pub(crate) fn grant_reason(error: &GrantError) -> Reason {
    match error {
        GrantError::Full | GrantError::RangeFull(_) => Reason::RateLimited,
        GrantError::Synthetic => Reason::PrivateAddress,
        GrantError::NoRange | GrantError::Gate(_) => Reason::Internal,
    }
}
