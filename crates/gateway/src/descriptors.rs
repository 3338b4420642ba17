//! How the descriptors of this process are shared out, so that no part of a gateway can use up another's.
//!
//! Answers *idle connections at one entrance* (docs/threats.md): a program that opens idle connections by the thousand, or asks
//! for names that nobody answers, reaches the limit of that part and is refused there. DNS, and every
//! entrance, keeps what it needs.
//!
//! The limit of open files is read once, when the gateway is made. Raise it before.

use portcullis_dial::MAX_EXTRA_ATTEMPTS;
use portcullis_dns::{DESCRIPTORS_PER_LOOKUP, MAX_LOOKUPS, MAX_TCP_CLIENTS, StartupSchedule};
use portcullis_proxy::{MAX_DATAGRAM_FLOWS, MAX_REFUSALS, Room};
use rustix::process::{Resource, getrlimit};

/// Descriptors that are left for everything else: listeners, log, runtime, connections to encrypted
/// resolvers, and what is opened for a moment (policy files, the host's interfaces, a program's entry in
/// `/proc`).
const RESERVED: usize = 96;
/// Descriptors of one connection: the program's socket and the one to its destination.
const PER_CONNECTION: usize = 2;
/// The part of the free descriptors that lookups may hold: a quarter.
const LOOKUPS_PART: usize = 4;
/// The part for each smaller use: clients of DNS over TCP, flows of datagrams, attempts beside a first
/// one, refusals under way; and pipes, whose own limit (`relay`) is the same part. A sixteenth.
const SMALL_PART: usize = 16;
/// The least of anything that there is room for, however low the limit.
const LEAST: usize = 2;

/// Sockets for a name at start-up, when nothing else is served: one for A, one for AAAA.
const PER_STARTUP_NAME: usize = 2;

/// The default schedule of start-up, with as many names at once as there are descriptors for.
pub(crate) fn startup_schedule(descriptors: usize) -> StartupSchedule {
    let names = descriptors.saturating_sub(RESERVED) / PER_STARTUP_NAME;
    StartupSchedule::default().at_once(names)
}

/// What each part of one gateway may hold at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    /// Lookups under way.
    pub lookups: usize,
    /// Connections of clients of DNS over TCP.
    pub dns_clients: usize,
    /// Attempts to connect beside the first of each dial.
    pub extra_attempts: usize,
    /// What the proxy may hold.
    pub room: Room,
}

impl Shares {
    /// Shares out so many descriptors.
    pub(crate) fn of(descriptors: usize) -> Shares {
        let free = descriptors.saturating_sub(RESERVED);
        let small = |most: usize| (free / SMALL_PART).clamp(LEAST, most);
        let lookups = free / LOOKUPS_PART / DESCRIPTORS_PER_LOOKUP;
        let lookups = lookups.clamp(LEAST, MAX_LOOKUPS);
        let (dns_clients, datagram_flows) = (small(MAX_TCP_CLIENTS), small(MAX_DATAGRAM_FLOWS));
        let (extra_attempts, refusals) = (small(MAX_EXTRA_ATTEMPTS), small(MAX_REFUSALS));
        let pipes = free / SMALL_PART;
        let others = lookups * DESCRIPTORS_PER_LOOKUP
            + dns_clients
            + datagram_flows
            + extra_attempts
            + refusals
            + pipes;
        let connections = free.saturating_sub(others) / PER_CONNECTION;
        Shares {
            lookups,
            dns_clients,
            extra_attempts,
            room: Room {
                connections: connections.max(LEAST),
                refusals,
                datagram_flows,
            },
        }
    }
}

/// Descriptors that this process may have open, less those that it has open already.
pub(crate) fn free() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    limit.saturating_sub(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What all parts together could hold open.
    fn most(shares: &Shares) -> usize {
        let Room {
            connections,
            refusals,
            datagram_flows,
        } = shares.room;
        shares.lookups * DESCRIPTORS_PER_LOOKUP
            + shares.dns_clients
            + shares.extra_attempts
            + connections * PER_CONNECTION
            + refusals
            + datagram_flows
    }

    #[test]
    fn all_parts_together_stay_below_the_limit_and_each_has_its_share() {
        for descriptors in [256, 512, 1_000, 4_096, 20_000, 1_048_576] {
            let shares = Shares::of(descriptors);
            assert!(
                most(&shares) <= descriptors - RESERVED,
                "{descriptors}: {shares:?}"
            );
            assert!(
                shares.lookups >= 4 && shares.room.connections >= 20,
                "{shares:?}"
            );
        }
    }

    #[test]
    fn with_many_descriptors_the_fixed_limits_count() {
        let shares = Shares::of(65_536);
        assert_eq!(shares.lookups, MAX_LOOKUPS);
        assert_eq!(shares.dns_clients, MAX_TCP_CLIENTS);
        assert_eq!(shares.room.refusals, MAX_REFUSALS);
        assert!(shares.room.connections > portcullis_proxy::MAX_CONNECTIONS);
    }

    #[test]
    fn with_hardly_any_there_is_still_a_little_of_everything() {
        let shares = Shares::of(0);
        let Room {
            connections,
            refusals,
            datagram_flows,
        } = shares.room;
        let all = [
            shares.lookups,
            shares.dns_clients,
            connections,
            refusals,
            datagram_flows,
        ];
        assert!(all.iter().all(|share| *share >= LEAST), "{shares:?}");
    }
}
