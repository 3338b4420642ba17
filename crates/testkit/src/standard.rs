//! The standard world: the names and addresses that the tests and the demo share.

use crate::spec::{DnsServer, DnsSpec, Fault, ServiceKind, WorldSpec, ip};

/// The host's own address on the veth.
pub const HOST_V4: &str = "192.0.2.2";
/// The host's own IPv6 address on the veth.
pub const HOST_V6: &str = "2001:db8:2::2";
/// The far end of the veth, the host's default route.
pub const GATEWAY_V4: &str = "192.0.2.1";
/// The far end of the veth over IPv6.
pub const GATEWAY_V6: &str = "2001:db8:2::1";
/// The two resolvers of the host's resolv.conf.
pub const RESOLVERS: [&str; 2] = ["203.0.113.53", "203.0.113.54"];
/// A resolver the host does not use, that a sandbox may try on its own.
pub const FOREIGN_RESOLVERS: [&str; 3] = ["8.8.8.8", "198.51.100.8", "2001:db8:10::53"];

/// Web servers on guarded addresses: a connection that arrives there is a hole in the guard.
pub const GUARDED: [&str; 10] = [
    "10.20.0.5",
    "172.16.9.9",
    "192.168.7.7",
    "169.254.169.254",
    "168.63.129.16",
    "100.64.0.5",
    "198.18.0.5",
    "fd00::5",
    "64:ff9b::a14:5",
    "2002:a14:5::1",
];

const ZONE: &str = "
api.example.com A 203.0.113.10
api.example.com AAAA 2001:db8:10::10
api.example.com HTTPS 1 . alpn=h3,h2 ipv4hint=203.0.113.10 ipv6hint=2001:db8:10::10
example.com A 203.0.113.11
example.com MX 10 smtp.example.com
example.com TXT v=spf1,-all
example.com NS ns1.example.com
example.com CAA issue ca.example.net
ns1.example.com A 203.0.113.53
_sip._tcp.example.com SRV 10 20 5060 api.example.com
www.example.com CNAME cdn.example.net
cdn.example.net A 203.0.113.20
cdn.example.net AAAA 2001:db8:10::20
internal-data.example.corp CNAME backend-canonical-host.example.corp
backend-canonical-host.example.corp A 203.0.113.30
30.113.0.203.in-addr.arpa PTR backend-canonical-host.example.corp
internal-symbols.example.corp A 203.0.113.31
31.113.0.203.in-addr.arpa PTR internal-symbols.example.corp
wss-primary.slack.com A 203.0.113.40
wss-backup.slack.com A 203.0.113.41
api.slack.com A 203.0.113.42
10.113.0.203.in-addr.arpa PTR api.example.com
v4only.example.com A 203.0.113.60
v6only.example.com AAAA 2001:db8:10::61
dual.example.com A 203.0.113.62
dual.example.com AAAA 2001:db8:10::62
brokenv6.example.com A 203.0.113.63
brokenv6.example.com AAAA 2001:db8:dead::63
refusedv6.example.com A 203.0.113.63
refusedv6.example.com AAAA 2001:db8:10::86
private.example.com A 10.20.0.5
mixed.example.com A 203.0.113.70
mixed.example.com A 10.20.0.5
metadata.example.com A 169.254.169.254
loopback.example.com A 127.0.0.1
loopback6.example.com AAAA ::1
zero.example.com A 0.0.0.0
hostself.example.com A 192.0.2.2
mapped.example.com AAAA ::ffff:10.20.0.5
nat64.example.com AAAA 64:ff9b::a14:5
ula.example.com AAAA fd00::5
db.example.corp A 10.20.0.6
expired.example.com A 203.0.113.71
wrongname.example.com A 203.0.113.72
untrusted.example.com A 203.0.113.73
ssh.example.com A 203.0.113.22
smtp.example.com A 203.0.113.25
mysql.example.com A 203.0.113.26
git.example.com A 203.0.113.80
big.example.com A 203.0.113.81
big.example.com TXT big
many.example.com A 203.0.113.100
many.example.com A 203.0.113.101
many.example.com A 203.0.113.102
many.example.com A 203.0.113.103
many.example.com A 203.0.113.104
many.example.com A 203.0.113.105
slow.example.com A 203.0.113.82
dead.example.com A 203.0.113.10
servfail.example.com A 203.0.113.10
nxdomain.example.com A 203.0.113.10
flaky.example.com A 203.0.113.83
wrongid.example.com A 203.0.113.84
forged.example.com A 203.0.113.84
rebind.example.com A 203.0.113.85
refused.example.com A 203.0.113.86
reset.example.com A 203.0.113.87
mute.example.com A 203.0.113.88
silent.example.com A 203.0.113.250
unreachable.example.com A 203.0.113.251
evil.example.net A 203.0.113.90
*.tunnel.evil.example.net A 203.0.113.90
*.tunnel.evil.example.net TXT tunnel
a.shared.example.com A 203.0.113.95
b.shared.example.com A 203.0.113.95
evil-shared.example.net A 203.0.113.95
raw.example.com A 203.0.113.96
raw.example.com AAAA 2001:db8:10::96
brief.example.com 1 A 203.0.113.97
chain1.example.com CNAME chain2.example.com
chain2.example.com CNAME chain3.example.com
chain3.example.com CNAME chain4.example.net
chain4.example.net A 203.0.113.98
loop1.example.com CNAME loop2.example.com
loop2.example.com CNAME loop1.example.com
to-private.example.com CNAME private.example.com
dangling.example.com CNAME nothing.example.com
empty.example.com TXT no-address-here
proxy.example.corp A 198.51.100.80
proxy.internal A 10.20.0.80
registry.internal.company.com A 203.0.113.110
api.internal.company.com A 203.0.113.111
github.com A 203.0.113.120
api.github.com A 203.0.113.121
iapi.example.com A 203.0.113.122
www.anthropic.com A 203.0.113.123
";

impl WorldSpec {
    /// The world described at [`crate`].
    pub fn standard() -> WorldSpec {
        let mut spec = WorldSpec {
            dns: DnsSpec {
                servers: RESOLVERS
                    .iter()
                    .chain(&FOREIGN_RESOLVERS)
                    .map(|a| DnsServer {
                        address: ip(a),
                        fault: None,
                    })
                    .collect(),
                zone: ZONE
                    .lines()
                    .filter(|l| !l.is_empty())
                    .map(str::to_owned)
                    .collect(),
                faults: Default::default(),
            },
            unreachable: vec![ip("203.0.113.251")],
            ipv6: true,
            ..WorldSpec::default()
        };
        for (name, fault) in [
            ("big.example.com", Fault::Truncate),
            ("slow.example.com", Fault::Delay(1500)),
            ("dead.example.com", Fault::Drop),
            ("servfail.example.com", Fault::ServFail),
            ("nxdomain.example.com", Fault::NxDomain),
            ("flaky.example.com", Fault::DropFirst(2)),
            ("wrongid.example.com", Fault::WrongId),
            ("forged.example.com", Fault::ForgedFirst),
            (
                "rebind.example.com",
                Fault::Rebind(vec![ip("203.0.113.85"), ip("10.20.0.5")]),
            ),
        ] {
            spec.dns.faults.insert(name.to_owned(), fault);
        }
        let hosts = [
            10, 11, 20, 30, 31, 40, 41, 42, 60, 62, 63, 70, 80, 81, 82, 83, 84, 85, 90, 95, 97, 98,
            100, 101, 102, 103, 104, 105, 110, 111, 120, 121, 122, 123,
        ];
        for host in hosts {
            spec = spec.web(&format!("203.0.113.{host}"));
        }
        for host in ["10", "20", "61", "62"] {
            spec = spec.web(&format!("2001:db8:10::{host}"));
        }
        for address in GUARDED {
            spec = spec.web(address);
        }
        use ServiceKind as K;
        for (address, port, kind) in [
            ("203.0.113.71", 443, K::HttpsExpired),
            ("203.0.113.72", 443, K::HttpsWrongName),
            ("203.0.113.73", 443, K::HttpsUntrusted),
            (
                "203.0.113.22",
                22,
                K::Banner("SSH-2.0-portcullis_testkit\r\n".to_owned()),
            ),
            ("203.0.113.25", 25, K::Smtp),
            (
                "203.0.113.26",
                3306,
                K::Banner("J\0\0\0\n8.0.36\0".to_owned()),
            ),
            ("203.0.113.10", 8443, K::Https),
            ("203.0.113.10", 8080, K::Http),
            ("203.0.113.10", 9000, K::Echo),
            ("203.0.113.10", 443, K::UdpEcho),
            ("198.51.100.123", 123, K::UdpEcho),
            ("203.0.113.62", 123, K::UdpEcho),
            ("2001:db8:10::62", 123, K::UdpEcho),
            ("203.0.113.87", 443, K::Reset),
            ("203.0.113.87", 80, K::Reset),
            ("203.0.113.88", 443, K::Mute),
            ("203.0.113.96", 9000, K::Echo),
            ("2001:db8:10::96", 9000, K::Echo),
            ("203.0.113.96", 9001, K::Sink),
            ("203.0.113.96", 9002, K::Source(1 << 20)),
            ("203.0.113.96", 443, K::Echo),
            ("203.0.113.90", 22, K::Banner("SSH-2.0-evil\r\n".to_owned())),
            ("10.20.0.6", 5432, K::Echo),
            ("198.51.100.80", 3128, K::UpstreamProxy(None)),
            (
                "198.51.100.80",
                3129,
                K::UpstreamProxy(Some("user:secret".to_owned())),
            ),
            ("10.20.0.80", 3128, K::UpstreamProxy(None)),
        ] {
            spec = spec.service(address, port, kind);
        }
        for address in ["203.0.113.86", "2001:db8:10::86"] {
            spec = spec.closed(address);
        }
        for (address, port, kind) in [
            ("127.0.0.1", 8080, K::Http),
            ("::1", 8080, K::Http),
            ("127.0.0.1", 7777, K::Echo),
        ] {
            spec.host_services.push(crate::spec::Service {
                address: ip(address),
                port,
                kind,
            });
        }
        spec
    }
}
