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
    let address = address?;
    let are_names = tunnel.name().is_some() && host.name().is_some();
    if !are_names || tunnel.is(host) || port.is_some_and(|port| port != tunnel.port) {
        return None;
    }
    let (decider, connector) = (services.decider, services.connector);
    let dialer = &connector.dialer;
    let target = decider.target_in_full(dialer, host, tunnel.port).await;
    let ruling = services.decider.decide(&target);
    let is_there = services.connector.is_at(&ruling, address).await;
    is_there.then_some(target)
}
