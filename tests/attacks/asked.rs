//! Requests that are malformed on purpose, so that the record does not say for whom they were: the
//! readable part of the name is on record, whichever way they came. Answers *the record*
//! (docs/threats.md).

use crate::shared;
use crate::support::sandbox;
use std::collections::BTreeSet;

crate::attacks! {
    names_in_malformed_requests_are_on_record_on_every_way_in,
    names_in_requests_that_end_unfinished_are_on_record,
}

/// Longest `asked`, in bytes.
const MAX_ASKED_BYTES: usize = 256;

/// Each says its own hidden name in a thread of its own, and prints that name.
const ATTACK: &str = r#"
import gate, socket, ssl, struct, threading
LISTED, INSPECTED = 'dual.example.com', 'api.example.com'
said, failed = [], []
def attack(name):
    def run(action):
        hidden = f'{name}.hidden.example.net'
        def work():
            try: action(hidden)
            except OSError: pass
            except Exception as error: failed.append(f'{name}: {error!r}')
        said.append((hidden, threading.Thread(target=work)))
    return run
def tunnel(kind, name=LISTED, port=443):
    if kind == 'direct': return gate.tcp(name, port)
    if kind == 'connect': return gate.connect(f'{name}:{port}')[0]
    return gate.socks(name.encode(), port)[0]
def say(stream, data, end=True):
    stream.sendall(data)
    if end: stream.shutdown(socket.SHUT_WR)
    gate.read_all(stream)
def broken(name):
    hello = bytearray(gate.client_hello(name))
    hello[6:9] = struct.pack('!I', len(hello) - 9 - 3)[1:]
    return bytes(hello)
for kind in 'direct', 'connect', 'socks':
    attack(f'tls-broken-{kind}')(lambda name, kind=kind: say(tunnel(kind), broken(name), False))
    attack(f'tls-cut-{kind}')(lambda name, kind=kind: say(tunnel(kind), gate.client_hello(name)[:-3]))
    attack(f'tls-slow-{kind}')(lambda name, kind=kind: say(tunnel(kind), gate.client_hello(name)[:-3], False))
    attack(f'head-slow-{kind}')(lambda name, kind=kind: say(tunnel(kind, port=80), f'GET /a HTTP/1.1\r\nHost: {name}\r\nX'.encode(), False))
    attack(f'head-bad-{kind}')(lambda name, kind=kind: say(tunnel(kind, port=80), f'GET /a HTTP/1.1\nHost: {name}\n\n'.encode(), False))
def inside(kind, data, end=False):
    s = gate.tls(tunnel(kind, INSPECTED), INSPECTED)
    s.sendall(data)
    gate.read_all(s)
for kind in 'direct', 'connect', 'socks':
    attack(f'inside-slow-{kind}')(lambda name, kind=kind: inside(kind, f'GET /a HTTP/1.1\r\nHost: {name}\r\nX'.encode()))
    attack(f'inside-bad-{kind}')(lambda name, kind=kind: inside(kind, f'GET /a HTTP/1.1\nHost: {name}\n\n'.encode()))
proxy = lambda data, end=False: say(gate.tcp(*gate.HTTP), data, end)
socks = lambda data, end=False: say(gate.tcp(*gate.SOCKS), data, end)
attack('proxy-slow')(lambda name: proxy(f'GET http://{name}/ HTTP/1.1\r\nX'.encode()))
attack('proxy-tls')(lambda name: proxy(gate.client_hello(name)))
attack('proxy-socks4')(lambda name: proxy(b'\4\1\0\x50\0\0\0\1me\0' + name.encode() + b'\0'))
attack('proxy-socks5')(lambda name: proxy(b'\5\1\0\3' + bytes([len(name)]) + name.encode() + b'\0\x50'))
for what, target in (('port', '{}:99999'), ('blank', '{} x:443'), ('nul', '{}\0:443'), ('none', '{}'), ('user', 'u@{}:443'), ('path', '{}:443/x')):
    attack(f'connect-{what}')(lambda name, target=target: proxy(f'CONNECT {target.format(name)} HTTP/1.1\r\nHost: x\r\n\r\n'.encode('latin-1')))
attack('socks4a')(lambda name: socks(b'\4\1\0\x50\0\0\0\1me\0' + name.encode() + b'\0'))
attack('socks6')(lambda name: socks(b'\6\1\0\3' + bytes([len(name)]) + name.encode() + b'\0\x50'))
attack('socks-tls')(lambda name: socks(gate.client_hello(name)))
attack('socks-http')(lambda name: socks(f'GET http://{name}/ HTTP/1.1\r\n\r\n'.encode()))
attack('socks5-password')(lambda name: socks(b'\5\1\2\5\1\0\3' + bytes([len(name)]) + name.encode() + b'\0\x50'))
attack('socks5-no-method')(lambda name: socks(b'\5\0\5\1\0\3' + bytes([len(name)]) + name.encode() + b'\0\x50'))
def socks5(request, end=False):
    s = gate.tcp(*gate.SOCKS)
    s.sendall(b'\5\1\0')
    gate.exactly(s, 2)
    say(s, request, end)
attack('socks5-kind')(lambda name: socks5(b'\5\1\0\7' + bytes([len(name)]) + name.encode() + b'\0\x50'))
attack('socks5-nul')(lambda name: socks5(b'\5\1\0\3' + bytes([len(name) + 1]) + name.encode() + b'\0\0\x50'))
attack('socks5-then-4')(lambda name: socks5(b'\4\1\0\x50\0\0\0\1me\0' + name.encode() + b'\0'))
attack('socks5-slow')(lambda name: socks5(b'\5\1\0\3' + bytes([len(name)]) + name.encode()))
ask = lambda message, tcp=False: gate.ask(message, over_tcp=tcp, limit=2)
second = lambda name: gate.question(name) + b'\0\1\0\1'
for how in False, True:
    way = 'tcp' if how else 'udp'
    attack(f'dns-two-{way}')(lambda name, how=how: ask(gate.query('dual.example.com', more=second(name), count=2, edns=False), how))
    attack(f'dns-opcode-{way}')(lambda name, how=how: ask(gate.query(name, flags=0x2800), how))
    attack(f'dns-answer-{way}')(lambda name, how=how: ask(gate.query(name, flags=0x8000), how))
    attack(f'dns-cut-{way}')(lambda name, how=how: ask(gate.query(name, edns=False)[:-5], how))
    attack(f'dns-pointer-{way}')(lambda name, how=how: ask(gate.query(name, edns=False)[:-5] + b'\xc0\x0c\0\1\0\1', how))
    attack(f'dns-nul-{way}')(lambda name, how=how: ask(gate.query(name.split('.')[0] + '.hidden.example.net\0'), how))
def frame(name):
    s = gate.tcp(gate.resolver(), 53)
    say(s, b'\xff\xff' + gate.query(name), False)
attack('dns-frame')(frame)
attack('x' * 60 + '.' + 'y' * 200)(lambda name: proxy(f'GET {name} HTTP/1.1\r\n\r\n'.encode()))
for _, thread in said: thread.start()
for _, thread in said: thread.join()
assert not failed, failed
print(*(name for name, _ in said), sep='\n')
"#;

const RULES: &str = r#"version = 1
[network.domains]
"dual.example.com" = "allow"
"api.example.com" = { verdict = "allow", inspect = true, methods = ["GET"] }
"#;

fn names_in_malformed_requests_are_on_record_on_every_way_in() {
    let world = shared::world();
    let ran = sandbox(&world).policy("toml", RULES).python(ATTACK);
    ran.assert_ok();
    let malformed = ran.records.all_denials();
    let malformed = malformed
        .iter()
        .filter(|record| record["reason"] == "malformed");
    let asked: BTreeSet<&str> = malformed
        .filter_map(|record| record["asked"].as_str())
        .collect();
    assert!(asked.iter().all(|asked| asked.len() <= MAX_ASKED_BYTES));
    let out = ran.out();
    let kept = |name: &&str| {
        let start = &name[..name.len().min(MAX_ASKED_BYTES - 4)];
        !asked.iter().any(|asked| asked.contains(start))
    };
    let missing: Vec<&str> = out.lines().filter(kept).collect();
    assert!(missing.is_empty(), "{missing:#?} of {asked:#?}: {ran}");
    world.assert_never_asked("hidden");
}

/// Begins a request on each way in and says a hidden name in it; half of them it resets, the others are open when
/// the sandbox ends.
const UNFINISHED: &str = r#"
import gate, socket, struct, time
LISTED, INSPECTED, kept = 'dual.example.com', 'api.example.com', []
http = lambda line: lambda name: line.format(name).encode()
field = lambda name: f'GET /a HTTP/1.1\r\nHost: {name}\r\nX'.encode()
hello = lambda name: gate.client_hello(name)[:-3]
def socks5():
    s = gate.tcp(*gate.SOCKS)
    s.sendall(b'\5\1\0')
    gate.exactly(s, 2)
    return s
WAYS = {
    'proxy': (lambda: gate.tcp(*gate.HTTP), http('GET http://{}/ HTTP/1.1\r\nX')),
    'connect': (lambda: gate.tcp(*gate.HTTP), http('CONNECT {}:443 HTTP/1.1\r\nX')),
    'socks5': (socks5, lambda name: b'\5\1\0\3' + bytes([len(name)]) + name.encode()),
}
for kind, tunnel in {
    'direct': lambda port, to=LISTED: gate.tcp(to, port),
    'tunnel': lambda port, to=LISTED: gate.connect(f'{to}:{port}')[0],
    'socks': lambda port, to=LISTED: gate.socks(to.encode(), port)[0],
}.items():
    WAYS[f'field-{kind}'] = (lambda tunnel=tunnel: tunnel(80), field)
    WAYS[f'tls-{kind}'] = (lambda tunnel=tunnel: tunnel(443), hello)
    inside = lambda tunnel=tunnel: gate.tls(tunnel(443, INSPECTED), INSPECTED)
    WAYS[f'inside-{kind}'] = (inside, field)
for way, (begin, words) in WAYS.items():
    for end in 'reset', 'open':
        name = f'{way}-{end}.hidden.example.net'
        s = begin()
        s.sendall(words(name))
        print(name)
        kept.append((end, s))
time.sleep(1)
for end, s in kept:
    if end == 'reset':
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        s.close()
time.sleep(1)
"#;

fn names_in_requests_that_end_unfinished_are_on_record() {
    let world = shared::world();
    let ran = sandbox(&world).policy("toml", RULES).python(UNFINISHED);
    ran.assert_ok();
    let denials = ran.records.all_denials();
    let recorded = |name: &str| {
        let of_it = |record: &&serde_json::Value| {
            record["reason"] == "malformed"
                && record["asked"]
                    .as_str()
                    .is_some_and(|asked| asked.contains(name))
        };
        denials.iter().copied().filter(of_it).count()
    };
    let out = ran.out();
    assert_eq!(out.lines().count(), 24, "{ran}");
    let wrong: Vec<&str> = out.lines().filter(|name| recorded(name) != 1).collect();
    assert!(wrong.is_empty(), "{wrong:#?}: {ran}");
    world.assert_never_asked("hidden");
}
