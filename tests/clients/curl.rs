//! curl by every way out that it knows: the proxy variables, no proxy at all, SOCKS5 with the name
//! resolved by the proxy and by itself.

use crate::shared;
use crate::support::{Ran, require};
use crate::usual;
use portcullis_testkit::pattern;

/// What curl saw: the answer to CONNECT and the answer itself.
const CODES: &str = "%{http_connect} %{http_code} %{remote_ip}\\n";

/// What curl's own exit codes mean.
const CANNOT_RESOLVE: i32 = 6;
const CANNOT_CONNECT: i32 = 7;
const CONNECT_REFUSED: i32 = 56;
const SOCKS_REFUSED: i32 = 97;

fn curl(args: &str) -> Ran {
    require("curl");
    usual(&shared::world()).sh(&format!("curl -sS -m 20 {args}"))
}

fn codes(args: &str) -> Ran {
    // One output for each of at most two addresses.
    curl(&format!("-o /dev/null -o /dev/null -w '{CODES}' {args}"))
}

#[test]
fn curl_through_the_proxy_variables() {
    let ran = codes("https://api.example.com/ http://api.example.com/");
    ran.assert_ok().assert_no_denial();
    assert!(ran.out().starts_with("200 200 "), "{ran}");
    assert!(
        ran.out()
            .lines()
            .nth(1)
            .is_some_and(|l| l.starts_with("000 200 ")),
        "{ran}"
    );
    ran.records.one("connect", "api.example.com");
    let plain = ran.records.one("http", "api.example.com");
    assert_eq!(
        (&plain["method"], &plain["path"]),
        (&"GET".into(), &"/".into()),
        "{ran}"
    );
    let flow = ran.records.one("connect", "api.example.com");
    let close = ran
        .records
        .close_of(flow)
        .unwrap_or_else(|| panic!("no close: {ran}"));
    assert!(
        close["bytes_up"].as_u64() > Some(100) && close["bytes_down"].as_u64() > Some(100),
        "{ran}"
    );
}

#[test]
fn curl_through_the_proxy_variables_refused() {
    let ran = curl("-i https://evil.example.net/");
    ran.assert_code(CONNECT_REFUSED);
    ran.assert_out("HTTP/1.1 403 Forbidden")
        .assert_out("x-proxy-error: blocked-by-allowlist");
    ran.assert_one_denial("http", "not-in-allowlist", "evil.example.net");
    let ran = curl("-i http://evil.example.net/some/path?secret=1");
    ran.assert_ok().assert_out("HTTP/1.1 403 Forbidden");
    ran.assert_out("x-proxy-error: blocked-by-allowlist");
    ran.assert_one_denial("http", "not-in-allowlist", "evil.example.net");
    assert!(!ran.records.to_string().contains("secret"), "{ran}");
    shared::world().assert_never_asked("evil");
}

#[test]
fn curl_without_any_proxy() {
    let ran = curl("--noproxy '*' -i https://api.example.com/");
    ran.assert_ok()
        .assert_no_denial()
        .assert_out("X-World-Sni: api.example.com");
    let flow = ran.records.one("transparent", "api.example.com");
    assert_eq!(
        (&flow["layer"], &flow["port"]),
        (&"tls".into(), &443.into()),
        "{ran}"
    );
    assert!(ran.records.close_of(flow).is_some(), "{ran}");
    let ran = codes("--noproxy '*' http://api.example.com/ https://www.example.com/");
    ran.assert_ok().assert_no_denial();
    assert!(
        ran.out().lines().all(|line| line.starts_with("000 200 ")),
        "{ran}"
    );
    let flow = ran.records.one("transparent", "www.example.com");
    assert_eq!(
        flow["name"], "www.example.com",
        "not the canonical name: {ran}"
    );
}

#[test]
fn curl_without_any_proxy_refused() {
    let ran = curl("--noproxy '*' https://evil.example.net/");
    ran.assert_code(CANNOT_RESOLVE)
        .assert_said("Could not resolve host");
    assert!(
        !ran.records
            .denials("dns", "not-in-allowlist", "evil.example.net")
            .is_empty(),
        "{ran}"
    );
    let ran =
        curl("--noproxy '*' --resolve evil.example.net:443:203.0.113.90 https://evil.example.net/");
    ran.assert_code(CANNOT_CONNECT);
    ran.assert_one_denial("tcp", "address-not-leased", "203.0.113.90");
    shared::world().assert_never_asked("evil");
    shared::world().assert_never_reached("203.0.113.90");
}

#[test]
fn curl_with_an_empty_environment() {
    require("curl");
    let ran = usual(&shared::world()).sh(
        "ca=$CURL_CA_BUNDLE; env -i PATH=$PATH curl -sS --cacert $ca https://api.example.com/some/path; \
         env -i PATH=$PATH curl -sS --cacert $ca https://evil.example.net/",
    );
    ran.assert_code(CANNOT_RESOLVE)
        .assert_out("GET /some/path HTTP/1.1");
}

#[test]
fn curl_over_ipv4_and_over_ipv6() {
    let ran = codes("--noproxy '*' -4 https://api.example.com/");
    ran.assert_ok().assert_out("000 200 203.0.113.10");
    let ran = codes("--noproxy '*' -6 https://api.example.com/");
    ran.assert_ok().assert_out("000 200 2001:db8:10::10");
    let ran = curl("--noproxy '*' -6 https://[2001:db8:10::20]/");
    ran.assert_code(CANNOT_CONNECT);
    ran.assert_one_denial("tcp", "address-not-leased", "2001:db8:10::20");
}

#[test]
fn curl_over_socks_with_the_name_resolved_by_the_proxy() {
    let ran =
        codes("--socks5-hostname 10.0.2.2:1080 https://api.example.com/ http://api.example.com/");
    ran.assert_ok().assert_no_denial();
    assert!(
        ran.out().lines().all(|line| line.starts_with("000 200 ")),
        "{ran}"
    );
    let ran = curl("--socks5-hostname 10.0.2.2:1080 https://evil.example.net/");
    ran.assert_code(SOCKS_REFUSED);
    ran.assert_one_denial("tcp", "not-in-allowlist", "evil.example.net");
    shared::world().assert_never_asked("evil");
}

#[test]
fn curl_by_all_proxy_alone() {
    let ran = usual(&shared::world()).sh("unset HTTP_PROXY http_proxy HTTPS_PROXY https_proxy; \
         export ALL_PROXY=socks5h://10.0.2.2:1080; \
         curl -sS https://api.example.com/by-all-proxy; curl -sS https://evil.example.net/");
    ran.assert_code(SOCKS_REFUSED)
        .assert_out("GET /by-all-proxy");
    ran.records.one("socks5", "api.example.com");
}

#[test]
fn curl_over_socks_with_the_name_resolved_by_itself() {
    let ran = codes("--socks5 10.0.2.2:1080 -4 https://api.example.com/");
    ran.assert_ok().assert_no_denial().assert_out("000 200 ");
    let ran = curl("--socks5 10.0.2.2:1080 -4 https://evil.example.net/");
    assert!(!ran.finished.ok(), "{ran}");
    let ran = curl("-k --socks5 10.0.2.2:1080 https://203.0.113.90/");
    ran.assert_code(SOCKS_REFUSED);
    ran.assert_one_denial("tcp", "address-not-leased", "203.0.113.90");
}

#[test]
fn bodies_are_exact_both_ways_on_every_path() {
    const BYTES: usize = 3_000_000;
    for way in ["", "--noproxy '*'", "--socks5-hostname 10.0.2.2:1080"] {
        for scheme in ["http", "https"] {
            let ran = curl(&format!("{way} {scheme}://api.example.com/bytes/{BYTES}"));
            ran.assert_ok();
            assert!(
                ran.finished.stdout == pattern(0, BYTES),
                "{way} {scheme}: {:?}",
                ran.err()
            );
            let ran = usual(&shared::world()).sh(&format!(
                "head -c {BYTES} /dev/urandom >sent.$$; \
                 curl -sS -m 20 {way} -T - {scheme}://api.example.com/echo <sent.$$ | cmp - sent.$$; \
                 code=$?; rm sent.$$; exit $code"
            ));
            ran.assert_ok();
        }
    }
}

#[test]
fn answers_of_every_framing_come_through() {
    let ran = curl(
        "http://api.example.com/chunked/3/1 http://api.example.com/until-close/3 -d hello \
         http://api.example.com/echo",
    );
    ran.assert_ok().assert_no_denial();
    assert!(
        ran.out().starts_with("piece 0\npiece 1\npiece 2\n"),
        "{ran}"
    );
    assert!(ran.out().ends_with("hello"), "{ran}");
    let ran = curl("http://api.example.com/cut/1000");
    // A partial transfer, or a reset.
    assert!(
        matches!(ran.code(), Some(18 | 56)),
        "a cut body shows as one: {ran}"
    );
    let ran = curl("-o /dev/null -w '%{http_code}' http://api.example.com/status/503");
    ran.assert_ok().assert_out("503");
}

#[test]
fn a_redirect_to_an_unlisted_host_is_refused_there() {
    let ran = curl("-L https://api.example.com/redirect/evil.example.net");
    ran.assert_code(CONNECT_REFUSED);
    ran.assert_one_denial("http", "not-in-allowlist", "evil.example.net");
    let ran = curl("--noproxy '*' -L https://api.example.com/redirect/evil.example.net");
    ran.assert_code(CANNOT_RESOLVE);
    let ran = curl("--noproxy '*' -kL https://api.example.com/redirect/10.20.0.5");
    ran.assert_code(CANNOT_CONNECT);
    ran.assert_one_denial("tcp", "private-address", "10.20.0.5");
    shared::world().assert_never_reached("10.20.0.5");
    shared::world().assert_never_asked("evil");
}

#[test]
fn many_curls_at_once() {
    let ran = usual(&shared::world()).sh(
        "for i in $(seq 20); do curl -sS -o /dev/null -w '%{http_code}\\n' https://api.example.com/$i & \
         curl -sS --noproxy '*' -o /dev/null -w '%{http_code}\\n' https://api.example.com/$i & done; wait",
    );
    ran.assert_ok().assert_no_denial();
    assert_eq!(
        ran.out().lines().filter(|line| *line == "200").count(),
        40,
        "{ran}"
    );
}
