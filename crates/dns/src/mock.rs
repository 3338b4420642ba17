//! Mocked names: a rule's `to` sends a name to an address that the operator chose.
//!
//! Nobody is asked about such a name, whatever the type of the question. Where connections come to
//! this gateway, the answer is a synthetic address: inside a sandbox the target's own address would
//! be the sandbox's (127.0.0.1), and the dialler goes to the target by the name. Where clients
//! connect by themselves (a restrictive resolver on the host), the answer is the target.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portcullis_names::RecordType;
use portcullis_policy::{LookupPermit, Policy, Reason};

use crate::cache::{Entry, Outcome};
use crate::flight::TOO_MANY_NEW_NAMES;
use crate::leases::Grant;
use crate::local;
use crate::reply::{self, rcode};
use crate::service::Inner;
use crate::turn::{Judged, Refusal, Turn, write_refusal};

/// How long the answer for a mocked name may be cached, seconds: an operator who changes the policy
/// looks at once whether it works.
const MOCK_TTL: u32 = 60;

impl Inner {
    /// Answers any question for a name that its rule sends `to` somewhere.
    pub(crate) fn answer_mock(
        &self,
        turn: &Turn<'_>,
        (policy, epoch): (&Policy, u64),
        judged: Judged,
        (permit, to): (&LookupPermit, SocketAddr),
        out: &mut Vec<u8>,
    ) {
        let detail = format!("its rule sends it to {to}");
        if self.transparent {
            if turn.query.qtype != RecordType::A {
                return self.answer_nothing(turn, policy, judged, out);
            }
            return self.answer_synthetic(turn, (policy, epoch), judged, permit, (&detail, out));
        }
        let address = to.ip().to_canonical();
        let data: &[u8] = match (address, turn.query.qtype) {
            (IpAddr::V4(v4), RecordType::A) => &v4.octets(),
            (IpAddr::V6(v6), RecordType::AAAA) => &v6.octets(),
            _ => return self.answer_nothing(turn, policy, judged, out),
        };
        let grant = Grant {
            name: permit.listed(),
            canonical: None,
            ports: permit.ports(),
            ttl: Duration::from_secs(MOCK_TTL.into()),
        };
        if let Err(error) = self.leases.grant_chain(address, grant) {
            let reason = local::grant_reason(&error);
            return self.fail_own(turn, policy, (judged, reason), &error.to_string(), out);
        }
        self.note_given(turn, policy, judged, address, &detail);
        reply::one(out, &turn.asked, turn.query.qtype, MOCK_TTL, data);
    }

    /// Answers a listed name's A question with its synthetic address. `text` is for the record.
    pub(crate) fn answer_synthetic(
        &self,
        turn: &Turn<'_>,
        (policy, epoch): (&Policy, u64),
        judged: Judged,
        permit: &LookupPermit,
        (text, out): (&str, &mut Vec<u8>),
    ) {
        // Nothing leaves, but names without end would use the range up.
        let budget = policy.settings().dns.new_names_per_minute;
        let now = self.clock.now();
        if !self.new_names.admit(permit, (epoch, budget), now) {
            let refused = (judged, Reason::RateLimited);
            return self.fail_own(turn, policy, refused, TOO_MANY_NEW_NAMES, out);
        }
        let granted = self
            .leases
            .grant_synthetic(permit.listed(), permit.ports())
            .and_then(|(address, ttl)| {
                let udp = permit.udp_ports();
                self.leases.open_datagrams(address.into(), udp, ttl)?;
                Ok((address, ttl))
            });
        match granted {
            Ok((address, ttl)) => {
                self.note_given(turn, policy, judged, address.into(), text);
                // At most a minute.
                let ttl = ttl.as_secs() as u32;
                reply::one(out, &turn.asked, RecordType::A, ttl, &address.octets());
            }
            Err(error) => {
                let reason = local::grant_reason(&error);
                self.fail_own(turn, policy, (judged, reason), &error.to_string(), out);
            }
        }
    }

    /// Answers that the name is there, and has no records of this type.
    pub(crate) fn answer_nothing(
        &self,
        turn: &Turn<'_>,
        policy: &Policy,
        judged: Judged,
        out: &mut Vec<u8>,
    ) {
        self.note_own(turn, policy, judged, &[]);
        reply::negative(out, &turn.asked, rcode::NO_ERROR, None);
    }

    /// Records an address that was given out instead of a name's own.
    fn note_given(
        &self,
        turn: &Turn<'_>,
        policy: &Policy,
        judged: Judged,
        address: IpAddr,
        detail: &str,
    ) {
        let mut given = Entry::new(Outcome::Found, self.clock.now(), Duration::ZERO, 0);
        given.addresses.push(address);
        self.note(turn, policy, judged, &given, Some(detail));
    }

    /// Records and answers a failure of our own: SERVFAIL with its reason.
    fn fail_own(
        &self,
        turn: &Turn<'_>,
        policy: &Policy,
        (judged, reason): (Judged, Reason),
        detail: &str,
        out: &mut Vec<u8>,
    ) {
        let failed = Judged::of(reason, judged.rule);
        let entry = Entry::new(Outcome::Failed(reason), self.clock.now(), Duration::ZERO, 0);
        let id = self.note(turn, policy, failed, &entry, Some(detail));
        let code = Refusal::Code(rcode::SERV_FAIL);
        write_refusal(turn, reason, id, code, out);
    }
}
