//! The variables by which programs that bring their own list of certificate authorities are told of
//! the sandbox's, where the policy inspects something.
//!
//! Programs that read the system's list need none of them: it is covered inside. What the caller's
//! own variables name is not lost: those authorities are in the sandbox's list too.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use portcullis_sandbox::{TRUST_BUNDLE, TRUST_CA, TRUST_JAVA};

/// Variables that name a file with authorities, PEM: OpenSSL and Python, requests, pip, Node, curl,
/// git, cargo, Deno, the AWS tools.
const NAME_A_BUNDLE: [&str; 9] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
    "AWS_CA_BUNDLE",
];
/// Where the gateway's own authority is, for a guest that it has to be copied into.
const OWN_AUTHORITY: &str = "PORTCULLIS_CA_FILE";
const JAVA_OPTIONS: &str = "JAVA_TOOL_OPTIONS";
/// The option by which a Java program is told of its trust store.
const JAVA_TRUST_STORE: &str = "-Djavax.net.ssl.trustStore=";

/// The files that the environment names authorities in.
pub fn roots(env: &[(OsString, OsString)]) -> Vec<PathBuf> {
    let named = |(name, value): &(OsString, OsString)| {
        let ours = NAME_A_BUNDLE.iter().any(|known| name == known);
        (ours && !value.is_empty()).then(|| PathBuf::from(value))
    };
    let mut files: Vec<PathBuf> = env.iter().filter_map(named).collect();
    files.sort_unstable();
    files.dedup();
    files
}

/// Points every variable at the sandbox's list.
pub fn add(env: &mut Vec<(OsString, OsString)>) {
    env.retain(|(name, _)| {
        !NAME_A_BUNDLE.iter().any(|known| name == known) && name != OWN_AUTHORITY
    });
    for name in NAME_A_BUNDLE {
        env.push((name.into(), TRUST_BUNDLE.into()));
    }
    env.push((OWN_AUTHORITY.into(), TRUST_CA.into()));
    let ours = format!("{JAVA_TRUST_STORE}{TRUST_JAVA} -Djavax.net.ssl.trustStoreType=JKS");
    match env.iter_mut().find(|(name, _)| name == JAVA_OPTIONS) {
        // A store of the caller's own cannot be added to ours, and was chosen for a reason.
        Some((_, options)) if contains(options, JAVA_TRUST_STORE) => {}
        Some((_, options)) => {
            options.push(" ");
            options.push(ours);
        }
        None => env.push((JAVA_OPTIONS.into(), ours.into())),
    }
}

fn contains(options: &OsStr, part: &str) -> bool {
    options.to_string_lossy().contains(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        let owned = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
        pairs.iter().map(owned).collect()
    }

    fn get<'a>(env: &'a [(OsString, OsString)], name: &str) -> Vec<&'a str> {
        let named = env.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| value.to_str().unwrap()).collect()
    }

    #[test]
    fn the_caller_s_files_are_read_and_its_variables_replaced() {
        let mut env = env(&[
            ("SSL_CERT_FILE", "/corp/roots.pem"),
            ("NODE_EXTRA_CA_CERTS", "/corp/roots.pem"),
            ("GIT_SSL_CAINFO", ""),
            ("HOME", "/h"),
        ]);
        assert_eq!(roots(&env), [PathBuf::from("/corp/roots.pem")]);
        add(&mut env);
        for name in NAME_A_BUNDLE {
            assert_eq!(get(&env, name), [TRUST_BUNDLE], "{name}");
        }
        assert_eq!(get(&env, "PORTCULLIS_CA_FILE"), [TRUST_CA]);
        assert_eq!(get(&env, "HOME"), ["/h"]);
    }

    #[test]
    fn java_gets_a_store_unless_the_caller_chose_one() {
        let mut plain = env(&[("JAVA_TOOL_OPTIONS", "-Xmx1g")]);
        add(&mut plain);
        let options = get(&plain, "JAVA_TOOL_OPTIONS")[0];
        assert!(
            options.starts_with("-Xmx1g -Djavax.net.ssl.trustStore=/run/"),
            "{options}"
        );
        let chosen = "-Djavax.net.ssl.trustStore=/corp/store";
        let mut own = env(&[("JAVA_TOOL_OPTIONS", chosen)]);
        add(&mut own);
        assert_eq!(get(&own, "JAVA_TOOL_OPTIONS"), [chosen]);
        let mut none = Vec::new();
        add(&mut none);
        assert_eq!(get(&none, "JAVA_TOOL_OPTIONS").len(), 1);
    }
}
