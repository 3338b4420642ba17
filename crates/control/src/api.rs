//! The values of the API. Each is documented once, here; the OpenAPI document is made from these types.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use portcullis_policy::{Diagnostic, Explanation, Severity, Verdict};
use portcullis_record::ObservedDecision;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest name of a sandbox, in bytes.
const MAX_NAME_BYTES: usize = 63;
/// The most targets of one question.
const MAX_TARGETS: usize = 256;

/// The longest name of another program's that becomes part of a sandbox's as it stands, in bytes. Files are called after
/// sandboxes, and the path of a socket is short.
const MAX_FOREIGN_BYTES: usize = 32;
/// How much of a longer one is kept, in characters: what engines show of a container's id.
const FOREIGN_BEGINNING: usize = 12;

/// The name of a sandbox: 1 to 63 of a-z, 0-9, `-`, `_` and `.`, beginning with a letter or a digit. So it
/// is one component of a path and of a URL, whatever it says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[schema(value_type = String, pattern = "^[a-z0-9][a-z0-9._-]{0,62}$", example = "build-7")]
pub struct Name(String);

impl Name {
    /// As it stands.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one that `hook` or `cni` gives a container.
    pub fn is_of_container(&self) -> bool {
        ["oci-", "cni-"]
            .iter()
            .any(|prefix| self.0.starts_with(prefix))
    }

    /// A name for what another program calls `foreign`: that behind `prefix` where it is short and a name, else its
    /// beginning, and what tells it from others. `prefix` is the beginning of a name.
    pub(crate) fn of_foreign(prefix: &'static str, foreign: &str) -> Name {
        let whole = format!("{prefix}{foreign}");
        if let (true, Ok(name)) = (foreign.len() <= MAX_FOREIGN_BYTES, whole.parse()) {
            return name;
        }
        // FNV-1a: two that become the same by chance are refused as one name twice.
        let mark = foreign
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |mark: u64, byte| {
                (mark ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let fits = |character: char| match character.to_ascii_lowercase() {
            fits @ ('a'..='z' | '0'..='9' | '-' | '.') => fits,
            _ => '_',
        };
        let beginning = foreign.chars().take(FOREIGN_BEGINNING).map(fits);
        let beginning: String = prefix.chars().chain(beginning).collect();
        Name(format!("{beginning}-{mark:016x}"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Name, &'static str> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let first = text.bytes().next().is_some_and(fits);
        let rest = text
            .bytes()
            .all(|byte| fits(byte) || b"-_.".contains(&byte));
        if first && rest && text.len() <= MAX_NAME_BYTES {
            return Ok(Name(text.to_owned()));
        }
        Err("a name is 1 to 63 of a-z, 0-9, `-`, `_` and `.`, and begins with a letter or a digit")
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a sandbox is, so that its traffic can be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum AttachTo {
    /// The network namespace of a process; the caller must own it, or be an administrator. The sandbox ends
    /// with the process.
    Pid {
        /// The process, as the daemon sees it.
        #[schema(minimum = 2, maximum = 4194304)]
        pid: u32,
        /// The folder in the process's mount namespace that its container runtime makes its root directory
        /// (`root.path` of an OCI bundle), while it has not yet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>)]
        root: Option<PathBuf>,
    },
    /// A network namespace that a path names. Administrators only.
    Netns {
        /// A file of a namespace, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
        #[schema(value_type = String)]
        path: PathBuf,
    },
    /// A virtual machine, whose frames come and go on a Unix socket that the daemon makes for the caller.
    VmSocket {
        /// How frames stand on it.
        #[serde(default)]
        framing: Framing,
        /// The largest packet that the guest is told to use, in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(minimum = 1280, maximum = 65520)]
        mtu: Option<u16>,
    },
    /// A virtual machine, on a TAP device that the daemon makes in a network namespace of its own. The answer
    /// names both. Administrators only: the namespace is entered by its path.
    Tap {
        /// The user that may open the device; the caller where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<u32>,
        /// The largest packet that the guest is told to use, in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(minimum = 1280, maximum = 65520)]
        mtu: Option<u16>,
    },
    /// Listeners of the host: programs that ignore them are not held in. Administrators only. If none is named, there
    /// are all three on free ports of the loopback.
    Listeners {
        /// DNS over UDP and TCP; port 0 takes a free one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>, pattern = "^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])([.](25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}|\\[::1?\\]):(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}|0)$", example = "127.0.0.1:0")]
        dns: Option<SocketAddr>,
        /// The HTTP proxy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>, pattern = "^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])([.](25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}|\\[::1?\\]):(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}|0)$", example = "127.0.0.1:0")]
        http: Option<SocketAddr>,
        /// The SOCKS5 proxy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<String>, pattern = "^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])([.](25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}|\\[::1?\\]):(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}|0)$", example = "127.0.0.1:0")]
        socks5: Option<SocketAddr>,
    },
}

/// How a guest's frames stand on a Unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Framing {
    /// A stream, each frame behind its length in four bytes: QEMU's `-netdev stream`, passt, libkrun.
    #[default]
    Stream,
    /// A datagram each: libkrun, vfkit, lima, QEMU's `-netdev dgram`.
    Datagram,
    /// A message each, on a connection (`SOCK_SEQPACKET`).
    Seqpacket,
}

/// The format of a policy's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyFormat {
    /// TOML.
    #[default]
    Toml,
    /// YAML.
    Yaml,
    /// JSON.
    Json,
}

impl PolicyFormat {
    /// What a file of it is called at the end.
    pub fn extension(self) -> &'static str {
        match self {
            PolicyFormat::Toml => "toml",
            PolicyFormat::Yaml => "yaml",
            PolicyFormat::Json => "json",
        }
    }
}

/// A policy as its author wrote it. `include` and files of credentials are refused: the daemon reads no
/// path that a client names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyText {
    /// Its format.
    #[serde(default)]
    pub format: PolicyFormat,
    /// The text.
    pub text: String,
}

/// A sandbox to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSandbox {
    /// Its name, which no other has.
    pub name: Name,
    /// What it is.
    pub attach: AttachTo,
    /// Its policy; without one, everything is refused.
    #[serde(default)]
    pub policy: PolicyText,
    /// What its records say besides: at most 16 labels, which have at most 1024 bytes together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Decide and record, but refuse nothing other than private addresses.
    #[serde(default)]
    pub audit: bool,
}

/// What is to be different about a sandbox; what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Whether it only decides and records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<bool>,
}

/// How a sandbox does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its doors are served.
    Serving,
    /// It has no door now, so that nothing passes; `error` says why.
    CutOff,
}

/// Where a sandbox's doors on the host are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Listening {
    /// DNS over UDP and TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub dns: Option<SocketAddr>,
    /// The HTTP proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub http: Option<SocketAddr>,
    /// The SOCKS5 proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub socks5: Option<SocketAddr>,
    /// The Unix socket of a virtual machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub guest: Option<PathBuf>,
    /// The TAP device of a virtual machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<TapDevice>,
}

/// A TAP device, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TapDevice {
    /// Its name.
    pub name: String,
    /// The network namespace that it is in. The path holds as long as the sandbox does.
    #[schema(value_type = String)]
    pub netns: PathBuf,
}

/// Decisions since the daemon serves the sandbox, by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// Allowed.
    pub allow: u64,
    /// Refused by policy, guard or limit.
    pub deny: u64,
    /// Allowed, and failed outside.
    pub error: u64,
    /// Would have been refused.
    pub audit: u64,
}

/// A sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sandbox {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub attach: AttachTo,
    /// The user who made it.
    pub owner: u32,
    /// How it does.
    pub state: State,
    /// Why it is cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What its owner should know, if anything: why its programs still see their own `resolv.conf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Where its listeners are, if it has any on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listening: Option<Listening>,
    /// Since when the daemon has known it, in seconds since 1970.
    pub since: u64,
    /// How many rules its policy has.
    pub rules: u64,
    /// Whether it only decides and records.
    pub audit: bool,
    /// What its records say besides.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its decisions.
    pub decisions: Counts,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The policy does not load.
    Error,
    /// The policy loads.
    Warning,
}

/// Something about a policy that its author should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The line, from 1; 0 where there is none.
    pub line: u64,
    /// The column in characters, from 1; 0 where there is none.
    pub column: u64,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<&Diagnostic> for Finding {
    fn from(diagnostic: &Diagnostic) -> Finding {
        Finding {
            level: match diagnostic.severity {
                Severity::Error => Level::Error,
                Severity::Warning => Level::Warning,
            },
            line: diagnostic.line as u64,
            column: diagnostic.column as u64,
            message: diagnostic.message.clone(),
            hint: diagnostic.hint.clone(),
        }
    }
}

/// A policy is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// How many rules it has.
    pub rules: u64,
    /// Open flows that it no longer allows, and that were cut.
    pub cut: u64,
    /// Warnings.
    pub findings: Vec<Finding>,
}

/// Targets to be explained: `NAME`, `NAME:PORT`, `NAME:*`, `CIDR` or `CIDR:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetList {
    /// 1 to 256 of them.
    #[serde(deserialize_with = "targets")]
    #[schema(min_items = 1, max_items = 256)]
    pub targets: Vec<String>,
}

fn targets<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let targets = Vec::<String>::deserialize(deserializer)?;
    match targets.len() {
        1..=MAX_TARGETS => Ok(targets),
        _ => Err(serde::de::Error::custom("1 to 256 targets are needed")),
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
        Verdict::Error => "error",
        Verdict::Audit => "audit",
    }
}

/// What a policy says to a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explained {
    /// The target, in canonical form.
    pub target: String,
    /// `allow`, `deny` or `audit`; `error` if the target is not understood.
    pub verdict: String,
    /// The reason's code; empty if the target is not understood.
    pub reason: String,
    /// The deciding rule as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Where it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What there is to say, a sentence each.
    pub sentences: Vec<String>,
    /// All of it, as `portcullis explain` prints it.
    pub text: String,
    /// The lines that would allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl Explained {
    /// A target that is not understood, and why.
    pub fn not_understood(target: &str, why: &str) -> Explained {
        Explained {
            target: target.to_owned(),
            verdict: verdict(Verdict::Error).to_owned(),
            reason: String::new(),
            rule: None,
            source: None,
            sentences: vec![why.to_owned()],
            text: format!("{target}: {why}"),
            suggestion: None,
        }
    }

    /// Whether it would pass.
    pub fn is_allowed(&self) -> bool {
        self.verdict == verdict(Verdict::Allow)
    }

    /// Whether its target is not understood.
    pub fn is_error(&self) -> bool {
        self.verdict == verdict(Verdict::Error)
    }
}

impl From<Explanation> for Explained {
    fn from(explanation: Explanation) -> Explained {
        Explained {
            text: explanation.to_string(),
            target: explanation.target,
            verdict: verdict(explanation.verdict).to_owned(),
            reason: explanation.reason.code().to_owned(),
            rule: explanation.rule,
            source: explanation.source,
            sentences: explanation.sentences,
            suggestion: explanation.suggestion,
        }
    }
}

/// A decision, as it is followed. The fields are those of the decision record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    /// The sandbox.
    pub sandbox: Name,
    /// The record's id.
    pub id: String,
    /// `dns`, `tcp`, `tls`, `http` or `udp`.
    pub layer: String,
    /// By which entrance.
    pub protocol: String,
    /// `allow`, `deny`, `error` or `audit`.
    pub verdict: String,
    /// The reason's code.
    pub reason: String,
    /// The name, or the address where no name was known.
    pub name: String,
    /// The destination's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The DNS record type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qtype: Option<String>,
    /// Addresses answered, leased or dialled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The deciding rule as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Where it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The circumstance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The lines that would allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl Decision {
    /// A decision of this sandbox.
    pub fn of(sandbox: &Name, seen: ObservedDecision) -> Decision {
        let (rule, source) = seen.rule.unzip();
        Decision {
            sandbox: sandbox.clone(),
            id: seen.id.to_string(),
            layer: seen.layer.code().to_owned(),
            protocol: seen.protocol.code().to_owned(),
            verdict: verdict(seen.verdict).to_owned(),
            reason: seen.reason.code().to_owned(),
            name: seen.name,
            port: seen.port,
            qtype: seen.qtype.map(|qtype| qtype.to_string()),
            addresses: seen.addresses.iter().map(ToString::to_string).collect(),
            rule,
            source,
            detail: seen.detail,
            suggestion: seen.suggestion,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_component_of_a_path() {
        for good in ["a", "0", "build-7", "a.b_c-d", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        let long = "x".repeat(64);
        for bad in [
            "", ".", "..", "-a", "_a", "a/b", "a b", "A", "\u{e9}", "a\0", "a\n", "%2e", &long,
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<Name>("\"../x\"").is_err());
    }

    #[test]
    fn foreign_names_become_names_of_their_own() {
        assert_eq!(Name::of_foreign("oci-", "a.b_c-7").as_str(), "oci-a.b_c-7");
        let long = "0123456789abcdef".repeat(4);
        let other = format!("{}0", &long[..63]);
        let strange = ["A", "a", "a+b", "a b", "\u{1F600}", "..", &long, &other];
        let names: Vec<Name> = strange
            .iter()
            .map(|foreign| Name::of_foreign("oci-", foreign))
            .collect();
        let different: std::collections::BTreeSet<&Name> = names.iter().collect();
        assert_eq!(different.len(), strange.len(), "{names:?}");
        for name in &names {
            assert_eq!(name.as_str().parse().as_ref(), Ok(name));
        }
        assert_eq!(Name::of_foreign("oci-", &long), names[6]);
    }

    #[test]
    fn a_new_sandbox_says_what_it_is() {
        let text = r#"{"name": "a", "attach": {"kind": "listeners", "http": "127.0.0.1:0"}}"#;
        let new: NewSandbox = serde_json::from_str(text).unwrap();
        assert_eq!(
            new.attach,
            AttachTo::Listeners {
                dns: None,
                http: Some("127.0.0.1:0".parse().unwrap()),
                socks5: None,
            }
        );
        assert_eq!(new.policy, PolicyText::default());
        for bad in [
            r#"{"name": "a"}"#,
            r#"{"name": "a", "attach": {"kind": "tun"}}"#,
            r#"{"name": "a", "attach": {"kind": "pid"}}"#,
            r#"{"name": "a", "attach": {"kind": "pid", "pid": -7}}"#,
            r#"{"name": "a", "attach": {"kind": "listeners"}, "polcy": {}}"#,
            r#"{"name": "a", "attach": {"kind": "listeners", "htp": "127.0.0.1:0"}}"#,
        ] {
            assert!(serde_json::from_str::<NewSandbox>(bad).is_err(), "{bad}");
        }
    }
}
