//! The host's own resolvers and search list, read from the text of its `resolv.conf`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::search::SearchList;

/// The port of plain DNS.
const DNS_PORT: u16 = 53;

/// Resolvers taken from a `resolv.conf`. The C library stops at 3; hosts that list more mean it.
const MAX_RESOLVERS: usize = 8;

/// What a `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    resolvers: Vec<Nameserver>,
    /// How short names are completed.
    pub search: SearchList,
}

/// A `nameserver` line.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Nameserver {
    Address(SocketAddr),
    /// An address of one link, whose interface may come and go.
    OnLink {
        address: Ipv6Addr,
        link: Box<str>,
    },
}

impl ResolvConf {
    /// Reads a `resolv.conf` (resolv.conf(5)). Lines that mean nothing are skipped, as the C library does.
    /// `hostname` is the host's own name, whose domain stands for a search list that is not written.
    pub fn parse(text: &str, hostname: &str) -> ResolvConf {
        let mut resolvers: Vec<Nameserver> = Vec::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("nameserver") {
                continue;
            }
            let Some(server) = words.next().and_then(nameserver) else {
                continue;
            };
            if !resolvers.contains(&server) && resolvers.len() < MAX_RESOLVERS {
                resolvers.push(server);
            }
        }
        ResolvConf {
            resolvers,
            search: SearchList::parse(text, hostname),
        }
    }

    /// The resolvers that can be asked now, in order. `index_of` gives the number of an interface: a
    /// resolver on a link whose interface is not there is left out until it is. An empty result means that
    /// the caller must decide (the C library would ask 127.0.0.1).
    pub fn resolvers(&self, index_of: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
        let now = |server: &Nameserver| match server {
            Nameserver::Address(address) => Some(*address),
            Nameserver::OnLink { address, link } => {
                let index = link.parse().ok().or_else(|| index_of(link))?;
                Some(SocketAddrV6::new(*address, DNS_PORT, 0, index).into())
            }
        };
        self.resolvers.iter().filter_map(now).collect()
    }

    /// The interfaces that resolvers are reached by.
    pub fn links(&self) -> impl Iterator<Item = &str> {
        self.resolvers.iter().filter_map(|server| match server {
            Nameserver::Address(_) => None,
            Nameserver::OnLink { link, .. } => Some(&**link),
        })
    }
}

fn nameserver(text: &str) -> Option<Nameserver> {
    match text.split_once('%') {
        None => {
            let address: IpAddr = text.parse().ok()?;
            Some(Nameserver::Address(SocketAddr::new(address, DNS_PORT)))
        }
        Some((_, "")) => None,
        Some((address, link)) => Some(Nameserver::OnLink {
            address: address.parse().ok()?,
            link: link.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(name: &str) -> Option<u32> {
        (name == "eth0").then_some(7)
    }

    #[test]
    fn nameserver_lines_are_read_in_order_and_the_rest_is_skipped() {
        let text = "# nameserver 9.9.9.9\nsearch corp.example\nnameserver 10.0.0.53\n\
                    nameserver\t2001:db8::53 # comment\nnameserver fe80::1%eth0\nnameserver\n\
                    nameserver fe80::2%3\nnameserver fe80::3%gone0\nnameserver 10.0.0.9%eth0\n\
                    options edns0\nnameserver 10.0.0.53\r\nnameservers 10.0.0.54\n";
        let expected: Vec<SocketAddr> = vec![
            "10.0.0.53:53".parse().unwrap(),
            "[2001:db8::53]:53".parse().unwrap(),
            "[fe80::1%7]:53".parse().unwrap(),
            "[fe80::2%3]:53".parse().unwrap(),
        ];
        let read = ResolvConf::parse(text, "");
        assert_eq!(read.resolvers(index), expected);
        let links: Vec<&str> = read.links().collect();
        assert_eq!(links, ["eth0", "3", "gone0"]);
    }

    #[test]
    fn a_resolver_is_there_when_its_interface_is() {
        let read = ResolvConf::parse("nameserver fe80::3%gone0\n", "");
        assert!(read.resolvers(index).is_empty());
        let back: SocketAddr = "[fe80::3%9]:53".parse().unwrap();
        assert_eq!(read.resolvers(|_| Some(9)), [back]);
    }

    #[test]
    fn an_empty_file_names_no_resolver() {
        for text in [
            "",
            "nameserver ;\n;nameserver 1.1.1.1\nnameserver fe80::1%\n",
        ] {
            assert!(ResolvConf::parse(text, "").resolvers(index).is_empty());
        }
    }

    #[test]
    fn the_list_is_bounded() {
        let text: String = (0..100)
            .map(|i| format!("nameserver 10.0.0.{i}\n"))
            .collect();
        let read = ResolvConf::parse(&text, "");
        assert_eq!(read.resolvers(index).len(), MAX_RESOLVERS);
    }
}
