//! The gateway's own page at `http://portcullis.internal/`: there by every way in, whatever the policy
//! says, and for nobody outside.

use crate::support::{Ran, command, require, sandbox, world};

const URL: &str = "http://portcullis.internal";

/// Every way in, with what curl is told for it.
const WAYS: [(&str, &str); 8] = [
    ("by the environment", ""),
    ("directly by IPv4", "-4 --noproxy '*'"),
    ("directly by IPv6", "-6 --noproxy '*'"),
    ("by absolute form", "-x http://10.0.2.2:3128"),
    ("by CONNECT", "-p -x http://10.0.2.2:3128"),
    ("by SOCKS and name", "-x socks5h://10.0.2.2:1080"),
    ("by SOCKS and address", "-4 -x socks5://10.0.2.2:1080"),
    ("by HTTP/1.0", "-0 --noproxy '*'"),
];

/// Nothing is recorded of those who read, since nothing was decided.
fn assert_no_record(ran: &Ran) {
    assert!(ran.records.decisions().is_empty(), "{ran}");
}

#[test]
fn the_page_is_there_by_every_way_under_a_policy_that_allows_nothing() {
    require("curl");
    let world = world();
    let mut script = String::new();
    for (_, how) in WAYS {
        script += &format!("curl -sS -m 20 {how} -w '%{{http_code}}\\n' {URL}/health\n");
    }
    script += "curl -sS -m 20 --noproxy '*' http://10.0.2.2/health\n";
    script += "curl -sS -m 20 -g --noproxy '*' 'http://[fd50:6f72:7463::2]/health'\n";
    script += "curl -sS -m 20 http://10.0.2.2/health\n";
    let ran = sandbox(&world).sh(&script);
    ran.assert_ok();
    let expected = "ok\n200\n".repeat(WAYS.len()) + "ok\nok\nok\n";
    assert_eq!(ran.out(), expected, "{ran}");
    assert_no_record(&ran);
    world.assert_never_asked("portcullis");
}

#[test]
fn the_pages_say_what_they_say_to_a_terminal_and_to_a_browser() {
    require("curl");
    let world = world();
    let ran = sandbox(&world).sh(&format!(
        "curl -sS -m 20 {URL}/; echo ---; \
         curl -sS -m 20 -i -H 'Accept: text/html,*/*' {URL}/; echo ---; \
         curl -sS -m 20 -I {URL}/proxy.pac; echo ---; \
         for path in /ca.pem /nothing /../etc/passwd; do \
         curl -sS -m 20 --path-as-is -o /dev/null -w '%{{http_code}} ' {URL}$path; done; \
         for method in POST PUT DELETE OPTIONS; do \
         curl -sS -m 20 -X $method -d x -o /dev/null -w '%{{http_code}} ' {URL}/; done"
    ));
    ran.assert_ok();
    let out = ran.out();
    let parts: Vec<&str> = out.split("---\n").collect();
    let [text, html, head, codes] = parts[..] else {
        panic!("{ran}");
    };
    assert!(
        text.contains("http://10.0.2.2:3128") && !text.contains('<'),
        "{text}"
    );
    assert!(html.contains("content-type: text/html"), "{html}");
    assert!(html.contains("<!doctype html>"), "{html}");
    for field in [
        "application/x-ns-proxy-autoconfig",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "content-security-policy: default-src 'none'",
    ] {
        assert!(head.contains(field), "{field}: {head}");
    }
    assert!(!head.contains("access-control"), "{head}");
    assert_eq!(codes, "404 404 404 405 405 405 405 ", "{ran}");
    assert_no_record(&ran);
}

/// What a browser would do with it, by a real JavaScript engine.
#[test]
fn the_proxy_settings_are_javascript_that_sends_everything_but_the_loopback_to_the_proxy() {
    require("curl");
    require("node");
    let world = world();
    let ran = sandbox(&world).sh(&format!(
        "curl -sS -m 20 {URL}/proxy.pac > proxy.pac && exec node -e '
         const context = {{}};
         require(\"vm\").runInNewContext(require(\"fs\").readFileSync(\"proxy.pac\", \"utf8\"), context);
         for (const host of process.argv.slice(1))
           console.log(host, context.FindProxyForURL(\"https://\" + host + \"/\", host));
         ' api.example.com LOCALHOST a.localhost 127.0.0.1 127.9.9.9 ::1 [::1] localhost. 128.0.0.1 notlocalhost 127.evil.example"
    ));
    ran.assert_ok();
    let proxy = "PROXY 10.0.2.2:3128; DIRECT";
    let expected: String = [
        ("api.example.com", proxy),
        ("LOCALHOST", "DIRECT"),
        ("a.localhost", "DIRECT"),
        ("127.0.0.1", "DIRECT"),
        ("127.9.9.9", "DIRECT"),
        ("::1", "DIRECT"),
        ("[::1]", "DIRECT"),
        ("localhost.", "DIRECT"),
        ("128.0.0.1", proxy),
        ("notlocalhost", proxy),
        ("127.evil.example", proxy),
    ]
    .map(|(host, says)| format!("{host} {says}\n"))
    .concat();
    assert_eq!(ran.out(), expected, "{ran}");
}

/// A page of the web whose name leads to the gateway's address, and other things that are not the page.
#[test]
fn what_is_not_the_page_by_name_is_refused() {
    require("curl");
    let world = world();
    let ran = sandbox(&world).allow("api.example.com").sh(&format!(
        "code() {{ curl -sS -m 20 -o /dev/null -w '%{{http_code}}\\n' \"$@\" 2>/dev/null; }}
         code --noproxy '*' -H 'Host: rebound.example.net' {URL}/env
         code --noproxy '*' -H 'Host: api.example.com' {URL}/env
         code --noproxy '*' -H 'Host: portcullis.internal:8080' {URL}/env
         code --noproxy '*' -H 'Host: host.portcullis.internal' {URL}/env
         code -p -x http://10.0.2.2:3128 -H 'Host: rebound.example.net' {URL}/env
         code -k --noproxy '*' https://portcullis.internal/
         code -k https://portcullis.internal/
         code --noproxy '*' http://portcullis.internal:8080/
         code http://portcullis.internal:8080/
         code http://x.portcullis.internal/
         code --noproxy '*' http://10.0.2.3/"
    ));
    assert_eq!(
        ran.out(),
        "403\n403\n403\n403\n403\n000\n000\n000\n403\n403\n000\n",
        "{ran}"
    );
    assert!(
        !ran.records
            .denials("http", "not-in-allowlist", "x.portcullis.internal")
            .is_empty()
    );
    world.assert_never_asked("portcullis");
    world.assert_never_asked("rebound");
}

#[test]
fn a_policy_that_lists_the_page_is_told_off() {
    let world = world();
    for (verdict, target) in [
        ("--allow", "portcullis.internal"),
        ("--deny", "portcullis.internal"),
        ("--allow", "Portcullis.Internal.:80"),
    ] {
        let ran = sandbox(&world).args(&[verdict, target]).sh("true");
        assert_eq!(ran.finished.status.code(), Some(125), "{ran}");
        assert!(ran.err().contains("cannot be listed"), "{ran}");
    }
    let policy = world.file(
        "lists.toml",
        "version = 1\n[network.domains]\n\"portcullis.internal\" = \"allow\"\n",
    );
    let checked = command(&world, &["policy", "check", &policy.display().to_string()]);
    assert_eq!(checked.status.code(), Some(2), "{checked}");
    assert!(checked.err().contains("lists.toml:3"), "{checked}");
}

/// Neither a wildcard nor a policy that only watches sends the name, or its other types, to anyone.
#[test]
fn the_name_never_reaches_a_resolver_whatever_is_listed() {
    require("curl");
    require("python3");
    let world = world();
    world.file("gate.py", include_str!("../support/gate.py"));
    for policy in [&["--allow", "**.internal"][..], &["--audit"]] {
        let ran = sandbox(&world).args(policy).sh(&format!(
            "for type in a aaaa txt mx https ptr any; do \
             nslookup -type=$type portcullis.internal > /dev/null 2>&1; done; \
             curl -sS -m 20 -k https://portcullis.internal/ 2> /dev/null; \
             curl -sS -m 20 -x socks5h://10.0.2.2:1080 http://portcullis.internal:81/ 2> /dev/null; \
             curl -sS -m 20 {URL}/health"
        ));
        assert_eq!(ran.out(), "ok\n", "{ran}");
        world.assert_never_asked("portcullis.internal");
    }
}

/// The host's own server at the same address and port, where a policy lists it.
#[test]
fn the_page_and_the_host_s_own_web_server_live_beside_each_other() {
    require("curl");
    require("python3");
    let world = world();
    let server = world.file(
        "server.py",
        "import http.server\n\
         class Handler(http.server.BaseHTTPRequestHandler):\n\
         \x20   def do_GET(self):\n\
         \x20       self.send_response(200); self.end_headers(); self.wfile.write(b'the host\\n')\n\
         http.server.HTTPServer(('127.0.0.1', 80), Handler).serve_forever()\n",
    );
    let mut serving = world.command_as_root("python3");
    let serving = crate::processes::Background::start(serving.arg(&server));
    let ran = sandbox(&world).allow("host.portcullis.internal:80").sh(&format!(
        "until curl -sS -m 20 http://host.portcullis.internal/ 2> /dev/null | grep -qx 'the host'; do sleep 0.1; done; \
         for way in '' '--noproxy *' '-x socks5h://10.0.2.2:1080' '-p -x http://10.0.2.2:3128'; do set -f; \
         curl -sS -m 20 $way http://host.portcullis.internal/; \
         curl -sS -m 20 $way {URL}/health; done"
    ));
    drop(serving);
    assert_eq!(ran.out(), "the host\nok\n".repeat(4), "{ran}");
}

/// A shell without any variable of ours is set up by one line, and then reaches what is inspected.
#[test]
fn one_curl_sets_up_a_shell_for_what_is_inspected() {
    require("curl");
    let world = world();
    let ran = sandbox(&world)
        .policy(
            "toml",
            "version = 1\n[network.domains]\n\
             \"api.example.com\" = { verdict = \"allow\", inspect = true, paths = [\"/public/**\"] }\n",
        )
        .sh(&format!(
            "export HOME=$PWD/home; mkdir -p home; cat > set-up.sh <<'END'
             code() {{ curl -sS -m 20 -o /dev/null -w '%{{http_code}}\\n' --capath /nowhere --cacert \"$CURL_CA_BUNDLE\" \"$@\"; }}
             code https://api.example.com/public/x 2> /dev/null
             eval \"$(curl -sS {URL}/env)\"
             echo $https_proxy
             code https://api.example.com/public/x
             code https://api.example.com/private
             curl -sS {URL}/setup.sh | sh
             . $HOME/.config/portcullis/env
             code https://api.example.com/public/x
             curl -sS {URL}/ca.pem | grep -c BEGIN
END
             exec env -i HOME=$HOME PATH=$PATH CURL_CA_BUNDLE={} sh set-up.sh",
            world.ca_pem().display()
        ));
    let out = ran.out();
    assert!(
        out.starts_with("000\nhttp://10.0.2.2:3128\n200\n403\nThis machine is set up."),
        "{ran}"
    );
    assert!(out.ends_with("\n200\n1\n"), "{ran}");
}
