//! Answers that have run out and are given out again while the upstreams fail (RFC 8767).
//!
//! Answers "a name that worked a minute ago is gone because a resolver is": the program gets the
//! earlier answer with EDE 3, the record has a reason of its own, and the lookup goes on.
//!
//! Invariant: what is given out again was found under the policy in force. Another policy may name
//! other resolvers, lift other addresses or follow no CNAME, so its answers are looked up anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::{Entry, Outcome};
use crate::reply::rcode;
use portcullis_names::RecordType;

/// How long after its end an answer may be given out again. RFC 8767 5 advises one to three days;
/// the shortest of them, since an address opens the gate for the name, and addresses change hands.
pub(crate) const MAX_STALE: Duration = Duration::from_secs(24 * 3_600);

/// How long an answer holds that is given out again, and how long the upstreams are then left in
/// peace (RFC 8767 5: 30 s for both).
pub(crate) const STALE_TTL: Duration = Duration::from_secs(30);

/// How long a program waits for a lookup before it gets the earlier answer (RFC 8767 5).
pub(crate) const CLIENT_RESPONSE_TIMER: Duration = Duration::from_millis(1_800);

/// What the record says where the lookup takes longer than [`CLIENT_RESPONSE_TIMER`].
pub(crate) const SLOW: &str = "given out again: the lookup takes longer than 1.8 s";

/// How a failure becomes the detail of an answer given out again.
pub(crate) fn because(detail: Option<&str>) -> String {
    format!("given out again: {}", detail.unwrap_or("the lookup failed"))
}

impl Entry {
    /// Whether this answer may be given out after its end: records, or a name without records of
    /// this type. An NXDOMAIN is not: to say that a name is gone takes somebody who knows.
    pub(crate) fn outlives_its_end(&self, now: Instant, epoch: u64, qtype: RecordType) -> bool {
        let end = self.stale_since.unwrap_or(self.expires);
        self.outcome == Outcome::Found
            && self.body.rcode == rcode::NO_ERROR
            // A reverse lookup has the lease's own name to answer.
            && qtype != RecordType::PTR
            && self.epoch == epoch
            && now < end + MAX_STALE
    }

    /// The same answer, to be given out again from `now` on.
    pub(crate) fn again(&self, now: Instant, detail: &str) -> Arc<Entry> {
        let mut entry = Entry::new(self.outcome, now, STALE_TTL, self.epoch);
        entry.body = self.body.with_ttl(STALE_TTL.as_secs() as u32);
        entry.addresses.clone_from(&self.addresses);
        entry.refused.clone_from(&self.refused);
        entry.targets.clone_from(&self.targets);
        entry.server.clone_from(&self.server);
        entry.stale_since = Some(self.stale_since.unwrap_or(self.expires));
        entry.detail = Some(detail.into());
        Arc::new(entry)
    }

    /// Whether the answer had run out before it was given out.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale_since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: RecordType = RecordType::A;

    #[test]
    fn an_answer_is_given_out_again_for_a_day_and_under_its_own_policy() {
        let born = Instant::now();
        let entry = Entry::new(Outcome::Found, born, Duration::from_secs(60), 3);
        let end = entry.expires;
        assert!(entry.outlives_its_end(end, 3, A));
        assert!(!entry.outlives_its_end(end, 4, A), "another policy");
        assert!(!entry.outlives_its_end(end, 3, RecordType::PTR));
        let last = end + MAX_STALE - Duration::from_secs(1);
        let again = entry.again(last, SLOW);
        assert!(again.is_stale() && again.is_valid(last, 3));
        assert!(again.outlives_its_end(last, 3, A));
        let after = last + Duration::from_secs(1);
        assert!(
            !again.outlives_its_end(after, 3, A),
            "the day counts from the true answer's end"
        );
    }

    #[test]
    fn only_an_answer_is_given_out_again() {
        let now = Instant::now();
        let failed = Outcome::Failed(portcullis_policy::Reason::DnsTimeout);
        for outcome in [
            Outcome::NameNotFound,
            Outcome::Private,
            Outcome::PrivateFamily,
            failed,
        ] {
            let entry = Entry::new(outcome, now, Duration::ZERO, 0);
            assert!(!entry.outlives_its_end(now, 0, A), "{outcome:?}");
        }
    }
}
