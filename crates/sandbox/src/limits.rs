//! What the kernel counts for a user and not for a sandbox: the command gets less of it than there
//! is, so that the next sandbox of the same user can still start.
//!
//! Answers *exhaustion* (docs/threats.md). Descriptors on their way over Unix sockets are counted for
//! the user whatever the sandbox, and each sender is held to its own limit. A limit that is in force
//! when the command's user namespace is made bounds processes, queued signals and message queues of
//! everything inside together.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// One of how many parts of a limit the command does not get.
const KEPT_PART: u64 = 8;

/// How many descriptors are kept from the command at least: two messages with as many as fit, since the
/// kernel counts a message after its check.
const KEPT_DESCRIPTORS: u64 = 512;
/// What is counted for a user namespace too, and how much of it is kept from the command at least. Never
/// more than half.
const KEPT: [(Resource, u64); 3] = [
    (Resource::Nproc, 64),
    (Resource::Sigpending, 64),
    (Resource::Msgqueue, 0),
];

/// The caller's limit of descriptors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptors(Rlimit);

impl Descriptors {
    /// Takes all that this process, and what it forks, may have; what the caller had is returned.
    pub(crate) fn raise() -> io::Result<Self> {
        let before = getrlimit(Resource::Nofile);
        let all = Rlimit {
            current: before.maximum,
            maximum: before.maximum,
        };
        setrlimit(Resource::Nofile, all)?;
        Ok(Self(before))
    }

    /// Gives the caller its limit back.
    pub(crate) fn restore(self) {
        // A lower limit is never refused.
        let _ = setrlimit(Resource::Nofile, self.0);
    }

    /// Sets the limit that the command starts with: the last step, since whoever hands a descriptor
    /// over needs what the command does not get.
    pub(crate) fn lower_for_command(self) -> io::Result<()> {
        Ok(setrlimit(Resource::Nofile, less(self.0, KEPT_DESCRIPTORS))?)
    }
}

/// Lowers the limits that a user namespace takes over from whoever makes it. The calling process must
/// not have made the command's yet.
pub(crate) fn lower_for_namespace() -> io::Result<()> {
    for (resource, least) in KEPT {
        setrlimit(resource, less(getrlimit(resource), least))?;
    }
    Ok(())
}

/// A limit without the part that is kept. One without a bound has no parts.
fn less(limit: Rlimit, least: u64) -> Rlimit {
    let maximum = limit.maximum.map(|all| {
        let kept = (all / KEPT_PART).max(least).min(all / 2);
        all - kept
    });
    let current = match (limit.current, maximum) {
        (Some(current), Some(maximum)) => Some(current.min(maximum)),
        (current, maximum) => current.or(maximum),
    };
    Rlimit { current, maximum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_gets_less_than_there_is() {
        let of = |current, maximum, least| {
            let found = less(Rlimit { current, maximum }, least);
            (found.current, found.maximum)
        };
        // The usual soft limit stays.
        let usual = of(Some(1024), Some(524_288), 512);
        assert_eq!(usual, (Some(1024), Some(458_752)));
        assert_eq!(
            of(Some(20_000), Some(20_000), 512),
            (Some(17_500), Some(17_500))
        );
        assert_eq!(of(Some(1024), Some(1024), 512), (Some(512), Some(512)));
        assert_eq!(of(Some(10), Some(10), 512), (Some(5), Some(5)));
        assert_eq!(of(Some(0), Some(0), 512), (Some(0), Some(0)));
        assert_eq!(of(None, None, 64), (None, None));
        assert_eq!(of(Some(7), None, 64), (Some(7), None));
        assert_eq!(of(None, Some(800), 64), (Some(700), Some(700)));
    }
}
