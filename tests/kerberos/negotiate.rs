//! SPNEGO through the sandbox's doors: the principal is built from the canonical name.

use crate::realm::{ALIAS, Realm, SERVICE, WELCOME, kinit};

/// What case 3 does: curl and requests-kerberos, each says the status and what it got.
fn clients() -> String {
    let curl = "curl -sS --negotiate -u : -w '%{http_code}\\n'";
    format!(
        "{}; {curl} https://{ALIAS}/; {curl} --noproxy '*' http://{ALIAS}/; python3 requests.krb.py; klist",
        kinit()
    )
}

/// The case's own lines.
const PYTHON: &str = "import socket, requests
from requests_kerberos import HTTPKerberosAuth
host = 'internal-data.example.corp'
auth = HTTPKerberosAuth(hostname_override=socket.getfqdn(host))
for session in (requests.Session(), requests.Session()):
    answer = session.get(f'https://{host}/', auth=auth, timeout=30)
    print(answer.text.strip(), answer.status_code, sep='\\n')
    session.trust_env = False
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
