//! Case 4: programs that know no proxy, long-lived sockets, servers that speak first.

use crate::shared;
use crate::support::{Ran, node_modules, require, sandbox};
use std::time::Duration;

/// The variable of the case, as it stands.
const HOSTS: &str = "wss-primary.slack.com,wss-backup.slack.com,api.slack.com";

fn node(body: &str) -> Ran {
    require("node");
    let world = shared::world();
    node_modules(&world);
    sandbox(&world).env("OPENSHELL_DIRECT_TCP_HOSTS", HOSTS).limit(Duration::from_secs(120)).node(&format!(
        "const dns = require('dns'), net = require('net'), tls = require('tls'), WebSocket = require('ws');
         const once = require('events').once, say = console.log;
         (async () => {{ {body} }})().then(() => process.exit(0), e => {{ say('failed', e.code || e.message); process.exit(1) }})"
    ))
}

#[test]
fn unmodified_node_reaches_the_listed_hosts_on_443() {
    let ran = node(
        "for (const host of ['wss-primary.slack.com', 'wss-backup.slack.com', 'api.slack.com']) {
             const address = (await dns.promises.lookup(host)).address;
             say(address === (await dns.promises.resolve4(host))[0]);
             const t = tls.connect({ host, port: 443, servername: host }); await once(t, 'secureConnect');
             say(t.authorized); t.destroy();
             const ws = new WebSocket('wss://' + host + '/ws/hello');
             say((await once(ws, 'message'))[0].toString()); ws.close(); await once(ws, 'close');
         }",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(
        ran.out(),
        "true\ntrue\n{\"type\":\"hello\"}\n".repeat(3),
        "{ran}"
    );
}

#[test]
fn everything_else_is_rejected_at_once() {
    let ran = node(
        "const begin = Date.now(), code = (s, what) => once(s, what).catch(e => [e]).then(([e]) => say(e.code));
         await dns.promises.lookup('other.slack.com').then(say, e => say(e.code));
         await dns.promises.resolve4('direct.evil.example.net').then(say, e => say(e.code));
         await dns.promises.lookup('wss-primary.slack.com');
         await code(net.connect(80, '203.0.113.40'), 'error');
         await code(net.connect(443, '203.0.113.90'), 'error');
         const udp = require('dgram').createSocket('udp4');
         udp.on('error', () => {}); udp.connect(443, '203.0.113.40'); await once(udp, 'connect');
         await new Promise(done => udp.send('x', e => { say(!!e); done() }));
         say(Date.now() - begin < 5000);",
    );
    // In 5 s a stub resolver would give up and ask again.
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "ENOTFOUND\nENOTFOUND\nECONNREFUSED\nECONNREFUSED\ntrue\ntrue\n",
        "{ran}"
    );
    ran.assert_one_denial("tcp", "port-not-allowed", "203.0.113.40");
    ran.assert_one_denial("tcp", "address-not-leased", "203.0.113.90");
    ran.assert_one_denial("udp", "protocol-not-allowed", "203.0.113.40");
    shared::world().assert_never_asked("evil");
    assert_eq!(shared::world().times_asked("other.slack.com"), 0);
}

#[test]
fn a_denial_wins_over_the_variable() {
    let world = shared::world();
    let ran = sandbox(&world)
        .env("OPENSHELL_DIRECT_TCP_HOSTS", HOSTS)
        .deny("wss-backup.slack.com")
        .sh("dig wss-backup.slack.com; dig +short api.slack.com");
    ran.assert_ok()
        .assert_out("status: NXDOMAIN")
        .assert_out("203.0.113.42");
    ran.assert_one_denial("dns", "denied-by-rule", "wss-backup.slack.com");
}

const IDLE: &str = "
    const idle = SECONDS * 1000, sockets = [];
    sockets.push(new WebSocket('wss://wss-primary.slack.com/ws'));
    const proxied = net.connect(3128, '10.0.2.2'); await once(proxied, 'connect');
    proxied.write('CONNECT wss-primary.slack.com:443 HTTP/1.1\\r\\nHost: wss-primary.slack.com:443\\r\\n\\r\\n');
    for (let head = ''; !head.includes('\\r\\n\\r\\n');) head += (await once(proxied, 'data'))[0];
    const secured = tls.connect({ socket: proxied, servername: 'wss-primary.slack.com' });
    sockets.push(new WebSocket('wss://wss-primary.slack.com/ws', { createConnection: () => secured }));
    await Promise.all(sockets.map(s => once(s, 'open')));
    const ended = Promise.race(sockets.map(s => once(s, 'close').then(() => 'closed')));
    const rested = new Promise(r => setTimeout(() => r('idle'), idle));
    say(await Promise.race([ended, rested]));
    for (const s of sockets) { s.send('still here'); say((await once(s, 'message'))[0].toString()); }";

#[test]
fn a_websocket_that_is_idle_stays_up() {
    let ran = node(&IDLE.replace("SECONDS", "4"));
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "idle\nstill here\nstill here\n", "{ran}");
}

#[test]
fn slow_a_websocket_that_is_idle_for_longer_than_any_set_up_timeout_stays_up() {
    let ran = node(&IDLE.replace("SECONDS", "40"));
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "idle\nstill here\nstill here\n", "{ran}");
}

#[test]
fn servers_that_speak_first_do_not_stall() {
    let world = shared::world();
    let ran = sandbox(&world)
        .allow("ssh.example.com:22")
        .allow("smtp.example.com:25")
        .allow("mysql.example.com:3306")
        .python(
            "import gate, smtplib, time\n\
             for name, port in ('ssh.example.com', 22), ('smtp.example.com', 25), ('mysql.example.com', 3306):\n\
             \x20begin = time.monotonic()\n\
             \x20for open in (lambda: gate.tcp(name, port)), (lambda: gate.connect('%s:%d' % (name, port))[0]), (lambda: gate.socks(name.encode(), port)[0]):\n\
             \x20 print(gate.exactly(open(), 12))\n\
             \x20print(time.monotonic() - begin < 10)\n\
             mail = smtplib.SMTP('smtp.example.com', 25, timeout=25)\n\
             print(mail.sendmail('a@example.com', ['b@example.com'], 'Subject: x\\n\\ny'), mail.quit()[0])",
        );
    ran.assert_ok().assert_no_denial();
    let three = |greeting: &str| format!("{greeting}\n").repeat(3) + "True\n";
    assert_eq!(
        ran.out(),
        three("b'SSH-2.0-port'")
            + &three("b'220 smtp.exa'")
            + &three("b'J\\x00\\x00\\x00\\n8.0.36\\x00'")
            + "{} 221\n",
        "{ran}"
    );
}

#[test]
fn no_forwarding_no_veth_no_masquerading_is_needed() {
    let world = shared::world();
    let ran = sandbox(&world).env("OPENSHELL_DIRECT_TCP_HOSTS", HOSTS).sh(
        "ip -brief link; ip route get 203.0.113.40; dig +short wss-primary.slack.com; cat /proc/sys/net/ipv4/ip_forward",
    );
    assert!(
        !ran.out().contains("veth") && !ran.out().contains('@'),
        "{ran}"
    );
    assert!(
        ran.out().contains("dev lo"),
        "every address ends inside: {ran}"
    );
}
