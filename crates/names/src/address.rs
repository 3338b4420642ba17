//! Which addresses belong to the host or its network.
//!
//! A sandboxed program that may reach `example.org` must not reach the metadata service because
//! example.org's owner points it there. The guard answers *addresses* (docs/threats.md); what is
//! not plainly public is guarded, so that a range this table does not know is refused, not let
//! through. Documentation ranges are not guarded: nothing lives there, and tests use them as
//! public-looking addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of network an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// The public internet.
    Public,
    /// 192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 2001:db8::/32, 3fff::/20 (RFC 5737, 3849,
    /// 9637). Not guarded.
    Documentation,
    /// 127.0.0.0/8, ::1.
    Loopback,
    /// 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918).
    Private,
    /// fc00::/7 (RFC 4193) and the old site-local fec0::/10.
    UniqueLocal,
    /// 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// 100.64.0.0/10 (RFC 6598).
    Cgnat,
    /// 0.0.0.0/8 and ::, which Linux takes for the host itself.
    ThisNetwork,
    /// 192.0.0.0/24, 192.88.99.0/24, 2001::/23.
    IetfProtocol,
    /// 198.18.0.0/15 (RFC 2544), 2001:2::/48.
    Benchmark,
    /// 224.0.0.0/4, ff00::/8.
    Multicast,
    /// 240.0.0.0/4 with broadcast, 100::/64, and IPv6 outside the global unicast range.
    Reserved,
    /// The addresses where clouds give out credentials.
    Metadata,
    /// IPv6 forms with an IPv4 address inside: mapped, compatible, translated, NAT64, 6to4,
    /// Teredo, ISATAP. Where they lead is up to somebody else's translator.
    CarriesIpv4,
}

impl AddressClass {
    /// Whether addresses of this class are refused unless an address rule lifts them.
    pub fn is_guarded(self) -> bool {
        !matches!(self, AddressClass::Public | AddressClass::Documentation)
    }

    /// A few words for the operator: "a loopback address".
    pub fn describe(self) -> &'static str {
        match self {
            AddressClass::Public => "a public address",
            AddressClass::Documentation => "a documentation address",
            AddressClass::Loopback => "a loopback address",
            AddressClass::Private => "a private address (RFC 1918)",
            AddressClass::UniqueLocal => "a unique local IPv6 address",
            AddressClass::LinkLocal => "a link-local address",
            AddressClass::Cgnat => "a carrier-grade NAT address",
            AddressClass::ThisNetwork => "an address of \"this network\", the host itself",
            AddressClass::IetfProtocol => "an address reserved for IETF protocols",
            AddressClass::Benchmark => "a benchmarking address",
            AddressClass::Multicast => "a multicast address",
            AddressClass::Reserved => "a reserved address",
            AddressClass::Metadata => "a cloud metadata address",
            AddressClass::CarriesIpv4 => "an IPv6 address that carries an IPv4 one",
        }
    }
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

/// The class of an address.
pub fn classify(address: IpAddr) -> AddressClass {
    match address {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

/// Whether the address is refused unless an address rule lifts it. The host's own interface
/// addresses are guarded too, but only the dialler knows them.
pub fn is_guarded(address: IpAddr) -> bool {
    classify(address).is_guarded()
}

/// Metadata services: AWS, GCP, Azure and most others; Azure's wire server; Alibaba; Oracle.
const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// Metadata services over IPv6: AWS, GCP.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

fn classify_v4(address: Ipv4Addr) -> AddressClass {
    if METADATA_V4.contains(&address) {
        return AddressClass::Metadata;
    }
    match address.octets() {
        [0, ..] => AddressClass::ThisNetwork,
        [127, ..] => AddressClass::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => AddressClass::Private,
        [169, 254, ..] => AddressClass::LinkLocal,
        [100, 64..=127, ..] => AddressClass::Cgnat,
        [192, 0, 0, _] | [192, 88, 99, _] => AddressClass::IetfProtocol,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => AddressClass::Documentation,
        [198, 18..=19, ..] => AddressClass::Benchmark,
        [224..=239, ..] => AddressClass::Multicast,
        [240..=255, ..] => AddressClass::Reserved,
        _ => AddressClass::Public,
    }
}

fn classify_v6(address: Ipv6Addr) -> AddressClass {
    if METADATA_V6.contains(&address) {
        return AddressClass::Metadata;
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => AddressClass::ThisNetwork,
        [0, 0, 0, 0, 0, 0, 0, 1] => AddressClass::Loopback,
        // mapped, compatible (RFC 4291), translated (RFC 2765)
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => AddressClass::CarriesIpv4,
        // NAT64, well-known and local (RFC 6052, RFC 8215)
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => AddressClass::CarriesIpv4,
        // 6to4, Teredo
        [0x2002, ..] | [0x2001, 0, ..] => AddressClass::CarriesIpv4,
        // ISATAP interface identifiers (RFC 5214 section 6.1), in any prefix
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => AddressClass::CarriesIpv4,
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => AddressClass::Documentation,
        [0x2001, 2, 0, ..] => AddressClass::Benchmark,
        [0x2001, 0..=0x1ff, ..] => AddressClass::IetfProtocol,
        [0xff00..=0xffff, ..] => AddressClass::Multicast,
        [0xfe80..=0xfebf, ..] => AddressClass::LinkLocal,
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => AddressClass::UniqueLocal,
        // all that is given out as global unicast (RFC 4291 section 2.4)
        [0x2000..=0x3fff, ..] => AddressClass::Public,
        _ => AddressClass::Reserved,
    }
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
