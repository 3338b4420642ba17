//! Where a connection is to go, how that is known, and what the policy says to it.
//!
//! Answers "decision and destination differ": a [`Target`] is made once, from what the program
//! asked for; every decision on the connection, also the later ones on a name it shows, starts
//! from the same target, and the permit to dial comes out of the decision itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portcullis_dial::reaches;
use portcullis_dns::Owner;
use portcullis_names::{Host, Name, NameBuf, NameRef};
use portcullis_policy::{
    ConnectPermit, Destination, HOST_NAME, Policy, Reason, Request, RuleId, RuleTerms, Seen,
    ShownBy, Verdict,
};

use crate::ProxyContext;
use crate::open_error::OpenError;
use crate::socket;

/// A connection's destination, as the program asked for it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) host: Asked,
    pub(crate) port: u16,
}

/// What was asked for.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // lives in one boxed set-up; boxing again would gain nothing
pub(crate) enum Asked {
    /// A name.
    Name(NameBuf),
    /// An address, with the listed names that own it by lease; perhaps none.
    Address {
        /// The address.
        address: IpAddr,
        /// Its owners when the connection was made.
        names: Vec<Name>,
    },
    /// A synthetic address, with the name that it stands for; perhaps none. It is never dialled.
    Synthetic {
        /// The address.
        address: IpAddr,
        /// What it stood for when the connection was made.
        name: Option<Name>,
    },
}

/// What was asked for, borrowed: from a [`Target`], or from a flow that stands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostRef<'a> {
    /// A name.
    Name(NameRef<'a>),
    /// An address and its owners.
    Address(IpAddr, &'a [Name]),
    /// A synthetic address's name.
    Synthetic(Option<&'a Name>),
}

/// What a connection has shown of its destination.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ShownRef<'a> {
    /// Nothing yet, or nothing that counts.
    Nothing,
    /// TLS without a name.
    Hidden,
    /// A request whose host is the address itself.
    Bare,
    /// A name.
    Name(NameRef<'a>, ShownBy),
}

/// The same, to be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shown {
    #[default]
    Nothing,
    Hidden,
    Bare,
    Name(Name, ShownBy),
}

impl ShownRef<'_> {
    /// `known` is the name that the request passes by, mostly the same one.
    fn to_owned(self, known: Option<&Name>) -> Shown {
        match self {
            ShownRef::Nothing => Shown::Nothing,
            ShownRef::Hidden => Shown::Hidden,
            ShownRef::Bare => Shown::Bare,
            ShownRef::Name(name, by) => match known.filter(|known| known.as_ref() == name) {
                Some(known) => Shown::Name(known.clone(), by),
                None => Shown::Name(name.to_name(), by),
            },
        }
    }
}

impl Shown {
    /// The same, borrowed.
    pub(crate) fn borrowed(&self) -> ShownRef<'_> {
        match self {
            Shown::Nothing => ShownRef::Nothing,
            Shown::Hidden => ShownRef::Hidden,
            Shown::Bare => ShownRef::Bare,
            Shown::Name(name, by) => ShownRef::Name(name.as_ref(), *by),
        }
    }
}

/// The policy's question about a destination, the first time and each time that it is asked again.
/// `None` of a synthetic address that stands for nothing.
pub(crate) fn destination<'a>(host: HostRef<'a>, shown: ShownRef<'a>) -> Option<Destination<'a>> {
    Some(match (host, shown) {
        (HostRef::Name(asked), ShownRef::Name(shown, by)) => {
            Destination::AskedAndShown { asked, shown, by }
        }
        (HostRef::Name(asked), _) => Destination::Asked(asked),
        (HostRef::Address(address, names), ShownRef::Name(shown, by)) => Destination::Shown {
            address,
            names,
            shown,
            by,
        },
        (HostRef::Address(address, names), ShownRef::Hidden) => {
            Destination::Hidden { address, names }
        }
        (HostRef::Address(address, _), ShownRef::Bare) => Destination::Address(address),
        (HostRef::Address(address, []), ShownRef::Nothing) => Destination::Address(address),
        (HostRef::Address(address, names), ShownRef::Nothing) => {
            Destination::Leased { address, names }
        }
        (HostRef::Synthetic(name), shown) => Destination::Synthetic {
            name: name?,
            seen: match shown {
                ShownRef::Nothing | ShownRef::Bare => Seen::Nothing,
                ShownRef::Hidden => Seen::Hidden,
                ShownRef::Name(name, by) => Seen::Name(name, by),
            },
        },
    })
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
    pub(crate) shown: Shown,
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
        let host = match host {
            Host::Name(name) => Asked::Name(name),
            Host::Address(address) => {
                let target = Target::address(ctx, SocketAddr::new(address, port));
                let name = match &target.host {
                    Asked::Synthetic { name, .. } => name.as_ref(),
                    _ => None,
                };
                match name.and_then(|name| NameBuf::from_program(name.as_str().as_bytes()).ok()) {
                    Some(name) => Asked::Name(name),
                    None => return target,
                }
            }
        };
        Target { host, port }
    }

    /// What a program connected to, or asked for, by address.
    pub(crate) fn address(ctx: &ProxyContext, to: SocketAddr) -> Target {
        let to = socket::plain(to);
        let address = to.ip();
        let host = match ctx.leases.owner(address) {
            Owner::Names(names) => Asked::Address { address, names },
            Owner::Synthetic(name) => Asked::Synthetic { address, name },
        };
        Target {
            host,
            port: to.port(),
        }
    }

    /// The name asked for.
    pub(crate) fn name(&self) -> Option<NameRef<'_>> {
        match &self.host {
            Asked::Name(name) => Some(name.as_ref()),
            Asked::Address { .. } | Asked::Synthetic { .. } => None,
        }
    }

    /// A listed name that owns the address asked for; for records of what shows no name.
    pub(crate) fn owner(&self) -> Option<&str> {
        match &self.host {
            Asked::Name(_) => None,
            Asked::Address { names, .. } => names.first().map(Name::as_str),
            Asked::Synthetic { name, .. } => name.as_ref().map(Name::as_str),
        }
    }

    /// The address asked for.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match &self.host {
            Asked::Name(_) => None,
            Asked::Address { address, .. } | Asked::Synthetic { address, .. } => Some(*address),
        }
    }

    /// Whether the destination is this host; for comparing a Host field with an address.
    pub(crate) fn is(&self, host: &Host) -> bool {
        match (host, &self.host) {
            (Host::Name(a), Asked::Name(b)) => a == b,
            (
                Host::Address(a),
                Asked::Address { address: b, .. } | Asked::Synthetic { address: b, .. },
            ) => a.to_canonical() == *b,
            _ => false,
        }
    }

    /// Decides on the target itself.
    pub(crate) fn decide(&self, ctx: &ProxyContext) -> Ruling {
        self.ask(ctx, ShownRef::Nothing)
    }

    /// Decides on a request for the target, which has shown no other name.
    pub(crate) fn decide_plain(&self, ctx: &ProxyContext, asks: Asks<'_>) -> Ruling {
        self.decide_request(ctx, ShownRef::Nothing, asks)
    }

    /// The same for a request that names a host.
    pub(crate) fn decide_host(
        &self,
        ctx: &ProxyContext,
        host: NameRef<'_>,
        asks: Asks<'_>,
    ) -> Ruling {
        self.decide_request(ctx, ShownRef::Name(host, ShownBy::Host), asks)
    }

    /// Decides on the target together with a name that was shown on the connection.
    pub(crate) fn decide_shown(
        &self,
        ctx: &ProxyContext,
        shown: NameRef<'_>,
        by: ShownBy,
    ) -> Ruling {
        self.ask(ctx, ShownRef::Name(shown, by))
    }

    /// Decides on the target where the connection is TLS without a name. A name that was asked for
    /// is known without it.
    pub(crate) fn decide_hidden(&self, ctx: &ProxyContext) -> Ruling {
        self.ask(ctx, ShownRef::Hidden)
    }

    /// Decides on a request that names the address itself as its host.
    pub(crate) fn decide_bare(&self, ctx: &ProxyContext, asks: Asks<'_>) -> Ruling {
        self.decide_request(ctx, ShownRef::Bare, asks)
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

    pub(crate) fn borrowed(&self) -> HostRef<'_> {
        match &self.host {
            Asked::Name(name) => HostRef::Name(name.as_ref()),
            Asked::Address { address, names } => HostRef::Address(*address, names),
            Asked::Synthetic { name, .. } => HostRef::Synthetic(name.as_ref()),
        }
    }

    /// Decides on one HTTP request: the target, what the request shows of it, its method and its path
    /// (without the query).
    pub(crate) fn decide_request(
        &self,
        ctx: &ProxyContext,
        shown: ShownRef<'_>,
        asks: Asks<'_>,
    ) -> Ruling {
        self.ask_for(ctx, shown, Some(asks))
    }

    fn ask(&self, ctx: &ProxyContext, shown: ShownRef<'_>) -> Ruling {
        self.ask_for(ctx, shown, None)
    }

    fn ask_for(&self, ctx: &ProxyContext, shown: ShownRef<'_>, asks: Option<Asks<'_>>) -> Ruling {
        // A synthetic address that stands for nothing is refused here, whatever rules say about its
        // network: there is nothing that could be dialled, also where the policy only watches.
        let Some(how) = destination(self.borrowed(), shown) else {
            return self.refuse(ctx, Reason::AddressNotLeased);
        };
        if self.comes_back(ctx) {
            return self.refuse(ctx, Reason::GatewayLoop);
        }
        let policy = ctx.policy.load_full();
        let port = self.port;
        let request = match asks {
            Some(Asks { method, path }) => Request::Http {
                how,
                port,
                method,
                path,
            },
            None => Request::Connect { how, port },
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
            Some(_) => shown.to_owned(name.as_ref()),
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
        match &self.host {
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
