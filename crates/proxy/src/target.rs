//! Where a connection is to go, how that is known, and what the policy says to it.
//!
//! Answers "decision and destination differ": a [`Target`] is made once, from what the program
//! asked for; every decision on the connection, also the later ones on a name it shows, starts
//! from the same target, and the permit to dial comes out of the decision itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portcullis_dial::reaches;
use portcullis_names::{Host, Name, NameRef};
use portcullis_policy::{
    Asked, ConnectPermit, HOST_NAME, Policy, Reason, Request, RuleId, RuleTerms, Shown, ShownBy,
    Verdict,
};

use crate::ProxyContext;
use crate::open_error::OpenError;
use crate::socket;

/// A connection's destination, as the program asked for it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) asked: Asked<'static>,
    pub(crate) port: u16,
}

/// What a request asks for of its target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asks<'a> {
    pub(crate) method: &'a str,
    /// Without query; `*` for a request about the server.
    pub(crate) path: &'a str,
}

/// The policy's answer, with the policy it came from: rules are looked up in the policy that
/// decided, not in one that replaced it.
#[derive(Debug)]
pub(crate) struct Ruling {
    pub(crate) policy: Arc<Policy>,
    pub(crate) verdict: Verdict,
    pub(crate) reason: Reason,
    pub(crate) rule: Option<RuleId>,
    /// The name the request passes by, where it passes by one.
    pub(crate) name: Option<Name>,
    /// What it had shown of its destination; kept of what is permitted.
    pub(crate) shown: Shown<'static>,
    /// Leave to dial; `None` exactly if the request is refused.
    pub(crate) permit: Option<ConnectPermit>,
    /// The policy line that would allow what was refused.
    pub(crate) suggestion: Option<String>,
}

impl Ruling {
    /// Leave to dial.
    ///
    /// # Errors
    /// The refusal itself: whoever dials without having looked at the ruling dials nothing.
    pub(crate) fn permit(&self) -> Result<&ConnectPermit, OpenError> {
        let permit = self.permit.as_ref();
        permit.ok_or(OpenError::Denied(self.reason))
    }

    /// What the rule says about the flow; nothing for a plain rule.
    pub(crate) fn terms(&self) -> Option<&RuleTerms> {
        self.permit.as_ref()?.terms().map(|terms| &**terms)
    }
}

impl Ruling {
    /// Refuses what the policy permitted, for a reason that the rule has and the entrance saw.
    pub(crate) fn refuse(&mut self, reason: Reason) {
        self.verdict = reason.verdict();
        self.reason = reason;
        self.shown = Shown::Nothing;
        self.permit = None;
    }
}

impl Target {
    /// What a program asked a proxy for by name or address. A synthetic address is as good as its
    /// name: the program had it from us, and looked the name up by itself.
    pub(crate) fn new(ctx: &ProxyContext, host: Host, port: u16) -> Target {
        let asked = match host {
            Host::Name(name) => Asked::Name(name.to_name().into()),
            Host::Address(address) => {
                match Target::address(ctx, SocketAddr::new(address, port)).asked {
                    Asked::Synthetic {
                        name: Some(name), ..
                    } => Asked::Name(name),
                    asked => asked,
                }
            }
        };
        Target { asked, port }
    }

    /// What a program connected to, or asked for, by address.
    pub(crate) fn address(ctx: &ProxyContext, to: SocketAddr) -> Target {
        let to = socket::plain(to);
        Target {
            asked: ctx.leases.owner(to.ip()).asked(to.ip()),
            port: to.port(),
        }
    }

    /// The name asked for.
    pub(crate) fn name(&self) -> Option<NameRef<'_>> {
        self.asked.name()
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
            Host::Name(name) => self.name() == Some(name.as_ref()),
            Host::Address(address) => self.ip() == Some(address.to_canonical()),
        }
    }

    /// Decides on the target itself.
    pub(crate) fn decide(&self, ctx: &ProxyContext) -> Ruling {
        self.ask(ctx, Shown::Nothing)
    }

    /// Decides on a request for the target, which has shown no other name.
    pub(crate) fn decide_plain(&self, ctx: &ProxyContext, asks: Asks<'_>) -> Ruling {
        self.decide_request(ctx, Shown::Nothing, asks)
    }

    /// The same for a request that names a host.
    pub(crate) fn decide_host(
        &self,
        ctx: &ProxyContext,
        host: NameRef<'_>,
        asks: Asks<'_>,
    ) -> Ruling {
        self.decide_request(ctx, Shown::host(host), asks)
    }

    /// Decides on the target together with a name that was shown on the connection.
    pub(crate) fn decide_shown(
        &self,
        ctx: &ProxyContext,
        shown: NameRef<'_>,
        by: ShownBy,
    ) -> Ruling {
        self.ask(ctx, Shown::Name(shown.into(), by))
    }

    /// Decides on the target where the connection is TLS without a name. A name that was asked for
    /// is known without it.
    pub(crate) fn decide_hidden(&self, ctx: &ProxyContext) -> Ruling {
        self.ask(ctx, Shown::Hidden)
    }

    /// Decides on a request that names the address itself as its host.
    pub(crate) fn decide_bare(&self, ctx: &ProxyContext, asks: Asks<'_>) -> Ruling {
        self.decide_request(ctx, Shown::Bare, asks)
    }

    /// A refusal that is the entrance's own, not a rule's.
    pub(crate) fn refuse(&self, ctx: &ProxyContext, reason: Reason) -> Ruling {
        Ruling {
            policy: ctx.policy.load_full(),
            verdict: reason.verdict(),
            reason,
            rule: None,
            name: None,
            shown: Shown::Nothing,
            permit: None,
            suggestion: None,
        }
    }

    /// Decides on one HTTP request: the target, what the request shows of it, its method and its path
    /// (without the query).
    pub(crate) fn decide_request(
        &self,
        ctx: &ProxyContext,
        shown: Shown<'_>,
        asks: Asks<'_>,
    ) -> Ruling {
        self.ask_for(ctx, shown, Some(asks))
    }

    fn ask(&self, ctx: &ProxyContext, shown: Shown<'_>) -> Ruling {
        self.ask_for(ctx, shown, None)
    }

    fn ask_for(&self, ctx: &ProxyContext, shown: Shown<'_>, asks: Option<Asks<'_>>) -> Ruling {
        if self.comes_back(ctx) {
            return self.refuse(ctx, Reason::GatewayLoop);
        }
        let policy = ctx.policy.load_full();
        let (to, port) = (&self.asked.borrowed().showing(shown), self.port);
        let request = match asks {
            Some(Asks { method, path }) => Request::Http {
                to,
                port,
                method,
                path,
            },
            None => Request::Connect { to, port },
        };
        let decision = policy.decide(&request);
        let permit = decision.connect_permit();
        let suggestion = if permit.is_none() {
            policy.suggestion(&request)
        } else {
            None
        };
        let (verdict, reason, rule) = (decision.verdict, decision.reason, decision.rule);
        let name = decision.name().map(NameRef::to_name);
        drop(decision);
        let shown = match permit {
            Some(_) => kept(&to.shown, name.as_ref()),
            None => Shown::Nothing,
        };
        Ruling {
            policy,
            verdict,
            reason,
            rule,
            name,
            shown,
            permit,
            suggestion,
        }
    }

    /// Whether a connection there would arrive at one of the gateway's own listeners.
    fn comes_back(&self, ctx: &ProxyContext) -> bool {
        match &self.asked {
            Asked::Name(name) if name.as_str() == HOST_NAME => {
                let loopback = IpAddr::from([127, 0, 0, 1]);
                ctx.is_host_listener(SocketAddr::new(loopback, self.port))
            }
            Asked::Name(_) | Asked::Synthetic { .. } => false,
            Asked::Address { address, .. } => ctx
                .listeners
                .iter()
                .any(|l| reaches(SocketAddr::new(*address, self.port), *l, false)),
        }
    }
}

/// What was shown, to be kept. `known` is the name that the request passes by: mostly the same one,
/// so that it need not be copied.
fn kept(shown: &Shown<'_>, known: Option<&Name>) -> Shown<'static> {
    match (shown, known) {
        (Shown::Name(name, by), Some(known)) if name.as_ref() == known.as_ref() => {
            Shown::Name(known.clone().into(), *by)
        }
        _ => shown.clone().into_owned(),
    }
}
