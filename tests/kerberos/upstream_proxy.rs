//! An upstream proxy that wants Kerberos (`Negotiate`): a real squid with its own helper, the caller's ticket,
//! and programs that know nothing of either.

use crate::processes::Background;
use crate::realm::{DEFAULT_REALM, KDC, Realm};
use crate::support::{finish, require};
use portcullis_testkit::World;
use std::time::{Duration, Instant};

const HELPER: &str = "/usr/lib/squid/negotiate_kerberos_auth";
/// The proxy's name, which its address has in DNS.
const NAME: &str = "kdc.example.corp";
const PORT: u16 = 3128;
const LIMIT: Duration = Duration::from_secs(60);

/// By the proxy port, over SOCKS and directly, twice on one connection each, plain and in TLS.
const WAYS: &str = "for way in '-x http://10.0.2.2:3128' '-x socks5h://10.0.2.2:1080' '--noproxy *'; do \
    for scheme in http https; do set -f; curl -sS -m 60 --noproxy '' $way -o /dev/null -o /dev/null \
    -w '%{http_code}\\n' $scheme://api.example.com/ $scheme://api.example.com/; done; done";

fn policy() -> String {
    format!(
        "version = 1\n[network.domains]\n\"api.example.com\" = \"allow\"\n[network.proxy]\n\
         http = \"http://{NAME}:{PORT}\"\nhttps = \"http://{NAME}:{PORT}\"\nauth = \"negotiate\"\n"
    )
}

fn resolver(world: &World) -> String {
    world.spec().dns.servers[0].address.to_string()
}

fn squid(realm: &Realm) -> Background {
    require("squid");
    let folder = realm.folder().display().to_string();
    let keytab = realm.keytab(&format!("HTTP/{NAME}"), "squid.keytab");
    let config = realm.world.file(
        "realm/squid.conf",
        format!(
            "http_port {KDC}:{PORT}\n\
             auth_param negotiate program {HELPER} -k {keytab} -s HTTP/{NAME}@EXAMPLE.CORP\n\
             auth_param negotiate children 2\n\
             acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\n\
             dns_nameservers {}\ncache deny all\ncache_mem 8 MB\npid_filename none\n\
             access_log stdio:{folder}/squid-access.log\ncache_log {folder}/squid-cache.log\n\
             netdb_filename none\npinger_enable off\nshutdown_lifetime 0 seconds\n\
             coredump_dir {folder}\nvisible_hostname {NAME}\nmax_filedescriptors 1024\n",
            resolver(&realm.world)
        ),
    );
    let mut command = realm.tool("squid");
    command
        .env("KRB5RCACHETYPE", "none")
        .arg("-N")
        .arg("-f")
        .arg(config);
    let process = Background::start(&mut command);
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut nc = realm.world.command("nc");
        nc.args(["-z", "-w", "5", KDC, &PORT.to_string()]);
        if finish(&mut nc, LIMIT).ok() {
            return process;
        }
        assert!(Instant::now() < deadline, "squid does not serve");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_proxy_that_wants_kerberos_gets_the_caller_s_ticket_on_every_way_in() {
    let realm = Realm::start();
    let _squid = squid(&realm);
    let ran = realm.inside("caller", DEFAULT_REALM);
    realm.log_in("caller");
    let ran = ran
        .policy("toml", &policy())
        .sh(&format!("{WAYS}; klist 2>&1 | head -1"));
    ran.assert_no_denial();
    let log = std::fs::read_to_string(realm.folder().join("squid-access.log")).unwrap_or_default();
    assert_eq!(ran.out().matches("200\n").count(), 12, "{ran}\n{log}");
    let known = log
        .lines()
        .filter(|line| line.contains("alice@EXAMPLE.CORP"));
    assert!(known.count() >= 6, "{log}");
    assert!(
        !log.contains("TCP_DENIED"),
        "the first request has the token: {log}"
    );
    assert!(!ran.records.to_string().contains("Negotiate"), "{ran}");
}

#[test]
fn without_a_ticket_the_record_says_what_is_missing() {
    let realm = Realm::start();
    let _squid = squid(&realm);
    let ran = realm
        .inside("stranger", DEFAULT_REALM)
        .policy("toml", &policy())
        .sh("curl -s -m 60 -D - -x http://10.0.2.2:3128 http://api.example.com/");
    assert!(ran.out().contains("HTTP/1.1 502 "), "{ran}");
    let record = ran.records.one("http", "api.example.com");
    assert_eq!(record["reason"], "upstream-proxy-refused", "{ran}");
    let detail = record["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("no Kerberos ticket for it: "), "{detail}");
}
