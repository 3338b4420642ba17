//! Whether a rule's terms suit its target: what cannot be enforced for it does not load.
//!
//! Rules never silently widen: methods and paths of a rule for HTTPS that is not inspected would be
//! believed in by their author and seen by nobody.

use portcullis_names::{Target, Transport};

use super::limit_keys;
use super::source::{Place, Sources};
use crate::rules::Terms;

/// The port on which plain HTTP is expected.
const HTTP_PORT: u16 = 80;
/// The port on which TLS is expected.
const HTTPS_PORT: u16 = 443;
/// Inside, UDP to this port reaches the resolver.
const DNS_PORT: u16 = 53;

/// Whether the rule may be taken; reports what is wrong with it.
pub(super) fn suits(
    sources: &mut Sources,
    place: Place,
    text: &str,
    target: &Target,
    terms: &Terms,
) -> bool {
    if terms.denies {
        return true;
    }
    if target.transport() == Transport::Udp {
        return datagrams(sources, place, text, target, terms);
    }
    let Some(flow) = terms.flow.as_deref().filter(|flow| flow.only_http()) else {
        return true;
    };
    if flow.inspect || !target.ports().contains(HTTPS_PORT) {
        return true;
    }
    let key = if flow.methods.is_some() {
        "methods"
    } else {
        "paths"
    };
    let message = format!(
        "`{text}` covers port {HTTPS_PORT}, where `{key}` has no effect without inspection"
    );
    let plain = match target {
        Target::Name { pattern, .. } => format!("\"{pattern}:{HTTP_PORT}\""),
        Target::Net { net, .. } if net.addr().is_ipv4() => format!("\"{net}:{HTTP_PORT}\""),
        Target::Net { net, .. } => format!("\"[{net}]:{HTTP_PORT}\""),
    };
    let hint = match target {
        Target::Name { .. } => {
            format!("add `inspect = true`, or limit the rule to {plain}")
        }
        Target::Net { .. } => format!("limit the rule to {plain}, or write it for a name"),
    };
    sources.error_with(place, message, hint);
    false
}

fn datagrams(
    sources: &mut Sources,
    place: Place,
    text: &str,
    target: &Target,
    terms: &Terms,
) -> bool {
    let flow = terms.flow.as_deref();
    let limit = flow.and_then(|flow| limit_keys::not_for_udp(flow.limits));
    let key = match (flow, limit) {
        _ if terms.to.is_some() => "to",
        _ if terms.types.is_some() => "types",
        _ if terms.allow_no_sni => "allow_no_sni",
        (Some(flow), _) if flow.inspect => "inspect",
        (Some(flow), _) if flow.ftp => "ftp",
        (Some(flow), _) if flow.methods.is_some() => "methods",
        (Some(flow), _) if flow.paths.is_some() => "paths",
        (_, Some(key)) => key,
        _ if target.ports().is_any() => {
            let message = format!("`{text}` is too broad: a rule for UDP must name its ports");
            let hint = "write a rule for each port, as in \"time.example.com:123/udp\"";
            sources.error_with(place, message, hint.to_owned());
            return false;
        }
        _ if target.ports().contains(DNS_PORT) => {
            let message =
                format!("`{text}`: the sandbox's own resolver receives UDP to port {DNS_PORT}");
            let hint = "to choose upstream resolvers, use [network.dns]";
            sources.error_with(place, message, hint.to_owned());
            return false;
        }
        _ => return true,
    };
    let message = format!("`{key}` has no effect on UDP, but `{text}` is a rule for UDP");
    sources.error(place, message);
    false
}
