//! Shell text that sets a guest up: the proxies, the authority and the resolver.
//!
//! It is plain POSIX shell, so that busybox runs it, and may run twice. Nothing in it comes from
//! outside: addresses, and a certificate that the gateway made.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::status_page::StatusPage;

/// Variables that name a file with certificate authorities, PEM: OpenSSL and Python, requests, pip,
/// Node, curl, git, cargo, Deno, the AWS tools, gRPC, httplib2, what Nix builds, Google Cloud's tools.
pub const AUTHORITY_VARIABLES: [&str; 13] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "HTTPLIB2_CA_CERTS",
    "NIX_SSL_CERT_FILE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
];

/// Variables that name a proxy for HTTP or HTTPS.
pub const PROXY_VARIABLES: [&str; 4] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"];

/// Destinations that programs should reach without a proxy: the machine's own loopback.
pub const NO_PROXY: &str = "localhost,127.0.0.1,::1";

/// Marks the end of a file in the script; no line of a certificate looks like it.
const END: &str = "PORTCULLIS_END";

/// What finds the folder for what is made: for everybody where root asks, for one user otherwise.
const FOLDER: &str = r#"if [ "$(id -u)" = 0 ]; then
  portcullis_dir=/etc/portcullis
else
  portcullis_dir=${HOME:-/tmp}/.config/portcullis
fi
"#;

/// What makes a list of authorities of the machine's own list and ours.
const BUNDLE: &str = r#"{
  for list in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem; do
    if [ -s "$list" ]; then cat "$list"; break; fi
  done
  cat "$portcullis_dir/ca.pem"
} > "$portcullis_dir/bundle.pem"
"#;

/// What has the machine's own list of authorities take ours in. Where there is neither a list nor a tool
/// for one, ours is the list.
const SYSTEM_LIST: &str = r#"if [ "$(id -u)" = 0 ]; then
  if command -v update-ca-certificates > /dev/null 2>&1; then
    mkdir -p /usr/local/share/ca-certificates &&
      cp "$portcullis_dir/ca.pem" /usr/local/share/ca-certificates/portcullis.crt &&
      update-ca-certificates > /dev/null 2>&1 || echo 'portcullis: update-ca-certificates failed' >&2
  elif command -v update-ca-trust > /dev/null 2>&1; then
    mkdir -p /etc/pki/ca-trust/source/anchors &&
      cp "$portcullis_dir/ca.pem" /etc/pki/ca-trust/source/anchors/portcullis.pem &&
      update-ca-trust > /dev/null 2>&1 || echo 'portcullis: update-ca-trust failed' >&2
  elif [ ! -e /etc/ssl/certs/ca-certificates.crt ] && [ ! -e /etc/ssl/cert.pem ]; then
    mkdir -p /etc/ssl/certs && cp "$portcullis_dir/bundle.pem" /etc/ssl/certs/ca-certificates.crt
  fi
fi
"#;

/// What makes login shells read the variables, and tells how this one does.
const PROFILE: &str = r#"if [ "$(id -u)" = 0 ]; then
  mkdir -p /etc/profile.d && cp "$portcullis_dir/env" /etc/profile.d/portcullis.sh
fi
echo "This machine is set up. For this shell: . $portcullis_dir/env"
"#;

/// Lines that set the variables of a shell.
pub(crate) fn environment(page: &StatusPage) -> String {
    let mut text = String::new();
    // A machine without IPv4 does not reach the proxies, and needs none.
    let net = match page.http.ip() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{a}\\.{b}\\.{c}\\.")
        }
        IpAddr::V6(_) => String::new(),
    };
    let _ = writeln!(
        text,
        "if [ ! -r /proc/net/fib_trie ] || grep -q '{net}' /proc/net/fib_trie; then"
    );
    for name in PROXY_VARIABLES {
        let _ = writeln!(text, "  export {name}=http://{}", page.http);
    }
    let _ = writeln!(text, "  export NO_PROXY={NO_PROXY} no_proxy={NO_PROXY}\nfi");
    if let Some(pem) = &page.ca_pem {
        text.push_str(FOLDER);
        // What root has set up is for everybody. What was written before may be of another gateway.
        text.push_str(
            "if [ -s /etc/portcullis/bundle.pem ]; then portcullis_dir=/etc/portcullis; fi\n",
        );
        text.push_str("mkdir -p \"$portcullis_dir\"\nif [ -w \"$portcullis_dir\" ]; then\n");
        authority(&mut text, pem);
        text.push_str("fi\n");
        for name in AUTHORITY_VARIABLES {
            let _ = writeln!(text, "export {name}=\"$portcullis_dir/bundle.pem\"");
        }
    }
    text
}

/// The script that sets a machine up.
pub(crate) fn script(page: &StatusPage) -> String {
    let mut text = String::from(
        "#!/bin/sh\n# Sets this machine up for the network of its Portcullis sandbox.\nset -e\n",
    );
    text.push_str(FOLDER);
    text.push_str("mkdir -p \"$portcullis_dir\"\n");
    if let Some(pem) = &page.ca_pem {
        authority(&mut text, pem);
        text.push_str(SYSTEM_LIST);
    }
    let _ = writeln!(text, "cat > \"$portcullis_dir/env\" <<'{END}_ENV'");
    text.push_str(&environment(page));
    let _ = writeln!(text, "{END}_ENV");
    // Any resolver that is named is answered by the gateway: one is written only where none is.
    text.push_str(
        "if [ \"$(id -u)\" = 0 ] && ! grep -qs '^nameserver' /etc/resolv.conf; then\n\
         cat > /etc/resolv.conf <<'PORTCULLIS_END'\n",
    );
    text.push_str(&resolv_conf(page));
    let _ = writeln!(text, "{END}\nfi");
    text.push_str(PROFILE);
    text
}

/// The lines that write the authority and the list with it.
fn authority(text: &mut String, pem: &str) {
    let _ = writeln!(text, "cat > \"$portcullis_dir/ca.pem\" <<'{END}'");
    text.push_str(pem);
    if !pem.ends_with('\n') {
        text.push('\n');
    }
    let _ = writeln!(text, "{END}");
    text.push_str(BUNDLE);
}

/// The resolver, as `resolv.conf` names it.
pub(crate) fn resolv_conf(page: &StatusPage) -> String {
    format!(
        "nameserver {}\nnameserver {}\n",
        page.resolver, page.resolver6
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::status_page::tests::page;

    /// What a shell says to `script`, at home in a folder of its own.
    fn sh(script: &str, home: &std::path::Path) -> String {
        let mut shell = Command::new("sh")
            .arg("-eu")
            .env_clear()
            .env("HOME", home)
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Not root, whoever runs the tests: what is written stays at home.
        let script = format!("id() {{ echo 1000; }}\n{script}");
        shell
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        let ended = shell.wait_with_output().unwrap();
        assert!(ended.status.success(), "{script}");
        String::from_utf8(ended.stdout).unwrap()
    }

    #[test]
    fn a_shell_that_runs_the_lines_has_the_variables_and_the_file() {
        let home = std::env::temp_dir().join(format!("portcullis-setup-{}", std::process::id()));
        std::fs::create_dir_all(&home).unwrap();
        let page = page(Some(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        ));
        // The test's machine need not have the guest's network.
        let lines = environment(&page).replace("/proc/net/fib_trie", "/nowhere");
        for _ in 0..2 {
            let said = sh(&format!("{lines}\nenv"), &home);
            for name in PROXY_VARIABLES {
                assert!(
                    said.contains(&format!("{name}=http://10.0.2.2:3128\n")),
                    "{said}"
                );
            }
            let bundle = home.join(".config/portcullis/bundle.pem");
            for name in AUTHORITY_VARIABLES {
                assert!(
                    said.contains(&format!("{name}={}\n", bundle.display())),
                    "{said}"
                );
            }
            let bundle = std::fs::read_to_string(bundle).unwrap();
            assert!(
                bundle.ends_with("AAAA\n-----END CERTIFICATE-----\n"),
                "{bundle}"
            );
            let said = sh(&script(&page), &home);
            assert!(said.contains("set up"), "{said}");
        }
        let env = std::fs::read_to_string(home.join(".config/portcullis/env")).unwrap();
        assert_eq!(env, environment(&page));
        std::fs::remove_dir_all(home).unwrap();
    }
}
