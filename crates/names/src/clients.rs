//! Which clients a listener serves, by their addresses.
//!
//! Answers *strangers at a listener* (docs/threats.md): a listener that others can reach serves only
//! those whom its operator means.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use crate::error::TargetError;
use crate::target::read_net;

/// The prefix of IPv6 addresses that carry an IPv4 one (RFC 4291 section 2.5.5.2), in bits.
const MAPPED_BITS: u8 = 96;

/// Who may connect to a listener: everybody, unless networks are named.
#[derive(Clone, Debug, Default)]
pub struct AllowedClients(Option<Arc<[IpNet]>>);

impl AllowedClients {
    /// Only clients from these networks; everybody, if there are none.
    pub fn from_networks(networks: &[IpNet]) -> AllowedClients {
        AllowedClients((!networks.is_empty()).then(|| networks.into()))
    }

    /// Whether there is nobody to refuse.
    pub fn is_everybody(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a client with this address may come in. An IPv4 client of an IPv6 socket is an IPv4 client.
    #[inline]
    pub fn contains(&self, client: IpAddr) -> bool {
        let Some(networks) = &self.0 else { return true };
        let client = client.to_canonical();
        networks.iter().any(|network| network.contains(&client))
    }
}

/// Reads a network of clients: `10.0.0.0/8`, `fd00::/8`, or one address. A network of IPv6 addresses that
/// carry IPv4 ones (`::ffff:10.0.0.0/104`) is that IPv4 network.
///
/// # Errors
/// [`TargetError`] if it is no network, or has bits set beyond its prefix.
pub fn client_network(text: &str) -> Result<IpNet, TargetError> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let network = read_net(address, prefix)?;
    let (IpAddr::V4(v4), Some(bits)) = (
        network.addr().to_canonical(),
        network.prefix_len().checked_sub(MAPPED_BITS),
    ) else {
        return Ok(network);
    };
    match (network, Ipv4Net::new(v4, bits)) {
        (IpNet::V6(_), Ok(mapped)) => Ok(mapped.into()),
        _ => Ok(network),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(networks: &[&str]) -> AllowedClients {
        let read = networks.iter().map(|text| client_network(text).unwrap());
        AllowedClients::from_networks(&read.collect::<Vec<_>>())
    }

    #[test]
    fn clients_are_told_apart_by_network_in_every_spelling_of_their_address() {
        for (networks, inside, outside) in [
            (&["10.1.0.0/16"][..], "10.1.2.3", "10.2.0.1"),
            (&["10.1.0.0/16"], "::ffff:10.1.2.3", "::ffff:10.2.0.1"),
            (&["::ffff:10.1.0.0/112"], "10.1.2.3", "10.2.0.1"),
            (&["192.0.2.7", "fd00::/8"], "192.0.2.7", "192.0.2.8"),
            (&["192.0.2.7", "fd00::/8"], "fd12::1", "2001:db8::1"),
            (&["0.0.0.0/0"], "203.0.113.9", "2001:db8::1"),
            (&["::/0"], "2001:db8::1", "::ffff:203.0.113.9"),
            (&["::1"], "::1", "127.0.0.1"),
        ] {
            let clients = allowed(networks);
            assert!(
                clients.contains(inside.parse().unwrap()),
                "{networks:?}: {inside}"
            );
            assert!(
                !clients.contains(outside.parse().unwrap()),
                "{networks:?}: {outside}"
            );
        }
        let everybody = AllowedClients::default();
        assert!(everybody.is_everybody() && everybody.contains("203.0.113.9".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_an_error() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "example.com",
            "10.0.0.0/8:53",
            "/8",
            "10.0.0.0/+8",
        ] {
            assert!(client_network(text).is_err(), "{text}");
        }
    }
}
