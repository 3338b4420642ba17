//! What one server was learnt to bear: mixed case in names ("0x20"), EDNS.
//!
//! Answers answer spoofing: a server that gives names back as they were spelt makes a forger guess a
//! bit for each letter besides port and id. Some servers answer in lower case; they are asked again
//! without it, once, and then always. A server that is known to keep the case and suddenly does not
//! is either changed or forged: what came is not believed, and the question is asked over TCP.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Answers in another case, one after another, that a server which kept it may give before it is
/// learnt anew: it was replaced by another kind.
const CHANGES_UNTIL_UNKNOWN: u8 = 4;

const UNKNOWN: u8 = 0;
const KEEPS: u8 = 1;
const FOLDS: u8 = 2;

/// One server's manners.
#[derive(Debug, Default)]
pub(super) struct Manners {
    case: AtomicU8,
    changes: AtomicU8,
    no_edns: AtomicBool,
}

impl Manners {
    /// Whether names may be sent in mixed case.
    pub(super) fn bears_case(&self) -> bool {
        self.case.load(Ordering::Relaxed) != FOLDS
    }

    /// Whether an answer in another case cannot be the server's.
    pub(super) fn keeps_case(&self) -> bool {
        self.case.load(Ordering::Relaxed) == KEEPS
    }

    /// It gave a name in mixed case back as it was.
    pub(super) fn kept_case(&self) {
        // Nearly always so already: a load costs other threads nothing.
        if self.case.load(Ordering::Relaxed) != KEEPS {
            self.case.store(KEEPS, Ordering::Relaxed);
        }
        if self.changes.load(Ordering::Relaxed) != 0 {
            self.changes.store(0, Ordering::Relaxed);
        }
    }

    /// It answered in another case, and the same in lower case when it was asked that way.
    pub(super) fn folded_case(&self) {
        self.case.store(FOLDS, Ordering::Relaxed);
    }

    /// It was known to keep the case, and something under its address did not.
    pub(super) fn changed_case(&self) {
        if self.changes.fetch_add(1, Ordering::Relaxed) + 1 >= CHANGES_UNTIL_UNKNOWN {
            self.changes.store(0, Ordering::Relaxed);
            self.case.store(UNKNOWN, Ordering::Relaxed);
        }
    }

    /// Whether it may be sent EDNS (RFC 6891).
    pub(super) fn bears_edns(&self) -> bool {
        !self.no_edns.load(Ordering::Relaxed)
    }

    /// It answered FORMERR or NOTIMP with EDNS, and well without.
    pub(super) fn needs_no_edns(&self) {
        self.no_edns.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_learnt_and_learnt_anew() {
        let manners = Manners::default();
        assert!(manners.bears_case() && !manners.keeps_case() && manners.bears_edns());
        manners.kept_case();
        assert!(manners.bears_case() && manners.keeps_case());
        for _ in 1..CHANGES_UNTIL_UNKNOWN {
            manners.changed_case();
            assert!(
                manners.keeps_case(),
                "a forger does not change what is known"
            );
        }
        manners.kept_case();
        for _ in 1..CHANGES_UNTIL_UNKNOWN {
            manners.changed_case();
        }
        assert!(manners.keeps_case(), "a true answer in between starts anew");
        manners.changed_case();
        assert!(!manners.keeps_case() && manners.bears_case());
        manners.folded_case();
        assert!(!manners.bears_case() && !manners.keeps_case());
        manners.needs_no_edns();
        assert!(!manners.bears_edns());
    }
}
