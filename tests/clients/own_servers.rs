//! Servers of the sandbox's own: whatever means the sandbox itself is connected inside, by every proxy,
//! and never on the host.

use crate::shared;
use crate::support::require;
use crate::usual;

/// A server of the sandbox's own that says what it was asked, on every family.
const OWN_SERVER: &str = "python3 -c '\n\
     import http.server, socket\n\
     class Server(http.server.ThreadingHTTPServer):\n\
     \x20address_family = socket.AF_INET6\n\
     class Handler(http.server.BaseHTTPRequestHandler):\n\
     \x20protocol_version = \"HTTP/1.1\"\n\
     \x20def log_message(self, *a): pass\n\
     \x20def do_GET(self):\n\
     \x20 said = (\"own \" + self.path).encode()\n\
     \x20 self.send_response(200); self.send_header(\"Content-Length\", str(len(said))); self.end_headers(); self.wfile.write(said)\n\
     server = Server((\"::\", 8000), Handler)\n\
     print(\"serving\", flush=True)\n\
     server.serve_forever()' > $HOME/own-server & server=$!; \
     until grep -q serving $HOME/own-server; do sleep 0.05; done; ";

#[test]
fn whatever_means_the_sandbox_itself_is_reached_through_every_proxy() {
    require("curl");
    let world = shared::world();
    let hosts = [
        "localhost",
        "app.localhost",
        "127.0.0.1",
        "127.0.0.2",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "10.0.2.15",
        "$(hostname)",
    ];
    let ways = [
        "--noproxy '' -x http://10.0.2.2:3128",
        "--noproxy '' -p -x http://10.0.2.2:3128",
        "--noproxy '' -x socks5h://10.0.2.2:1080",
    ];
    let mut script = OWN_SERVER.to_owned();
    for way in ways {
        for host in hosts {
            script += &format!("curl -sS -m 20 -g {way} \"http://{host}:8000/a\" -w '\\n'; ");
        }
    }
    // Nobody listens there: the sandbox's own answer, and no policy's.
    script += "curl -s -m 20 -o /dev/null -w '%{http_code}\\n' --noproxy '' -x http://10.0.2.2:3128 http://localhost:9/; ";
    // The gateway is not the sandbox.
    script += "curl -s -m 20 -o /dev/null -w '%{http_code}\\n' -x http://10.0.2.2:3128 http://10.0.2.2:3128/; ";
    script += "kill $server";
    let ran = usual(&world).sh(&script);
    ran.assert_ok();
    let expected = "own /a\n".repeat(hosts.len() * ways.len()) + "502\n403\n";
    assert_eq!(ran.out(), expected, "{ran}");
    let denied = ran.records.all_denials();
    assert_eq!(denied.len(), 1, "{ran}");
    assert_eq!(denied[0]["reason"], "gateway-loop", "{ran}");
}

#[test]
fn the_host_s_loopback_is_another_one_even_where_it_is_listed() {
    require("curl");
    let world = shared::world();
    // The world's host serves on its loopback at 8080; the sandbox does not.
    for target in ["127.0.0.1:8080", "127.0.0.0/8", "localhost:8080"] {
        let script = "for host in localhost 127.0.0.1 [::1] 0.0.0.0; do \
             curl -s -m 20 -o /dev/null -w '%{http_code}\\n' -g --noproxy '' -x http://10.0.2.2:3128 http://$host:8080/; done";
        let ran = usual(&world).allow(target).sh(script);
        assert_eq!(ran.out(), "502\n".repeat(4), "{target}: {ran}");
    }
    // By its own name it is reached, also on a connection that was kept for the sandbox's own server.
    let script = format!(
        "{OWN_SERVER} curl -s -m 20 -x http://10.0.2.2:3128 --noproxy '' http://localhost:8000/x \
         http://host.portcullis.internal:8000/y http://127.0.0.1:8000/z; kill $server"
    );
    let ran = usual(&world).sh(&script);
    assert!(
        ran.out().starts_with("own /x") && ran.out().ends_with("own /z"),
        "{ran}"
    );
    assert!(!ran.out().contains("own /y"), "{ran}");
    let reached = usual(&world)
        .allow("host.portcullis.internal:8080")
        .sh("curl -s -m 20 -o /dev/null -w '%{http_code}\\n' -x http://10.0.2.2:3128 http://host.portcullis.internal:8080/");
    assert_ne!(reached.out(), "403\n", "{reached}");
}
