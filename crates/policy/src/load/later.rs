//! What a policy may say already, but nothing enforces yet.
//!
//! A key that is read and not enforced is a rule that its author believes in, so it does not load.
//!
//! ## The list
//! Whoever makes a key work takes its line out of [`NOT_ENFORCED`]; that is all there is to do here.

use super::draft::Draft;
use super::source::Place;

/// `[network]`.
pub(super) const NETWORK: &str = "network";
/// `[network.limits]`.
pub(super) const LIMITS: &str = "network.limits";
/// The keys and values that nothing enforces yet, each with its section.
#[rustfmt::skip]
const NOT_ENFORCED: &[(&str, &str)] = &[
    // narrower rules
    (NETWORK, NO_LOCAL_BINDING),
];

/// A target that ends in `/udp`.
pub(super) const UDP: &str = "/udp";
/// The mode.
pub(super) const LIMITED: &str = "mode = \"limited\"";
/// The switch, turned off.
pub(super) const NO_LOCAL_BINDING: &str = "allow_local_binding = false";

/// Reports a key that nothing enforces yet.
pub(super) fn check(draft: &mut Draft, place: &Place, section: &str, key: &str) {
    if !NOT_ENFORCED.contains(&(section, key)) {
        return;
    }
    let message = format!("`{key}` comes with a later release; this one would not enforce it");
    let hint = "remove it, or wait for that release";
    draft.sources.error_with(place, message, hint.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Input, Policy};

    /// What stands for a key in a policy.
    fn example(section: &str, key: &str) -> String {
        let value = match key {
            "inspect" => "true",
            "ca_file" => "\"ca.pem\"",
            "methods" => "[\"GET\"]",
            "paths" => "[\"/public/**\"]",
            "connections" | "connections_per_second" => "20",
            "rate" => "\"10MB/s\"",
            "handshake_timeout" | "header_timeout" | "idle_timeout" => "\"10m\"",
            _ => "\"50MB\"",
        };
        match (section, key) {
            (NETWORK, switch) => format!("[network]\n{switch}"),
            (LIMITS, key) => format!("[network.limits]\n{key} = {value}"),
            (_, UDP) => "[network.domains]\n\"a.example:123/udp\" = \"allow\"".to_owned(),
            (_, key) => format!(
                "[network.domains]\n\"a.example:80\" = {{ verdict = \"allow\", {key} = {value} }}"
            ),
        }
    }

    #[test]
    fn what_is_not_enforced_does_not_load() {
        for (section, key) in NOT_ENFORCED {
            let text = format!("version = 1\n{}\n", example(section, key));
            let file = Input::File {
                path: "p.toml".into(),
                text: text.clone(),
            };
            let mut read = |_: &std::path::Path| Ok("-----BEGIN CERTIFICATE-----".to_owned());
            let errors = Policy::load(&[file], &mut read).expect_err(&text);
            let said = errors.iter().map(ToString::to_string).collect::<String>();
            assert!(
                said.contains(&format!("`{key}` comes with a later release")),
                "{said}"
            );
        }
    }
}
