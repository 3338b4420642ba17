//! `[network.limits]`: what one sandbox may use.

use std::num::NonZeroU32;

use super::document::Node;
use super::draft::Draft;
use super::limit_keys;
use super::section::Section;

/// The section.
const LIMITS: &str = "network.limits";
/// Most queries a second that a limit may name; more are no limit.
const MAX_PER_SECOND: i64 = 1_000_000;
/// Most new names a minute that a limit may name; more are no limit.
const MAX_PER_MINUTE: i64 = 1_000_000;

/// `[network.limits]`.
pub(super) fn limits(draft: &mut Draft<'_>, node: &Node) {
    let (sources, settings) = (&mut draft.sources, &mut draft.settings);
    let mut section = Section::open(sources, LIMITS, node);
    let queries = 1..=MAX_PER_SECOND;
    if let Some(number) = section.integer(sources, "dns_queries_per_second", queries) {
        settings.dns.queries_per_second = NonZeroU32::new(number.value);
    }
    let names = 0..=MAX_PER_MINUTE;
    if let Some(number) = section.integer(sources, "new_names_per_minute", names) {
        settings.dns.new_names_per_minute = number.value;
    }
    let limits = &mut settings.limits;
    limit_keys::of_sandbox(sources, &mut section, &mut limits.flows);
    for (key, timeout) in [
        ("handshake_timeout", &mut limits.handshake_timeout),
        ("header_timeout", &mut limits.header_timeout),
    ] {
        limit_keys::duration(sources, &mut section, key, timeout);
    }
    section.finish(sources);
}
