//! Proxy auto-configuration: where a browser finds the proxy.
//!
//! The script keeps to the oldest JavaScript and calls no helper, since some evaluators have none. A
//! guest without IPv4 does not reach the proxy and goes on directly, where the same policy holds.

use std::net::SocketAddr;

/// The script.
pub(crate) fn script(proxy: SocketAddr) -> String {
    format!(
        r#"function FindProxyForURL(url, host) {{
  var name = String(host).toLowerCase().replace(/^\[/, "").replace(/\]$/, "").replace(/\.$/, "");
  if (name === "localhost" || /\.localhost$/.test(name) || name === "::1" ||
      /^127\.[0-9]+\.[0-9]+\.[0-9]+$/.test(name)) {{
    return "DIRECT";
  }}
  return "PROXY {proxy}; DIRECT";
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_is_named_as_it_is_reached() {
        let script = script("10.0.2.2:3128".parse().unwrap());
        assert!(
            script.contains("\"PROXY 10.0.2.2:3128; DIRECT\""),
            "{script}"
        );
        assert!(!script.contains("{{"), "{script}");
    }
}
