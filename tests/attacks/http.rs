//! Requests that reach another host than the one that was decided on, against servers of the real kind: their
//! own readers say what they take for HTTP.

use crate::processes::{Background, until};
use crate::support::{require, sandbox, world};

/// Both servers on the host's own loopback.
const POLICY: &str = r#"version = 1
[network.domains]
"python.example.com" = { verdict = "allow", to = "127.0.0.1:8097" }
"nginx.example.com" = { verdict = "allow", to = "127.0.0.1:8098" }
"#;

/// Answers any method with the host that it was asked for, as WSGI's servers do.
const PYTHON: &str = "
import http.server
class Any(http.server.BaseHTTPRequestHandler):
    def __getattr__(self, name):
        if name.startswith('do_'): return self.answer
        raise AttributeError(name)
    def answer(self):
        print('asked for', self.headers.get('Host'), flush=True)
        self.wfile.write(b'HTTP/1.0 200 OK\\r\\n\\r\\nserved ' + str(self.headers.get('Host')).encode())
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 8097), Any)
print('ready', flush=True)
server.serve_forever()
";

const NGINX: &str = "
daemon off;
error_log stderr;
pid FOLDER/nginx.pid;
events {}
http {
    access_log FOLDER/nginx.log;
    client_body_temp_path FOLDER; proxy_temp_path FOLDER; fastcgi_temp_path FOLDER;
    uwsgi_temp_path FOLDER; scgi_temp_path FOLDER;
    server { listen 127.0.0.1:8098; location / { return 200 \"served $host\"; } }
}
";

/// Says every request on every way, whole and in pieces, and prints what was served.
const ATTACK: &str = r#"
import socket, time
def way(kind, name):
    if kind == 'direct': return socket.create_connection((name, 80), 20)
    if kind == 'connect':
        s = socket.create_connection(('10.0.2.2', 3128), 20)
        s.sendall(f'CONNECT {name}:80 HTTP/1.1\r\nHost: {name}:80\r\n\r\n'.encode())
        while not s.recv(1) == b'\n' or not s.recv(2) == b'\r\n': pass
        return s
    s = socket.create_connection(('10.0.2.2', 1080), 20)
    s.sendall(b'\5\1\0'); s.recv(2)
    s.sendall(b'\5\1\0\3' + bytes([len(name)]) + name.encode() + b'\0\x50'); s.recv(10)
    return s
def talk(s, request, pieces):
    s.setsockopt(6, 1, 1)
    heard = b''
    try:
        if pieces:
            for part in (request[:2], request[2:9], request[9:]): s.sendall(part); time.sleep(0.05)
        else: s.sendall(request)
        while part := s.recv(4096): heard += part
    except OSError: pass
    s.close()
    return heard
LINES = [b'GET / HTTP/1.1', b'M' * 40 + b' / HTTP/1.1', b'M' * 9000 + b' / HTTP/1.1', b'\x0bGET / HTTP/1.1',
         b'\x0cGET / HTTP/1.1', b'\tGET / HTTP/1.1', b'\xa0GET / HTTP/1.1', b'GET\x1f/ HTTP/1.1', b'GET / \x85HTTP/1.1',
         b'G(T / HTTP/1.1', b'get / HTTP/1.0', b'GET x', b'\r\n\r\nGET / HTTP/1.1', b'GET /', b'GET  /  HTTP/1.1',
         b'GET http://evil.example.net/ HTTP/1.1']
for name in 'python.example.com', 'nginx.example.com':
    good = [talk(way(kind, name), f'GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n'.encode(), False) for kind in ('direct', 'connect', 'socks')]
    print(name, all(f'served {name}'.encode() in heard for heard in good))
    for kind in 'direct', 'connect', 'socks':
        for line in LINES:
            for pieces in False, True:
                heard = talk(way(kind, name), line + b'\r\nHost: evil.example.net\r\n\r\n', pieces)
                if b'served' in heard: print('served', kind, name, line[:20], pieces, heard[-40:])
# A second request on a tunnel that has served one.
s = way('connect', 'nginx.example.com')
s.sendall(b'GET / HTTP/1.1\r\nHost: nginx.example.com\r\n\r\nGET / HTTP/1.1\r\nHost: evil.example.net\r\n\r\n')
heard = b''
try:
    while part := s.recv(4096): heard += part
except OSError: pass
print(heard.count(b'served nginx.example.com'), heard.count(b'HTTP/1.1 403 '), heard.count(b'host-mismatch') > 0)
"#;

#[test]
fn odd_request_lines_reach_no_other_host_on_nginx_or_python_by_any_way() {
    require("nginx");
    let world = world();
    let folder = world.home().join("nginx");
    std::fs::create_dir_all(&folder).expect("a folder");
    let config = NGINX.replace("FOLDER", &folder.display().to_string());
    let config = world.file("nginx.conf", config);
    let script = world.file("server.py", PYTHON);
    let python = Background::start(world.command("python3").arg(script));
    python.wait_line("ready");
    let _nginx = Background::start(world.command("nginx").arg("-c").arg(config));
    until("nginx listens", || folder.join("nginx.pid").is_file());
    let ran = sandbox(&world).policy("toml", POLICY).python(ATTACK);
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "python.example.com True\nnginx.example.com True\n1 1 True\n",
        "{ran}"
    );
    let log = std::fs::read_to_string(folder.join("nginx.log")).unwrap_or_default();
    assert!(!log.contains("evil"), "{log}");
    let denied = ran.records.all_denials();
    assert!(
        denied
            .iter()
            .any(|record| record["reason"] == "host-mismatch"),
        "{ran}"
    );
    let mut malformed = denied
        .iter()
        .filter(|record| record["reason"] == "malformed" && record["layer"] == "http");
    assert!(
        malformed.any(|record| record["asked"] == "evil.example.net/"),
        "{ran}"
    );
    world.assert_never_asked("evil.example.net");
}
