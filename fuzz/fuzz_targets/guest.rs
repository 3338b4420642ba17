//! What a guest sends to be set up: DHCPv4 messages and router solicitations.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_guest::{GuestNetwork, dhcp, router};
use std::net::{Ipv4Addr, Ipv6Addr};

fuzz_target!(|message: &[u8]| {
    let network = GuestNetwork {
        address: Ipv4Addr::new(10, 0, 2, 15),
        prefix: 24,
        router: Ipv4Addr::new(10, 0, 2, 2),
        resolver: Ipv4Addr::new(10, 0, 2, 3),
        prefix6: Ipv6Addr::UNSPECIFIED,
        resolver6: Ipv6Addr::LOCALHOST,
        mtu: 1500,
        search: Vec::new(),
    };
    if let Some(reply) = dhcp::answer(&network, message) {
        assert!([network.address, Ipv4Addr::BROADCAST].contains(&reply.to));
        assert!(reply.bytes.len() >= 300);
        // An answer is no question.
        assert_eq!(dhcp::answer(&network, &reply.bytes), None);
    }
    let from_nobody = router::is_solicitation(message, Ipv6Addr::UNSPECIFIED);
    let from_guest = router::is_solicitation(message, Ipv6Addr::LOCALHOST);
    assert!(from_guest || !from_nobody);
    assert!(!from_guest || message.len() % 8 == 0);
});
