//! Node: its two resolvers (libc by `dns.lookup`, its own by `dns.resolve4`), net, tls, fetch, and
//! the `ws` package, none of them told of a proxy.

use crate::shared;
use crate::support::{Ran, node_modules, require, sandbox};
use crate::usual;

/// Runs the body of an async function; whatever it throws shows as `failed CODE`.
fn node(body: &str) -> Ran {
    require("node");
    usual(&shared::world()).node(&program(body))
}

fn program(body: &str) -> String {
    format!(
        "const dns = require('dns'), net = require('net'), tls = require('tls'), say = console.log;
         const once = require('events').once;
         (async () => {{ {body} }})().then(() => process.exit(0), e => {{
             say('failed', e.code || (e.cause && e.cause.code) || e.message); process.exit(1) }})"
    )
}

#[test]
fn dns_lookup_and_dns_resolve4() {
    let ran = node(
        "say((await dns.promises.lookup('api.example.com', 4)).address);
         say((await dns.promises.lookup('api.example.com', 6)).address);
         say((await dns.promises.resolve4('api.example.com')).join());
         say((await dns.promises.resolve6('api.example.com')).join());
         say((await dns.promises.resolve4('www.example.com')).join());
         say((await dns.promises.resolveCname('www.example.com')).join());",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(
        ran.out(),
        "203.0.113.10\n2001:db8:10::10\n203.0.113.10\n2001:db8:10::10\n203.0.113.20\ncdn.example.net\n",
        "{ran}"
    );
}

#[test]
fn dns_lookup_and_dns_resolve4_refused() {
    let ran = node(
        "for (const f of [dns.promises.lookup, dns.promises.resolve4, dns.promises.resolveTxt])
             await f('x.node.tunnel.evil.example.net').then(say, e => say(e.code));",
    );
    ran.assert_ok();
    assert_eq!(ran.out(), "ENOTFOUND\n".repeat(3), "never EAI_AGAIN: {ran}");
    shared::world().assert_never_asked("evil");
}

#[test]
fn net_and_tls_connect_directly() {
    let ran = node(
        "const t = tls.connect({ host: 'api.example.com', port: 443, servername: 'api.example.com' });
         await once(t, 'secureConnect'); say(t.authorized); t.destroy();
         const n = net.connect(80, 'api.example.com'); await once(n, 'connect'); say('open'); n.destroy();
         for (const port of [22, 8443]) {
             const refused = net.connect({ host: 'api.example.com', port, family: 4 });
             say((await once(refused, 'error').catch(e => [e]))[0].code);
         }
         const evil = net.connect(443, '203.0.113.90');
         say((await once(evil, 'error').catch(e => [e]))[0].code);",
    );
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "true\nopen\nECONNREFUSED\nECONNREFUSED\nECONNREFUSED\n",
        "{ran}"
    );
    ran.assert_one_denial("tcp", "address-not-leased", "203.0.113.90");
    let ports = ran
        .records
        .denials("tcp", "port-not-allowed", "203.0.113.10");
    assert_eq!(ports.len(), 2, "one for each port: {ran}");
}

#[test]
fn tls_with_another_name_is_refused() {
    let ran = node(
        "const t = tls.connect({ host: 'api.example.com', port: 443, servername: 'evil.example.net' });
         say((await once(t, 'secureConnect').catch(e => [e]))[0].code);",
    );
    ran.assert_ok()
        .assert_out("ERR_SSL_TLSV1_UNRECOGNIZED_NAME");
    ran.assert_one_denial("tls", "sni-not-listed", "evil.example.net");
}

#[test]
fn fetch() {
    let ran = node(
        "for (const scheme of ['http', 'https']) {
             const answer = await fetch(scheme + '://api.example.com/node');
             say(answer.status, (await answer.text()).split('\\r\\n')[0]);
         }
         await fetch('https://evil.example.net/').then(say, e => say(e.cause.code));",
    );
    ran.assert_ok();
    let out = ran.out();
    assert!(
        out.starts_with("200 GET /node HTTP/1.1\n200 GET /node HTTP/1.1\n"),
        "{ran}"
    );
    // A Node that reads the proxy variables is refused by the proxy, an older one by DNS.
    assert!(
        ["ENOTFOUND\n", "UND_ERR_ABORTED\n"]
            .iter()
            .any(|end| out.ends_with(end)),
        "{ran}"
    );
    assert!(!ran.records.all_denials().is_empty(), "{ran}");
    shared::world().assert_never_asked("evil");
}

const WS: &str = "
    const WebSocket = require('ws');
    const ws = new WebSocket('wss://HOST/ws/hello');
    const messages = []; ws.on('message', m => messages.push(m.toString()));
    const [error] = await Promise.race([once(ws, 'open').then(() => []), once(ws, 'error')]).catch(e => [e]);
    if (error) throw error;
    ws.send('across'); ws.send(Buffer.alloc(200000, 'x'));
    while (messages.length < 3) await once(ws, 'message');
    say(messages[0], messages[1], messages[2].length);
    ws.close(1000); say((await once(ws, 'close'))[0]);";

#[test]
fn the_ws_package_without_proxy_settings() {
    let world = shared::world();
    node_modules(&world);
    let ran = sandbox(&world)
        .allow("wss-primary.slack.com:443")
        .node(&program(&WS.replace("HOST", "wss-primary.slack.com")));
    ran.assert_ok().assert_no_denial();
    assert_eq!(
        ran.out(),
        "{\"type\":\"hello\"} across 200000\n1000\n",
        "{ran}"
    );
    ran.records.one("transparent", "wss-primary.slack.com");
}

#[test]
fn the_ws_package_refused() {
    let world = shared::world();
    node_modules(&world);
    let ran = sandbox(&world)
        .allow("wss-primary.slack.com:443")
        .node(&program(&WS.replace("HOST", "ws.evil.example.net")));
    ran.assert_code(1).assert_out("failed ENOTFOUND");
    world.assert_never_asked("evil");
}
