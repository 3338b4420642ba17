//! What the policy says to a destination.
//!
//! Answers *decision and destination differ* and *gateway loop* (docs/threats.md): every entrance
//! makes its targets and has them decided on here and nowhere else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::Guard;
use portcullis_dial::{Dialer, LOOPBACK, reaches};
use portcullis_dns::{HostsFile, Leases, PolicyHandle, SearchList};
use portcullis_guest::StatusPage;
use portcullis_names::{Host, Name, NameRef, RecordType, STATUS_NAME, STATUS_PORT};
use portcullis_policy::{
    Asked, ConnectPermit, CowName, DatagramPermit, Decision, Destination, HOST_NAME, Limits,
    Policy, Reason, Request, Shown, Verdict,
};
use portcullis_record::Recorder;
use portcullis_wire::http1::Scheme;

use crate::ftp::DataConnections;
use crate::socket;
use crate::target::{Asks, Ruling, Target};

/// Makes targets of what programs ask for, and asks the policy in force about them.
pub(crate) struct Decider {
    policy: PolicyHandle,
    leases: Arc<Leases>,
    /// The data connections that FTP servers named.
    pub(crate) ftp: Arc<DataConnections>,
    /// How short names are completed.
    search: SearchList,
    /// The gateway's listeners as programs reach them.
    pub(crate) listeners: Vec<SocketAddr>,
    /// The gateway's listeners in the namespace that it dials from.
    pub(crate) host_listeners: Vec<SocketAddr>,
    /// What means the sandbox itself; nothing, where there is none.
    pub(crate) own: Option<Own>,
    /// The page that tells programs inside about this network.
    pub(crate) status_page: Option<StatusPage>,
}

/// The addresses and the names by which programs mean the sandbox that they are in.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its addresses beside those of the loopback interface.
    pub addresses: Vec<IpAddr>,
    /// Its host name.
    pub hostname: Option<Name>,
    /// The hosts file that programs are shown.
    pub hosts: Arc<HostsFile>,
}

impl Own {
    /// Where a server of the sandbox's own is looked for, where the target means one.
    fn meant(&self, asked: &Asked<'_>) -> Option<Vec<IpAddr>> {
        match asked {
            Asked::Name(name) => {
                let name = name.as_ref();
                if name.is_localhost() {
                    return Some(LOOPBACK.to_vec());
                }
                // The hosts file may give it an address of the loopback, where not every server listens.
                if self.hostname.as_ref().map(Name::as_ref) == Some(name) {
                    return Some(self.addresses.clone());
                }
                let addresses = self.hosts.loopback(name)?;
                match addresses.iter().any(IpAddr::is_unspecified) {
                    true => Some(LOOPBACK.to_vec()),
                    false => Some(addresses.to_vec()),
                }
            }
            Asked::Address { address, .. } => match address.to_canonical() {
                address if address.is_unspecified() => Some(LOOPBACK.to_vec()),
                address if address.is_loopback() || self.addresses.contains(&address) => {
                    Some(vec![address])
                }
                _ => None,
            },
            Asked::Synthetic { .. } => None,
        }
    }
}

impl Decider {
    pub(crate) fn new(
        policy: PolicyHandle,
        leases: Arc<Leases>,
        recorder: Recorder,
        search: SearchList,
    ) -> Decider {
        let ftp = DataConnections::new(policy.clone(), leases.clone(), recorder);
        Decider {
            policy,
            leases,
            ftp: Arc::new(ftp),
            search,
            listeners: Vec::new(),
            host_listeners: Vec::new(),
            own: None,
            status_page: None,
        }
    }

    /// The status page, where a program asked for it by its name.
    pub(crate) fn status_page(&self, name: Option<NameRef<'_>>, port: u16) -> Option<&StatusPage> {
        let asked = port == STATUS_PORT && name.is_some_and(|name| name.as_str() == STATUS_NAME);
        self.status_page.as_ref().filter(|_| asked)
    }

    /// Whether a connection that a proxy is asked for is one to the page. By its address, where the policy
    /// does not list the host's own server at that address.
    pub(crate) fn leads_to_page(&self, target: &Target) -> bool {
        let by_address = |address| {
            let to = SocketAddr::new(address, target.port);
            self.status_page_at(to).is_some() && self.decide(target).permit.is_none()
        };
        let by_name = self.status_page(target.name(), target.port).is_some();
        by_name || target.ip().is_some_and(by_address)
    }

    /// The same where a program connected to this address.
    pub(crate) fn status_page_at(&self, to: SocketAddr) -> Option<&StatusPage> {
        let page = self.status_page.as_ref();
        page.filter(|page| page.is_at(socket::plain(to)))
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> Guard<Arc<Policy>> {
        self.policy.load()
    }

    /// The limits of the sandbox.
    pub(crate) fn limits(&self) -> Limits {
        self.policy().settings().limits
    }

    /// What a program asked a proxy for by name or address. A synthetic address is as good as its
    /// name: the program had it from us, and looked the name up by itself.
    pub(crate) fn target(&self, host: Host, port: u16) -> Target {
        let asked = match host {
            Host::Name(name) => Asked::Name(name.to_name().into()),
            Host::Address(address) => match self.target_at(SocketAddr::new(address, port)).asked {
                Asked::Synthetic {
                    name: Some(name), ..
                } => Asked::Name(name),
                asked => asked,
            },
        };
        Target {
            asked,
            port,
            ftp_control: None,
            written: None,
        }
    }

    /// The same, with a short name completed by the search list: before anything is decided, since all that
    /// follows is about the full name.
    pub(crate) async fn target_in_full(&self, dialer: &Dialer, host: &Host, port: u16) -> Target {
        let full = match host {
            Host::Name(name) if !self.means_itself(name.as_ref()) => {
                dialer.complete(name.as_ref()).await
            }
            _ => None,
        };
        self.target(host.clone(), port).completed(full)
    }

    /// What a program connected to, or asked for, by address.
    pub(crate) fn target_at(&self, to: SocketAddr) -> Target {
        let to = socket::plain(to);
        Target {
            asked: self.leases.owner(to.ip()).asked(to.ip()),
            port: to.port(),
            ftp_control: None,
            written: None,
        }
    }

    /// Decides on a connection that comes in. One that is not allowed by itself may be the data connection
    /// that an FTP server named.
    pub(crate) fn enter(&self, target: Target) -> (Target, Ruling) {
        let ruling = self.decide(&target);
        let data = match ruling.permit {
            Some(_) => None,
            None => self.ftp.take(&target),
        };
        match data {
            Some(data) => {
                let ruling = self.decide(&data);
                (data, ruling)
            }
            None => (target, ruling),
        }
    }

    /// What to do about a refusal that FTP may have met.
    pub(crate) fn ftp_hint(&self, target: &Target, ruling: &Ruling) -> Option<&'static str> {
        let to = target.asked.borrowed().unshown();
        let refused = ruling.reason == Reason::PortNotAllowed;
        refused.then(|| self.policy().ftp_hint(&to, target.port))?
    }

    /// Decides on a connection that has shown nothing yet.
    pub(crate) fn decide(&self, target: &Target) -> Ruling {
        self.decide_shown(target, Shown::Nothing)
    }

    /// Decides on a connection together with what it has shown. A name that was asked for is known
    /// without it.
    pub(crate) fn decide_shown(&self, target: &Target, shown: Shown<'_>) -> Ruling {
        let to = target.asked.borrowed().showing(self.in_full(target, shown));
        let (to, port) = (&to, target.port);
        let request = match target.ftp_control {
            Some(control) => Request::FtpData { to, control, port },
            None => Request::connect(to, port),
        };
        self.rule(target, to, &request)
    }

    /// Decides on one HTTP request: the target, what the request shows of it, its method and its
    /// path (without the query).
    pub(crate) fn decide_request(
        &self,
        target: &Target,
        shown: Shown<'_>,
        asks: Asks<'_>,
    ) -> Ruling {
        let to = target.asked.borrowed().showing(self.in_full(target, shown));
        let request = Request::Http {
            to: &to,
            port: target.port,
            method: asks.method,
            path: asks.path,
        };
        self.rule(target, &to, &request)
    }

    /// What was shown, in full. A short name that no rule speaks of stands for the destination's own, where the
    /// search list completes it so: programs show what they were given.
    fn in_full<'s>(&self, target: &'s Target, shown: Shown<'s>) -> Shown<'s> {
        let Shown::Name(name, by) = &shown else {
            return shown;
        };
        let short = name.as_ref();
        if self.search.is_empty() {
            return shown;
        }
        let stands_for = |full: &NameRef<'_>| self.completes(short, *full);
        let full = match &target.asked {
            Asked::Name(name) => Some(name.as_ref()).filter(stands_for),
            Asked::Address { owners, .. } => owners.iter().map(Name::as_ref).find(stands_for),
            Asked::Synthetic { name, .. } => name.as_ref().map(CowName::as_ref).filter(stands_for),
        };
        match full {
            Some(full) if self.policy.load().may_complete(short, full) => {
                Shown::Name(full.into(), *by)
            }
            _ => shown,
        }
    }

    /// Whether this names the gateway itself. Some programs (ffmpeg) put the proxy into the `Host` field of
    /// what they ask of it.
    pub(crate) fn is_gateway(&self, host: &Host, port: Option<u16>) -> bool {
        let arrives = |address: &IpAddr| {
            let to = SocketAddr::new(*address, port.unwrap_or(Scheme::Http.default_port()));
            let mut listeners = self.listeners.iter().chain(&self.host_listeners);
            listeners.any(|own| reaches(to, *own, true))
        };
        match host {
            Host::Name(name) => name.as_ref().is_localhost() && LOOPBACK.iter().any(arrives),
            Host::Address(address) => arrives(address),
        }
    }

    /// Whether two hosts are the same one, or the search list makes one of the other.
    pub(crate) fn is_same(&self, one: &Host, other: &Host) -> bool {
        match (one, other) {
            (Host::Name(one), Host::Name(other)) => self.is_same_name(one.as_ref(), other.as_ref()),
            _ => one == other,
        }
    }

    /// The same for names.
    pub(crate) fn is_same_name(&self, one: NameRef<'_>, other: NameRef<'_>) -> bool {
        one == other
            || self.completes(one, other) && self.policy.load().may_complete(one, other)
            || self.completes(other, one) && self.policy.load().may_complete(other, one)
    }

    /// Whether a name stands for itself, as most do: it is listed, and tried before any completion.
    fn means_itself(&self, name: NameRef<'_>) -> bool {
        let is_listed = |qtype| {
            let policy = self.policy.load();
            policy.decide(&Request::Lookup { name, qtype }).reason == Reason::Allowed
        };
        self.search.is_empty()
            || self.search.is_tried_first(name)
                && (is_listed(RecordType::A) || is_listed(RecordType::AAAA))
    }

    fn completes(&self, short: NameRef<'_>, full: NameRef<'_>) -> bool {
        let mut completed = self.search.completed(short);
        short.as_str().len() < full.as_str().len() && completed.any(|name| name.as_ref() == full)
    }

    /// Decides on datagrams to the target.
    pub(crate) fn decide_datagrams(&self, target: &Target) -> Ruling<DatagramPermit> {
        let to = target.asked.borrowed().unshown();
        let request = Request::Datagrams {
            to: &to,
            port: target.port,
        };
        self.ask(&to, &request, |decision| decision.datagram_permit())
    }

    /// A refusal that is the entrance's own, not a rule's.
    pub(crate) fn refuse(&self, reason: Reason) -> Ruling {
        Ruling {
            policy: self.policy.load_full(),
            verdict: reason.verdict(),
            reason,
            rule: None,
            name: None,
            shown: Shown::Nothing,
            permit: None,
            suggestion: None,
        }
    }

    fn rule(&self, target: &Target, to: &Destination<'_>, request: &Request<'_>) -> Ruling {
        if self.comes_back(target) {
            return self.refuse(Reason::GatewayLoop);
        }
        let own = self.own.as_ref();
        if let Some(addresses) = own.and_then(|own| own.meant(&target.asked)) {
            let to = |address: &IpAddr| SocketAddr::new(*address, target.port);
            let arrives = |to| self.listeners.iter().any(|own| reaches(to, *own, true));
            return match addresses.iter().map(to).any(arrives) {
                true => self.refuse(Reason::GatewayLoop),
                false => self.allow_inside(&addresses, target.port),
            };
        }
        self.ask(to, request, |decision| decision.connect_permit())
    }

    /// What a program says to the sandbox it is in concerns no policy: it could connect by itself.
    fn allow_inside(&self, addresses: &[IpAddr], port: u16) -> Ruling {
        Ruling {
            policy: self.policy.load_full(),
            verdict: Verdict::Allow,
            reason: Reason::OwnServer,
            rule: None,
            name: None,
            shown: Shown::Nothing,
            permit: Some(ConnectPermit::inside(addresses, port)),
            suggestion: None,
        }
    }

    fn ask<P>(
        &self,
        to: &Destination<'_>,
        request: &Request<'_>,
        permit: impl FnOnce(&Decision<'_>) -> Option<P>,
    ) -> Ruling<P> {
        let policy = self.policy.load_full();
        let decision = policy.decide(request);
        let permit = permit(&decision);
        let suggestion = match permit {
            Some(_) => None,
            None => self.suggestion(&policy, request),
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

    /// The line that would allow a request; for a name without dots that of what the search list makes of
    /// it first.
    fn suggestion(&self, policy: &Policy, request: &Request<'_>) -> Option<String> {
        if let Request::Connect { to, port } | Request::Http { to, port, .. } = *request
            && let Some(full) = to.asked.name().and_then(|name| self.search.full_name(name))
        {
            let full = Asked::Name(full.into()).unshown();
            return policy.suggestion(&Request::connect(&full, port));
        }
        policy.suggestion(request)
    }

    /// Whether a connection there would arrive at one of the gateway's own listeners.
    fn comes_back(&self, target: &Target) -> bool {
        let arrives = |address, listeners: &[SocketAddr]| {
            let to = SocketAddr::new(address, target.port);
            listeners.iter().any(|own| reaches(to, *own, false))
        };
        match &target.asked {
            Asked::Name(name) if name.as_str() == HOST_NAME => {
                arrives(IpAddr::from([127, 0, 0, 1]), &self.host_listeners)
            }
            Asked::Name(_) | Asked::Synthetic { .. } => false,
            Asked::Address { address, .. } => arrives(*address, &self.listeners),
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
