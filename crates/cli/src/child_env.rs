//! The environment of the sandboxed command.
//!
//! A courtesy only: programs that read proxy variables find the proxies by them. Nothing depends
//! on it, since a program that drops every one of them meets the same policy at the kernel.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;

/// Destinations that programs should reach without a proxy: the sandbox's own loopback.
/// Python compares an IPv6 host with its brackets, curl and Go without.
const NO_PROXY: &str = "localhost,127.0.0.1,::1,[::1]";

/// Replaces every proxy setting of the caller by the sandbox's own.
pub fn set_proxies(env: &mut BTreeMap<OsString, OsString>, http: SocketAddr, socks: SocketAddr) {
    env.retain(|name, _| !names_a_proxy(name));
    let mut set = |name: &str, value: &str| env.insert(name.into(), value.into());
    let url = format!("http://{http}");
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
        set(name, &url);
    }
    // socks5h: the proxy resolves, so that the name is what is decided on.
    for name in ["ALL_PROXY", "all_proxy"] {
        set(name, &format!("socks5h://{socks}"));
    }
    for name in [
        "NO_PROXY",
        "no_proxy",
        "npm_config_noproxy",
        "GLOBAL_AGENT_NO_PROXY",
    ] {
        set(name, NO_PROXY);
    }
    for name in [
        "NODE_USE_ENV_PROXY",
        "PORTCULLIS",
        "CODEX_NETWORK_PROXY_ACTIVE",
    ] {
        set(name, "1");
    }
    set("ELECTRON_GET_USE_PROXY", "true");
    let options = env.entry("JAVA_TOOL_OPTIONS".into()).or_default();
    if !options.is_empty() {
        options.push(" ");
    }
    let (host, port) = (http.ip(), http.port());
    options.push(format!(
        "-Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttps.proxyHost={host} \
         -Dhttps.proxyPort={port} -Dhttp.nonProxyHosts=localhost|127.*|[::1]"
    ));
}

/// Whether a variable of the caller steers programs to a proxy that the sandbox cannot reach.
fn names_a_proxy(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.to_ascii_lowercase().ends_with("_proxy"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(host: &[(&str, &str)]) -> BTreeMap<OsString, OsString> {
        let owned = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
        let mut env = host.iter().map(owned).collect();
        set_proxies(
            &mut env,
            "10.0.2.2:3128".parse().unwrap(),
            "10.0.2.2:1080".parse().unwrap(),
        );
        env
    }

    fn get<'a>(env: &'a BTreeMap<OsString, OsString>, name: &str) -> Option<&'a str> {
        env.get(OsStr::new(name))?.to_str()
    }

    #[test]
    fn the_hosts_proxies_do_not_reach_the_child() {
        let env = child(&[
            ("HTTP_PROXY", "http://corp:1"),
            ("ftp_proxy", "http://corp:2"),
            ("HOME", "/h"),
        ]);
        assert_eq!(get(&env, "HTTP_PROXY"), Some("http://10.0.2.2:3128"));
        assert_eq!(get(&env, "ftp_proxy"), None);
        assert_eq!(get(&env, "HOME"), Some("/h"));
        assert_eq!(get(&env, "all_proxy"), Some("socks5h://10.0.2.2:1080"));
        assert_eq!(get(&env, "CODEX_NETWORK_PROXY_ACTIVE"), Some("1"));
    }

    #[test]
    fn java_options_of_the_caller_are_kept() {
        let env = child(&[("JAVA_TOOL_OPTIONS", "-Xmx1g")]);
        let options = get(&env, "JAVA_TOOL_OPTIONS").unwrap();
        assert!(
            options.starts_with("-Xmx1g -Dhttp.proxyHost=10.0.2.2 "),
            "{options}"
        );
    }
}
