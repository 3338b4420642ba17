//! The keys that limit flows, of a rule and of `[network.limits]` alike.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use super::section::{PresentKey, Section};
use super::source::{Sources, Written};
use super::units::{self, AmountError};
use crate::duration::parse_duration;
use crate::limits::FlowLimits;

/// Most connections that a limit may name; more are no limit.
const MAX_CONNECTIONS: i64 = 1_000_000;

/// How one limit of flows is written.
struct FlowKey {
    in_section: &'static str,
    in_rule: &'static str,
    /// Whether it limits UDP too, whose bytes and flows nothing counts.
    udp: bool,
    field: fn(&mut FlowLimits) -> Field<'_>,
}

/// A field of the limits, by its unit.
enum Field<'l> {
    Count(&'l mut Option<NonZeroU32>),
    Bytes(&'l mut Option<NonZeroU64>),
    Rate(&'l mut Option<NonZeroU64>),
    Time(&'l mut Option<Duration>),
}

/// Every limit of flows: the only list of their keys.
const FLOW_KEYS: [FlowKey; 5] = [
    FlowKey {
        in_section: "bytes_per_second",
        in_rule: "rate",
        udp: false,
        field: |limits| Field::Rate(&mut limits.bytes_per_second),
    },
    FlowKey {
        in_section: "connections",
        in_rule: "connections",
        udp: false,
        field: |limits| Field::Count(&mut limits.connections),
    },
    FlowKey {
        in_section: "connections_per_second",
        in_rule: "connections_per_second",
        udp: false,
        field: |limits| Field::Count(&mut limits.connections_per_second),
    },
    FlowKey {
        in_section: "total_bytes",
        in_rule: "total_bytes",
        udp: false,
        field: |limits| Field::Bytes(&mut limits.total_bytes),
    },
    FlowKey {
        in_section: "idle_timeout",
        in_rule: "idle_timeout",
        udp: true,
        field: |limits| Field::Time(&mut limits.idle_timeout),
    },
];

impl Field<'_> {
    fn is_set(&self) -> bool {
        match self {
            Field::Count(count) => count.is_some(),
            Field::Bytes(bytes) | Field::Rate(bytes) => bytes.is_some(),
            Field::Time(time) => time.is_some(),
        }
    }

    /// Reads the field, which keeps its value where the key is not there or wrong.
    fn read(
        self,
        sources: &mut Sources,
        section: &mut Section<'_>,
        key: &'static str,
        rate: fn(&str) -> Result<NonZeroU64, AmountError>,
    ) -> Option<PresentKey> {
        match self {
            Field::Count(count) => {
                let range = 1..=MAX_CONNECTIONS;
                let number = section.integer(sources, key, range)?;
                *count = NonZeroU32::new(number.value);
                let place = number.place;
                Some(PresentKey { key, place })
            }
            Field::Bytes(bytes) => amount(sources, section, key, bytes, units::bytes),
            Field::Rate(bytes) => amount(sources, section, key, bytes, rate),
            Field::Time(time) => duration(sources, section, key, time),
        }
    }
}

/// Reads the limits of the sandbox's flows; those that are not there stay as they are.
pub(super) fn of_sandbox(
    sources: &mut Sources,
    section: &mut Section<'_>,
    limits: &mut FlowLimits,
) {
    for key in &FLOW_KEYS {
        let field = (key.field)(limits);
        field.read(sources, section, key.in_section, units::bytes_per_second);
    }
}

/// The limits of a rule; adds the keys that are there to `present`.
pub(super) fn of_rule(
    sources: &mut Sources,
    rule: &mut Section<'_>,
    present: &mut Vec<PresentKey>,
) -> FlowLimits {
    let mut limits = FlowLimits::default();
    for key in &FLOW_KEYS {
        let field = (key.field)(&mut limits);
        present.extend(field.read(sources, rule, key.in_rule, units::rate));
    }
    limits
}

/// The key of a limit that a rule for UDP cannot have.
pub(super) fn not_for_udp(mut limits: FlowLimits) -> Option<&'static str> {
    let mut keys = FLOW_KEYS.iter().filter(|key| !key.udp);
    let key = keys.find(|key| (key.field)(&mut limits).is_set())?;
    Some(key.in_rule)
}

/// Reads a duration, which keeps its value where the key is not there or wrong.
pub(super) fn duration(
    sources: &mut Sources,
    section: &mut Section<'_>,
    key: &'static str,
    into: &mut Option<Duration>,
) -> Option<PresentKey> {
    amount(sources, section, key, into, |text| {
        parse_duration(text).map_err(|error| AmountError {
            message: error.message,
            hint: error.hint,
        })
    })
}

fn amount<T>(
    sources: &mut Sources,
    section: &mut Section<'_>,
    key: &'static str,
    into: &mut Option<T>,
    parse: impl FnOnce(&str) -> Result<T, AmountError>,
) -> Option<PresentKey> {
    let Written { value, place } = section.text(sources, key)?;
    match parse(value) {
        Ok(value) => {
            *into = Some(value);
            Some(PresentKey { key, place })
        }
        Err(error) => {
            sources.error_with(place, error.message, error.hint);
            None
        }
    }
}
