//! Short names as TARGETs: what the host's search list makes of them, as for a program inside.

use portcullis_gateway::{callers_search, host_resolv_conf};
use portcullis_names::{Name, RecordType};
use portcullis_policy::{Policy, Request};

/// A target whose name the search list completes.
pub struct InFull {
    /// The name as it was written.
    short: String,
    /// The name that it stands for.
    full: Name,
    /// The target with the full name.
    pub target: String,
}

impl std::fmt::Display for InFull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let InFull { short, full, .. } = self;
        write!(
            f,
            "{short} means {full} by the search list of /etc/resolv.conf"
        )
    }
}

/// What a target (`NAME`, `NAME:PORT`, a URL, `METHOD URL`) stands for: the first completion that the policy
/// lists, else, for a name without dots, the first one. `None` where it stands for itself.
pub fn in_full(policy: &Policy, target: &str) -> Option<InFull> {
    let after_scheme = target.find("://").map_or(0, |at| at + "://".len());
    let rest = target.get(after_scheme..)?;
    let end = rest.find([':', '/', '?', '#']).unwrap_or(rest.len());
    let (short, behind) = rest.split_at(end);
    if short.ends_with('.') {
        return None;
    }
    let name = Name::from_policy(short).ok()?;
    let search = callers_search(&host_resolv_conf().unwrap_or_default());
    if search.is_empty() || name.as_ref().is_localhost() {
        return None;
    }
    let is_listed = |name: &Name| {
        let listed = |qtype| {
            let name = name.as_ref();
            policy.decide(&Request::Lookup { name, qtype }).permits()
        };
        listed(RecordType::A) || listed(RecordType::AAAA)
    };
    let listed = search.candidates(name.as_ref()).find(is_listed);
    let full = listed.or_else(|| search.full_name(name.as_ref()))?;
    (full != name).then(|| InFull {
        target: format!("{}{full}{behind}", &target[..after_scheme]),
        short: short.to_owned(),
        full,
    })
}
