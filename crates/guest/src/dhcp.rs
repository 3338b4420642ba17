//! Answers to DHCPv4 clients (RFC 2131): one guest, one address, nothing remembered.
//!
//! The sender's hardware address decides nothing: whoever asks on the device is the guest. Relay agents
//! have no place between the two, so their fields are neither read nor sent back.

use std::net::Ipv4Addr;
use std::str::FromStr;

use dhcproto::Encodable;
use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use portcullis_names::Name;

use crate::network::GuestNetwork;

/// The server's port.
pub const SERVER_PORT: u16 = 67;
/// The client's port: every answer goes there.
pub const CLIENT_PORT: u16 = 68;
/// The longest message that is read, in bytes; a longer one is not answered.
pub const MAX_MESSAGE_BYTES: usize = 1472;

/// How long the address is the guest's, in seconds: a day. It is asked to come again after half of it.
const LEASE_SECONDS: u32 = 24 * 3600;
/// The shortest message that every client reads, in bytes (RFC 951).
const MIN_REPLY_BYTES: usize = 300;
/// The length of an Ethernet address, in bytes.
const MAC_BYTES: usize = 6;
/// What begins the options.
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Where fields begin, in bytes (RFC 2131, section 2).
const TRANSACTION_AT: usize = 4;
const FLAGS_AT: usize = 10;
const CURRENT_AT: usize = 12;
const HARDWARE_AT: usize = 28;
const MAGIC_AT: usize = 236;

/// An answer and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The guest's address where it has one, else every address.
    pub to: Ipv4Addr,
    /// The message.
    pub bytes: Vec<u8>,
}

/// Answers a client's message, where it wants an answer and is well formed.
#[must_use]
pub fn answer(network: &GuestNetwork, message: &[u8]) -> Option<Reply> {
    let request = Request::read(message)?;
    if request
        .server
        .is_some_and(|server| server != network.router)
    {
        return None;
    }
    let current = request.current;
    let kind = match request.kind {
        MessageType::Discover => MessageType::Offer,
        MessageType::Request => {
            let asked = request.asked.unwrap_or(current);
            if asked.is_unspecified() {
                return None;
            }
            if asked == network.address {
                MessageType::Ack
            } else {
                MessageType::Nak
            }
        }
        MessageType::Inform if current == network.address => return inform(network, &request),
        _ => return None,
    };
    let mut reply = begin(network, &request, kind);
    if kind == MessageType::Nak {
        return finish(reply, Ipv4Addr::BROADCAST);
    }
    reply.set_yiaddr(network.address);
    reply
        .opts_mut()
        .insert(DhcpOption::AddressLeaseTime(LEASE_SECONDS));
    configuration(network, &mut reply);
    // To a guest that has no address yet a frame of its own would need an entry that the kernel does not
    // have; all of them hear what is sent to everybody (RFC 2131, section 4.1).
    if kind == MessageType::Ack && current == network.address {
        reply.set_ciaddr(current);
        finish(reply, current)
    } else {
        finish(reply, Ipv4Addr::BROADCAST)
    }
}

/// What a guest with a static address asked for: all but the address.
fn inform(network: &GuestNetwork, request: &Request) -> Option<Reply> {
    let mut reply = begin(network, request, MessageType::Ack);
    reply.set_ciaddr(request.current);
    configuration(network, &mut reply);
    finish(reply, request.current)
}

/// What matters of a client's message. The codec's own reader is not for strangers' bytes: it panics on
/// some options of a wrong length.
struct Request {
    kind: MessageType,
    transaction: u32,
    flags: u16,
    /// The address that it uses already, or none.
    current: Ipv4Addr,
    hardware: [u8; MAC_BYTES],
    asked: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    /// Its identifier; empty where it sent none.
    id: Vec<u8>,
}

impl Request {
    /// Reads a message in full. Options in the fields for names (RFC 2132, section 9.3) are not read: no
    /// client has that much to say.
    fn read(message: &[u8]) -> Option<Request> {
        const ETHERNET: [u8; 3] = [1, 1, MAC_BYTES as u8];
        if message.len() > MAX_MESSAGE_BYTES
            || !message.starts_with(&ETHERNET)
            || field(message, MAGIC_AT)? != MAGIC
        {
            return None;
        }
        let hardware: [u8; MAC_BYTES] = field(message, HARDWARE_AT)?;
        if !is_unicast(hardware) {
            return None;
        }
        let (mut kind, mut asked, mut server, mut id) = (None, None, None, Vec::new());
        let mut options = message.get(MAGIC_AT + MAGIC.len()..)?;
        while let Some((code, rest)) = options.split_first() {
            let code = OptionCode::from(*code);
            options = rest;
            match code {
                OptionCode::Pad => continue,
                OptionCode::End => break,
                _ => {}
            }
            let (length, rest) = options.split_first()?;
            let value = rest.get(..usize::from(*length))?;
            options = &rest[value.len()..];
            let address = || <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
            let is_repeated = match code {
                OptionCode::MessageType => {
                    let [value] = value else { return None };
                    kind.replace(MessageType::from(*value)).is_some()
                }
                OptionCode::RequestedIpAddress => asked.replace(address()?).is_some(),
                OptionCode::ServerIdentifier => server.replace(address()?).is_some(),
                // A long one may come in parts (RFC 3396).
                OptionCode::ClientIdentifier => {
                    id.extend_from_slice(value);
                    false
                }
                _ => false,
            };
            if is_repeated {
                return None;
            }
        }
        Some(Request {
            kind: kind?,
            transaction: u32::from_be_bytes(field(message, TRANSACTION_AT)?),
            flags: u16::from_be_bytes(field(message, FLAGS_AT)?),
            current: field::<4>(message, CURRENT_AT)?.into(),
            hardware,
            asked,
            server,
            id,
        })
    }
}

/// So many bytes of a message.
fn field<const N: usize>(message: &[u8], at: usize) -> Option<[u8; N]> {
    message.get(at..at + N)?.try_into().ok()
}

fn is_unicast(mac: [u8; MAC_BYTES]) -> bool {
    const GROUP: u8 = 1;
    mac[0] & GROUP == 0 && mac != [0; MAC_BYTES]
}

fn begin(network: &GuestNetwork, request: &Request, kind: MessageType) -> Message {
    let nobody = Ipv4Addr::UNSPECIFIED;
    let (id, hardware) = (request.transaction, &request.hardware);
    let mut reply = Message::new_with_id(id, nobody, nobody, nobody, nobody, hardware);
    reply
        .set_opcode(Opcode::BootReply)
        .set_flags(Flags::new(request.flags));
    let options = reply.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(network.router));
    // RFC 6842.
    if !request.id.is_empty() {
        options.insert(DhcpOption::ClientIdentifier(request.id.clone()));
    }
    reply
}

fn configuration(network: &GuestNetwork, reply: &mut Message) {
    let options = reply.opts_mut();
    options.insert(DhcpOption::SubnetMask(network.netmask()));
    options.insert(DhcpOption::Router(vec![network.router]));
    options.insert(DhcpOption::DomainNameServer(vec![network.resolver]));
    options.insert(DhcpOption::InterfaceMtu(network.mtu));
    if let Some(domain) = network.search().next() {
        options.insert(DhcpOption::DomainName(domain.as_str().to_owned()));
    }
    let search: Vec<_> = network.search().filter_map(absolute).collect();
    if !search.is_empty() {
        options.insert(DhcpOption::DomainSearch(search));
    }
}

fn finish(reply: Message, to: Ipv4Addr) -> Option<Reply> {
    let mut bytes = reply.to_vec().ok()?;
    bytes.resize(bytes.len().max(MIN_REPLY_BYTES), 0);
    Some(Reply { to, bytes })
}

/// A domain as the options write it.
fn absolute(name: &Name) -> Option<dhcproto::Name> {
    dhcproto::Name::from_str(&format!("{}.", name.as_str())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::tests::network;
    use dhcproto::{Decodable, Decoder};
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 7);

    fn request(kind: MessageType, current: Ipv4Addr, options: &[DhcpOption]) -> Message {
        let nobody = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(7, current, nobody, nobody, nobody, &MAC);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        for option in options {
            message.opts_mut().insert(option.clone());
        }
        message
    }

    fn ask(message: &Message) -> Option<(Ipv4Addr, Message)> {
        let reply = answer(&network(), &message.to_vec().unwrap())?;
        let read = Message::decode(&mut Decoder::new(&reply.bytes)).unwrap();
        assert!(reply.bytes.len() >= MIN_REPLY_BYTES);
        assert_eq!((read.xid(), read.chaddr()), (7, MAC.as_slice()));
        assert_eq!(read.opcode(), Opcode::BootReply);
        Some((reply.to, read))
    }

    fn kind(message: &Message) -> Option<MessageType> {
        ask(message).and_then(|(_, reply)| reply.opts().msg_type())
    }

    #[test]
    fn a_guest_is_offered_its_address_and_all_that_it_needs() {
        let mut discover = request(
            MessageType::Discover,
            Ipv4Addr::UNSPECIFIED,
            &[
                DhcpOption::ClientIdentifier(vec![1, 2, 3]),
                DhcpOption::RequestedIpAddress(OTHER),
            ],
        );
        discover.set_flags(Flags::default().set_broadcast());
        discover.set_giaddr(OTHER);
        let (to, offer) = ask(&discover).unwrap();
        assert_eq!(to, Ipv4Addr::BROADCAST);
        assert_eq!(offer.yiaddr(), network().address);
        assert!(offer.flags().broadcast());
        assert!(offer.giaddr().is_unspecified(), "there is no relay agent");
        let search = dhcproto::Name::from_str("corp.example.").unwrap();
        for wanted in [
            DhcpOption::MessageType(MessageType::Offer),
            DhcpOption::ServerIdentifier(network().router),
            DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
            DhcpOption::Router(vec![network().router]),
            DhcpOption::DomainNameServer(vec![network().resolver]),
            DhcpOption::InterfaceMtu(1500),
            DhcpOption::AddressLeaseTime(LEASE_SECONDS),
            DhcpOption::DomainName("corp.example".to_owned()),
            DhcpOption::DomainSearch(vec![search]),
            DhcpOption::ClientIdentifier(vec![1, 2, 3]),
        ] {
            let code = OptionCode::from(&wanted);
            assert_eq!(offer.opts().get(code), Some(&wanted));
        }
    }

    #[test]
    fn the_one_address_is_acknowledged_in_every_state_and_any_other_is_not() {
        let ours = network().address;
        let nobody = Ipv4Addr::UNSPECIFIED;
        let request = |current, options: &[_]| request(MessageType::Request, current, options);
        let server = DhcpOption::ServerIdentifier(network().router);
        let wants = DhcpOption::RequestedIpAddress;
        for (message, expected) in [
            // Selecting, rebooting, renewing (RFC 2131, section 4.3.2).
            (
                request(nobody, &[wants(ours), server.clone()]),
                MessageType::Ack,
            ),
            (request(nobody, &[wants(ours)]), MessageType::Ack),
            (request(ours, &[]), MessageType::Ack),
            (request(nobody, &[wants(OTHER), server]), MessageType::Nak),
            (request(nobody, &[wants(OTHER)]), MessageType::Nak),
            (request(OTHER, &[]), MessageType::Nak),
        ] {
            assert_eq!(kind(&message), Some(expected), "{message}");
        }
        let (to, ack) = ask(&request(ours, &[])).unwrap();
        assert_eq!((to, ack.ciaddr()), (ours, ours));
        let (to, nak) = ask(&request(OTHER, &[])).unwrap();
        assert_eq!(to, Ipv4Addr::BROADCAST);
        assert!(nak.yiaddr().is_unspecified());
        assert_eq!(nak.opts().get(OptionCode::Router), None);
    }

    #[test]
    fn a_static_guest_is_told_the_rest() {
        let inform = request(MessageType::Inform, network().address, &[]);
        let (to, ack) = ask(&inform).unwrap();
        assert_eq!(to, network().address);
        assert!(ack.yiaddr().is_unspecified());
        assert_eq!(ack.opts().get(OptionCode::AddressLeaseTime), None);
        assert!(ack.opts().get(OptionCode::Router).is_some());
        assert_eq!(kind(&request(MessageType::Inform, OTHER, &[])), None);
    }

    #[test]
    fn nobody_is_answered_who_wants_no_answer_or_another_servers() {
        let nobody = Ipv4Addr::UNSPECIFIED;
        let ours = network().address;
        let other = DhcpOption::ServerIdentifier(OTHER);
        for message in [
            request(MessageType::Release, ours, &[]),
            request(
                MessageType::Decline,
                nobody,
                &[DhcpOption::RequestedIpAddress(ours)],
            ),
            request(MessageType::Request, nobody, &[]),
            request(
                MessageType::Request,
                nobody,
                &[DhcpOption::RequestedIpAddress(ours), other.clone()],
            ),
            request(MessageType::Discover, nobody, &[other]),
            request(MessageType::Offer, nobody, &[]),
            request(MessageType::Unknown(99), nobody, &[]),
        ] {
            assert_eq!(kind(&message), None, "{message}");
        }
    }

    #[test]
    fn malformed_messages_are_not_answered() {
        let good = request(MessageType::Discover, Ipv4Addr::UNSPECIFIED, &[]);
        let good = good.to_vec().unwrap();
        let answered = |bytes: &[u8]| answer(&network(), bytes).is_some();
        assert!(answered(&good));
        for end in 0..=MAGIC_AT + 6 {
            assert!(!answered(&good[..end]), "{end}");
        }
        let with = |at: usize, byte| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        for (why, bytes) in [
            ("an answer", with(0, 2)),
            ("not Ethernet", with(1, 6)),
            ("an address of 16 bytes", with(2, 16)),
            ("an address of 255 bytes", with(2, 255)),
            ("a group's address", with(28, 0xff)),
            ("BOOTP", with(MAGIC_AT, 0)),
            ("a type of two bytes", with(MAGIC_AT + 5, 2)),
            ("an option beyond the end", with(MAGIC_AT + 5, 200)),
        ] {
            assert!(!answered(&bytes), "{why}");
        }
        let mut long = good;
        long.resize(MAX_MESSAGE_BYTES + 1, 0);
        assert!(!answered(&long));
    }

    proptest! {
        #[test]
        fn damage_never_panics_and_never_gives_another_address(
            at in 0_usize..300,
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            options in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = answer(&network(), &bytes);
            let mut damaged = request(MessageType::Discover, Ipv4Addr::UNSPECIFIED, &[])
                .to_vec()
                .unwrap();
            damaged.truncate(at.max(MAGIC_AT + 7));
            damaged.extend(options);
            if let Some(reply) = answer(&network(), &damaged) {
                let read = Message::decode(&mut Decoder::new(&reply.bytes)).unwrap();
                prop_assert!([network().address, Ipv4Addr::UNSPECIFIED].contains(&read.yiaddr()));
                prop_assert!([network().address, Ipv4Addr::BROADCAST].contains(&reply.to));
                prop_assert!(reply.bytes.len() <= MAX_MESSAGE_BYTES);
            }
        }
    }
}
