//! SPNEGO through the sandbox's doors: the service's principal is built from the canonical name,
//! which the resolver shows by CNAME and PTR, or does not show where the policy serves neither.

use crate::realm::{ALIAS, DEFAULT_REALM, KDC_POLICY, PROFILE, Realm, SERVICE, WELCOME, kinit};
use crate::support::require;

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

/// Neither answer leads to the canonical name, so the client asks for a ticket for the name that
/// it was given, which the realm does not know.
#[test]
fn without_cname_and_ptr_the_same_commands_get_401() {
    let realm = Realm::start();
    realm.world.file("requests.krb.py", PYTHON);
    let types = "version = 1\n[network.dns]\ntypes = [\"A\", \"AAAA\", \"SRV\"]\n";
    let ran = realm
        .inside("flat", DEFAULT_REALM)
        .policy("toml", PROFILE)
        .policy("toml", KDC_POLICY)
        .policy("toml", types)
        .sh(&format!("{}; getent ahosts {ALIAS} | head -n1", clients()));
    let out = ran.out();
    assert_eq!(
        out.lines().filter(|line| *line == "401").count(),
        4,
        "{ran}"
    );
    assert!(!out.contains(WELCOME) && !out.contains(SERVICE), "{ran}");
    // The ticket to ask with was there, so that it is the name which is missing.
    ran.assert_out("krbtgt/EXAMPLE.CORP@EXAMPLE.CORP")
        .assert_out(&format!("203.0.113.30    STREAM {ALIAS}\n"));
    let reverse = "30.113.0.203.in-addr.arpa";
    let denied = ran.records.denials("dns", "type-not-served", reverse);
    assert!(!denied.is_empty(), "{ran}");
    let log = realm.logs();
    let refused = format!("for HTTP/{ALIAS}@EXAMPLE.CORP, Server not found in Kerberos database");
    assert!(
        log.contains(&refused) && !log.contains(&format!("for {SERVICE}")),
        "{log}"
    );
}

/// The CNAME is enough for the canonical name; the PTR of an address whose chain is not shown leads
/// to the listed name and no further.
#[test]
fn either_of_cname_and_ptr_left_out() {
    require("dig");
    let realm = Realm::start();
    for (types, code, reverse) in [
        ("\"CNAME\"", "200", ""),
        ("\"PTR\"", "401", "internal-data.example.corp."),
        (
            "\"CNAME\", \"PTR\"",
            "200",
            "backend-canonical-host.example.corp.",
        ),
    ] {
        let policy =
            format!("version = 1\n[network.dns]\ntypes = [\"A\", \"AAAA\", \"SRV\", {types}]\n");
        let ran = realm
            .inside("either", DEFAULT_REALM)
            .policy("toml", PROFILE)
            .policy("toml", KDC_POLICY)
            .policy("toml", &policy)
            .sh(&format!(
                "{}; curl -s -o /dev/null -w '%{{http_code}} ' --negotiate -u : \
                 https://{ALIAS}/; dig +short -x 203.0.113.30",
                kinit()
            ));
        assert_eq!(
            ran.out().trim_end(),
            format!("{code} {reverse}").trim_end(),
            "{types}: {ran}"
        );
    }
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
