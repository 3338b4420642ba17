//! Python: getaddrinfo and getfqdn through libc, urllib with and without the proxy variables.

use crate::shared;
use crate::support::{Ran, require, sandbox};
use crate::usual;

fn python(program: &str) -> Ran {
    require("python3");
    usual(&shared::world()).python(program)
}

#[test]
fn getaddrinfo_and_getfqdn() {
    let world = shared::world();
    let ran = sandbox(&world).allow("internal-data.example.corp").python(
        "import socket\n\
         host = 'internal-data.example.corp'\n\
         print(sorted({a[4][0] for a in socket.getaddrinfo(host, 443)}))\n\
         print(socket.getfqdn(host))\n\
         print(socket.gethostbyaddr('203.0.113.30')[0])\n\
         print(socket.getaddrinfo(host, 443, flags=socket.AI_CANONNAME)[0][3])\n\
         print(socket.gethostbyname(socket.getfqdn(host)))",
    );
    ran.assert_ok().assert_no_denial();
    let fqdn = "backend-canonical-host.example.corp\n";
    assert_eq!(
        ran.out(),
        format!("['203.0.113.30']\n{fqdn}{fqdn}{fqdn}203.0.113.30\n"),
        "{ran}"
    );
}

#[test]
fn getaddrinfo_says_unknown_name_never_try_again() {
    let ran = python(
        "import socket, time\n\
         begin = time.monotonic()\n\
         try: print(socket.getaddrinfo('x.getaddrinfo.tunnel.evil.example.net', 443))\n\
         except socket.gaierror as e: print(e.errno == socket.EAI_NONAME, e.errno == socket.EAI_AGAIN)\n\
         print(time.monotonic() - begin < 5)",
    );
    // Within one time-out of libc: it was answered, not given up.
    ran.assert_ok();
    assert_eq!(ran.out(), "True False\nTrue\n", "{ran}");
    assert!(!ran.records.all_denials().is_empty(), "{ran}");
    shared::world().assert_never_asked("evil");
}

#[test]
fn urllib_with_and_without_the_proxy_variables() {
    let ran = python(
        "import urllib.request as u\n\
         direct = u.build_opener(u.ProxyHandler({}))\n\
         for scheme in 'http', 'https':\n\
         \x20for opener in u.build_opener(), direct:\n\
         \x20 answer = opener.open(scheme + '://api.example.com/python', timeout=25)\n\
         \x20 print(answer.status, answer.read().decode().splitlines()[0])",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "200 GET /python HTTP/1.1\n".repeat(4), "{ran}");
    for protocol in ["http", "connect"] {
        ran.records.one(protocol, "api.example.com");
    }
    assert_eq!(
        ran.records
            .about("api.example.com")
            .iter()
            .filter(|r| r["protocol"] == "transparent")
            .count(),
        2,
        "{ran}"
    );
}

#[test]
fn urllib_refused() {
    let ran = python(
        "import urllib.request as u, urllib.error, socket\n\
         url = '://evil.example.net/python'\n\
         try: u.urlopen('http' + url, timeout=25)\n\
         except urllib.error.HTTPError as e: print(e.code, e.headers['x-proxy-error'], e.read()[:20])\n\
         try: u.urlopen('https' + url, timeout=25)\n\
         except urllib.error.URLError as e: print(e.reason)\n\
         try: u.build_opener(u.ProxyHandler({})).open('https' + url, timeout=25)\n\
         except urllib.error.URLError as e: print(isinstance(e.reason, socket.gaierror))",
    );
    ran.assert_ok();
    let out = ran.out();
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines[0].starts_with("403 blocked-by-allowlist b'portcullis: "),
        "{ran}"
    );
    assert!(
        lines[1].contains("Tunnel connection failed: 403 Forbidden"),
        "{ran}"
    );
    assert_eq!(lines[2], "True", "{ran}");
    shared::world().assert_never_asked("evil");
}

#[test]
fn a_test_server_on_the_sandbox_s_own_loopback_is_reached() {
    let ran = python(
        "import http.server, threading, urllib.request as u\n\
         class Handler(http.server.SimpleHTTPRequestHandler):\n\
         \x20def log_message(self, *a): pass\n\
         \x20def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b'my own')\n\
         for family, host in (10, '[::1]'), (2, '127.0.0.1'):\n\
         \x20class Server(http.server.ThreadingHTTPServer): address_family = family\n\
         \x20server = Server((host.strip('[]'), 0), Handler)\n\
         \x20threading.Thread(target=server.serve_forever, daemon=True).start()\n\
         \x20print(u.urlopen('http://%s:%d/' % (host, server.server_port), timeout=25).read())\n\
         print(u.urlopen('http://localhost:%d/' % server.server_port, timeout=25).read())",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(ran.out(), "b'my own'\n".repeat(3), "{ran}");
    // The host's own loopback is another one.
    let ran =
        python("import gate; print(gate.attempt('127.0.0.1', 8080), gate.attempt('::1', 8080))");
    ran.assert_ok().assert_out("ECONNREFUSED ECONNREFUSED");
    shared::world().assert_never_reached("127.0.0.1");
}
