//! What a rule says behind its target: a verdict, or a table with one and with terms.

use std::net::{IpAddr, SocketAddr};

use super::document::{Node, Value};
use super::draft::{Draft, Expect};
use super::flow;
use super::section::{PresentKey, RULE, Section, nearest};
use super::source::{Place, SourceId};
use super::types::types;
use crate::rules::Terms;

/// A verdict: a word, or a table with one.
pub(super) fn terms(
    draft: &mut Draft,
    source: SourceId,
    node: &Node,
    expect: Expect,
) -> Option<Terms> {
    let place = Place {
        source,
        span: node.span.clone(),
    };
    match &node.value {
        Value::Text(word) => Some(Terms {
            denies: verdict(draft, &place, word)?,
            ..Terms::default()
        }),
        Value::Table(_) => table(draft, &place, node, expect),
        _ => {
            let message = format!(
                "a verdict is \"allow\", \"deny\" or a table, not {}",
                node.kind()
            );
            draft.sources.error(&place, message);
            None
        }
    }
}

fn table(draft: &mut Draft, place: &Place, node: &Node, expect: Expect) -> Option<Terms> {
    let mut rule = Section::open(&mut draft.sources, place.source, RULE, node);
    let word = rule.text(&mut draft.sources, "verdict");
    let mut terms = Terms::default();
    // keys that mean something only in a rule that allows
    let mut allow_keys = Vec::new();
    let mut add = |key, place| allow_keys.push(PresentKey { key, place });
    if expect == Expect::Names {
        if let Some((truth, at)) = rule.truth(&mut draft.sources, "allow_no_sni") {
            terms.allow_no_sni = truth;
            if truth {
                add("allow_no_sni", at);
            }
        }
        if let Some((types, at)) = types(draft, &mut rule) {
            terms.types = Some(types);
            add("types", at);
        }
        if let Some((text, at)) = rule.text(&mut draft.sources, "to") {
            terms.to = to(draft, &at, text);
            add("to", at);
        }
    }
    let names = expect == Expect::Names;
    terms.flow = flow::terms(draft, &mut rule, names, &mut allow_keys);
    let missing = word.is_none() && node.get("verdict").is_none();
    rule.finish(&mut draft.sources);
    if missing {
        let hint = "write `verdict = \"allow\"` or `verdict = \"deny\"`".to_owned();
        draft
            .sources
            .error_with(place, "the rule has no `verdict`", hint);
    }
    let (word, at) = word?;
    terms.denies = verdict(draft, &at, word)?;
    if terms.denies {
        for PresentKey { key, place } in allow_keys {
            let message = format!("`{key}` has no meaning in a rule that denies");
            draft.sources.error(&place, message);
        }
    }
    Some(terms)
}

/// Where a rule sends its connections: `ADDRESS:PORT`, or `:PORT` of the host's loopback.
fn to(draft: &mut Draft, at: &Place, text: &str) -> Option<SocketAddr> {
    const WRITE: &str = "write \"ADDRESS:PORT\", or \":PORT\" for a port of this host";
    let loopback = text
        .strip_prefix(':')
        .map(|port| format!("127.0.0.1:{port}"));
    let local = text.strip_prefix("localhost:");
    let (message, hint) = match loopback.as_deref().unwrap_or(text).parse::<SocketAddr>() {
        Ok(to) if to.port() == 0 => (format!("`{text}`: no connection goes to port 0"), None),
        Ok(to) if to.ip().is_unspecified() => (
            format!("`{text}` is no address that a connection can go to"),
            Some(format!("for this host, write \":{}\"", to.port())),
        ),
        Ok(to) if is_for_many(to.ip()) => (
            format!("`{text}` is no address that a connection can go to"),
            Some(WRITE.to_owned()),
        ),
        Ok(to) => return Some(to),
        Err(_) if local.is_some_and(is_port) => (
            format!("`{text}` names a host, and `to` is an address"),
            Some(format!("write \":{}\"", local.unwrap_or_default())),
        ),
        Err(_) if is_port(text) => (
            format!("`{text}` has no `:` in front of its port"),
            Some(format!("for this host, write \":{text}\"")),
        ),
        Err(_) if text.parse::<IpAddr>().is_ok() => {
            (format!("`{text}` has no port"), Some(WRITE.to_owned()))
        }
        Err(_) => (
            format!("`{text}` is not an address with a port"),
            Some(WRITE.to_owned()),
        ),
    };
    draft.sources.error_with(at, message, hint);
    None
}

fn is_port(text: &str) -> bool {
    portcullis_names::parse_port(text.as_bytes()).is_some()
}

fn is_for_many(address: IpAddr) -> bool {
    address.is_multicast() || matches!(address, IpAddr::V4(v4) if v4.is_broadcast())
}

/// Whether a verdict denies; reports words that are none.
pub(super) fn verdict(draft: &mut Draft, place: &Place, word: &str) -> Option<bool> {
    match word {
        "allow" => Some(false),
        "deny" => Some(true),
        _ => {
            let hint = match nearest(word, &["allow", "deny"]) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "write \"allow\" or \"deny\"".to_owned(),
            };
            draft
                .sources
                .error_with(place, format!("`{word}` is not a verdict"), hint);
            None
        }
    }
}
