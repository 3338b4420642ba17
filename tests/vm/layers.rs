//! The four layers as a guest that came up by itself meets them, by IPv4 and IPv6, whatever its device.

use crate::guest::{Check, checks};
use crate::support::{self, Records, Sandbox};
use portcullis_testkit::World;
use std::collections::BTreeMap;

/// With a rule that is narrower than its name, for the fourth layer.
pub const POLICY: &str = r#"
version = 1
[network.domains]
"api.example.com" = { verdict = "allow", inspect = true, paths = ["/public/**"] }
"www.example.com" = "allow"
"v6only.example.com" = "allow"
"#;

pub const CHECKS: &str = r#"
check dns-denied nslookup -type=a evil.example.net
check dns-denied6 nslookup -type=a evil6.example.net fd50:6f72:7463::2
check dns-allowed nslookup -type=a www.example.com
check dns-allowed6 nslookup -type=aaaa v6only.example.com fd50:6f72:7463::2
check tcp-refused nc -w 10 203.0.113.90 443
check tcp-refused6 nc -w 10 2001:db8:10::90 443
check tls-refused "echo Q | openssl s_client -connect www.example.com:443 -servername other-sni.example.net"
check http-refused curl -sS -k -m 20 -o /dev/null -w '%{http_code}\\n' https://api.example.com/private
check http-allowed curl -sS -k -m 20 -o /dev/null -w '%{http_code}\\n' https://api.example.com/public/x
check http-plain curl -sS -m 20 --cacert /etc/ca.pem -o /dev/null -w '%{http_code}\\n' https://www.example.com/
check http-plain6 curl -6 -sS -m 20 -o /dev/null -w '%{http_code}\\n' http://v6only.example.com/
check ping-router ping -c 1 -W 5 10.0.2.2
check ping-router6 ping -c 1 -W 5 fd50:6f72:7463::2
check untrusted curl -sS -m 20 https://api.example.com/public/x
check health wget -q -O - http://portcullis.internal/health
check health6 curl -6 -sS -m 20 http://portcullis.internal/health
check set-up "curl -sS http://portcullis.internal/setup.sh | sh"
check trusted "env -i PATH=/bin curl -sS -m 20 -o /dev/null -w '%{http_code}\\n' https://api.example.com/public/x"
check proxied ". /etc/portcullis/env; curl -sSv -m 20 -o /dev/null -w '%{http_code}\\n' https://api.example.com/public/x"
"#;

pub fn world() -> World {
    support::world()
}

pub fn sandbox(world: &World) -> Sandbox<'_> {
    support::sandbox(world).policy("toml", POLICY)
}

/// Judges what a guest said on its console, and the records.
#[track_caller]
pub fn assert_met(world: &World, console: &str, records: &Records) {
    let all: BTreeMap<String, Check> = checks(console);
    let says = |name: &str, code: Option<i32>, part: &str| {
        let check = all
            .get(name)
            .unwrap_or_else(|| panic!("the guest did not get to {name}: {console}"));
        assert!(
            check.said.contains(part),
            "{name} lacks {part:?}: {console}"
        );
        if let Some(code) = code {
            assert_eq!(check.code, code, "{name}: {console}");
        }
    };
    says(
        "dhcp",
        Some(0),
        "told: 10.0.2.15/24 via 10.0.2.2 dns 10.0.2.3 mtu 1500 lease 86400 by 10.0.2.2",
    );
    says("autoconf", Some(0), "inet6 fd50:6f72:7463:");
    says("autoconf", Some(0), "default via fe80::2");
    says("dns-denied", None, "NXDOMAIN");
    says("dns-denied6", None, "NXDOMAIN");
    says("dns-allowed", Some(0), "203.0.113.20");
    says("dns-allowed6", Some(0), "2001:db8:10::61");
    says("tcp-refused", Some(1), "refused");
    says("tcp-refused6", Some(1), "refused");
    says("tls-refused", Some(1), "alert");
    says("http-refused", Some(0), "403");
    says("http-allowed", Some(0), "200");
    says("http-plain", Some(0), "200");
    says("http-plain6", Some(0), "200");
    says("ping-router", Some(0), "1 packets received");
    says("ping-router6", Some(0), "1 packets received");
    says("untrusted", Some(77), "certificate");
    says("health", Some(0), "ok");
    says("health6", Some(0), "ok");
    says("set-up", Some(0), "This machine is set up");
    says("trusted", Some(0), "200");
    says("proxied", Some(0), "CONNECT api.example.com:443");
    says("proxied", Some(0), "200");
    for name in ["evil.example.net", "evil6.example.net"] {
        assert_eq!(
            records.denials("dns", "not-in-allowlist", name).len(),
            1,
            "{console}"
        );
    }
    for (address, reason) in [
        ("203.0.113.90", "address-not-leased"),
        ("2001:db8:10::90", "address-not-leased"),
    ] {
        assert_eq!(
            records.denials("tcp", reason, address).len(),
            1,
            "{address}: {console}"
        );
    }
    let other = records.denials("tls", "sni-not-listed", "other-sni.example.net");
    assert_eq!(other.len(), 1, "{console}");
    world.assert_never_asked("evil");
    world.assert_never_reached("203.0.113.90");
}
