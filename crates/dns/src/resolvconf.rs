//! The host's own resolvers, read from the text of its `resolv.conf`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The port of plain DNS.
const DNS_PORT: u16 = 53;

/// Resolvers taken from a `resolv.conf`. The C library stops at 3; hosts that list more mean it.
const MAX_RESOLVERS: usize = 8;

/// The `nameserver` lines of a `resolv.conf` (resolv.conf(5)), in order, without doubles.
///
/// Lines that name no usable address are skipped, as the C library does. `index_of` gives the number of the
/// interface that an address of one link names (`fe80::1%eth0`); without one the line is skipped. An
/// empty result means that the caller must decide (the C library would ask 127.0.0.1).
pub fn upstreams_from_resolv_conf(
    text: &str,
    index_of: impl Fn(&str) -> Option<u32>,
) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(server) = words.next().and_then(|text| server(text, &index_of)) else {
            continue;
        };
        if !found.contains(&server) && found.len() < MAX_RESOLVERS {
            found.push(server);
        }
    }
    found
}

fn server(text: &str, index_of: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let Some((address, zone)) = text.split_once('%') else {
        let address: IpAddr = text.parse().ok()?;
        return Some(SocketAddr::new(address, DNS_PORT));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let index = zone.parse().ok().or_else(|| index_of(zone))?;
    Some(SocketAddrV6::new(address, DNS_PORT, 0, index).into())
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
                    options edns0\nnameserver 10.0.0.53\nnameservers 10.0.0.54\n";
        let expected: Vec<SocketAddr> = vec![
            "10.0.0.53:53".parse().unwrap(),
            "[2001:db8::53]:53".parse().unwrap(),
            "[fe80::1%7]:53".parse().unwrap(),
            "[fe80::2%3]:53".parse().unwrap(),
        ];
        assert_eq!(upstreams_from_resolv_conf(text, index), expected);
    }

    #[test]
    fn an_empty_file_names_no_resolver() {
        assert!(upstreams_from_resolv_conf("", index).is_empty());
        assert!(
            upstreams_from_resolv_conf("nameserver ;\n;nameserver 1.1.1.1\n", index).is_empty()
        );
    }

    #[test]
    fn the_list_is_bounded() {
        let text: String = (0..100)
            .map(|i| format!("nameserver 10.0.0.{i}\n"))
            .collect();
        assert_eq!(
            upstreams_from_resolv_conf(&text, index).len(),
            MAX_RESOLVERS
        );
    }
}
