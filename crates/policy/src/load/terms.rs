//! What a rule says behind its target: a verdict, or a table with one and with terms.

use std::net::{IpAddr, SocketAddr};

use super::document::{Node, Value};
use super::draft::{Draft, Expect};
use super::flow;
use super::section::{PresentKey, RULE, Section, choice};
use super::source::{Place, Sources, Written};
use super::types::types;
use crate::rules::Terms;

/// A verdict: a word, or a table with one.
pub(super) fn terms(draft: &mut Draft<'_>, node: &Node, expect: Expect) -> Option<Terms> {
    match &node.value {
        Value::Text(word) => verdict(&mut draft.sources, node.place, word).map(Terms::plain),
        Value::Table(_) => table(draft, node, expect),
        _ => {
            let message = format!(
                "a verdict must be \"allow\", \"deny\" or a table, not {}",
                node.kind()
            );
            draft.sources.error(node.place, message);
            None
        }
    }
}

fn table(draft: &mut Draft<'_>, node: &Node, expect: Expect) -> Option<Terms> {
    let sources = &mut draft.sources;
    let mut rule = Section::open(sources, RULE, node);
    let word = rule.text(sources, "verdict");
    let mut terms = Terms::default();
    // keys that mean something only in a rule that allows
    let mut allow_keys = Vec::new();
    let mut add = |key, place| allow_keys.push(PresentKey { key, place });
    let names = expect == Expect::Names;
    if names {
        if let Some(truth) = rule.truth(sources, "allow_no_sni")
            && truth.value
        {
            terms.allow_no_sni = true;
            add("allow_no_sni", truth.place);
        }
        if let Some(types) = types(sources, &mut rule) {
            terms.types = Some(types.value);
            add("types", types.place);
        }
        if let Some(text) = rule.text(sources, "to") {
            terms.to = to(sources, text);
            add("to", text.place);
        }
    }
    terms.flow = flow::terms(draft, &mut rule, names, &mut allow_keys);
    let ftp = allow_keys.iter().find(|key| key.key == "ftp");
    if let Some(ftp) = ftp.filter(|_| terms.to.is_some()) {
        let message =
            "`ftp` has no effect with `to`: what a server names is opened at its own address alone";
        draft.sources.error(ftp.place, message);
    }
    let missing = word.is_none() && node.get("verdict").is_none();
    let sources = &mut draft.sources;
    rule.finish(sources);
    if missing {
        let hint = "add `verdict = \"allow\"` or `verdict = \"deny\"`".to_owned();
        sources.error_with(node.place, "the rule has no `verdict`", hint);
    }
    let word = word?;
    terms.denies = verdict(sources, word.place, word.value)?;
    if terms.denies {
        for PresentKey { key, place } in allow_keys {
            let message = format!("`{key}` has no effect in a rule that denies");
            sources.error(place, message);
        }
    }
    Some(terms)
}

/// Where a rule sends its connections: `ADDRESS:PORT`, or `:PORT` of the host's loopback.
fn to(sources: &mut Sources, written: Written<&str>) -> Option<SocketAddr> {
    const WRITE: &str = "write \"ADDRESS:PORT\", or \":PORT\" for a port of this host";
    let text = written.value;
    let loopback = text
        .strip_prefix(':')
        .map(|port| format!("127.0.0.1:{port}"));
    let local = text.strip_prefix("localhost:");
    let (why, hint) = match loopback.as_deref().unwrap_or(text).parse::<SocketAddr>() {
        Ok(to) if to.port() == 0 => ("has port 0, which cannot be connected to", None),
        Ok(to) if to.ip().is_unspecified() => (
            "is not an address that can be connected to",
            Some(format!("for this host, write \":{}\"", to.port())),
        ),
        Ok(to) if is_for_many(to.ip()) => (
            "is not an address that can be connected to",
            Some(WRITE.to_owned()),
        ),
        Ok(to) => return Some(to),
        Err(_) if local.is_some_and(is_port) => (
            "names a host, but `to` takes an address",
            Some(format!("write \":{}\"", local.unwrap_or_default())),
        ),
        Err(_) if is_port(text) => (
            "has no `:` in front of its port",
            Some(format!("for this host, write \":{text}\"")),
        ),
        Err(_) if text.parse::<IpAddr>().is_ok() => ("has no port", Some(WRITE.to_owned())),
        Err(_) => ("is not an address with a port", Some(WRITE.to_owned())),
    };
    sources.error_with(written.place, format!("`{text}` {why}"), hint);
    None
}

fn is_port(text: &str) -> bool {
    portcullis_names::parse_port(text.as_bytes()).is_some()
}

fn is_for_many(address: IpAddr) -> bool {
    address.is_multicast() || matches!(address, IpAddr::V4(v4) if v4.is_broadcast())
}

/// Whether a verdict denies; reports words that are none.
pub(super) fn verdict(sources: &mut Sources, place: Place, word: &str) -> Option<bool> {
    let word = Written { value: word, place };
    choice(sources, word, &[("allow", false), ("deny", true)])
}
