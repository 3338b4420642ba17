//! What one server is known to support: mixed case in names ("0x20"), EDNS.
//!
//! Answers *resolution as a way out* (docs/threats.md): a server that returns names as they were
//! spelt makes a forger guess a bit for each letter besides port and id. Some servers answer in
//! lower case; they are asked once more without mixed case, and never with it again. A server that
//! is known to preserve case and suddenly does not has been replaced, or the answer is forged: it
//! is ignored, and the question is asked over TCP.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Answers in another case in a row after which a server that preserved case counts as unknown
/// again: it was replaced by another kind.
const CHANGES_UNTIL_UNKNOWN: u8 = 4;

const UNKNOWN: u8 = 0;
const PRESERVES: u8 = 1;
const FOLDS: u8 = 2;

/// One server's quirks.
#[derive(Debug, Default)]
pub(super) struct Quirks {
    case: AtomicU8,
    changes: AtomicU8,
    no_edns: AtomicBool,
}

impl Quirks {
    /// Whether names may be sent in mixed case.
    pub(super) fn accepts_mixed_case(&self) -> bool {
        self.case.load(Ordering::Relaxed) != FOLDS
    }

    /// Whether an answer in another case cannot be the server's.
    pub(super) fn preserves_case(&self) -> bool {
        self.case.load(Ordering::Relaxed) == PRESERVES
    }

    /// It returned a name in mixed case unchanged.
    pub(super) fn case_preserved(&self) {
        // Nearly always so already: a load costs other threads nothing.
        if self.case.load(Ordering::Relaxed) != PRESERVES {
            self.case.store(PRESERVES, Ordering::Relaxed);
        }
        if self.changes.load(Ordering::Relaxed) != 0 {
            self.changes.store(0, Ordering::Relaxed);
        }
    }

    /// It answered in another case, and gave the same answer when it was asked in lower case.
    pub(super) fn case_folded(&self) {
        self.case.store(FOLDS, Ordering::Relaxed);
    }

    /// It was known to preserve case, and an answer from its address did not.
    pub(super) fn case_changed(&self) {
        if self.changes.fetch_add(1, Ordering::Relaxed) + 1 >= CHANGES_UNTIL_UNKNOWN {
            self.changes.store(0, Ordering::Relaxed);
            self.case.store(UNKNOWN, Ordering::Relaxed);
        }
    }

    /// Whether it is sent EDNS (RFC 6891).
    pub(super) fn accepts_edns(&self) -> bool {
        !self.no_edns.load(Ordering::Relaxed)
    }

    /// It answered FORMERR or NOTIMP with EDNS, and properly without.
    pub(super) fn edns_refused(&self) {
        self.no_edns.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_learnt_and_learnt_anew() {
        let quirks = Quirks::default();
        assert!(quirks.accepts_mixed_case() && !quirks.preserves_case() && quirks.accepts_edns());
        quirks.case_preserved();
        assert!(quirks.accepts_mixed_case() && quirks.preserves_case());
        for _ in 1..CHANGES_UNTIL_UNKNOWN {
            quirks.case_changed();
            assert!(
                quirks.preserves_case(),
                "a forger does not change what is known"
            );
        }
        quirks.case_preserved();
        for _ in 1..CHANGES_UNTIL_UNKNOWN {
            quirks.case_changed();
        }
        assert!(
            quirks.preserves_case(),
            "a true answer in between starts anew"
        );
        quirks.case_changed();
        assert!(!quirks.preserves_case() && quirks.accepts_mixed_case());
        quirks.case_folded();
        assert!(!quirks.accepts_mixed_case() && !quirks.preserves_case());
        quirks.edns_refused();
        assert!(!quirks.accepts_edns());
    }
}
