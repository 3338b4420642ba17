//! `[network.limits]`, and the keys of a rule that limit its flows.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use super::document::Node;
use super::draft::Draft;
use super::section::Section;
use super::source::{Place, SourceId};
use super::units;
use crate::duration::parse_duration;
use crate::rules::RuleLimits;

/// The section.
const LIMITS: &str = "network.limits";
/// Most queries a second that a limit may name; more are no limit.
const MAX_PER_SECOND: i64 = 1_000_000;
/// Most new names a minute that a limit may name; more are no limit.
const MAX_PER_MINUTE: i64 = 1_000_000;
/// Most connections that a limit may name; more are no limit.
const MAX_CONNECTIONS: i64 = 1_000_000;

/// `[network.limits]`.
pub(super) fn limits(draft: &mut Draft, source: SourceId, node: &Node) {
    let mut limits = Section::open(&mut draft.sources, source, LIMITS, node);
    let queries = (1, MAX_PER_SECOND);
    if let Some((number, _)) = limits.integer(&mut draft.sources, "dns_queries_per_second", queries)
    {
        draft.settings.queries_per_second = NonZeroU32::new(number);
    }
    let names = (0, MAX_PER_MINUTE);
    if let Some((number, _)) = limits.integer(&mut draft.sources, "new_names_per_minute", names) {
        draft.settings.new_names_per_minute = Some(number);
    }
    let mut keys = Keys::of(draft, &mut limits);
    let connections = keys.number("connections");
    let connections_per_second = keys.number("connections_per_second");
    let bytes_per_second = keys.amount("bytes_per_second", units::bytes_per_second);
    let total_bytes = keys.amount("total_bytes", units::bytes);
    let handshake_timeout = keys.time("handshake_timeout");
    let header_timeout = keys.time("header_timeout");
    let idle_timeout = keys.time("idle_timeout");
    let own = &mut draft.settings.limits;
    own.connections = connections.or(own.connections);
    own.connections_per_second = connections_per_second.or(own.connections_per_second);
    own.bytes_per_second = bytes_per_second.or(own.bytes_per_second);
    own.total_bytes = total_bytes.or(own.total_bytes);
    own.handshake_timeout = handshake_timeout.or(own.handshake_timeout);
    own.header_timeout = header_timeout.or(own.header_timeout);
    own.idle_timeout = idle_timeout.or(own.idle_timeout);
    limits.finish(&mut draft.sources);
}

/// The limits of a rule, and the keys that were there with their places.
pub(super) fn of_rule(
    draft: &mut Draft,
    rule: &mut Section<'_>,
) -> (RuleLimits, Vec<(&'static str, Place)>) {
    let mut keys = Keys::of(draft, rule);
    let limits = RuleLimits {
        rate: keys.amount("rate", units::rate),
        connections: keys.number("connections"),
        connections_per_second: keys.number("connections_per_second"),
        total_bytes: keys.amount("total_bytes", units::bytes),
        idle_timeout: keys.time("idle_timeout"),
    };
    (limits, keys.seen)
}

/// Reads the keys of a section that limit something.
struct Keys<'d, 's, 'n> {
    draft: &'d mut Draft,
    section: &'s mut Section<'n>,
    seen: Vec<(&'static str, Place)>,
}

impl<'d, 's, 'n> Keys<'d, 's, 'n> {
    fn of(draft: &'d mut Draft, section: &'s mut Section<'n>) -> Self {
        Keys {
            draft,
            section,
            seen: Vec::new(),
        }
    }

    fn note(&mut self, key: &'static str, place: Place) {
        self.seen.push((key, place));
    }

    fn number(&mut self, key: &'static str) -> Option<NonZeroU32> {
        let within = (1, MAX_CONNECTIONS);
        let (number, place) = self.section.integer(&mut self.draft.sources, key, within)?;
        self.note(key, place);
        NonZeroU32::new(number)
    }

    fn amount(
        &mut self,
        key: &'static str,
        read: fn(&str) -> Result<NonZeroU64, units::Wrong>,
    ) -> Option<NonZeroU64> {
        self.text(key, read)
    }

    fn time(&mut self, key: &'static str) -> Option<Duration> {
        self.text(key, |text| {
            parse_duration(text).map_err(|wrong| (wrong.message, wrong.hint))
        })
    }

    fn text<T>(
        &mut self,
        key: &'static str,
        read: fn(&str) -> Result<T, units::Wrong>,
    ) -> Option<T> {
        let (text, place) = self.section.text(&mut self.draft.sources, key)?;
        match read(text) {
            Ok(value) => {
                self.note(key, place);
                Some(value)
            }
            Err((message, hint)) => {
                self.draft.sources.error_with(&place, message, hint);
                None
            }
        }
    }
}
