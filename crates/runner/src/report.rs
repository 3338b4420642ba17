//! What a run leaves behind for the person who started it: what was denied, what failed, what was
//! used. Serialised, since the gateway and the command line are two processes.

use crate::unresolved::Unresolved;
use portcullis_gateway::CancellationToken;
use portcullis_names::RecordType;
use portcullis_policy::{Reason, Verdict};
use portcullis_record::{
    DeniedSummary, Event, Layer, ObservedDecision, Protocol, Recorder, Subscription,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// The end of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// What was denied, equal ones together, the most frequent first.
    pub denied: Vec<Denied>,
    /// How many requests were denied in all.
    pub denied_total: u64,
    /// What was allowed but failed beyond the gateway.
    pub errors: Vec<Failed>,
    /// Names (or addresses) and ports that flows were opened to.
    pub used: Vec<Used>,
    /// Names that were resolved, or asked for other records.
    pub looked_up: Vec<LookedUp>,
    /// Why decision records are incomplete, if they are.
    pub record_error: Option<String>,
    /// Which other file that was written is not where its path leads any more, if any.
    pub misplaced: Option<String>,
    /// The names that kept the sandbox from starting, if it did not start for them.
    pub unresolved: Option<Unresolved>,
    /// Why the latest change of the policy was not taken over, if it was not.
    pub rejected: Option<String>,
    /// Why the gateway ended although the sandbox was still there, if it did.
    pub failed: Option<String>,
}

/// Leaves the first record of a log: which build decided what follows.
pub(crate) fn record_start(recorder: &Recorder, build: &str) {
    let event = Event::new(
        Layer::Gateway,
        Protocol::Startup,
        Verdict::Allow,
        Reason::Started,
    );
    recorder.decision(event.detail(build));
}

/// One kind of denial.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Denied {
    /// `name:port`, `address:port` or a name.
    pub target: String,
    /// The reason's code.
    pub reason: String,
    /// The reason in a sentence.
    pub sentence: String,
    /// How often.
    pub count: u64,
    /// The smallest change that would allow it.
    pub suggestion: Option<String>,
}

/// One allowed request that failed beyond the gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failed {
    /// `name:port` or a name.
    pub target: String,
    /// The reason's code.
    pub reason: String,
    /// The reason in a sentence.
    pub sentence: String,
    /// The error's exact text.
    pub detail: Option<String>,
}

/// One destination that a flow was opened to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// The name, or the address where no name was known.
    pub target: String,
    /// The port.
    pub port: u16,
    /// Whether `target` is an address.
    pub is_address: bool,
}

/// One name that was looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookedUp {
    /// The name.
    pub name: String,
    /// The record types asked for besides addresses and what leads to them, such as SRV: a program
    /// that asks for those needs the name although it never connects to it.
    pub records: BTreeSet<String>,
}

/// Record types that are asked for on the way to an address. The
/// connection that follows tells what the program needed.
const ADDRESS_TYPES: [RecordType; 6] = [
    RecordType::A,
    RecordType::CNAME,
    RecordType::PTR,
    RecordType::AAAA,
    RecordType::SVCB,
    RecordType::HTTPS,
];
/// Kinds of destinations, names and failures that a report keeps.
const MAX_COLLECTED: usize = 10_000;
/// Names that are remembered of one address.
const MAX_OWNERS: usize = 64;
/// Record types kept for one name.
const MAX_RECORD_TYPES: usize = 8;
/// How often what was recorded is taken in.
const COLLECT_INTERVAL: Duration = Duration::from_millis(100);
/// Kinds of denials that a report keeps.
const MAX_DENIED: usize = 200;

/// Gathers what a run used from the recorder, as it happens.
pub(crate) struct Collector {
    subscription: Subscription,
    used: BTreeSet<(String, u16, bool)>,
    looked_up: BTreeMap<String, BTreeSet<String>>,
    /// The names that DNS gave each address out for.
    owners: BTreeMap<IpAddr, BTreeSet<String>>,
    errors: Vec<Failed>,
}

impl Collector {
    pub(crate) fn new(recorder: &Recorder) -> Collector {
        Collector {
            subscription: recorder.subscribe(),
            used: BTreeSet::new(),
            looked_up: BTreeMap::new(),
            owners: BTreeMap::new(),
            errors: Vec::new(),
        }
    }

    /// Collects until `token` is cancelled and nothing is left.
    pub(crate) async fn run(mut self, token: CancellationToken) -> Report {
        loop {
            let over = token.is_cancelled();
            for seen in self.subscription.drain() {
                self.take(seen);
            }
            if over {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(COLLECT_INTERVAL) => {}
                () = token.cancelled() => tokio::task::yield_now().await,
            }
        }
        Report {
            used: self
                .used
                .into_iter()
                .map(|(target, port, is_address)| Used {
                    target,
                    port,
                    is_address,
                })
                .collect(),
            looked_up: self
                .looked_up
                .into_iter()
                .map(|(name, records)| LookedUp { name, records })
                .collect(),
            errors: self.errors,
            ..Report::default()
        }
    }

    fn take(&mut self, seen: ObservedDecision) {
        let passed = matches!(seen.verdict, Verdict::Allow | Verdict::Audit);
        match (seen.verdict, seen.layer) {
            // Nobody asked for these as they are.
            (Verdict::Error, _) if seen.reason == Reason::SearchExpansion => {}
            (Verdict::Error, _) if self.errors.len() < MAX_COLLECTED => self.errors.push(Failed {
                target: target(&seen.name, seen.port),
                reason: seen.reason.code().to_owned(),
                sentence: seen.reason.sentence().to_owned(),
                detail: seen.detail,
            }),
            (_, Layer::Dns) if passed && self.looked_up.len() < MAX_COLLECTED => {
                if matches!(seen.reason, Reason::Allowed | Reason::NotListed) {
                    for address in &seen.addresses {
                        if self.owners.len() < MAX_COLLECTED {
                            let owners = self.owners.entry(*address).or_default();
                            if owners.len() < MAX_OWNERS {
                                owners.insert(seen.name.clone());
                            }
                        }
                    }
                    let records = self.looked_up.entry(seen.name).or_default();
                    let other = seen.qtype.filter(|qtype| !ADDRESS_TYPES.contains(qtype));
                    if let Some(qtype) = other.filter(|_| records.len() < MAX_RECORD_TYPES) {
                        records.insert(qtype.to_string());
                    }
                }
            }
            // No policy needs to list it.
            (_, Layer::Tcp | Layer::Tls | Layer::Http) if seen.reason == Reason::OwnServer => {}
            (_, Layer::Tcp | Layer::Tls | Layer::Http) if passed => {
                if let Some(port) = seen.port.filter(|_| self.used.len() < MAX_COLLECTED) {
                    let is_address = seen.name.parse::<IpAddr>().is_ok();
                    // Nobody knows which of the address's names a direct connection that shows none
                    // is for: a policy needs them all.
                    let direct = seen.layer == Layer::Tcp && seen.protocol == Protocol::Transparent;
                    let owners = seen.addresses.iter().filter(|_| direct && !is_address);
                    let owners = owners.filter_map(|address| self.owners.get(address));
                    let owners: Vec<_> = owners.filter(|o| o.contains(&seen.name)).collect();
                    for owner in owners.into_iter().flatten() {
                        self.used.insert((owner.clone(), port, false));
                    }
                    self.used.insert((seen.name, port, is_address));
                }
            }
            _ => {}
        }
    }
}

impl Report {
    /// Adds what the recorder counted as denied.
    pub(crate) fn add_denied(&mut self, summary: &DeniedSummary) {
        self.denied_total = summary.total();
        self.denied = summary
            .groups
            .iter()
            .take(MAX_DENIED)
            .map(|group| Denied {
                target: target(&group.name, group.port),
                reason: group.reason.code().to_owned(),
                sentence: group.reason.sentence().to_owned(),
                count: group.count,
                suggestion: group.suggestion.clone(),
            })
            .collect();
    }
}

fn target(name: &str, port: Option<u16>) -> String {
    match port {
        Some(port) if name.contains(':') => format!("[{name}]:{port}"),
        Some(port) => format!("{name}:{port}"),
        // What was not understood names none.
        None if name.is_empty() => "no destination".to_owned(),
        None => name.to_owned(),
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
