//! The end of the run in the middle of an upload: what has passed is in the record, whatever the kind of
//! the flow.

use crate::rules;
use crate::support::require;
use portcullis_testkit::WorldSpec;

/// What each flow sends before its end, bytes.
const SENT: u64 = 1_000_000;
/// The same of the datagrams.
const SENT_DATAGRAMS: u64 = 10_000;

const PROGRAM: &str = r"
import socket, ssl, threading, time
BODY = bytes(1_000_000)
def post(host, target='/'):
    return f'POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 90000000\r\n\r\n'.encode() + BODY
def direct(host, port):
    return socket.create_connection((host, port))
def connect(host, port):
    s = direct('10.0.2.2', 3128)
    s.sendall(f'CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n'.encode())
    while not s.recv(4096).endswith(b'\r\n\r\n'): pass
    return s
def socks(host, port):
    s = direct('10.0.2.2', 1080)
    s.sendall(b'\5\1\0'); s.recv(2)
    s.sendall(b'\5\1\0\3' + bytes([len(host)]) + host.encode() + port.to_bytes(2, 'big')); s.recv(64)
    return s
def tls(s, host):
    return ssl._create_unverified_context().wrap_socket(s, server_hostname=host)
kept = []
def send(open, bytes):
    s = open(); kept.append(s); s.sendall(bytes)
def absolute(): return direct('10.0.2.2', 3128)
all = [threading.Thread(target=send, args=(absolute, post('www.example.com', 'http://www.example.com/')), daemon=True)]
for way in direct, connect, socks:
    for open, host in [(lambda way=way: way('www.example.com', 80), 'www.example.com'),
                       (lambda way=way: tls(way('www.example.com', 443), 'www.example.com'), 'www.example.com'),
                       (lambda way=way: tls(way('api.example.com', 443), 'api.example.com'), 'api.example.com')]:
        all.append(threading.Thread(target=send, args=(open, post(host)), daemon=True))
for thread in all: thread.start()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(10):
    udp.sendto(bytes(1000), (socket.gethostbyname('dual.example.com'), 123)); udp.recv(2000)
for thread in all: thread.join(20)
print('sent', len(kept), flush=True)
time.sleep(60)
";

#[test]
fn what_had_passed_when_the_run_ended_is_counted() {
    require("python3");
    let world = crate::support::world_from(WorldSpec::standard());
    let ran = rules(
        &world,
        r#""api.example.com" = { verdict = "allow", inspect = true }
           "www.example.com" = "allow"
           "dual.example.com:123/udp" = "allow""#,
    )
    .args(&["--timeout", "8s"])
    .python(PROGRAM);
    ran.assert_code(124).assert_out("sent 10\n");
    let mut flows = 0;
    for decision in ran.records.decisions() {
        let Some(close) = ran.records.close_of(decision) else {
            continue;
        };
        flows += 1;
        let sent = match decision["layer"] == "udp" {
            true => SENT_DATAGRAMS,
            false => SENT,
        };
        assert!(
            close["bytes_up"].as_u64() >= Some(sent),
            "{decision}\n{close}\n{ran}"
        );
    }
    // The proxy's request, four kinds of datagrams and requests by each way, and what is around them.
    assert!(flows >= 11, "{flows} flows: {ran}");
}
