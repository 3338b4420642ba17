//! Requests that reach another host than the one that was decided on, against real servers: what they take
//! for HTTP is what counts. Answers *two names on one CDN address* and *HTTP in disguise*
//! (docs/threats.md).

use crate::processes::{Background, until};
use crate::support::{finish, require, sandbox, world_from};
use portcullis_testkit::{World, WorldSpec};
use serde_json::Value;
use std::time::Duration;

const LISTED: &str = "shop.example.com";
/// On the same address, and not listed.
const HIDDEN: &str = "hidden.example.net";
/// Where nginx is, and Python's server.
const SERVERS: [&str; 2] = ["203.0.113.160", "203.0.113.161"];
/// Every way out, and the one that no gateway is on.
const WAYS: &str = "direct,connect,socks,socks-address,proxy";
/// How long the attack may take.
const LIMIT: Duration = Duration::from_secs(240);

const ATTACK: &str = include_str!("disguises.py");

const RULES: &str = r#"version = 1
[network.domains]
"shop.example.com" = "allow"
"shop.example.com:8080" = "allow"
"shop.example.com:8081" = "allow"
"#;

/// Takes any method, as WSGI's servers do, and believes the target's host before the field's.
const PYTHON: &str = r#"
import http.server, sys, threading, urllib.parse
class Any(http.server.BaseHTTPRequestHandler):
    def __getattr__(self, name):
        if name.startswith("do_"): return self.answer
        raise AttributeError(name)
    def answer(self):
        host = urllib.parse.urlsplit(self.path).hostname or self.headers.get("Host")
        with open(LOG, "a") as log: print(host, self.requestline.encode(), file=log)
        self.wfile.write(f"HTTP/1.0 200 OK\r\n\r\nserved {host}".encode())
    def log_message(self, *_): pass
LOG, address = sys.argv[1:]
servers = [http.server.ThreadingHTTPServer((address, port), Any) for port in (80, 8080, 8081)]
for server in servers[1:]: threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
servers[0].serve_forever()
"#;

/// Serves the listed host and the hidden one, each with a log of its own.
fn nginx(world: &World, address: &str) -> Background {
    require("nginx");
    let home = world.home().display().to_string();
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {home}/nginx-{kind};\n"))
        .collect();
    let ports = format!(
        "listen {address}:80; listen {address}:8080 http2; listen {address}:8081 proxy_protocol;"
    );
    let servers: String = [LISTED, HIDDEN]
        .iter()
        .map(|host| {
            format!(
                "server {{ {ports} server_name {host}; access_log {home}/{host}.log;\n\
                 location / {{ return 200 \"served $host\"; }} }}\n"
            )
        })
        .collect();
    let configuration = world.file(
        "nginx.conf",
        format!(
            "daemon off; master_process off; pid {home}/nginx.pid; error_log {home}/nginx.log;\n\
             events {{ worker_connections 512; }}\n\
             http {{ {folders} {servers} }}\n"
        ),
    );
    let mut nginx = world.internet_command("nginx");
    nginx.arg("-c").arg(&configuration);
    nginx.args(["-e", &format!("{home}/nginx.log")]);
    let running = Background::start(&mut nginx);
    let ask = format!("import socket; socket.create_connection(('{address}', 80), 5).close()");
    until("nginx answers", || {
        world
            .run("python3", &["-c", &ask], Duration::from_secs(60))
            .ok()
    });
    running
}

/// The same for Python's `http.server`, whose one log names the host first.
fn python(world: &World, address: &str) -> Background {
    let script = world.file("server.py", PYTHON);
    let mut python = world.internet_command("python3");
    python
        .arg(script)
        .arg(world.home().join(format!("{HIDDEN}.log")));
    let running = Background::start(python.arg(address));
    running.wait_line("ready");
    running
}

/// How many requests the server answered for the hidden host.
fn answered(world: &World) -> usize {
    let path = world.home().join(format!("{HIDDEN}.log"));
    let log = std::fs::read(path).unwrap_or_default();
    let lines = String::from_utf8_lossy(&log);
    // Python's names the host first, and serves some requests that name none.
    let others = |line: &&str| [LISTED, "None"].iter().any(|other| line.starts_with(other));
    lines.lines().filter(|line| !others(line)).count()
}

/// What the attack told.
fn told(out: &str) -> Value {
    serde_json::from_str(out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

fn number(of: &Value) -> u64 {
    of.as_u64().unwrap_or_default()
}

/// Runs the attack inside and looks at what the program saw, what the server did and what is on record;
/// then without a gateway, which shows that the server falls for `known` of the disguises at least.
fn no_request_reaches_the_hidden_host(
    start: fn(&World, &str) -> Background,
    address: &str,
    known: usize,
) {
    require("python3");
    let world = world_from(
        WorldSpec::standard()
            .record(&format!("{LISTED} A {address}"))
            .record(&format!("{HIDDEN} A {address}"))
            .closed(address),
    );
    let _server = start(&world, address);
    let script = world.file("disguises.py", ATTACK).display().to_string();
    let arguments = |ways| ["python3", &script, LISTED, HIDDEN, address, ways];
    let sandbox = sandbox(&world).policy("toml", RULES).limit(LIMIT);
    let ran = sandbox.run(&arguments(WAYS));
    ran.assert_ok();
    let saw = told(&ran.out());
    let none: [&str; 0] = [];
    assert_eq!(saw["through"], serde_json::json!(none), "{saw}");
    let reached: Vec<&str> = WAYS.split(',').collect();
    assert_eq!(saw["reached"], serde_json::json!(reached), "{saw}");
    assert_eq!(answered(&world), 0, "{saw}");
    let denied = ran.records.all_denials();
    let of_http = denied.iter().filter(|record| record["layer"] == "http");
    let recorded: u64 = of_http
        .map(|record| record["count"].as_u64().unwrap_or(1))
        .sum();
    println!("{address}: {saw}, {recorded} denials recorded");
    assert!(recorded >= number(&saw["refused"]), "{saw}: {recorded}");
    assert!(number(&saw["refused"]) > number(&saw["tried"]) / 2, "{saw}");
    for reason in ["host-mismatch", "malformed"] {
        let found = denied.iter().any(|record| record["reason"] == reason);
        assert!(found, "no {reason}: {ran}");
    }
    world.assert_never_asked(HIDDEN);

    let mut outside = world.command("python3");
    outside.args(&arguments("outside")[1..]);
    let outside = finish(&mut outside, LIMIT);
    let fell = told(&outside.out());
    println!("without a gateway: {fell}");
    let lines = fell["through"].as_array().map_or(0, Vec::len);
    assert!(lines >= known && answered(&world) >= lines, "{fell}");
}

#[test]
fn no_disguise_of_http_makes_nginx_answer_for_an_unlisted_host() {
    no_request_reaches_the_hidden_host(nginx, SERVERS[0], 25);
}

#[test]
fn no_disguise_of_http_makes_python_answer_for_an_unlisted_host() {
    no_request_reaches_the_hidden_host(python, SERVERS[1], 60);
}
