//! The host's own addresses, which the address guard refuses like private ones.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most interface addresses that are read.
const MAX_HOST_ADDRESSES: usize = 65_536;

/// The addresses of the host's own interfaces, loopback included.
///
/// # Errors
/// The kernel does not tell.
pub fn host_addresses() -> io::Result<Vec<IpAddr>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: getifaddrs fills the pointer or fails.
    crate::sys::check(unsafe { libc::getifaddrs(&raw mut list) })?;
    let mut found = Vec::new();
    let mut next = list;
    while !next.is_null() && found.len() < MAX_HOST_ADDRESSES {
        // SAFETY: next is a node of the list, which lives until freeifaddrs; the family says
        // which kind of address ifa_addr points at.
        unsafe {
            let address = (*next).ifa_addr;
            if !address.is_null() {
                match i32::from((*address).sa_family) {
                    libc::AF_INET => {
                        let v4 = address.cast::<libc::sockaddr_in>().read_unaligned();
                        found.push(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into());
                    }
                    libc::AF_INET6 => {
                        let v6 = address.cast::<libc::sockaddr_in6>().read_unaligned();
                        found.push(Ipv6Addr::from(v6.sin6_addr.s6_addr).into());
                    }
                    _ => {}
                }
            }
            next = (*next).ifa_next;
        }
    }
    // SAFETY: list came from getifaddrs and is not used again.
    unsafe { libc::freeifaddrs(list) };
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_loopback_is_one_of_its_addresses() {
        let addresses = host_addresses().unwrap();
        assert!(
            addresses.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)),
            "{addresses:?}"
        );
    }
}
