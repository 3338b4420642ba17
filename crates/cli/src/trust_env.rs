//! The variables by which programs that bring their own list of certificate authorities are told of
//! the sandbox's, where the policy inspects something.
//!
//! Programs that read the system's list need none of them: it is covered inside. What the caller's
//! own variables name is not lost: those authorities are in the sandbox's list too.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use portcullis_guest::AUTHORITY_VARIABLES;
use portcullis_sandbox::{TRUST_BUNDLE, TRUST_CA, TRUST_JAVA};

/// Where the gateway's own authority is, for a guest that it has to be copied into.
const OWN_AUTHORITY: &str = "PORTCULLIS_CA_FILE";
const JAVA_OPTIONS: &str = "JAVA_TOOL_OPTIONS";
/// The option by which a Java program is told of its trust store.
const JAVA_TRUST_STORE: &str = "-Djavax.net.ssl.trustStore=";

/// The files that the environment names authorities in.
pub fn roots(env: &BTreeMap<OsString, OsString>) -> Vec<PathBuf> {
    let named = AUTHORITY_VARIABLES
        .iter()
        .filter_map(|name| env.get(OsStr::new(name)));
    let files = named.filter(|value| !value.is_empty());
    let mut files: Vec<PathBuf> = files.map(PathBuf::from).collect();
    files.sort_unstable();
    files.dedup();
    files
}

/// Points every variable at the sandbox's list.
pub fn add(env: &mut BTreeMap<OsString, OsString>) {
    for name in AUTHORITY_VARIABLES {
        env.insert(name.into(), TRUST_BUNDLE.into());
    }
    env.insert(OWN_AUTHORITY.into(), TRUST_CA.into());
    let options = env.entry(JAVA_OPTIONS.into()).or_default();
    // A store of the caller's own cannot be added to ours, and was chosen for a reason.
    if !contains(options, JAVA_TRUST_STORE) {
        if !options.is_empty() {
            options.push(" ");
        }
        options.push(format!(
            "{JAVA_TRUST_STORE}{TRUST_JAVA} -Djavax.net.ssl.trustStoreType=JKS"
        ));
    }
}

fn contains(options: &OsStr, part: &str) -> bool {
    options.to_string_lossy().contains(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<OsString, OsString> {
        let owned = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
        pairs.iter().map(owned).collect()
    }

    fn get<'a>(env: &'a BTreeMap<OsString, OsString>, name: &str) -> Option<&'a str> {
        env.get(OsStr::new(name))?.to_str()
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
        for name in AUTHORITY_VARIABLES {
            assert_eq!(get(&env, name), Some(TRUST_BUNDLE), "{name}");
        }
        assert_eq!(get(&env, "PORTCULLIS_CA_FILE"), Some(TRUST_CA));
        assert_eq!(get(&env, "HOME"), Some("/h"));
    }

    #[test]
    fn java_gets_a_store_unless_the_caller_chose_one() {
        let mut plain = env(&[("JAVA_TOOL_OPTIONS", "-Xmx1g")]);
        add(&mut plain);
        let options = get(&plain, "JAVA_TOOL_OPTIONS").unwrap();
        assert!(
            options.starts_with("-Xmx1g -Djavax.net.ssl.trustStore=/run/"),
            "{options}"
        );
        let chosen = "-Djavax.net.ssl.trustStore=/corp/store";
        let mut own = env(&[("JAVA_TOOL_OPTIONS", chosen)]);
        add(&mut own);
        assert_eq!(get(&own, "JAVA_TOOL_OPTIONS"), Some(chosen));
        let mut none = BTreeMap::new();
        add(&mut none);
        assert!(get(&none, "JAVA_TOOL_OPTIONS").is_some());
    }
}
