//! How a client finds its realm and its KDC: SRV and TXT for the realms that are listed, and for no
//! others. The KDC itself is reached over TCP: UDP leaves the sandbox for nobody.

use crate::realm::{
    ALIAS, DEFAULT_REALM, KDC, KDC_POLICY, PROFILE, Realm, SERVICE, WELCOME, kinit,
};
use crate::support::require;

/// The realm by TXT, as an operator lists it.
const TXT: &str = "_kerberos.example.corp";
/// The workstation's own name: libkrb5 looks it up before its domain's TXT.
const OWN_NAME: &str = "ws7.example.corp";

#[test]
fn the_kdc_is_found_by_srv_and_reached_over_tcp() {
    let realm = Realm::start();
    let ran = realm.profile(&format!("{}; klist -s; echo $?", kinit()));
    assert_eq!(ran.out(), "0\n", "{ran}");
    for name in ["_kerberos._udp.example.corp", "_kerberos._tcp.example.corp"] {
        let record = ran.records.one("dns-udp", name);
        assert_eq!(
            (&record["verdict"], &record["qtype"]),
            (&"allow".into(), &"SRV".into())
        );
    }
    let reached = ran.records.about("kdc.example.corp").into_iter();
    let reached: Vec<_> = reached.filter(|record| record["layer"] == "tcp").collect();
    assert!(
        !reached.is_empty()
            && reached
                .iter()
                .all(|record| record["verdict"] == "allow" && record["port"] == 88),
        "{ran}"
    );
    // The client tries UDP first; it is refused at once, which is why it does not wait.
    let datagrams = ran.records.denials("udp", "protocol-not-allowed", KDC);
    assert!(!datagrams.is_empty(), "{ran}");
}

#[test]
fn kvno_and_the_resolver_s_tools_agree_with_the_outside() {
    let realm = Realm::start();
    let script = format!(
        "{}; kvno HTTP/{ALIAS}@ HTTP/backend-canonical-host.example.corp; kvno -S HTTP {ALIAS}; \
         getent hosts {ALIAS}; getent ahosts {ALIAS}; hostname=$(python3 -c 'import socket; \
         print(socket.getfqdn(\"{ALIAS}\"), socket.gethostbyaddr(\"203.0.113.30\")[0], \
         socket.getaddrinfo(\"{ALIAS}\", 443, flags=socket.AI_CANONNAME)[0][3])'); echo $hostname",
        kinit()
    );
    let outside = realm.outside("outside", &script);
    let inside = realm.profile(&script);
    assert_eq!(inside.out(), outside.out(), "{inside}\n{outside}");
    assert!(
        inside.out().contains(&format!("{SERVICE}: kvno = 2")),
        "{inside}"
    );
}

/// A workstation whose krb5.conf names no realm at all: TXT of its own domain names it, then SRV of
/// that realm the KDC.
#[test]
fn the_realm_itself_is_found_by_txt_where_that_is_listed() {
    require("unshare");
    let realm = Realm::start();
    let settings = "\tdns_lookup_realm = true";
    let script = format!(
        "unshare -Uru sh -c 'hostname {OWN_NAME} && {}; klist | grep Default'",
        kinit().replace('\'', "\"")
    );
    let run = || {
        realm
            .inside("txt", settings)
            .policy("toml", PROFILE)
            .policy("toml", KDC_POLICY)
            .allow(OWN_NAME)
    };
    let listed = run().allow(TXT).sh(&script);
    assert_eq!(
        listed.out(),
        "Default principal: alice@EXAMPLE.CORP\n",
        "{listed}"
    );
    let outside = realm.outside_with("txt", settings, &script);
    assert_eq!(outside.out(), listed.out(), "{outside}");

    let unlisted = run().sh(&script);
    unlisted.assert_said("does not specify default realm");
    let denied = unlisted.records.denials("dns", "not-in-allowlist", TXT);
    assert!(denied.iter().any(|r| r["qtype"] == "TXT"), "{unlisted}");
}

/// What a person sees who has listed the web server alone, and what to add.
#[test]
fn a_realm_that_is_not_listed_is_not_found_and_the_record_says_why() {
    let realm = Realm::start();
    let before = realm.world.dns_log().len();
    let ran = realm
        .inside("nobody", DEFAULT_REALM)
        .policy("toml", PROFILE)
        .sh(&kinit());
    ran.assert_said("Cannot find KDC for realm");
    for name in ["_kerberos._udp.example.corp", "_kerberos._tcp.example.corp"] {
        let denied = ran.records.denials("dns", "not-in-allowlist", name);
        assert!(denied.iter().any(|r| r["qtype"] == "SRV"), "{ran}");
    }
    assert_eq!(realm.world.dns_log().len(), before, "a query left: {ran}");
}

/// An SRV record names its target; that lists nothing.
#[test]
fn the_target_of_an_srv_record_is_not_listed_by_it() {
    require("dig");
    let realm = Realm::start();
    let before = realm.world.dns_log().len();
    let policy = "version = 1\n[network.domains]\n\"_kerberos._tcp.example.corp\" = \"allow\"\n";
    let ran = realm
        .inside("target", DEFAULT_REALM)
        .policy("toml", policy)
        .sh(&format!(
            "dig +short SRV _kerberos._tcp.example.corp; dig +short A kdc.example.corp; \
         dig -x {KDC} | grep -o 'status: [A-Z]*'; nc -z -w 5 {KDC} 88; echo $?; {}",
            kinit()
        ));
    assert_eq!(
        ran.out(),
        "0 0 88 kdc.example.corp.\nstatus: NXDOMAIN\n1\n",
        "{ran}"
    );
    ran.assert_said("Cannot contact any KDC");
    let denied = ran
        .records
        .denials("dns", "not-in-allowlist", "kdc.example.corp");
    assert!(!denied.is_empty(), "{ran}");
    ran.assert_one_denial("dns", "address-not-leased", "32.113.0.203.in-addr.arpa");
    ran.assert_one_denial("tcp", "address-not-leased", KDC);
    let left = realm.world.dns_log().split_off(before);
    assert!(
        !left.is_empty() && left.iter().all(|query| query.qtype_name == "SRV"),
        "{left:?}"
    );
}

/// The KDC is listed like any web server, on the wrong ports.
#[test]
fn a_kdc_that_is_listed_without_its_port_is_refused_with_that_reason() {
    let realm = Realm::start();
    let before = realm.logs().matches("AS_REQ").count();
    let policy = KDC_POLICY.replace("kdc.example.corp:88", "kdc.example.corp");
    let ran = realm
        .inside("ports", DEFAULT_REALM)
        .policy("toml", &policy)
        .sh(&kinit());
    ran.assert_said("Cannot contact any KDC");
    let denied = ran.records.denials("tcp", "port-not-allowed", KDC);
    assert!(!denied.is_empty(), "{ran}");
    assert_eq!(realm.logs().matches("AS_REQ").count(), before, "{ran}");
}

/// The manual's own lines, as they stand there, for a client that uses all of them.
#[test]
fn the_policy_in_the_manual_is_what_it_takes() {
    let manual = include_str!("../../crates/policy/POLICY.md");
    let section = manual.split("\n## Kerberos\n").nth(1).unwrap_or_default();
    let policy = section.split("```toml\n").nth(1).unwrap_or_default();
    let policy = policy.split("```").next().unwrap_or_default();
    let realm = Realm::start();
    let ran = realm
        .inside(
            "manual",
            &format!("{DEFAULT_REALM}\n\tdns_lookup_realm = true"),
        )
        .policy("toml", policy)
        .sh(&format!(
            "{}; curl -sSf --negotiate -u : https://{ALIAS}/",
            kinit()
        ));
    assert_eq!(ran.out(), WELCOME, "{ran}");
    let wide = "version = 1\n[network.domains]\n\"**.example.corp\" = \"allow\"\n\
                \"kdc.example.corp:88\" = \"allow\"\n";
    let ran = realm
        .inside(
            "wide",
            &format!("{DEFAULT_REALM}\n\tdns_lookup_realm = true"),
        )
        .policy("toml", wide)
        .sh(&format!(
            "{}; curl -sSf --negotiate -u : https://{ALIAS}/",
            kinit()
        ));
    assert_eq!(ran.out(), WELCOME, "{ran}");
    for line in policy.lines().filter(|line| line.contains("example.corp")) {
        let less = policy.replace(line, "");
        let optional = line.contains("TXT") || line.contains("_udp");
        let ran = realm
            .inside("less", DEFAULT_REALM)
            .policy("toml", &less)
            .sh(&format!(
                "{}; curl -sSf --negotiate -u : https://{ALIAS}/",
                kinit()
            ));
        assert_eq!(ran.out() == WELCOME, optional, "without {line}: {ran}");
    }
}

/// A person who does not know what Kerberos looks up lets `learn` find it.
#[test]
fn learn_finds_all_that_a_kerberos_client_needs() {
    let realm = Realm::start();
    let work = format!(
        "{}; curl -sSf --negotiate -u : https://{ALIAS}/; kdestroy",
        kinit()
    );
    let (done, learned) = realm.learn(&work);
    assert_eq!(done.out(), WELCOME, "{done}\n{learned}");
    let ran = realm
        .inside("learned", DEFAULT_REALM)
        .policy("toml", &learned)
        .sh(&work);
    assert_eq!(ran.out(), WELCOME, "{ran}\n{learned}");
    // No more than that: nothing of the realm's other hosts.
    for unused in ["internal-symbols", "**", "*.", "in-addr"] {
        assert!(!learned.contains(unused), "{learned}");
    }
}
