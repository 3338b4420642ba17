//! The environment of the sandboxed command.
//!
//! A courtesy only: programs that read proxy variables find the HTTP proxy by them. Nothing depends
//! on it, since a program that drops every one of them meets the same policy at the kernel. So few
//! are set, and none that breaks a program or makes it write what it would not:
//!
//! - No `ALL_PROXY`. With a SOCKS URL httpx, aria2 and Chromium fail, and none of those that read it
//!   needs it.
//! - No `[::1]` in `NO_PROXY`, which httpx takes for a port. Programs that look for it with brackets
//!   ask the proxy, which connects them to the sandbox's own loopback.
//! - No `NODE_USE_ENV_PROXY`: Node 22 writes a warning where it is set.
//! - Java's options only with an upstream proxy, which may be all that knows a name: every Java
//!   machine writes a line where `JAVA_TOOL_OPTIONS` is set.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;

use portcullis_guest::{NO_PROXY, PROXY_VARIABLES};

const JAVA_OPTIONS: &str = "JAVA_TOOL_OPTIONS";
/// Variables from which Java takes options, and what begins one that names a proxy.
const JAVA_VARIABLES: [&str; 6] = [
    JAVA_OPTIONS,
    "JDK_JAVA_OPTIONS",
    "_JAVA_OPTIONS",
    "JAVA_OPTS",
    "MAVEN_OPTS",
    "GRADLE_OPTS",
];
const JAVA_PROXY_OPTIONS: [&str; 5] = [
    "-Dhttp.proxy",
    "-Dhttps.proxy",
    "-Dhttp.nonProxyHosts=",
    "-DsocksProxy",
    "-Djava.net.useSystemProxies=",
];

/// Which proxy variables a command gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProxyEnv {
    /// Those of `basic`, and Java's options behind an upstream proxy
    #[default]
    Full,
    /// HTTP_PROXY, HTTPS_PROXY and NO_PROXY, in capitals and small letters
    Basic,
    /// None: every connection is a direct one
    None,
}

/// What decides which variables are set.
#[derive(Clone, Copy, Debug)]
pub struct Proxies {
    /// Which are wanted.
    pub wanted: ProxyEnv,
    /// Where the gateway's HTTP proxy is.
    pub http: SocketAddr,
    /// Whether connections leave through an upstream proxy, which may be all that knows a name.
    pub upstream: bool,
}

/// Replaces every proxy setting of the caller by the sandbox's own.
pub fn set_proxies(env: &mut BTreeMap<OsString, OsString>, proxies: Proxies) {
    env.retain(|name, value| !names_a_proxy(name, value));
    for name in JAVA_VARIABLES {
        if let Some(options) = env.get_mut(OsStr::new(name)) {
            *options = without_java_proxies(options);
        }
    }
    env.retain(|name, options| !(name == JAVA_OPTIONS && options.is_empty()));
    let mut set = |name: &str, value: &str| env.insert(name.into(), value.into());
    for name in ["PORTCULLIS", "CODEX_NETWORK_PROXY_ACTIVE"] {
        set(name, "1");
    }
    if proxies.wanted == ProxyEnv::None {
        return;
    }
    let url = format!("http://{}", proxies.http);
    for name in PROXY_VARIABLES {
        set(name, &url);
    }
    for name in ["NO_PROXY", "no_proxy"] {
        set(name, NO_PROXY);
    }
    if proxies.wanted == ProxyEnv::Full && proxies.upstream {
        let options = env.entry(JAVA_OPTIONS.into()).or_default();
        if !options.is_empty() {
            options.push(" ");
        }
        let (host, port) = (proxies.http.ip(), proxies.http.port());
        options.push(format!(
            "-Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttps.proxyHost={host} \
             -Dhttps.proxyPort={port} -Dhttp.nonProxyHosts=localhost|127.*|[::1]"
        ));
    }
}

/// Whether a variable of the caller steers programs to a proxy that the sandbox cannot reach. A
/// switch, such as `NODE_USE_ENV_PROXY=1`, does not.
fn names_a_proxy(key: &OsStr, value: &OsStr) -> bool {
    let named = key
        .to_str()
        .is_some_and(|key| key.to_ascii_lowercase().ends_with("_proxy"));
    let value = value.to_string_lossy();
    let switch = ["", "0", "1", "true", "false", "yes", "no", "on", "off"];
    named && !switch.contains(&value.trim().to_ascii_lowercase().as_str())
}

fn without_java_proxies(options: &OsStr) -> OsString {
    let Some(text) = options.to_str() else {
        return options.to_owned();
    };
    let proxy = |word: &str| {
        JAVA_PROXY_OPTIONS
            .iter()
            .any(|begin| word.starts_with(begin))
    };
    if !text.split_whitespace().any(proxy) {
        return options.to_owned();
    }
    let kept: Vec<_> = text
        .split_whitespace()
        .filter(|word| !proxy(word))
        .collect();
    kept.join(" ").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Env = BTreeMap<OsString, OsString>;

    fn child(host: &[(&str, &str)], wanted: ProxyEnv, upstream: bool) -> Env {
        let owned = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
        let mut env = host.iter().map(owned).collect();
        let proxies = Proxies {
            wanted,
            http: "10.0.2.2:3128".parse().unwrap(),
            upstream,
        };
        set_proxies(&mut env, proxies);
        env
    }

    fn get<'a>(env: &'a Env, name: &str) -> Option<&'a str> {
        env.get(OsStr::new(name))?.to_str()
    }

    #[test]
    fn the_hosts_proxies_do_not_reach_the_child() {
        let host = [
            ("HTTP_PROXY", "http://corp:1"),
            ("ftp_proxy", "http://corp:2"),
            ("ALL_PROXY", "socks5://corp:3"),
            ("npm_config_https_proxy", "http://corp:4"),
            ("NODE_USE_ENV_PROXY", "1"),
            (
                "MAVEN_OPTS",
                "-Xmx1g -Dhttps.proxyHost=corp -Dhttps.proxyPort=1",
            ),
            ("JAVA_TOOL_OPTIONS", "-Dhttp.proxyHost=corp"),
            ("HOME", "/h"),
        ];
        let url = "http://10.0.2.2:3128";
        for (wanted, expected) in [
            (ProxyEnv::Full, Some(url)),
            (ProxyEnv::Basic, Some(url)),
            (ProxyEnv::None, None),
        ] {
            let env = child(&host, wanted, false);
            for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
                assert_eq!(get(&env, name), expected, "{name}");
            }
            for name in [
                "ftp_proxy",
                "ALL_PROXY",
                "npm_config_https_proxy",
                JAVA_OPTIONS,
            ] {
                assert_eq!(get(&env, name), None, "{name}");
            }
            assert_eq!(get(&env, "NODE_USE_ENV_PROXY"), Some("1"));
            assert_eq!(get(&env, "MAVEN_OPTS"), Some("-Xmx1g"));
            assert_eq!(get(&env, "HOME"), Some("/h"));
            assert_eq!(get(&env, "CODEX_NETWORK_PROXY_ACTIVE"), Some("1"));
        }
    }

    #[test]
    fn java_is_told_of_the_proxy_only_behind_an_upstream_proxy() {
        let host = [("JAVA_TOOL_OPTIONS", "-Xmx1g")];
        let env = child(&host, ProxyEnv::Full, true);
        let options = get(&env, JAVA_OPTIONS).unwrap();
        assert!(
            options.starts_with("-Xmx1g -Dhttp.proxyHost=10.0.2.2 "),
            "{options}"
        );
        for (wanted, upstream) in [
            (ProxyEnv::Full, false),
            (ProxyEnv::Basic, true),
            (ProxyEnv::None, true),
        ] {
            let env = child(&host, wanted, upstream);
            assert_eq!(get(&env, JAVA_OPTIONS), Some("-Xmx1g"));
        }
    }
}
