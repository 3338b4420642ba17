//! Programs that bring a resolver of their own: Go without libc, c-ares in Node, dnspython.

use crate::shared;
use crate::stubs::{assert_searched, searching};
use crate::support::{Ran, finish, require, sandbox};
use portcullis_testkit::World;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A compiler on a busy machine.
const BUILD_LIMIT: Duration = Duration::from_secs(240);

/// Everything of the zone that has records of every type, and what has one family alone.
fn all(world: &World) -> crate::support::Sandbox<'_> {
    let names = ["**.example.com", "v4only.example.com", "v6only.example.com"];
    names
        .iter()
        .fold(sandbox(world), |sandbox, name| sandbox.allow(name))
}

/// The Go program, built without a network and without cgo.
fn go(world: &World) -> String {
    require("go");
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients/resolver.go");
    let folder = world.home().join("go");
    let program = folder.join("resolver");
    let mut compiler = Command::new("go");
    compiler.args(["build", "-o"]).arg(&program).arg(source);
    for (name, value) in [
        ("CGO_ENABLED", "0"),
        ("GO111MODULE", "off"),
        ("GOFLAGS", ""),
        ("GOPROXY", "off"),
    ] {
        compiler.env(name, value);
    }
    compiler
        .env("GOPATH", &folder)
        .env("GOCACHE", folder.join("cache"))
        .env("HOME", &folder);
    let done = finish(&mut compiler, BUILD_LIMIT);
    assert!(done.ok(), "{done}");
    program.display().to_string()
}

#[test]
fn slow_go_finds_listed_names_and_is_told_what_is_not_there() {
    require("unshare");
    let world = shared::world();
    let program = go(&world);
    let ran = all(&world).sh(&format!(
        "{program} host=api.example.com host=v4only.example.com host=v6only.example.com cname=www.example.com \
         mx=example.com txt=example.com ns=example.com srv=_sip._tcp.example.com addr=203.0.113.10 \
         host=go.tunnel.evil.example.net txt=go.tunnel.evil.example.net mx=v4only.example.com"
    ));
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "host=api.example.com 2001:db8:10::10 203.0.113.10\nhost=v4only.example.com 203.0.113.60\n\
         host=v6only.example.com 2001:db8:10::61\ncname=www.example.com cdn.example.net.\n\
         mx=example.com 10 smtp.example.com.\ntxt=example.com v=spf1,-all\nns=example.com ns1.example.com.\n\
         srv=_sip._tcp.example.com 10 20 5060 api.example.com.\naddr=203.0.113.10 api.example.com.\n\
         host=go.tunnel.evil.example.net not found true temporary false\n\
         txt=go.tunnel.evil.example.net not found true temporary false\n\
         mx=v4only.example.com not found true temporary false\n",
        "{ran}"
    );
    world.assert_never_asked("evil");
    // It may ask a resolver of its choice: the gateway answers there too, by the same list.
    let ran = all(&world).sh(&searching(&format!("{program} host=api.example.com")));
    ran.assert_ok()
        .assert_out("203.0.113.10")
        .assert_out("2001:db8:10::10");
    assert_searched(&ran, "api.example.com");
}

/// Runs lookups of c-ares; each prints what it found, or the error's code.
fn cares(lookups: &str) -> Ran {
    require("node");
    let program = format!(
        "const dns = require('dns').promises, r = new dns.Resolver({{ timeout: 20000 }});
         const say = (what, ask) => ask.then(x => console.log(what, JSON.stringify(x)), e => console.log(what, e.code));
         (async () => {{ {lookups} }})()"
    );
    all(&shared::world()).node(&program)
}

#[test]
fn c_ares_reads_every_type() {
    let ran = cares(
        "await say('A', r.resolve4('api.example.com'));
         await say('AAAA', r.resolve6('api.example.com'));
         await say('AAAA', r.resolve6('v4only.example.com'));
         await say('A', r.resolve4('v6only.example.com'));
         await say('CNAME', r.resolveCname('www.example.com'));
         await say('MX', r.resolveMx('example.com'));
         await say('TXT', r.resolveTxt('example.com'));
         await say('NS', r.resolveNs('example.com'));
         await say('CAA', r.resolveCaa('example.com'));
         await say('SRV', r.resolveSrv('_sip._tcp.example.com'));
         await say('NAPTR', r.resolveNaptr('example.com'));
         await say('PTR', r.resolvePtr('10.113.0.203.in-addr.arpa'));
         await say('reverse', r.reverse('203.0.113.10'));
         await say('reverse', r.reverse('203.0.113.31'));",
    );
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "A [\"203.0.113.10\"]\nAAAA [\"2001:db8:10::10\"]\nAAAA ENODATA\nA ENODATA\nCNAME [\"cdn.example.net\"]\n\
         MX [{\"exchange\":\"smtp.example.com\",\"priority\":10}]\nTXT [[\"v=spf1,-all\"]]\nNS [\"ns1.example.com\"]\n\
         CAA [{\"critical\":0,\"issue\":\"ca.example.net\"}]\n\
         SRV [{\"name\":\"api.example.com\",\"port\":5060,\"priority\":10,\"weight\":20}]\n\
         NAPTR ENODATA\nPTR [\"api.example.com\"]\nreverse [\"api.example.com\"]\nreverse ENOTFOUND\n",
        "{ran}"
    );
    shared::world().assert_never_asked("31.113.0.203");
}

#[test]
fn c_ares_is_told_what_is_not_there_whomever_it_asks() {
    // ANY is answered by RFC 8482, with one record that c-ares may or may not know.
    let ran = cares(
        "await r.resolveAny('example.com').then(() => console.log('ANY'), e => console.log('ANY', ['ENODATA', 'EBADRESP'].includes(e.code) ? '' : e.code));
         const kinds = ['A', 'AAAA', 'ANY', 'CAA', 'CNAME', 'MX', 'NAPTR', 'NS', 'PTR', 'SOA', 'SRV', 'TXT'];
         for (const servers of [[], ['8.8.8.8'], ['[2001:db8:10::53]'], ['203.0.113.54:53']]) {
             if (servers.length) r.setServers(servers);
             const codes = new Set();
             for (const kind of kinds) codes.add(await r.resolve('cares.tunnel.evil.example.net', kind).then(() => 'found', e => e.code));
             await say([...codes].join(), r.resolve4('api.example.com'));
         }",
    );
    ran.assert_ok();
    assert!(ran.out().starts_with("ANY"), "{ran}");
    let rest = ran.out().split_once('\n').map(|(_, rest)| rest.to_owned());
    assert_eq!(
        rest,
        Some("ENOTFOUND [\"203.0.113.10\"]\n".repeat(4)),
        "{ran}"
    );
    let world = shared::world();
    world.assert_never_asked("evil");
    for query in world.dns_log() {
        let server = query.server.ip().to_string();
        assert!(
            portcullis_testkit::RESOLVERS.contains(&&*server),
            "{query:?}"
        );
    }
}

const DNSPYTHON: &str = "
import dns.resolver, dns.reversename, dns.exception
r = dns.resolver.Resolver()
r.lifetime, r.timeout = 60, 20
options = {}
def say(name, kind='A'):
    try: print(kind, *sorted(item.to_text() for item in r.resolve(name, kind, **options)))
    except dns.exception.DNSException as error: print(kind, type(error).__name__)
def all():
    for kind in 'A', 'AAAA', 'HTTPS': say('api.example.com', kind)
    for kind in 'MX', 'TXT', 'NS', 'CAA', 'NAPTR': say('example.com', kind)
    say('v4only.example.com', 'AAAA'); say('_sip._tcp.example.com', 'SRV')
    say(dns.reversename.from_address('203.0.113.10'), 'PTR')
    for kind in 'A', 'TXT': say('dnspython.tunnel.evil.example.net', kind)
";

/// What it says, once for each way of asking.
const DNSPYTHON_SAYS: &str = "A 203.0.113.10\nAAAA 2001:db8:10::10\nHTTPS 1 . alpn=\"h3,h2\" ipv4hint=\"203.0.113.10\" ipv6hint=\"2001:db8:10::10\"\n\
                              MX 10 smtp.example.com.\nTXT \"v=spf1,-all\"\nNS ns1.example.com.\nCAA 0 issue \"ca.example.net\"\nNAPTR NoAnswer\n\
                              AAAA NoAnswer\nSRV 10 20 5060 api.example.com.\nPTR api.example.com.\nA NXDOMAIN\nTXT NXDOMAIN\n";

#[test]
fn dnspython_reads_every_type_with_and_without_edns_and_over_tcp() {
    let world = shared::world();
    let ran = all(&world).python(&format!(
        "{DNSPYTHON}\n\
         all()\n\
         r.use_edns(0, 0, 1232); all()\n\
         r.use_edns(False); all()\n\
         options['tcp'] = True; all()"
    ));
    ran.assert_ok();
    assert_eq!(ran.out(), DNSPYTHON_SAYS.repeat(4), "{ran}");
    world.assert_never_asked("evil");
}

#[test]
fn dnspython_that_searches_neither_leaks_nor_stalls() {
    require("unshare");
    let world = shared::world();
    let program = world.file("searching.py", format!("{DNSPYTHON}\noptions['search'] = True\nfor kind in 'A', 'AAAA': say('api.example.com', kind)\n"));
    let ran = all(&world).sh(&searching(&format!("python3 {}", program.display())));
    ran.assert_ok();
    assert_eq!(ran.out(), "A 203.0.113.10\nAAAA 2001:db8:10::10\n", "{ran}");
    assert_searched(&ran, "api.example.com");
}
