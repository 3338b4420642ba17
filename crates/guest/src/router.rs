//! IPv6 router advertisements (RFC 4861, RFC 8106), and the solicitations that ask for them.
//!
//! The kernel makes checksums and checks them, and the packet rules see to the hop limit of 255 that
//! shows that a message is from the link (RFC 4861, section 6.1).

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::network::GuestNetwork;

/// How often guests are told without a question: they forget a router after [`LIFETIME`].
pub const INTERVAL: Duration = Duration::from_secs(300);
/// How long what is advertised holds without a further advertisement.
pub const LIFETIME: Duration = Duration::from_secs(1800);
/// The longest solicitation that is read, in bytes; a longer one is not answered.
pub const MAX_MESSAGE_BYTES: usize = 1452;

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
const SOURCE_LINK_ADDRESS: u8 = 1;
const PREFIX_INFORMATION: u8 = 3;
const MTU: u8 = 5;
const RECURSIVE_DNS_SERVER: u8 = 25;
const DNS_SEARCH_LIST: u8 = 31;
/// The unit of options' lengths, in bytes.
const UNIT: usize = 8;
/// Before the options of a solicitation, in bytes.
const SOLICITATION_HEADER_BYTES: usize = 8;
/// The length of the prefix in which guests make addresses (RFC 4862).
const PREFIX_BITS: u8 = 64;
/// On the link, and for addresses that guests make by themselves.
const ON_LINK_AUTONOMOUS: u8 = 0xc0;
const FOR_EVER: [u8; 4] = [0xff; 4];
const HOP_LIMIT: u8 = 64;

/// Whether an ICMPv6 message from this address is a router solicitation that is to be answered
/// (RFC 4861, section 6.1.1).
#[must_use]
pub fn is_solicitation(message: &[u8], from: Ipv6Addr) -> bool {
    if message.len() > MAX_MESSAGE_BYTES || message.get(..2) != Some(&[SOLICITATION, 0]) {
        return false;
    }
    let Some(mut options) = message.get(SOLICITATION_HEADER_BYTES..) else {
        return false;
    };
    while let Some((kind, rest)) = next_option(options) {
        if kind == SOURCE_LINK_ADDRESS && from.is_unspecified() {
            return false;
        }
        options = rest;
    }
    options.is_empty()
}

/// An option's kind and what follows it.
fn next_option(options: &[u8]) -> Option<(u8, &[u8])> {
    let (kind, units) = (*options.first()?, usize::from(*options.get(1)?));
    let rest = options.get(units * UNIT..)?;
    (units > 0).then_some((kind, rest))
}

/// The advertisement, as an ICMPv6 message whose checksum the kernel fills in.
#[must_use]
pub fn advertisement(network: &GuestNetwork) -> Vec<u8> {
    let lifetime = LIFETIME.as_secs() as u32;
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, 0];
    message.extend((lifetime as u16).to_be_bytes());
    // Reachable time and retransmission timer: the guest's own.
    message.extend([0; 8]);
    let flags = [PREFIX_BITS, ON_LINK_AUTONOMOUS];
    let prefix = network.prefix6.octets();
    option(
        &mut message,
        PREFIX_INFORMATION,
        &[&flags, &FOR_EVER, &FOR_EVER, &[0; 4], &prefix],
    );
    let mtu = u32::from(network.mtu).to_be_bytes();
    option(&mut message, MTU, &[&[0; 2], &mtu]);
    let lifetime = lifetime.to_be_bytes();
    let resolver = network.resolver6.octets();
    option(
        &mut message,
        RECURSIVE_DNS_SERVER,
        &[&[0; 2], &lifetime, &resolver],
    );
    let mut domains = Vec::new();
    for domain in network.search() {
        for label in domain.as_str().split('.') {
            domains.push(label.len() as u8);
            domains.extend(label.as_bytes());
        }
        domains.push(0);
    }
    if !domains.is_empty() {
        option(
            &mut message,
            DNS_SEARCH_LIST,
            &[&[0; 2], &lifetime, &domains],
        );
    }
    message
}

/// Adds an option, padded to whole units.
fn option(message: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let start = message.len();
    message.extend([kind, 0]);
    for part in parts {
        message.extend_from_slice(part);
    }
    let length = (message.len() - start).next_multiple_of(UNIT);
    message.resize(start + length, 0);
    message[start + 1] = (length / UNIT) as u8;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use portcullis_names::Name;
    use proptest::prelude::*;
    use smoltcp::wire::{
        Icmpv6Packet, NdiscOption, NdiscOptionRepr, NdiscPrefixInfoFlags, NdiscRepr,
    };
    use std::net::Ipv4Addr;

    pub(crate) fn network() -> GuestNetwork {
        GuestNetwork {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            router: Ipv4Addr::new(10, 0, 2, 2),
            resolver: Ipv4Addr::new(10, 0, 2, 3),
            prefix6: "fd50:6f72:7463::".parse().unwrap(),
            resolver6: "fd50:6f72:7463::2".parse().unwrap(),
            mtu: 1500,
            search: vec![Name::from_program(b"corp.example").unwrap()],
        }
    }

    #[test]
    fn another_reader_finds_what_was_written() {
        let message = advertisement(&network());
        let packet = Icmpv6Packet::new_checked(&message).unwrap();
        let NdiscRepr::RouterAdvert {
            router_lifetime,
            prefix_info: Some(prefix),
            mtu,
            ..
        } = NdiscRepr::parse(&packet).unwrap()
        else {
            panic!("no advertisement with a prefix: {message:?}");
        };
        assert_eq!(router_lifetime.secs(), LIFETIME.as_secs());
        assert_eq!(mtu, Some(1500));
        assert_eq!((prefix.prefix, prefix.prefix_len), (network().prefix6, 64));
        assert!(prefix.flags.contains(NdiscPrefixInfoFlags::ADDRCONF));
        assert!(prefix.flags.contains(NdiscPrefixInfoFlags::ON_LINK));
        let mut found = Vec::new();
        let mut options = packet.payload();
        while !options.is_empty() {
            let read = NdiscOption::new_checked(options).unwrap();
            let length = usize::from(read.data_len()) * UNIT;
            if let NdiscOptionRepr::Unknown { type_, data, .. } =
                NdiscOptionRepr::parse(&read).unwrap()
            {
                found.push((type_, data.to_vec()));
            }
            options = &options[length..];
        }
        let [(RECURSIVE_DNS_SERVER, server), (DNS_SEARCH_LIST, search)] = found.as_slice() else {
            panic!("other options: {found:?}");
        };
        assert_eq!(server[6..], network().resolver6.octets());
        assert!(search[6..].starts_with(b"\x04corp\x07example\0"));
    }

    #[test]
    fn solicitations_are_read_in_full() {
        let guest: Ipv6Addr = "fe80::1".parse().unwrap();
        let nobody = Ipv6Addr::UNSPECIFIED;
        let plain = [133, 0, 0, 0, 0, 0, 0, 0];
        let with = |options: &[u8]| [plain.as_slice(), options].concat();
        let link_address = [1, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];
        assert!(is_solicitation(&plain, nobody));
        assert!(is_solicitation(&with(&link_address), guest));
        assert!(is_solicitation(&with(&[200, 1, 0, 0, 0, 0, 0, 0]), nobody));
        for (why, message, from) in [
            ("an address of nobody", with(&link_address), nobody),
            (
                "an option of no length",
                with(&[200, 0, 0, 0, 0, 0, 0, 0]),
                guest,
            ),
            (
                "an option beyond the end",
                with(&[200, 2, 0, 0, 0, 0, 0, 0]),
                guest,
            ),
            ("half an option", with(&[200]), guest),
            ("a code", vec![133, 1, 0, 0, 0, 0, 0, 0], guest),
            ("an advertisement", vec![134, 0, 0, 0, 0, 0, 0, 0], guest),
            ("half a header", plain[..7].to_vec(), guest),
            ("nothing", Vec::new(), guest),
            ("a long one", with(&[0; MAX_MESSAGE_BYTES]), guest),
        ] {
            assert!(!is_solicitation(&message, from), "{why}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic_and_agree_with_the_other_reader(
            options in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let message = [[133, 0, 0, 0, 0, 0, 0, 0].as_slice(), &options].concat();
            if is_solicitation(&message, "fe80::1".parse().unwrap()) {
                let mut rest = options.as_slice();
                while !rest.is_empty() {
                    let read = NdiscOption::new_checked(rest).unwrap();
                    rest = &rest[usize::from(read.data_len()) * UNIT..];
                }
            }
        }
    }
}
