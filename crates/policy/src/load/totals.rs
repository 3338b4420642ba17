//! What only all rules together tell.

use portcullis_names::PortSet;

use super::draft::Draft;
use crate::rules::RuleSet;

/// The port on which TLS is expected.
const HTTPS_PORT: u16 = 443;
/// Most UDP ports of one policy: each is a socket or two in every sandbox.
pub(crate) const MAX_UDP_PORTS: usize = 32;

/// Reports what only all rules together tell.
pub(super) fn report(draft: &mut Draft<'_>, rules: &RuleSet) {
    let mut udp = PortSet::EMPTY;
    let names = rules
        .names
        .allows()
        .map(|allow| (allow.rule, &allow.ports.udp));
    let nets = rules
        .nets
        .allows()
        .iter()
        .map(|rule| (rule.rule, &rule.udp));
    for (rule, ports) in names.chain(nets).filter(|(_, ports)| !ports.is_empty()) {
        udp = udp.union(ports);
        if udp.len() > MAX_UDP_PORTS {
            let place = draft.place(rule);
            let message = format!("the rules allow UDP on more than {MAX_UDP_PORTS} ports");
            draft.sources.error(place, message);
            break;
        }
    }
    let Some(limited) = draft.limited else {
        return;
    };
    let unseen = rules.names.allows().filter(|allow| {
        allow.ports.tcp.contains(HTTPS_PORT) && !allow.flow.is_some_and(|flow| flow.inspect)
    });
    // one warning for all: a list may have a million of them
    let count = unseen.count();
    if count > 0 {
        let rules = if count == 1 {
            "rule covers"
        } else {
            "rules cover"
        };
        let message = format!(
            "`mode = \"limited\"` refuses HTTPS that is not inspected, but {count} {rules} port \
             {HTTPS_PORT} without `inspect = true`"
        );
        let hint = "add `inspect = true` to the rules for HTTPS".to_owned();
        draft.sources.warn(limited, message, hint);
    }
}
