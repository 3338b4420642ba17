//! What container engines say to a network plugin and hear from it (Container Network Interface specification,
//! 1.0.0, 0.4.0 and 0.3.1).
//!
//! Answers *failing open* (docs/threats.md): what is not understood is an error, and no container starts on one.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::api::Name;

/// The versions that are spoken, the newest last.
pub const CNI_VERSIONS: [&str; 3] = ["0.3.1", "0.4.0", "1.0.0"];
/// The last version whose results say of each address which IP it is of.
const WITH_IP_VERSION: [&str; 2] = ["0.3.1", "0.4.0"];
/// What sandboxes of network plugins are called before their container's id.
const PREFIX: &str = "cni-";
/// The longest name of a device, in bytes.
const MAX_DEVICE_BYTES: usize = 15;
/// The hardware address of a loopback.
const NO_HARDWARE_ADDRESS: &str = "00:00:00:00:00:00";

/// Why a plugin fails: the codes of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CniCode {
    /// The version is not spoken.
    Version = 1,
    /// A variable is missing or invalid.
    Environment = 4,
    /// Something could not be read.
    Io = 5,
    /// The configuration is no JSON, or of other types.
    Decode = 6,
    /// The configuration is invalid.
    Config = 7,
    /// It may go well later.
    Later = 11,
    /// The daemon refuses.
    Refused = 100,
    /// The container's gateway is not as it should be.
    NotServed = 101,
}

/// Why a plugin fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// The code.
    pub code: CniCode,
    /// What happened.
    pub message: String,
    /// More of it.
    pub details: String,
}

impl CniError {
    /// An error without details.
    pub fn new(code: CniCode, message: impl Into<String>) -> CniError {
        CniError {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    /// What is written to standard output, for an engine that speaks `version`.
    pub fn json(&self, version: &str) -> Value {
        let mut error = json!({
            "cniVersion": version,
            "code": self.code as u16,
            "msg": self.message,
        });
        if !self.details.is_empty() {
            error["details"] = json!(self.details);
        }
        error
    }
}

/// The configuration of a network, as far as it is this plugin's business.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniConfig {
    /// The version of the specification that the engine speaks.
    #[serde(default)]
    pub cni_version: String,
    /// The network's name.
    #[serde(default)]
    pub name: String,
    /// The policy's file.
    #[serde(default)]
    pub policy: Option<PathBuf>,
    /// The daemon's control socket, where it is not the usual one.
    #[serde(default)]
    pub control: Option<PathBuf>,
    /// What the plugins before this one have made.
    #[serde(default)]
    pub prev_result: Option<Map<String, Value>>,
}

impl CniConfig {
    /// Reads what an engine wrote.
    ///
    /// # Errors
    /// It is no configuration, or of a version that is not spoken.
    pub fn read(text: &[u8]) -> Result<CniConfig, CniError> {
        let decode = |error: serde_json::Error| CniError::new(CniCode::Decode, error.to_string());
        // An object: serde takes a list of a structure's values for it as well.
        let object: Map<String, Value> = serde_json::from_slice(text).map_err(decode)?;
        let config: CniConfig = serde_json::from_value(object.into()).map_err(decode)?;
        if !CNI_VERSIONS.contains(&&*config.cni_version) {
            let message = format!("cniVersion {:?} is not supported", config.cni_version);
            return Err(CniError {
                details: format!("supported: {}", CNI_VERSIONS.join(", ")),
                ..CniError::new(CniCode::Version, message)
            });
        }
        if config.name.is_empty() {
            return Err(CniError::new(CniCode::Config, "`name` is missing"));
        }
        Ok(config)
    }
}

/// Which container, and which device of it, as the environment says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniContainer {
    /// Its id.
    pub id: String,
    /// The device's name.
    pub device: String,
}

impl CniContainer {
    /// Takes what `CNI_CONTAINERID` and `CNI_IFNAME` say.
    ///
    /// # Errors
    /// One of them is missing or invalid.
    pub fn new(id: Option<String>, device: Option<String>) -> Result<CniContainer, CniError> {
        let invalid = |what: &str| {
            let message = format!("{what} is missing or invalid");
            CniError::new(CniCode::Environment, message)
        };
        let is_id = |id: &String| {
            id.starts_with(|first: char| first.is_ascii_alphanumeric())
                && (id.bytes()).all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        let is_device = |device: &String| {
            (1..=MAX_DEVICE_BYTES).contains(&device.len())
                && ![".", ".."].contains(&&**device)
                && !device.contains(|one: char| one == '/' || one == ':' || one.is_whitespace())
        };
        Ok(CniContainer {
            id: id.filter(is_id).ok_or_else(|| invalid("CNI_CONTAINERID"))?,
            device: device
                .filter(is_device)
                .ok_or_else(|| invalid("CNI_IFNAME"))?,
        })
    }

    /// What its sandbox is called.
    pub fn sandbox_name(&self) -> Name {
        Name::of_foreign(PREFIX, &format!("{}.{}", self.id, self.device))
    }
}

/// What a plugin without others before it has made: addresses of the loopback.
#[derive(Clone, Debug, Serialize)]
pub struct CniMade<'a> {
    /// The namespace's path.
    pub namespace: &'a str,
    /// The container's addresses with the lengths of their prefixes, IPv4 and IPv6.
    pub addresses: [String; 2],
    /// Where they lead to.
    pub gateway: String,
    /// The resolver.
    pub resolver: String,
}

impl CniMade<'_> {
    /// The result of ADD: what was there before, with our resolver; or what is made by this plugin alone.
    pub fn result(&self, config: &CniConfig) -> Value {
        let mut result = match &config.prev_result {
            Some(before) => Value::Object(before.clone()),
            None => self.alone(&config.cni_version),
        };
        result["cniVersion"] = json!(config.cni_version);
        let dns = result.get("dns").and_then(Value::as_object).cloned();
        let mut dns = dns.unwrap_or_default();
        dns.insert("nameservers".to_owned(), json!([self.resolver]));
        result["dns"] = Value::Object(dns);
        result
    }

    fn alone(&self, version: &str) -> Value {
        let [four, six] = &self.addresses;
        let mut ips = [
            json!({"address": four, "gateway": self.gateway, "interface": 0}),
            json!({"address": six, "interface": 0}),
        ];
        if WITH_IP_VERSION.contains(&version) {
            ips[0]["version"] = json!("4");
            ips[1]["version"] = json!("6");
        }
        json!({
            "interfaces": [{"name": "lo", "mac": NO_HARDWARE_ADDRESS, "sandbox": self.namespace}],
            "ips": ips,
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Option<CniCode> {
        CniConfig::read(text.as_bytes())
            .err()
            .map(|error| error.code)
    }

    #[test]
    fn only_versions_that_are_spoken_are_taken() {
        for version in CNI_VERSIONS {
            let text =
                format!(r#"{{"cniVersion": "{version}", "name": "n", "type": "portcullis"}}"#);
            assert_eq!(code(&text), None, "{version}");
        }
        for version in ["", "0.1.0", "0.2.0", "1.1.0", "2.0.0", "1.0.0 "] {
            let text = format!(r#"{{"cniVersion": "{version}", "name": "n"}}"#);
            assert_eq!(code(&text), Some(CniCode::Version), "{version}");
        }
        assert_eq!(code(r#"{"name": "n"}"#), Some(CniCode::Version));
        assert_eq!(code(r#"{"cniVersion": "1.0.0"}"#), Some(CniCode::Config));
        for text in [
            "",
            "[]",
            "{",
            r#"{"cniVersion": 1}"#,
            r#"{"prevResult": []}"#,
        ] {
            assert_eq!(code(text), Some(CniCode::Decode), "{text}");
        }
    }

    #[test]
    fn a_container_has_an_id_and_a_device() {
        let of = |id: &str, device: &str| {
            CniContainer::new(Some(id.to_owned()), Some(device.to_owned()))
        };
        assert_eq!(
            of("a1", "eth0").unwrap().sandbox_name().as_str(),
            "cni-a1.eth0"
        );
        assert_ne!(
            of("a1", "eth0").unwrap().sandbox_name(),
            of("A1", "eth0").unwrap().sandbox_name()
        );
        for id in ["", "-a", "a/b", "../x", "a b", "a\n"] {
            assert!(of(id, "eth0").is_err(), "{id:?}");
        }
        for device in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-letters-"] {
            assert!(of("a", device).is_err(), "{device:?}");
        }
        assert!(CniContainer::new(None, Some("eth0".to_owned())).is_err());
        assert!(CniContainer::new(Some("a".to_owned()), None).is_err());
    }

    #[test]
    fn a_result_keeps_what_was_before_and_names_the_resolver() {
        let made = CniMade {
            namespace: "/run/netns/n",
            addresses: ["10.0.2.15/32".to_owned(), "fd00::15/128".to_owned()],
            gateway: "10.0.2.2".to_owned(),
            resolver: "10.0.2.3".to_owned(),
        };
        let config = |version: &str, before: &str| {
            let text = format!(r#"{{"cniVersion": "{version}", "name": "n"{before}}}"#);
            CniConfig::read(text.as_bytes()).unwrap()
        };
        let alone = made.result(&config("1.0.0", ""));
        assert_eq!(alone["ips"][0]["address"], "10.0.2.15/32");
        assert_eq!(alone["ips"][0].get("version"), None);
        assert_eq!(alone["interfaces"][0]["sandbox"], "/run/netns/n");
        let older = made.result(&config("0.4.0", ""));
        assert_eq!(older["ips"][1]["version"], "6");
        let before = r#", "prevResult": {"ips": [{"address": "10.9.0.2/24"}], "dns": {"search": ["a"],
            "nameservers": ["1.1.1.1"]}}"#;
        let chained = made.result(&config("1.0.0", before));
        assert_eq!(chained["ips"], json!([{"address": "10.9.0.2/24"}]));
        assert_eq!(
            chained["dns"],
            json!({"search": ["a"], "nameservers": ["10.0.2.3"]})
        );
        assert_eq!(chained["cniVersion"], "1.0.0");
    }
}
