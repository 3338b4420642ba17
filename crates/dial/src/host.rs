//! The host's own interface addresses: guarded like loopback, since what listens on them trusts
//! the host, and a public-looking address of the host itself is still the host.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis_names::Name;
use portcullis_policy::HOST_NAME;

/// The loopback interface's usual addresses, IPv4 first: what listens there mostly does so on this one.
pub const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// How long a reading of the interfaces is used.
const MAX_AGE: Duration = Duration::from_secs(1);
/// Addresses kept of one reading.
const MAX_ADDRESSES: usize = 4096;

/// Where the dialler learns which addresses are the host's own.
#[derive(Clone, Debug)]
pub enum HostAddresses {
    /// From the interfaces of the namespace that the gateway lives in, read again each second in
    /// which something is dialled.
    Interfaces,
    /// A fixed list.
    Fixed(Vec<IpAddr>),
}

struct Reading {
    addresses: Arc<[IpAddr]>,
    at: Instant,
}

/// What reading the interfaces needs, and what was read.
struct Readings {
    last: Option<Reading>,
    /// Given up for a moment if no descriptor is free to ask the kernel with.
    spare: Option<File>,
}

/// A descriptor that can be closed without loss.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// [`HostAddresses`] with the last reading: tells which addresses are the host's own.
pub struct Host {
    source: HostAddresses,
    readings: Mutex<Readings>,
}

impl Host {
    /// A teller that has read nothing yet.
    pub fn new(source: HostAddresses) -> Host {
        Host {
            source,
            readings: Mutex::new(Readings {
                last: None,
                spare: spare(),
            }),
        }
    }

    /// Whether the address is the host's own.
    ///
    /// # Errors
    /// The interfaces cannot be read: nobody knows, and the caller refuses.
    pub fn owns(&self, address: IpAddr) -> std::io::Result<bool> {
        match &self.source {
            HostAddresses::Fixed(list) => Ok(list.contains(&address)),
            HostAddresses::Interfaces => Ok(self.interfaces()?.contains(&address)),
        }
    }

    fn interfaces(&self) -> std::io::Result<Arc<[IpAddr]>> {
        let readings = self.readings.lock();
        let mut readings = readings.unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(reading) = &readings.last
            && now.duration_since(reading.at) < MAX_AGE
        {
            return Ok(reading.addresses.clone());
        }
        let addresses = read().or_else(|_| {
            drop(readings.spare.take());
            let again = read();
            readings.spare = spare();
            again
        });
        let addresses: Arc<[IpAddr]> = addresses?.into();
        readings.last = Some(Reading {
            addresses: addresses.clone(),
            at: now,
        });
        Ok(addresses)
    }
}

fn read() -> std::io::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address else {
            continue;
        };
        if let Some(v4) = address.as_sockaddr_in() {
            addresses.push(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            addresses.push(IpAddr::V6(v6.ip()));
        }
        if addresses.len() == MAX_ADDRESSES {
            // A list that is cut would let the rest through.
            return Err(std::io::Error::other("the host has too many addresses"));
        }
    }
    Ok(addresses)
}

/// Whether this is the name under which rules speak of the host itself.
pub(crate) fn is_host(name: &Name) -> bool {
    name.as_str() == HOST_NAME
}

/// Whether connecting to `to` reaches the socket that listens at `listener`; `is_own` says that
/// `to` is an address of the host that `listener` is on.
#[must_use]
pub fn reaches(to: SocketAddr, listener: SocketAddr, is_own: bool) -> bool {
    let (to_ip, listener_ip) = (to.ip().to_canonical(), listener.ip().to_canonical());
    to.port() == listener.port()
        && (to_ip == listener_ip
            || to_ip.is_unspecified()
            || (listener_ip.is_unspecified() && (is_own || to_ip.is_loopback())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_owns_its_loopback_and_not_the_internet() {
        let host = Host::new(HostAddresses::Interfaces);
        assert!(host.owns("127.0.0.1".parse().unwrap()).unwrap());
        assert!(!host.owns("192.0.2.1".parse().unwrap()).unwrap());
        assert!(
            host.readings.lock().unwrap().last.is_some(),
            "the reading is kept"
        );
    }

    #[test]
    fn listeners_are_reached_by_every_spelling_of_their_address() {
        let to = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (dialled, listener, own, expected) in [
            ("127.0.0.1:3128", "127.0.0.1:3128", true, true),
            ("127.0.0.1:3129", "127.0.0.1:3128", true, false),
            ("127.0.0.2:3128", "127.0.0.1:3128", true, false),
            ("127.0.0.2:3128", "0.0.0.0:3128", false, true),
            ("192.0.2.7:3128", "0.0.0.0:3128", true, true),
            ("192.0.2.7:3128", "[::]:3128", true, true),
            ("192.0.2.7:3128", "0.0.0.0:3128", false, false),
            ("[::ffff:127.0.0.1]:3128", "127.0.0.1:3128", false, true),
            ("0.0.0.0:3128", "127.0.0.1:3128", false, true),
            ("[::]:3128", "[::1]:3128", false, true),
        ] {
            assert_eq!(
                reaches(to(dialled), to(listener), own),
                expected,
                "{dialled} {listener}"
            );
        }
    }
}
