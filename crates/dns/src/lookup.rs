//! One lookup: questions to the upstreams until the chain has an end, and the judgement of what
//! they answered.
//!
//! Answers "mixed public and private answers" and "failures that cost the upstreams more than
//! answers do": addresses are sorted by the guard here, once, and a failure is remembered for longer
//! the more often it comes again (RFC 9520).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_names::{Name, NameRef, RecordType};
use portcullis_policy::{Answers, LookupPermit, Reason, Request};
use tokio::time::Instant;

use crate::cache::{Entry, Key, KeyRef, Outcome};
use crate::chain::{Chain, TTL_FLOOR};
use crate::flight::Ask;
use crate::local;
use crate::service::Inner;
use crate::upstream::{Attempts, LOOKUP_BUDGET, UpstreamError};

/// Questions asked for one lookup, where an upstream answers with a CNAME and no more.
const MAX_QUESTIONS: usize = 6;

/// How long a failure is remembered at first (RFC 9520 3.2 asks for at least a second).
const FAILURE_TTL: Duration = Duration::from_secs(1);

/// How long a failure is remembered at most. RFC 9520 allows five minutes; a name that an outage
/// took should be back soon after it.
const FAILURE_TTL_CEILING: Duration = Duration::from_secs(8);

/// A failure this long after the one before it counts as the first.
const FAILURE_MEMORY: Duration = Duration::from_secs(60);

/// The time that a reverse lookup may take before the lease's own name is answered: programs ask
/// for it on the way, and a company's resolver often does not answer at all.
const REVERSE_BUDGET: Duration = Duration::from_millis(1_500);

/// How long a failed reverse lookup is remembered.
const REVERSE_FAILURE_TTL: Duration = Duration::from_secs(60);

/// What is said of a chain that leads from outside to a name of a zone that no rule lists.
const INTO_A_ZONE: &str = "its CNAME chain leads into a zone, to a name that is not listed";

/// Whether the policy lists a name for this type by itself.
fn lists(ask: &Ask, name: &Name, qtype: RecordType) -> bool {
    let request = Request::Lookup {
        name: name.as_ref(),
        qtype,
    };
    ask.policy.decide(&request).permits()
}

impl Inner {
    /// Asks until the question is answered, and judges the answer.
    pub(crate) async fn look_up(&self, ask: &Ask) -> Entry {
        let budget = if ask.key.qtype == RecordType::PTR {
            REVERSE_BUDGET
        } else {
            LOOKUP_BUDGET
        };
        let how = Attempts::OnDemand {
            deadline: Instant::now() + budget,
        };
        let entry = self.look_up_type(ask, ask.key.qtype, how).await;
        if entry.outcome != Outcome::Private {
            return entry;
        }
        self.weigh_other_family(ask, entry, how).await
    }

    /// Asks for one type, along the CNAME chain to its end.
    pub(crate) async fn look_up_type(&self, ask: &Ask, qtype: RecordType, how: Attempts) -> Entry {
        let Some(first) = ask.permits.first() else {
            return self.failure(Reason::Internal, "no permit", ask.epoch, qtype);
        };
        let mut chain = Chain::new(ask.key.name.clone(), qtype);
        let mut permit = first.clone();
        let mut attempts = 0;
        let dns = &ask.policy.settings().dns;
        for _ in 0..MAX_QUESTIONS {
            let answered = match self.upstream.query(&permit, qtype, how).await {
                Ok(answered) => answered,
                Err(UpstreamError {
                    reason,
                    detail,
                    server,
                    attempts: more,
                }) => {
                    return self
                        .failure(reason, &detail, ask.epoch, qtype)
                        .answered_by(server, attempts + more);
                }
            };
            attempts += answered.attempts;
            let server = answered.server;
            let zone = dns.zone_for(permit.name().as_ref());
            let within = |name: NameRef<'_>| dns.zone_for(name) == zone;
            match chain.follow(answered.message, within) {
                Ok(true) => {
                    return self
                        .judge(ask, qtype, chain)
                        .answered_by(Some(server), attempts);
                }
                Ok(false) => {
                    let end = chain.end();
                    // Whoever serves a listed name could have any internal name asked for.
                    if dns
                        .zone_for(end.as_ref())
                        .is_some_and(|into| Some(into) != zone)
                        && !lists(ask, end, qtype)
                    {
                        let detail = format!("resolver {server}: {INTO_A_ZONE}");
                        return self
                            .failure(Reason::DnsFailed, &detail, ask.epoch, qtype)
                            .answered_by(Some(server), attempts);
                    }
                    // The canonical name stands under the same listed name.
                    permit = permit.follow(end.clone());
                }
                Err(error) => {
                    let detail = format!("resolver {server}: {error}");
                    return self
                        .failure(Reason::DnsFailed, &detail, ask.epoch, qtype)
                        .answered_by(Some(server), attempts);
                }
            }
        }
        let detail = "the CNAME chain takes too many questions to follow";
        self.failure(Reason::DnsFailed, detail, ask.epoch, qtype)
    }

    /// Sorts an answer: what the guard lets through is written into the reply's body.
    fn judge(&self, ask: &Ask, qtype: RecordType, mut chain: Chain) -> Entry {
        let born = self.clock.now();
        let passes = |address: IpAddr| {
            // A real address of the range would be taken for another name's.
            if self.leases.is_synthetic(address) {
                return false;
            }
            let own = (self.host_owns)(address.to_canonical());
            ask.permits.iter().any(|permit| {
                let lifted = !own || ask.policy.lifts_any(address, permit.ports());
                let udp = permit.udp_ports();
                lifted && ask.policy.guard_lookup(address, permit.ports())
                    || !own && ask.policy.guard_datagram_lookup(address, udp)
            })
        };
        let (mut given, refused): (Vec<IpAddr>, Vec<IpAddr>) =
            chain.addresses().partition(|address| passes(*address));
        let private = !refused.is_empty() && given.is_empty();
        let six = (self.ipv6_route)();
        // Beside a synthetic address, real ones in hints would be another way to the name.
        let real = ask.policy.settings().dns.answers == Answers::Real;
        given.extend(chain.limit_services(|hint| real && passes(hint) && (hint.is_ipv4() || six)));
        // The permits are of one policy and for one name: they agree on this.
        if ask.permits.iter().any(LookupPermit::flattened) {
            chain.flatten();
        }
        let outcome = if private {
            Outcome::Private
        } else if chain.nx_domain() {
            Outcome::NameNotFound
        } else {
            Outcome::Found
        };
        let mut entry = Entry::new(outcome, born, chain.ttl(), ask.epoch);
        entry.addresses = given.into();
        entry.refused = refused.into();
        entry.targets = chain.targets().into();
        entry.pointer = chain.pointer();
        if outcome == Outcome::Private {
            return entry;
        }
        chain.retain_addresses(passes);
        match chain.body() {
            Ok(body) => entry.body = body,
            Err(error) => {
                let detail = error.to_string();
                return self.failure(Reason::Internal, &detail, ask.epoch, qtype);
            }
        }
        entry
    }

    /// Decides what an address family without a usable address means: an NXDOMAIN says that the
    /// name has nothing at all (RFC 8020), so it takes a look at the other family.
    async fn weigh_other_family(&self, ask: &Ask, entry: Entry, how: Attempts) -> Entry {
        let other = match ask.key.qtype {
            RecordType::A => RecordType::AAAA,
            _ => RecordType::A,
        };
        let routed = other == RecordType::A || (self.ipv6_route)();
        let served = ask.permits.iter().any(|permit| {
            let name = permit.listed().as_ref();
            let request = Request::Lookup { name, qtype: other };
            ask.policy.decide(&request).permits()
        });
        if !routed || !served {
            return entry;
        }
        let now = self.clock.now();
        let kept = self.cache.get(KeyRef {
            name: ask.key.name.as_ref(),
            qtype: other,
        });
        let (usable, left, attempts) = match kept.filter(|kept| kept.is_valid(now, ask.epoch)) {
            Some(kept) => (is_usable(&kept), kept.left(now), 0),
            // Not by a flight of its own: that one might wait for this one.
            None => {
                let found = self.look_up_type(ask, other, how).await;
                let weighed = (is_usable(&found), found.left(now), found.attempts);
                // Most programs ask for it next. Without an address in this family either, what was
                // found of the other stands as it is.
                if !matches!(found.outcome, Outcome::Failed(_)) {
                    let key = Key {
                        name: ask.key.name.clone(),
                        qtype: other,
                    };
                    self.cache.insert(key, Arc::new(found));
                }
                weighed
            }
        };
        let outcome = if usable {
            Outcome::PrivateFamily
        } else {
            Outcome::Private
        };
        let ttl = entry.left(now).min(left);
        let mut weighed = Entry::new(outcome, now, ttl, ask.epoch)
            .answered_by(entry.server, entry.attempts + attempts);
        weighed.refused = entry.refused;
        weighed.targets = entry.targets;
        weighed
    }

    /// The answer to a name that no resolver may be asked for, although the policy permits it.
    pub(crate) fn never_leaves(&self, ask: &Ask) -> Option<Entry> {
        let detail = local::never_leaves(ask.key.name.as_ref())?;
        let ttl = Duration::from_secs(TTL_FLOOR.into());
        let mut entry = Entry::new(Outcome::NameNotFound, self.clock.now(), ttl, ask.epoch);
        entry.body = Chain::absent(ask.key.name.clone(), ask.key.qtype)
            .body()
            .ok()?;
        entry.detail = Some(detail.into());
        Some(entry)
    }

    /// An entry that says why there is no answer.
    pub(crate) fn failure(
        &self,
        reason: Reason,
        detail: &str,
        epoch: u64,
        qtype: RecordType,
    ) -> Entry {
        let ttl = if qtype == RecordType::PTR {
            REVERSE_FAILURE_TTL
        } else {
            FAILURE_TTL
        };
        let mut entry = Entry::new(Outcome::Failed(reason), self.clock.now(), ttl, epoch);
        entry.detail = Some(detail.into());
        entry
    }
}

/// Whether the program can reach the name by this family, as far as anybody knows: where the lookup
/// failed, an NXDOMAIN would claim too much.
fn is_usable(entry: &Entry) -> bool {
    !entry.addresses.is_empty() || matches!(entry.outcome, Outcome::Failed(_))
}

impl Entry {
    /// A failure that comes after what was kept before it: after another failure it is remembered
    /// for twice as long as that one, up to a limit (RFC 9520 3.2).
    pub(crate) fn after(mut self, kept: &Entry) -> Entry {
        let again = matches!(kept.outcome, Outcome::Failed(_))
            && self.born.saturating_duration_since(kept.expires) < FAILURE_MEMORY;
        if again {
            let before = kept.left(kept.born);
            let ttl = (before * 2)
                .min(FAILURE_TTL_CEILING)
                .max(self.left(self.born));
            self.expires = self.born + ttl;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_are_remembered_longer_up_to_a_limit() {
        let failed = Outcome::Failed(Reason::DnsTimeout);
        let mut now = std::time::Instant::now();
        let mut kept = Entry::new(failed, now, FAILURE_TTL, 0);
        let mut times = Vec::new();
        for _ in 0..5 {
            now = kept.expires + Duration::from_secs(4);
            kept = Entry::new(failed, now, FAILURE_TTL, 0).after(&kept);
            times.push(kept.left(now).as_secs());
        }
        assert_eq!(times, [2, 4, 8, 8, 8]);
        now = kept.expires + FAILURE_MEMORY;
        let late = Entry::new(failed, now, FAILURE_TTL, 0).after(&kept);
        assert_eq!(late.left(now), FAILURE_TTL);
        let reverse = Entry::new(failed, now, REVERSE_FAILURE_TTL, 0).after(&kept);
        assert_eq!(reverse.left(now), REVERSE_FAILURE_TTL);
        let found = Entry::new(Outcome::Found, now, Duration::from_secs(9), 0);
        let first = Entry::new(failed, now, FAILURE_TTL, 0).after(&found);
        assert_eq!(first.left(now), FAILURE_TTL);
    }
}
