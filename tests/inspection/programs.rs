//! Programs that bring their own idea of whom to trust: Node, Python, Java, git. None is told more
//! than its environment says.

use crate::support::{node_modules, require};
use crate::{narrow, rules, world};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const OPEN: &str = r#""api.example.com" = { verdict = "allow", inspect = true }"#;

#[test]
fn node_https_and_fetch() {
    let world = world();
    let ran = narrow(&world).node(
        "const https = require('https');
         const get = (path, method) => new Promise((done, failed) => https.request(
             { host: 'api.example.com', path, method }, answer => { answer.resume(); done(answer.statusCode); }
         ).on('error', failed).end());
         (async () => {
             console.log(await get('/public/a', 'GET'), await get('/private', 'GET'), await get('/public/a', 'PUT'));
             console.log((await fetch('https://api.example.com/public/b')).status);
             process.exit(0);
         })().catch(error => { console.log('failed', error.message); process.exit(1); });",
    );
    ran.assert_ok();
    assert_eq!(ran.out(), "200 403 403\n200\n", "{ran}");
}

#[test]
fn a_websocket_of_the_ws_package() {
    let world = world();
    node_modules(&world);
    let ran = rules(
        &world,
        r#""wss-primary.slack.com:443" = { verdict = "allow", inspect = true, paths = ["/ws/**"] }"#,
    )
    .node(
        "const WebSocket = require('ws'), once = require('events').once, say = console.log;
         (async () => {
             const ws = new WebSocket('wss://wss-primary.slack.com/ws/hello');
             const messages = []; ws.on('message', m => messages.push(m.toString()));
             await once(ws, 'open');
             ws.send('across'); ws.send(Buffer.alloc(200000, 'x'));
             while (messages.length < 3) await once(ws, 'message');
             say(messages[0], messages[1], messages[2].length);
             ws.close(1000); say((await once(ws, 'close'))[0]);
             const shut = new WebSocket('wss://wss-primary.slack.com/other');
             shut.on('error', error => { say(error.message); process.exit(0); });
         })().catch(error => { say('failed', error.message); process.exit(1); });",
    );
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "{\"type\":\"hello\"} across 200000\n1000\nUnexpected server response: 403\n",
        "{ran}"
    );
    let request = ran
        .records
        .decisions()
        .into_iter()
        .find(|r| r["path"] == "/ws/hello");
    let request = request.unwrap_or_else(|| panic!("no record: {ran}"));
    let close = ran
        .records
        .close_of(request)
        .unwrap_or_else(|| panic!("no close: {ran}"));
    assert!(close["bytes_up"].as_u64() > Some(200_000), "{close}");
}

#[test]
fn python_urllib_and_requests() {
    let world = world();
    let ran = narrow(&world).run(&[
        "/usr/bin/python3",
        "-c",
        "import urllib.request, urllib.error, requests\n\
         print(urllib.request.urlopen('https://api.example.com/public/a', timeout=60).status)\n\
         session = requests.Session()\n\
         print([session.get('https://api.example.com' + path, timeout=60).status_code for path in ('/public/a', '/b', '/public/c')])\n\
         print(session.post('https://api.example.com/public/a', data='x', timeout=60).headers['x-proxy-error'])\n\
         print(session.get('https://www.example.com/', timeout=60).status_code)\n",
    ]);
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "200\n[200, 403, 200]\nblocked-by-method-policy\n200\n",
        "{ran}"
    );
}

#[test]
fn git_clones_over_https() {
    require("git");
    let world = world();
    let ran = rules(
        &world,
        r#""git.example.com" = { verdict = "allow", inspect = true, paths = ["/repo.git/**"] }"#,
    )
    .sh("git clone -q https://git.example.com/repo.git cloned && ls cloned | head -3; git -C cloned log --oneline | wc -l");
    ran.assert_ok().assert_no_denial();
}

const JAVA: &str = r#"
import java.net.*;
import javax.net.ssl.HttpsURLConnection;

public class Trusting {
    public static void main(String[] args) throws Exception {
        for (String url : args) {
            HttpsURLConnection c = (HttpsURLConnection) new URL(url).openConnection(Proxy.NO_PROXY);
            System.out.println(c.getResponseCode() + " " + c.getHeaderField("x-proxy-error"));
        }
    }
}
"#;

#[test]
fn slow_java_by_its_trust_store() {
    require("java");
    require("keytool");
    let world = world();
    world.file("Trusting.java", JAVA);
    let urls =
        "https://api.example.com/public/a https://api.example.com/b https://www.example.com/";
    let ran = narrow(&world).limit(LIMIT).sh(&format!(
        "java -XX:TieredStopAtLevel=1 -XX:-UsePerfData Trusting.java {urls}; \
         keytool -list -keystore /run/portcullis/trust.jks -storepass changeit 2>/dev/null | grep -c trustedCertEntry"
    ));
    ran.assert_ok();
    let out = ran.out();
    assert!(
        out.starts_with("200 null\n403 blocked-by-path-policy\n200 null\n"),
        "{ran}"
    );
    let count: usize = out.lines().last().unwrap_or_default().parse().unwrap_or(0);
    assert!(count > 50, "a whole store, with a right digest: {ran}");
}

#[test]
fn as_an_ordinary_user_and_as_root() {
    require("curl");
    let world = world();
    let get = "curl -sS -o /dev/null -w '%{http_code}' https://api.example.com/";
    for ran in [
        rules(&world, OPEN).sh(get),
        rules(&world, OPEN).as_root().sh(get),
    ] {
        ran.assert_ok();
        assert_eq!(ran.out(), "200", "{ran}");
    }
}
