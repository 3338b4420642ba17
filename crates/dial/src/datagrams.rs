//! Datagrams out: one connected socket for each flow, so that nothing but the answers of the one
//! destination comes back.
//!
//! No upstream proxy takes datagrams, so they go directly or not at all.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use portcullis_names::Name;
use portcullis_policy::{DatagramPermit, PermitTarget, Reason};
use tokio::net::UdpSocket;

use crate::direct::Direct;
use crate::error::{DialError, Failure, reason_of};
use crate::guard::ChosenBy;
use crate::host::is_host;
use crate::inside::not_outside;
use crate::socket;

/// Most addresses of a name that are tried; a datagram tells nothing of whether it arrived, so the
/// first that the host has a way to is taken.
const MAX_ADDRESSES: usize = 8;

/// A socket that exchanges datagrams with one destination.
#[derive(Debug)]
pub struct Datagrams {
    /// Connected to [`Datagrams::address`].
    pub socket: UdpSocket,
    /// The destination.
    pub address: SocketAddr,
    /// The end of the name's CNAME chain, where the name was looked up and has one.
    pub canonical: Option<Name>,
}

/// Opens a socket for the datagrams that `permit` allows.
///
/// # Errors
/// [`DialError`]: the name has no address, the guard keeps it, or the host has no way there.
pub(crate) async fn connect(
    direct: &Direct,
    permit: &DatagramPermit,
) -> Result<Datagrams, DialError> {
    let port = permit.port();
    let mut canonical = None;
    let (addresses, chosen_by) = match permit.target() {
        PermitTarget::Name(name) | PermitTarget::NameAt(name, _) if is_host(name) => {
            (vec![Ipv4Addr::LOCALHOST.into()], ChosenBy::HostName)
        }
        PermitTarget::Address(address) | PermitTarget::NameAt(_, address) => {
            (vec![*address], ChosenBy::Sandbox)
        }
        PermitTarget::Inside(_) => return Err(not_outside()),
        PermitTarget::Name(name) => {
            let lookup = permit
                .lookup()
                .ok_or_else(|| DialError::new(Reason::Internal, "a permit without a name"))?;
            let found = direct.resolver.resolve(&lookup).await?;
            canonical = (found.canonical != *name).then_some(found.canonical);
            (found.addresses, ChosenBy::Sandbox)
        }
    };
    let mut last = DialError::new(Reason::NoAddress, "no address to send to");
    for address in addresses.into_iter().take(MAX_ADDRESSES) {
        let to = SocketAddr::new(address, port);
        match socket::connect_datagrams(&direct.guard, to, chosen_by).await {
            Ok(socket) => {
                return Ok(Datagrams {
                    socket,
                    address: to,
                    canonical,
                });
            }
            Err(failure) => last = failed(address, failure),
        }
    }
    Err(last)
}

fn failed(address: IpAddr, failure: Failure) -> DialError {
    let mut error = match failure {
        Failure::Refused(reason) => DialError::new(reason, format!("{address} is refused")),
        Failure::Network(error) => DialError::new(reason_of(&error), error.to_string()),
        Failure::Silent => DialError::new(Reason::ConnectionTimeout, "no answer"),
    };
    error.addresses = vec![address];
    error
}
