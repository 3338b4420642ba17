//! Where a connection goes, as the program asked for it, and what the policy said to that.
//!
//! Answers *decision and destination differ* (docs/threats.md): a [`Target`] is made once, from what
//! the program asked for; every decision on the connection, also the later ones on a name it shows,
//! starts from the same target, and the permit to dial comes out of the decision itself.

use std::net::IpAddr;
use std::sync::Arc;

use portcullis_names::{Host, Name, NameRef};
use portcullis_policy::{Asked, ConnectPermit, Policy, Reason, RuleId, RuleTerms, Shown, Verdict};

use crate::open_error::OpenError;

/// A connection's destination, as the program asked for it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) asked: Asked<'static>,
    pub(crate) port: u16,
    /// The port of the control connection, where it is the data connection that an FTP server named.
    pub(crate) ftp_control: Option<u16>,
    /// The name as the program wrote it, where the search list made another one of it.
    pub(crate) written: Option<Name>,
}

/// What a request asks for of its target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asks<'a> {
    pub(crate) method: &'a str,
    /// Without query; `*` for a request about the server.
    pub(crate) path: &'a str,
}

/// The policy's answer, with the policy it came from: rules are looked up in the policy that
/// decided, not in one that replaced it. `P` is what permits the flow.
#[derive(Debug)]
pub(crate) struct Ruling<P = ConnectPermit> {
    pub(crate) policy: Arc<Policy>,
    pub(crate) verdict: Verdict,
    pub(crate) reason: Reason,
    pub(crate) rule: Option<RuleId>,
    /// The name the request passes by, where it passes by one.
    pub(crate) name: Option<Name>,
    /// What it had shown of its destination; kept of what is permitted.
    pub(crate) shown: Shown<'static>,
    /// The permit to dial; `None` exactly if the request is refused.
    pub(crate) permit: Option<P>,
    /// The policy line that would allow what was refused.
    pub(crate) suggestion: Option<String>,
}

impl<P> Ruling<P> {
    /// Refuses what the policy permitted, for a reason that the rule has and the entrance saw.
    pub(crate) fn refuse(&mut self, reason: Reason) {
        self.verdict = reason.verdict();
        self.reason = reason;
        self.shown = Shown::Nothing;
        self.permit = None;
    }
}

impl Ruling {
    /// The permit to dial.
    ///
    /// # Errors
    /// The refusal itself: whoever dials without having looked at the ruling dials nothing.
    pub(crate) fn permit(&self) -> Result<&ConnectPermit, OpenError> {
        let denied = OpenError::Denied(self.reason);
        self.permit.as_ref().ok_or(denied)
    }

    /// What the rule says about the flow; nothing for a plain rule.
    pub(crate) fn terms(&self) -> Option<&RuleTerms> {
        self.permit.as_ref()?.terms().map(|terms| &**terms)
    }
}

impl Target {
    /// The name asked for.
    pub(crate) fn name(&self) -> Option<NameRef<'_>> {
        self.asked.name()
    }

    /// The same by the name that the search list makes of what was asked for, where it does.
    pub(crate) fn completed(self, full: Option<Name>) -> Target {
        let (Some(full), Asked::Name(name)) = (full, &self.asked) else {
            return self;
        };
        let written = name.as_ref().to_name();
        Target {
            written: Some(written),
            asked: Asked::Name(full.into()),
            ..self
        }
    }

    /// The name asked for, as the program wrote it.
    pub(crate) fn written(&self) -> Option<NameRef<'_>> {
        self.written.as_ref().map(Name::as_ref).or(self.name())
    }

    /// A listed name that owns the address asked for; for records of what shows no name.
    pub(crate) fn owner(&self) -> Option<&str> {
        self.asked.owner().map(NameRef::as_str)
    }

    /// The address asked for.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.asked.ip()
    }

    /// Whether the destination is this host; for comparing a Host field with an address.
    pub(crate) fn is(&self, host: &Host) -> bool {
        match host {
            Host::Name(name) => [self.name(), self.written()].contains(&Some(name.as_ref())),
            Host::Address(address) => self.ip() == Some(address.to_canonical()),
        }
    }
}
