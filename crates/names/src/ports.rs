//! Sets of ports, and the transport that they are ports of.
//!
//! Kept as sorted, disjoint, non-touching ranges, so that one set has one form and comparing two
//! rules' ports is comparing values. The common sets are constants and cost no allocation.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

/// What a port is a port of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// First and last port of a range, both included; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

impl PortRange {
    const fn new(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }
}

/// A set of ports from 1 to 65535. Port 0 is in no set: nothing can be reached there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PortSet(Cow<'static, [PortRange]>);

impl PortSet {
    /// No port.
    pub const EMPTY: PortSet = PortSet(Cow::Borrowed(&[]));
    /// 80 and 443, what a bare name means.
    pub const WEB: PortSet = PortSet(Cow::Borrowed(&[
        PortRange::new(80, 80),
        PortRange::new(443, 443),
    ]));
    /// 443 alone.
    pub const HTTPS: PortSet = PortSet(Cow::Borrowed(&[PortRange::new(443, 443)]));
    /// 1 to 65535.
    pub const ANY: PortSet = PortSet(Cow::Borrowed(&[PortRange::new(1, u16::MAX)]));

    /// One port; the empty set for port 0.
    pub fn single(port: u16) -> PortSet {
        PortSet::from_ranges([port..=port])
    }

    /// The union of ranges in any order, overlapping or not; empty ranges and port 0 drop out.
    pub fn from_ranges(ranges: impl IntoIterator<Item = RangeInclusive<u16>>) -> PortSet {
        let mut all: Vec<PortRange> = ranges
            .into_iter()
            .map(|r| PortRange::new((*r.start()).max(1), *r.end()))
            .filter(|r| r.first <= r.last)
            .collect();
        all.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(all.len());
        for next in all {
            match merged.last_mut() {
                Some(last) if next.first <= last.last.saturating_add(1) => {
                    last.last = last.last.max(next.last);
                }
                _ => merged.push(next),
            }
        }
        PortSet(Cow::Owned(merged))
    }

    /// Whether the port is in the set. Allocates nothing.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|r| r.first <= port && port <= r.last)
    }

    /// Whether every port of `other` is in this set. Allocates nothing.
    pub fn contains_all(&self, other: &PortSet) -> bool {
        // Ranges do not touch, so each of the other's lies within one of ours or sticks out.
        other.0.iter().all(|o| {
            self.0
                .iter()
                .any(|r| r.first <= o.first && o.last <= r.last)
        })
    }

    /// Whether some port is in both. Allocates nothing.
    pub fn overlaps(&self, other: &PortSet) -> bool {
        self.0.iter().any(|a| {
            other
                .0
                .iter()
                .any(|b| a.first <= b.last && b.first <= a.last)
        })
    }

    /// The ports of both. Allocates only if neither contains the other.
    #[must_use]
    pub fn union(&self, other: &PortSet) -> PortSet {
        if self.contains_all(other) {
            return self.clone();
        }
        if other.contains_all(self) {
            return other.clone();
        }
        PortSet::from_ranges(self.iter().chain(other.iter()))
    }

    /// The ports that are in both.
    #[must_use]
    pub fn intersection(&self, other: &PortSet) -> PortSet {
        if self.contains_all(other) {
            return other.clone();
        }
        PortSet::from_ranges(self.0.iter().flat_map(|a| {
            other
                .0
                .iter()
                .map(|b| a.first.max(b.first)..=a.last.min(b.last))
        }))
    }

    /// The ports of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &PortSet) -> PortSet {
        if !self.overlaps(other) {
            return self.clone();
        }
        let mut gaps = Vec::with_capacity(other.0.len() + 1);
        let mut next = Some(1);
        for r in other.0.iter() {
            if let Some(first) = next
                && first < r.first
            {
                gaps.push(first..=r.first - 1);
            }
            next = r.last.checked_add(1);
        }
        gaps.extend(next.map(|first| first..=u16::MAX));
        self.intersection(&PortSet::from_ranges(gaps))
    }

    /// Whether every port is in the set.
    pub fn is_any(&self) -> bool {
        *self == PortSet::ANY
    }

    /// Whether no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ports are in the set.
    pub fn len(&self) -> usize {
        self.0
            .iter()
            .map(|r| usize::from(r.last - r.first) + 1)
            .sum()
    }

    /// The ranges in ascending order, disjoint and not touching.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = RangeInclusive<u16>> + '_ {
        self.0.iter().map(|r| r.first..=r.last)
    }

    /// The ranges in ascending order, as a slice.
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }
}

/// `*`, or ports and ranges separated by commas: `80,443`, `8000-8099`.
impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return f.write_str("*");
        }
        for (i, r) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{}", r.first)?;
            if r.last > r.first {
                write!(f, "-{}", r.last)?;
            }
        }
        Ok(())
    }
}

impl serde::Serialize for PortSet {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
#[path = "ports_tests.rs"]
mod tests;
