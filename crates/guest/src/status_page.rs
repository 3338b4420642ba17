//! What the status page tells, and where it is.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use portcullis_names::STATUS_PORT;

/// What the page tells.
#[derive(Clone, Debug)]
pub struct StatusPage {
    /// The gateway's addresses inside: the page is at port 80 of each.
    pub addresses: Vec<IpAddr>,
    /// The HTTP proxy.
    pub http: SocketAddr,
    /// The SOCKS5 proxy.
    pub socks5: SocketAddr,
    /// The resolver.
    pub resolver: IpAddr,
    /// The resolver by IPv6.
    pub resolver6: Ipv6Addr,
    /// The authority that inspected names are shown by, PEM; none where nothing is inspected.
    pub ca_pem: Option<String>,
}

impl StatusPage {
    /// Whether a connection to `to` arrives at the page.
    pub fn is_at(&self, to: SocketAddr) -> bool {
        to.port() == STATUS_PORT && self.addresses.contains(&to.ip())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn page(ca_pem: Option<&str>) -> StatusPage {
        StatusPage {
            addresses: vec!["10.0.2.2".parse().unwrap(), "fd50::2".parse().unwrap()],
            http: "10.0.2.2:3128".parse().unwrap(),
            socks5: "10.0.2.2:1080".parse().unwrap(),
            resolver: "10.0.2.3".parse().unwrap(),
            resolver6: "fd50::2".parse().unwrap(),
            ca_pem: ca_pem.map(str::to_owned),
        }
    }

    #[test]
    fn the_page_is_at_its_addresses_and_its_port_only() {
        let page = page(None);
        for (to, is_there) in [
            ("10.0.2.2:80", true),
            ("[fd50::2]:80", true),
            ("10.0.2.2:8080", false),
            ("10.0.2.3:80", false),
        ] {
            assert_eq!(page.is_at(to.parse().unwrap()), is_there, "{to}");
        }
    }
}
