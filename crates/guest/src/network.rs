//! What a guest is told of its network.

use std::net::{Ipv4Addr, Ipv6Addr};

use portcullis_names::Name;

/// The maximum transmission unit of Ethernet, in bytes.
pub const DEFAULT_MTU: u16 = 1500;
/// The smallest one that IPv6 works with, in bytes (RFC 8200, section 5).
pub const MIN_MTU: u16 = 1280;
/// The largest one that a TAP device and the usual guests take, in bytes.
pub const MAX_MTU: u16 = 65_520;

/// Room for the search list in its options, in bytes of names as DNS writes them.
const MAX_SEARCH_BYTES: usize = 240;

/// The network of one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestNetwork {
    /// The guest's IPv4 address.
    pub address: Ipv4Addr,
    /// The length of its network's prefix, in bits: at most 32.
    pub prefix: u8,
    /// Its default route, and the server that says all this.
    pub router: Ipv4Addr,
    /// Its resolver.
    pub resolver: Ipv4Addr,
    /// Its IPv6 network, 64 bits long: the guest takes addresses in it by itself (RFC 4862).
    pub prefix6: Ipv6Addr,
    /// Its resolver by IPv6.
    pub resolver6: Ipv6Addr,
    /// The largest packet, in bytes.
    pub mtu: u16,
    /// Domains that complete short names.
    pub search: Vec<Name>,
}

impl GuestNetwork {
    pub(crate) fn netmask(&self) -> Ipv4Addr {
        let host_bits = 32 - u32::from(self.prefix.min(32));
        Ipv4Addr::from_bits(u32::MAX.checked_shl(host_bits).unwrap_or(0))
    }

    /// The domains that there is room for, from the first on.
    pub(crate) fn search(&self) -> impl Iterator<Item = &Name> {
        let mut used = 0;
        self.search.iter().take_while(move |name| {
            // A length before each label, and the root's at the end.
            used += name.as_str().len() + 2;
            used <= MAX_SEARCH_BYTES
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::tests::network;

    #[test]
    fn masks_cover_every_prefix() {
        let mask = |prefix| {
            let network = GuestNetwork {
                prefix,
                ..network()
            };
            network.netmask().octets()
        };
        assert_eq!(mask(0), [0; 4]);
        assert_eq!(mask(24), [255, 255, 255, 0]);
        assert_eq!(mask(32), [255; 4]);
    }

    #[test]
    fn domains_beyond_the_room_are_left_out() {
        let names = (10..60).map(|number| format!("d{number}.example"));
        let names = names.map(|name| Name::from_program(name.as_bytes()).unwrap());
        let network = GuestNetwork {
            search: names.collect(),
            ..network()
        };
        // Thirteen bytes each.
        assert_eq!(network.search().count(), MAX_SEARCH_BYTES / 13);
    }
}
