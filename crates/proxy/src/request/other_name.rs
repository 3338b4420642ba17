//! Requests for another name than the one that their tunnel was opened by.

use std::net::SocketAddr;

use super::decide::Request;
use crate::services::Services;
use crate::target::Target;

/// The destination of a request whose host is another name than the one that its tunnel was opened by, if
/// that name is listed itself, for the address that the tunnel leads to. Of any other the decision
/// is that it does not match. `address` is unknown where an upstream proxy found the way.
pub(crate) async fn other_name(
    services: Services<'_>,
    tunnel: &Target,
    address: Option<SocketAddr>,
    request: &Request<'_>,
) -> Option<Target> {
    let (host, port) = request.named()?;
    let (asked, other, address) = (tunnel.name()?, host.name()?, address?);
    if asked.as_str() == other.as_str() || port.is_some_and(|port| port != tunnel.port) {
        return None;
    }
    let target = services.decider.target(host.clone(), tunnel.port);
    let ruling = services.decider.decide(&target);
    let is_there = services.connector.is_at(&ruling, address).await;
    is_there.then_some(target)
}
