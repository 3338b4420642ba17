//! HTTP/2 on both sides: curl, nghttp, h2load, and nginx as the server.

use crate::processes::{Background, until};
use crate::support::require;
use crate::{SERVER, rules, world};
use portcullis_testkit::World;
use std::time::Duration;

const RULE: &str = r#""h2.example.com" = { verdict = "allow", inspect = true, methods = ["GET", "POST"], paths = ["/open/**"] }"#;

/// nginx with HTTP/2, as the world's ordinary user, on an address of its own.
fn nginx(world: &World) -> Background {
    require("nginx");
    let (certificate, key) = world.certificate(&["h2.example.com"]);
    let home = world.home().display().to_string();
    let folders = ["client", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| {
            format!(
                "{kind}_{}temp_path {home}/nginx-{kind};\n",
                if kind == "client" { "body_" } else { "" }
            )
        })
        .concat();
    let configuration = world.file(
        "nginx.conf",
        format!(
            "daemon off; master_process off; pid {home}/nginx.pid; error_log {home}/nginx.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; {folders}\n\
             server {{ listen {SERVER}:443 ssl http2; server_name h2.example.com;\n\
             ssl_certificate {}; ssl_certificate_key {};\n\
             location /open/ {{ return 200 \"$server_protocol $request_method $host $uri\\n\"; }}\n\
             location / {{ return 200 \"never\\n\"; }} }} }}\n",
            certificate.display(),
            key.display(),
        ),
    );
    let mut nginx = world.internet_command("nginx");
    nginx
        .arg("-c")
        .arg(&configuration)
        .args(["-e", &format!("{home}/nginx.log")]);
    let running = Background::start(&mut nginx);
    until("nginx answers", || {
        let program =
            format!("import socket; socket.create_connection(('{SERVER}', 443), 5).close()");
        world
            .run("python3", &["-c", &program], Duration::from_secs(60))
            .ok()
    });
    running
}

#[test]
fn curl_speaks_http2_where_upstream_does() {
    require("curl");
    let world = world();
    let _nginx = nginx(&world);
    let ran = rules(&world, RULE).sh(
        "c() { curl -sS --noproxy '*' -w '%{http_version} %{http_code}\\n' \"$@\"; }; u=https://h2.example.com; \
         c --http2 $u/open/a; c --http1.1 $u/open/b; c --http2 -o /dev/null $u/shut; \
         c --http2 -o /dev/null -X DELETE $u/open/c; \
         c --http2 -o /dev/null -H 'Host: evil.example.net' $u/open/d; \
         curl -sS --http2 $u/open/e",
    );
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "HTTP/2.0 GET h2.example.com /open/a\n2 200\nHTTP/1.1 GET h2.example.com /open/b\n1.1 200\n\
         2 403\n2 403\n2 403\nHTTP/2.0 GET h2.example.com /open/e\n",
        "{ran}"
    );
    for reason in ["path-not-allowed", "method-not-allowed", "host-mismatch"] {
        ran.assert_one_denial("http", reason, "h2.example.com");
    }
    world.assert_never_asked("evil");
}

#[test]
fn a_refused_stream_does_not_disturb_its_neighbours() {
    require("nghttp");
    let world = world();
    let _nginx = nginx(&world);
    let ran = rules(&world, RULE).sh(
        "nghttp -v --no-dep https://h2.example.com/open/a https://h2.example.com/shut \
         https://h2.example.com/open/b | grep -E ':status|^HTTP/2.0'",
    );
    ran.assert_ok();
    let out = ran.out();
    assert_eq!(out.matches(":status: 200").count(), 2, "{ran}");
    assert_eq!(out.matches(":status: 403").count(), 1, "{ran}");
    let flows = ran.records.decisions();
    let flows = flows
        .iter()
        .filter(|r| r["protocol"] == "transparent" && r["layer"] == "tls");
    assert_eq!(flows.count(), 1, "one connection: {ran}");
}

#[test]
fn many_streams_at_once() {
    require("h2load");
    let world = world();
    let _nginx = nginx(&world);
    let ran = rules(&world, RULE)
        .sh("h2load -n 400 -c 4 -m 20 https://h2.example.com/open/load | grep -E 'requests:|status codes'");
    ran.assert_ok();
    ran.assert_out("400 succeeded, 0 failed")
        .assert_out("400 2xx");
}
