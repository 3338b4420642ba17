//! A microVM of a company, from a real guest: the company's own forward proxy, which is a real squid, and its own resolver
//! behind the gateway; and a policy's limits as a guest meets them.

use crate::GUEST_TIMEOUT;
use crate::guest::{Addresses, Check, Device, Guest, checks};
use crate::processes::{Background, kill, until};
use crate::support::{Ran, finish, require, require_kernel, sandbox, world_from};
use portcullis_testkit::{DnsServer, World, WorldSpec, ip};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The company's file, as it stands.
const YAML: &str = r#"network:
  proxy:
    http: "http://proxy.internal:3128"
    https: "http://proxy.internal:3128"
    no_proxy: "localhost,127.0.0.1"
  dns:
    custom_resolvers:
      - "10.0.0.53"
  allowlist_additions:
    - "api.internal.company.com"
    - "registry.internal.company.com"
"#;

const RESOLVER: &str = "10.0.0.53";
const PROXY: &str = "10.20.0.80";

const CHECKS: &str = r#"
get="curl -sS -m 40 --cacert /etc/ca.pem -o /dev/null -w '%{http_code}\\n'"
check registry "$get https://registry.internal.company.com/"
check plain "$get http://registry.internal.company.com/"
check set "https_proxy=http://10.0.2.2:3128 $get https://registry.internal.company.com/"
check direct "$get https://api.internal.company.com/"
check denied nslookup -type=a evil.example.net
check set-denied "https_proxy=http://10.0.2.2:3128 curl -sSv -m 40 https://evil.example.net/"
check around nc -w 10 10.20.0.80 3128
check around-dns nslookup -type=a evil-elsewhere.example.net 10.0.0.53
"#;

/// A world with the company's resolver, and a squid where its proxy is.
struct Company {
    world: World,
    squid: Background,
    log: PathBuf,
}

impl Company {
    fn start() -> Company {
        require("squid");
        let mut spec = WorldSpec::standard();
        spec.dns.servers.push(DnsServer {
            address: ip(RESOLVER),
            fault: None,
        });
        spec.services.retain(|service| service.address != ip(PROXY));
        let world = world_from(spec.closed(PROXY));
        let home = world.home().display().to_string();
        let log = world.home().join("squid-access.log");
        let config = format!(
            "http_port {PROXY}:3128\nhttp_access allow all\ndns_nameservers {RESOLVER}\ncache deny all\n\
             cache_mem 8 MB\npid_filename none\naccess_log stdio:{}\ncache_log {home}/squid-cache.log\n\
             netdb_filename none\npinger_enable off\nshutdown_lifetime 0 seconds\ncoredump_dir {home}\n\
             visible_hostname proxy.internal\nmax_filedescriptors 1024\n",
            log.display(),
        );
        let config = world.file("squid.conf", config);
        let mut squid = world.internet_command("squid");
        let squid = Background::start(squid.arg("-N").arg("-f").arg(config));
        require("nc");
        until("squid serves", || {
            let mut nc = world.command("nc");
            finish(
                nc.args(["-z", "-w", "5", PROXY, "3128"]),
                Duration::from_secs(30),
            )
            .ok()
        });
        Company { world, squid, log }
    }

    /// How often squid's log has this.
    fn logged(&self, part: &str) -> usize {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter(|line| line.contains(part)).count()
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        kill("TERM", self.squid.pid());
    }
}

/// What a guest on a TAP meets under these policies.
fn boot(world: &World, policies: &[(&str, &str)], script: &str) -> (Ran, BTreeMap<String, Check>) {
    require_kernel("/dev/net/tun", "TAP devices for ordinary users");
    let guest = Guest::build(world, Addresses::Automatic, script);
    let mut run = sandbox(world).args(&["--tap", "tap0"]).limit(GUEST_TIMEOUT);
    for (extension, policy) in policies {
        run = run.policy(extension, policy);
    }
    let ran = run.run(&guest.command(Device::Tap("tap0")));
    ran.assert_ok();
    let all = checks(&ran.out());
    (ran, all)
}

#[track_caller]
fn assert_says(ran: &Ran, all: &BTreeMap<String, Check>, name: &str, part: &str) {
    let said = all.get(name).map(|check| &*check.said);
    assert!(
        said.is_some_and(|said| said.contains(part)),
        "{name} lacks {part:?}: {ran}"
    );
}

#[test]
fn qemu_guest_goes_through_a_company_s_proxy_and_resolver() {
    let company = Company::start();
    let (ran, all) = boot(&company.world, &[("yaml", YAML)], CHECKS);
    for name in ["registry", "plain", "set", "direct"] {
        assert_says(&ran, &all, name, "200");
    }
    assert_says(&ran, &all, "denied", "NXDOMAIN");
    assert_says(&ran, &all, "set-denied", "403");
    assert_says(&ran, &all, "around", "refused");
    assert_says(&ran, &all, "around-dns", "NXDOMAIN");
    until("squid has logged all", || {
        company.logged("company.com") == 4
    });
    assert_eq!(
        company.logged("CONNECT registry.internal.company.com:443"),
        2
    );
    assert_eq!(
        company.logged("GET http://registry.internal.company.com/"),
        1
    );
    assert_eq!(company.logged("CONNECT api.internal.company.com:443"), 1);
    assert_eq!(company.logged("evil"), 0);
    for name in ["evil.example.net", "evil-elsewhere.example.net"] {
        ran.assert_one_denial("dns", "not-in-allowlist", name);
    }
    for query in company.world.dns_log() {
        assert_eq!(query.server.to_string(), "10.0.0.53:53", "{query:?}");
    }
    company.world.assert_never_asked("evil");
}

/// The same, with a name that goes directly, and the limits of a policy beside it.
#[test]
fn qemu_guest_goes_directly_where_no_proxy_says_so_and_within_limits() {
    let company = Company::start();
    let yaml = YAML.replace("localhost,127.0.0.1", "localhost,api.internal.company.com");
    let limits =
        "version = 1\n[network.limits]\ndns_queries_per_second = 1\nbytes_per_second = \"100KB\"\n";
    let script = r#"
sleep 5
check direct "curl -sS -m 60 --cacert /etc/ca.pem -o /dev/null -w '%{http_code}\\n' https://api.internal.company.com/"
sleep 5
check slow "curl -sS -m 90 -o /dev/null -w '%{http_code} %{size_download}\\n' http://api.internal.company.com/bytes/600000"
check flood 'for number in 1 2 3 4 5 6 7 8; do nslookup -type=a n$number.example.net & done; wait'
"#;
    let (ran, all) = boot(&company.world, &[("yaml", &yaml), ("toml", limits)], script);
    assert_says(&ran, &all, "direct", "200");
    assert_says(&ran, &all, "slow", "200 600000");
    let took = all.get("slow").map_or(0, |check| check.milliseconds);
    assert!(took > 3_000, "600 kB at 100 kB/s in {took} ms: {ran}");
    assert_says(&ran, &all, "flood", "SERVFAIL");
    let limited = ran.records.all_denials();
    let limited = limited
        .iter()
        .any(|record| record["reason"] == "rate-limited");
    assert!(limited, "{ran}");
    assert_eq!(company.logged("api.internal.company.com"), 0, "{ran}");
}
