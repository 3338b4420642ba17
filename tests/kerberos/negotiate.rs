//! SPNEGO through the sandbox's doors: the service's principal is built from the canonical name,
//! which the resolver shows by CNAME and PTR.

use crate::realm::{ALIAS, DEFAULT_REALM, KDC_POLICY, PROFILE, Realm, SERVICE, WELCOME, kinit};

/// curl by proxy and directly, then the case's own Python; each prints what it got and the status.
fn clients() -> String {
    let curl = "curl -sS --negotiate -u : -w '%{http_code}\\n'";
    format!(
        "{}; {curl} https://{ALIAS}/; {curl} --noproxy '*' http://{ALIAS}/; python3 requests.krb.py; klist",
        kinit()
    )
}

/// requests by proxy, then directly.
const PYTHON: &str = "import socket, requests
from requests_kerberos import HTTPKerberosAuth
host = 'internal-data.example.corp'
auth = HTTPKerberosAuth(hostname_override=socket.getfqdn(host))
session = requests.Session()
for scheme, trust in (('https', True), ('http', False)):
    session.trust_env = trust
    answer = session.get(f'{scheme}://{host}/', auth=auth, timeout=30)
    print(answer.text.strip(), answer.status_code, sep='\\n')
";

#[test]
fn curl_and_requests_get_200_inside_as_outside() {
    let realm = Realm::start();
    realm.world.file("requests.krb.py", PYTHON);
    let wanted = format!("{WELCOME}200\n");
    let outside = realm.outside("outside", &clients());
    assert_eq!(outside.out().matches(&wanted).count(), 4, "{outside}");
    let inside = realm.profile(&clients());
    assert_eq!(
        inside.out().matches(&wanted).count(),
        4,
        "{inside}\n{}",
        realm.logs()
    );
    inside.assert_out(SERVICE);
}

/// The settings by which sites differ, inside as outside; the last turns the canonical name off in
/// the client itself, and fails as it does there.
#[test]
fn every_setting_of_the_client_does_as_it_does_outside() {
    let realm = Realm::start();
    for (setting, code) in [
        ("rdns = false", "200"),
        ("dns_canonicalize_hostname = fallback", "200"),
        ("udp_preference_limit = 1", "200"),
        ("dns_lookup_realm = true", "200"),
        ("dns_canonicalize_hostname = false", "401"),
    ] {
        let settings = format!("{DEFAULT_REALM}\n\t{setting}");
        let script = format!(
            "{}; curl -s -o /dev/null -w '%{{http_code}}' --negotiate -u : https://{ALIAS}/",
            kinit()
        );
        let outside = realm.outside_with("outside", &settings, &script);
        assert_eq!(outside.out(), code, "{setting}: {outside}");
        let inside = realm
            .inside("inside", &settings)
            .policy("toml", PROFILE)
            .policy("toml", KDC_POLICY)
            .sh(&script);
        assert_eq!(inside.out(), code, "{setting}: {inside}\n{}", realm.logs());
    }
}
