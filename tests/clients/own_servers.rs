//! Servers of the sandbox's own: whatever means the sandbox itself is connected inside, by every proxy,
//! and never on the host.

use crate::shared;
use crate::support::require;
use crate::usual;

/// A server of the sandbox's own at port 8000 that says what it was asked, on every family.
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
     until grep -qs serving $HOME/own-server; do sleep 0.05; done; ";

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

#[test]
fn learn_writes_no_rule_for_the_sandbox_itself() {
    require("curl");
    let world = crate::support::world();
    let script = world.file(
        "own.sh",
        format!(
            "{OWN_SERVER} for host in localhost 127.0.0.1 10.0.2.15 $(hostname); do \
             for way in http://10.0.2.2:3128 socks5h://10.0.2.2:1080; do \
             curl -sS -m 20 --noproxy '' -x $way http://$host:8000/; \
             curl -sS -m 20 --noproxy '' -p -x $way http://$host:8000/; done; done; kill $server"
        ),
    );
    let output = world.home().join("own-servers.toml");
    let (script, output_name) = (script.display().to_string(), output.display().to_string());
    let args = ["learn", "--output", &output_name, "--", "sh", &script];
    let done = crate::support::command(&world, &args);
    assert_eq!(done.out().matches("own /").count(), 16, "{done}");
    let learned = std::fs::read_to_string(output).unwrap();
    assert!(!learned.contains("= \"allow\""), "{learned}");
}

/// It is at every address of the sandbox, and would not know which program asks.
#[test]
fn the_gateway_s_own_resolver_is_not_reached_through_the_proxies() {
    require("curl");
    let ran = usual(&shared::world()).python(
        "import gate\n\
         for host in 'localhost', '127.0.0.1', '127.0.0.9', '10.0.2.15', '[::1]', '0.0.0.0':\n\
         \x20print(gate.status(gate.connect(host + ':53')[1]), gate.socks(host.strip('[]').encode(), 53)[1])",
    );
    ran.assert_ok();
    assert_eq!(ran.out(), "403 2\n".repeat(6), "{ran}");
    let denied = ran.records.all_denials();
    assert!(
        denied.iter().all(|r| r["reason"] == "gateway-loop"),
        "{ran}"
    );
}

/// The world's host serves at 8080 of its loopback, and so does the sandbox.
#[test]
fn a_tunnel_to_the_host_does_not_turn_into_the_sandbox() {
    require("curl");
    let script = OWN_SERVER.replace("8000", "8080")
        + "curl -sS -m 20 -p --noproxy '' -x http://10.0.2.2:3128 -w '\\n%{http_code}\\n' \
           -H 'Host: localhost:8080' http://host.portcullis.internal:8080/; kill $server";
    let world = shared::world();
    let ran = usual(&world)
        .allow("host.portcullis.internal:8080")
        .sh(&script);
    ran.assert_ok();
    assert!(!ran.out().contains("own /"), "{ran}");
    assert!(ran.out().ends_with("403\n"), "{ran}");
}
