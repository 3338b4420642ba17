//! Whether a rule's terms suit its target: what cannot be enforced for it does not load.
//!
//! Rules never silently widen: methods and paths of a rule for HTTPS that is not inspected would be
//! believed in by their author and seen by nobody.

use portcullis_names::{Target, Transport};

use super::source::{Place, Sources};
use crate::rules::Terms;

/// The port on which plain HTTP is expected.
const HTTP_PORT: u16 = 80;
/// The port on which TLS is expected.
const HTTPS_PORT: u16 = 443;
/// Datagrams to this port are the resolver's inside.
const DNS_PORT: u16 = 53;
/// Whether the rule may be taken; reports what is wrong with it.
pub(super) fn suits(
    sources: &mut Sources,
    place: &Place,
    (text, target): (&str, &Target),
    terms: &Terms,
) -> bool {
    if terms.denies {
        return true;
    }
    if target.transport() == Transport::Udp {
        return datagrams(sources, place, (text, target), terms);
    }
    let Some(says) = terms.flow.as_deref().filter(|says| says.only_http()) else {
        return true;
    };
    if says.inspect || !target.ports().contains(HTTPS_PORT) {
        return true;
    }
    let key = if says.methods.is_some() {
        "methods"
    } else {
        "paths"
    };
    let message = format!(
        "`{text}` covers port {HTTPS_PORT}, where `{key}` cannot be seen without inspection"
    );
    let plain = match target {
        Target::Name { pattern, .. } => format!("\"{pattern}:{HTTP_PORT}\""),
        Target::Net { net, .. } if net.addr().is_ipv4() => format!("\"{net}:{HTTP_PORT}\""),
        Target::Net { net, .. } => format!("\"[{net}]:{HTTP_PORT}\""),
    };
    let hint = match target {
        Target::Name { .. } => {
            format!("add `inspect = true`, or write the rule for {plain} alone")
        }
        Target::Net { .. } => format!("write the rule for {plain}, or for a name"),
    };
    sources.error_with(place, message, hint);
    false
}

fn datagrams(
    sources: &mut Sources,
    place: &Place,
    (text, target): (&str, &Target),
    terms: &Terms,
) -> bool {
    let says = terms.flow.as_deref();
    let key = match says {
        _ if terms.to.is_some() => "to",
        _ if terms.types.is_some() => "types",
        _ if terms.allow_no_sni => "allow_no_sni",
        Some(says) if says.inspect => "inspect",
        Some(says) if says.methods.is_some() => "methods",
        Some(says) if says.paths.is_some() => "paths",
        // flows of datagrams are bounded by number and silence; nothing counts their bytes yet
        Some(says) if says.limits.rate.is_some() => "rate",
        Some(says) if says.limits.connections.is_some() => "connections",
        Some(says) if says.limits.connections_per_second.is_some() => "connections_per_second",
        Some(says) if says.limits.total_bytes.is_some() => "total_bytes",
        _ if target.ports().is_any() => {
            let message =
                format!("`{text}` is too broad: datagrams pass on the ports that are named");
            let hint = "write a rule for each port, as in \"time.example.com:123/udp\"";
            sources.error_with(place, message, hint.to_owned());
            return false;
        }
        _ if target.ports().contains(DNS_PORT) => {
            let message =
                format!("`{text}`: datagrams to port {DNS_PORT} are the sandbox's own resolver's");
            let hint =
                "name resolvers under [network.dns]; names need no rule to be looked up there";
            sources.error_with(place, message, hint.to_owned());
            return false;
        }
        _ => return true,
    };
    let message = format!("`{key}` has no meaning for UDP, and `{text}` is a rule for UDP");
    sources.error(place, message);
    false
}
