//! Names as the host knows them: its hosts file, and its resolvers as they change. Judged by
//! what real programs reach, and by what the resolvers outside were asked.

use crate::etc::{own_etc, replace};
use crate::processes::Background;
use crate::support::{require, sandbox, world};
use std::time::Duration;

const HOSTS: &str = "127.0.0.1 localhost\n\
    # 203.0.113.90 commented.example.test\n\
    203.0.113.10 API.Hosts.Test. api-alias # the web server\n\
    2001:db8:10::10\tsix.hosts.test\n\
    203.0.113.62 dual.hosts.test\n2001:db8:10::62 dual.hosts.test\n\
    10.20.0.5 guarded.hosts.test\n127.0.0.1 loop.hosts.test\n\
    203.0.113.20 unlisted.hosts.test\n";

/// Programs that need no proxy find them in the hosts file inside.
#[test]
fn names_of_the_loopback_mean_the_sandbox_by_every_way() {
    require("curl");
    let world = world();
    own_etc(&world);
    replace(
        &world,
        "hosts",
        "127.0.0.1 localhost.localdomain localhost\n::1 ip6-localhost ip6-loopback\n\
         127.0.0.1 dev.corp.test\n0.0.0.0 ads.corp.test\n127.0.0.1 two.corp.test\n203.0.113.20 two.corp.test\n",
    );
    let ran = sandbox(&world).allow("host.portcullis.internal:8000").sh(
        "python3 -m http.server --bind :: 8000 > /dev/null 2>&1 & server=$!; \
         until curl -s --noproxy '*' -o /dev/null http://[::1]:8000/; do sleep 0.05; done; set -f; \
         for way in '--noproxy *' '--noproxy @' '--noproxy @ -p' '--noproxy @ --socks5-hostname 10.0.2.2:1080'; do \
         for name in localhost.localdomain ip6-localhost dev.corp.test ads.corp.test; do \
         curl -sS -m 25 -o /dev/null -w '%{http_code} ' $way http://$name:8000/; done; done; \
         curl -s -m 25 -o /dev/null -w '%{http_code}' --noproxy @ http://two.corp.test:8000/; kill $server",
    );
    assert_eq!(ran.out(), "200 ".repeat(16) + "403", "{ran}");
    let denied = ran.records.all_denials();
    assert_eq!(denied.len(), 1, "{ran}");
    assert_eq!(denied[0]["name"], "two.corp.test", "{ran}");
}

#[test]
fn listed_names_of_the_hosts_file_resolve_by_every_way_and_are_asked_of_nobody() {
    require("curl");
    let world = world();
    own_etc(&world);
    replace(&world, "hosts", HOSTS);
    let mut run = sandbox(&world);
    for name in ["api.hosts.test", "six.hosts.test", "dual.hosts.test"] {
        run = run.allow(name);
    }
    let ran = run.sh(
        "set -f; for way in '--noproxy *' '' '-p' '--socks5-hostname 10.0.2.2:1080'; do \
         for name in api six dual; do \
         curl -sS -m 25 -o /dev/null -w '%{http_code} ' $way http://$name.hosts.test/; done; done; \
         echo; getent ahosts dual.hosts.test | awk '$2 == \"STREAM\" {print $1}' | sort; \
         getent hosts 203.0.113.10 | awk '{print $2}'; \
         python3 -c 'import socket; print(socket.getfqdn(\"203.0.113.62\"), \
         socket.gethostbyname(\"API.HOSTS.TEST.\"))'; \
         getent hosts unlisted.hosts.test || echo unlisted; \
         grep -c 'hosts.test' /etc/hosts",
    );
    assert_eq!(
        ran.out(),
        format!(
            "{}\n2001:db8:10::62\n203.0.113.62\napi.hosts.test\ndual.hosts.test 203.0.113.10\n\
             unlisted\n1\n",
            "200 ".repeat(12)
        ),
        "{ran}"
    );
    let asked = ran.records.about("dual.hosts.test").into_iter();
    let asked: Vec<_> = asked.filter(|record| record["layer"] == "dns").collect();
    let by_hosts = |record: &&serde_json::Value| record["upstream"] == "/etc/hosts";
    assert!(
        asked.len() >= 2 && asked.iter().copied().all(|r| by_hosts(&r)),
        "{ran}"
    );
    let denied = ran
        .records
        .denials("dns", "not-in-allowlist", "unlisted.hosts.test");
    assert!(!denied.is_empty(), "{ran}");
    world.assert_never_asked("hosts.test");
    world.assert_never_asked("113.0.203");
}

#[test]
fn attack_a_hosts_entry_lifts_no_guard() {
    require("curl");
    let world = world();
    own_etc(&world);
    replace(&world, "hosts", HOSTS);
    let fetch = "set -f; for way in '' '-p' '--socks5-hostname 10.0.2.2:1080' '--noproxy *'; do \
         curl -sS -m 25 -o /dev/null -w '%{http_code} %{http_connect}\\n' $way \
         http://guarded.hosts.test/ 2>/dev/null; done";
    let run = sandbox(&world).allow("guarded.hosts.test");
    let ran = run.sh(fetch);
    assert_eq!(ran.out(), "403 000\n000 403\n000 000\n000 000\n", "{ran}");
    let denied = ran
        .records
        .denials("http", "private-address", "guarded.hosts.test");
    let told = denied.iter().all(|record| {
        record["detail"]
            .as_str()
            .is_some_and(|d| d.contains("/etc/hosts"))
    });
    assert!(denied.len() >= 2 && told, "{ran}");
    world.assert_never_reached("10.20.0.5");
    let ran = run.allow("10.20.0.0/16:80").sh(fetch);
    assert_eq!(
        ran.out(),
        "200 000\n200 200\n200 000\n200 000\n",
        "lifted: {ran}"
    );
}

#[test]
fn changes_of_the_hosts_file_and_of_the_resolvers_are_followed() {
    require("curl");
    let world = world();
    own_etc(&world);
    replace(&world, "hosts", HOSTS);
    replace(&world, "resolv.conf", "nameserver 203.0.113.200\n");
    let run = sandbox(&world)
        .allow("new.hosts.test")
        .allow("v4only.example.com");
    let _running = Background::start(&mut run.command(&[
        "sh",
        "-c",
        "get() { getent ahostsv4 $1 | head -n 1 | cut -d' ' -f1; }; \
         get new.hosts.test; get v4only.example.com; touch tried; \
         for i in $(seq 100); do [ -e changed ] && break; sleep 0.2; done; \
         for i in $(seq 100); do [ \"$(get v4only.example.com)\" ] && break; sleep 0.2; done; \
         (get v4only.example.com; get new.hosts.test) > found.new; mv found.new found",
    ]));
    let here = |name: &str| world.home().join(name);
    crate::processes::until("the first try", || here("tried").exists());
    replace(&world, "hosts", "203.0.113.10 new.hosts.test\n");
    replace(&world, "resolv.conf", "nameserver 203.0.113.53\n");
    world.file("changed", "");
    crate::processes::until("the second try", || here("found").exists());
    let found = std::fs::read_to_string(here("found")).unwrap();
    assert_eq!(found, "203.0.113.60\n203.0.113.10\n");
}

#[test]
fn a_hosts_file_that_cannot_be_read_leaves_the_old_one() {
    let world = world();
    own_etc(&world);
    replace(&world, "hosts", HOSTS);
    let hide = |mode: &str| {
        let mut command = world.command_as_root("chmod");
        let done =
            crate::support::finish(command.args([mode, "etc/hosts"]), Duration::from_secs(30));
        assert_eq!(done.code(), Some(0), "{done}");
    };
    let run = sandbox(&world).allow("api.hosts.test");
    let _running = Background::start(&mut run.command(&[
        "sh",
        "-c",
        "touch tried; for i in $(seq 100); do [ -e hidden ] && break; sleep 0.2; done; sleep 2.5; \
         getent hosts api.hosts.test > found.new; mv found.new found",
    ]));
    let here = |name: &str| world.home().join(name);
    crate::processes::until("the start", || here("tried").exists());
    hide("000");
    world.file("hidden", "");
    crate::processes::until("the look-up", || here("found").exists());
    let found = std::fs::read_to_string(here("found")).unwrap();
    assert!(found.starts_with("203.0.113.10"), "{found}");
}

#[test]
fn attack_root_inside_cannot_change_the_hosts_own_files() {
    let world = world();
    let etc = own_etc(&world);
    replace(&world, "hosts", HOSTS);
    let script = "for file in hosts resolv.conf; do \
         (echo '203.0.113.90 api.example.com' >> /etc/$file) 2>/dev/null; \
         mv /etc/$file /etc/$file.old 2>/dev/null; cp /etc/passwd /etc/$file 2>/dev/null; done; \
         sleep 2; getent hosts api.example.com";
    let ran = sandbox(&world)
        .as_root()
        .allow("api.example.com")
        .sh(script);
    assert!(!ran.out().contains("203.0.113.90"), "{ran}");
    assert_eq!(std::fs::read_to_string(etc.join("hosts")).unwrap(), HOSTS);
    let resolvers = std::fs::read_to_string(etc.join("resolv.conf")).unwrap();
    assert!(resolvers.contains("nameserver 203.0.113.53"), "{resolvers}");
}
