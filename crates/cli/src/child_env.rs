//! The environment of the sandboxed command.
//!
//! A courtesy only: programs that read proxy variables find the proxies by them. Nothing depends
//! on it, since a program that drops every one of them meets the same policy at the kernel.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;

/// Destinations that programs should reach without a proxy: the sandbox's own loopback.
/// Python compares an IPv6 host with its brackets, curl and Go without.
const NO_PROXY: &str = "localhost,127.0.0.1,::1,[::1]";

/// The caller's environment with every proxy setting replaced by the sandbox's own.
pub fn for_child(
    host: impl IntoIterator<Item = (OsString, OsString)>,
    http: SocketAddr,
    socks: SocketAddr,
) -> Vec<(OsString, OsString)> {
    let host: Vec<_> = host.into_iter().collect();
    let java = host
        .iter()
        .find(|(key, _)| key == "JAVA_TOOL_OPTIONS")
        .map(|(_, value)| value);
    let ours = ours(http, socks, java.map(OsString::as_os_str));
    let mut child: Vec<(OsString, OsString)> = host
        .into_iter()
        .filter(|(key, _)| !names_a_proxy(key) && key != "JAVA_TOOL_OPTIONS")
        .collect();
    child.retain(|(key, _)| !ours.iter().any(|(name, _)| key == name));
    child.extend(
        ours.into_iter()
            .map(|(key, value)| (OsString::from(key), value)),
    );
    child
}

/// Whether a variable of the caller steers programs to a proxy that the sandbox cannot reach.
fn names_a_proxy(key: &OsStr) -> bool {
    key.to_str()
        .is_some_and(|key| key.to_ascii_lowercase().ends_with("_proxy"))
}

fn ours(
    http: SocketAddr,
    socks: SocketAddr,
    java: Option<&OsStr>,
) -> Vec<(&'static str, OsString)> {
    let url = OsString::from(format!("http://{http}"));
    let mut ours = Vec::new();
    for name in [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        // npm and yarn
        "npm_config_proxy",
        "npm_config_https_proxy",
        "YARN_HTTP_PROXY",
        "YARN_HTTPS_PROXY",
        // pip, bundler, docker's client, Electron's downloader, Node's global-agent
        "PIP_PROXY",
        "BUNDLE_HTTP_PROXY",
        "BUNDLE_HTTPS_PROXY",
        "DOCKER_HTTP_PROXY",
        "DOCKER_HTTPS_PROXY",
        "GLOBAL_AGENT_HTTP_PROXY",
        "GLOBAL_AGENT_HTTPS_PROXY",
    ] {
        ours.push((name, url.clone()));
    }
    // socks5h: the proxy resolves, so that the name is what is decided on.
    for name in ["ALL_PROXY", "all_proxy"] {
        ours.push((name, format!("socks5h://{socks}").into()));
    }
    for name in [
        "NO_PROXY",
        "no_proxy",
        "npm_config_noproxy",
        "GLOBAL_AGENT_NO_PROXY",
    ] {
        ours.push((name, NO_PROXY.into()));
    }
    for name in [
        "NODE_USE_ENV_PROXY",
        "PORTCULLIS",
        "CODEX_NETWORK_PROXY_ACTIVE",
    ] {
        ours.push((name, "1".into()));
    }
    ours.push(("ELECTRON_GET_USE_PROXY", "true".into()));
    let mut options = java.map(OsStr::to_owned).unwrap_or_default();
    if !options.is_empty() {
        options.push(" ");
    }
    let (host, port) = (http.ip(), http.port());
    options.push(format!(
        "-Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttps.proxyHost={host} \
         -Dhttps.proxyPort={port} -Dhttp.nonProxyHosts=localhost|127.*|[::1]"
    ));
    ours.push(("JAVA_TOOL_OPTIONS", options));
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(host: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        for_child(
            host.iter().map(|(key, value)| (key.into(), value.into())),
            "10.0.2.2:3128".parse().unwrap(),
            "10.0.2.2:1080".parse().unwrap(),
        )
    }

    fn get<'a>(env: &'a [(OsString, OsString)], key: &str) -> Vec<&'a str> {
        env.iter()
            .filter(|(name, _)| name == key)
            .map(|(_, value)| value.to_str().unwrap())
            .collect()
    }

    #[test]
    fn the_hosts_proxies_do_not_reach_the_child() {
        let env = child(&[
            ("HTTP_PROXY", "http://corp:1"),
            ("ftp_proxy", "http://corp:2"),
            ("HOME", "/h"),
        ]);
        assert_eq!(get(&env, "HTTP_PROXY"), ["http://10.0.2.2:3128"]);
        assert_eq!(get(&env, "ftp_proxy"), [""; 0]);
        assert_eq!(get(&env, "HOME"), ["/h"]);
        assert_eq!(get(&env, "all_proxy"), ["socks5h://10.0.2.2:1080"]);
        assert_eq!(get(&env, "CODEX_NETWORK_PROXY_ACTIVE"), ["1"]);
    }

    #[test]
    fn java_options_of_the_caller_are_kept() {
        let env = child(&[("JAVA_TOOL_OPTIONS", "-Xmx1g")]);
        let options = get(&env, "JAVA_TOOL_OPTIONS");
        assert_eq!(options.len(), 1);
        assert!(
            options[0].starts_with("-Xmx1g -Dhttp.proxyHost=10.0.2.2 "),
            "{}",
            options[0]
        );
    }
}
