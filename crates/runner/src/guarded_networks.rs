//! The guarded networks as the kernel's rules take them, for audit mode.
//!
//! Under audit everything passes but these. The kernel's list is for the signature (refused at
//! connect()); the gateway's guard, which also knows the host's own addresses and every IPv6 form
//! that carries an IPv4 address, is what holds.

use std::net::{Ipv4Addr, Ipv6Addr};

use portcullis_sandbox::Network;

const V4: [([u8; 4], u8); 14] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([168, 63, 129, 16], 32),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
    ([100, 100, 100, 200], 32),
];

const V6: [([u16; 3], u8); 8] = [
    ([0x64, 0xff9b, 0], 48),
    ([0x64, 0xff9b, 1], 48),
    ([0x2001, 0, 0], 32),
    ([0x2002, 0, 0], 16),
    ([0xfc00, 0, 0], 7),
    ([0xfe80, 0, 0], 10),
    ([0xfec0, 0, 0], 10),
    ([0xff00, 0, 0], 8),
];

/// Each guarded network.
pub(crate) fn networks() -> Vec<Network> {
    let v4 = V4.iter().map(|(octets, prefix)| Network {
        address: Ipv4Addr::from(*octets).into(),
        prefix: *prefix,
    });
    let v6 = V6.iter().map(|([a, b, c], prefix)| Network {
        address: Ipv6Addr::new(*a, *b, *c, 0, 0, 0, 0, 0).into(),
        prefix: *prefix,
    });
    v4.chain(v6).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use portcullis_names::is_guarded;

    #[test]
    fn the_kernel_refuses_nothing_that_the_guard_would_let_pass() {
        for Network { address, prefix } in networks() {
            assert!(is_guarded(address), "{address}/{prefix}");
            let last = match address {
                IpAddr::V4(v4) => {
                    let rest = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
                    IpAddr::V4((u32::from(v4) | rest).into())
                }
                IpAddr::V6(v6) => {
                    let rest = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
                    IpAddr::V6((u128::from(v6) | rest).into())
                }
            };
            assert!(is_guarded(last), "{last} of {address}/{prefix}");
        }
    }
}
