//! The smallest addition to a policy that would allow a request.
//!
//! A person who is refused widens the allowlist until it works. The line that is just wide
//! enough must be the easiest one to find, and it must not take anything away that works already.

use std::fmt::{Display, Write as _};
use std::net::IpAddr;

use portcullis_names::{NameRef, PortSet, Target, Transport, is_guarded};

use crate::destination::{Asked, Destination, Shown};
use crate::host_name::HOST_NAME;
use crate::http::canonical_path;
use crate::policy::Policy;
use crate::reason::Reason;
use crate::request::Request;
use crate::rules::{RuleId, RuleTerms};
use crate::verdict::Mode;

const DOMAINS: &str = "network.domains";
const ADDRESSES: &str = "network.addresses";
/// Datagrams to this port are the resolver's inside.
const DNS_PORT: u16 = 53;
/// The port of FTP's control connections.
const FTP_PORT: u16 = 21;
/// The lowest port that its servers wait on for data in passive mode.
const MIN_DATA_PORT: u16 = 1024;
/// Longest path that is worth a line, in bytes.
const MAX_PATH_BYTES: usize = 256;

impl Policy {
    /// The TOML that would allow this request, with its table; `None` if it is allowed, or if no
    /// addition can allow it because a rule denies it or it contradicts itself.
    pub fn suggestion(&self, request: &Request<'_>) -> Option<String> {
        let reason = self.clone().with_mode(Mode::Enforce).decide(request).reason;
        match *request {
            Request::Lookup { name, .. } => {
                (reason == Reason::NotListed).then(|| self.name_lines(name, None))
            }
            Request::Connect { to, port } => self.suggest_connect(to, port, reason),
            Request::Http {
                to,
                port,
                method,
                path,
            } => match reason {
                Reason::MethodNotAllowed | Reason::PathNotAllowed => {
                    let rule = self.clone().with_mode(Mode::Enforce).decide(request).rule?;
                    let refused = RefusedRequest {
                        reason,
                        method,
                        path,
                    };
                    self.narrow_lines(rule, refused)
                }
                _ => self.suggest_connect(to, port, reason),
            },
            // What would allow it is said by [`Policy::ftp_hint`].
            Request::FtpData { .. } => None,
            Request::Datagrams { to, port } => {
                let Subjects { name, address } = subjects(to);
                let denied = matches!(reason, Reason::Allowed | Reason::DeniedByRule);
                if denied || self.names_carry_no_ports || port == DNS_PORT {
                    return None;
                }
                match (name, address) {
                    (Some(name), None) => Some(datagram_lines(DOMAINS, name, port)),
                    (Some(name), Some(address)) if !is_guarded(address) => {
                        Some(datagram_lines(DOMAINS, name, port))
                    }
                    (_, Some(IpAddr::V6(v6))) => {
                        Some(datagram_lines(ADDRESSES, format!("[{v6}]"), port))
                    }
                    (_, address) => Some(datagram_lines(ADDRESSES, address?, port)),
                }
            }
        }
    }

    /// What to do about a refused connection that may be the data connection of FTP: one to a high port of a
    /// server that may be spoken to on port 21.
    pub fn ftp_hint(&self, to: &Destination<'_>, port: u16) -> Option<&'static str> {
        let control = self.decide(&Request::connect(to, FTP_PORT));
        let permit = control.connect_permit().filter(|_| port >= MIN_DATA_PORT)?;
        Some(match permit.terms().is_some_and(|terms| terms.ftp) {
            true => {
                "no answer of the FTP server to PASV or EPSV names this port; inside TLS (AUTH) none can be read: \
                 list the server's passive ports there, as in \"NAME:PORT\""
            }
            false => {
                "if this is a data connection of FTP, add `ftp = true` to the rule for port 21"
            }
        })
    }

    /// The one key of the rule that refused a request, with what was refused added to it. The rest of
    /// the rule stays as it is.
    fn narrow_lines(&self, id: RuleId, refused: RefusedRequest<'_>) -> Option<String> {
        let RefusedRequest {
            reason,
            method,
            path,
        } = refused;
        let says = self.flow_of(id);
        let own = says.and_then(|says| says.methods.as_ref());
        if reason == Reason::MethodNotAllowed && own.is_none_or(|own| own.allows(method)) {
            let section = self.domains_table.trim_end_matches(".domains");
            return Some(format!("[{section}]\nmode = \"full\""));
        }
        let (key, mut values) = match reason {
            Reason::MethodNotAllowed => ("methods", texts(own?.iter(), method)),
            _ => {
                let form = canonical_path(path).ok()?;
                if form.len() > MAX_PATH_BYTES || form.contains('*') {
                    return None; // too long, or it would match more than itself
                }
                ("paths", texts(says?.paths.as_ref()?.iter(), &form))
            }
        };
        values.sort_unstable();
        let rule = self.rule(id);
        let of_names = matches!(Target::from_policy(rule.text), Ok(Target::Name { .. }));
        let section = if of_names { DOMAINS } else { ADDRESSES };
        let list = values.join(", ");
        Some(format!("[{section}.\"{}\"]\n{key} = [{list}]", rule.text))
    }

    /// What a rule says about its flows.
    fn flow_of(&self, id: RuleId) -> Option<&RuleTerms> {
        let of_name = self.rules.names.allows().find(|allow| allow.rule == id);
        match of_name {
            Some(allow) => allow.flow,
            None => self.rules.nets.flow_of(id),
        }
    }

    fn suggest_connect(&self, to: &Destination<'_>, port: u16, reason: Reason) -> Option<String> {
        let Subjects { name, address } = subjects(to);
        match reason {
            Reason::NotListed | Reason::SniNotListed => Some(self.name_lines(name?, Some(port))),
            Reason::PortNotAllowed => match (name, address) {
                (_, Some(address)) if self.needs_address_rule(address, to) => {
                    Some(self.address_lines(address, port))
                }
                // of several names of one address, the one that is listed on another port
                (Some(name), _) => {
                    let names = &self.rules.names;
                    let listed = |n: &NameRef<'_>| {
                        !names.listed_ports(n.as_str(), Transport::Tcp).is_empty()
                    };
                    let name = leased(to).find(listed).unwrap_or(name);
                    Some(self.name_lines(name, Some(port)))
                }
                (None, _) => Some(self.address_lines(address?, port)),
            },
            Reason::AddressNotLeased | Reason::PrivateAddress => {
                Some(self.address_lines(address?, port))
            }
            Reason::SniMissing => {
                let names = &self.rules.names;
                let ports = |n: &NameRef<'_>| names.ports_for(n.as_str(), Transport::Tcp);
                let open = |n: &NameRef<'_>| ports(n).contains(port);
                let name = leased(to).find(open)?;
                let keys = self.keeping(name, Some(port)).into_iter();
                Some(table(
                    DOMAINS,
                    keys.map(|key| {
                        let terms = terms_without_sni(&key, port);
                        (key, terms)
                    }),
                ))
            }
            _ => None,
        }
    }

    /// Whether no name can open this destination: a guarded address, unless it stands for the host.
    fn needs_address_rule(&self, address: IpAddr, to: &Destination<'_>) -> bool {
        is_guarded(address) && !leased(to).any(|name| name.as_str() == HOST_NAME)
    }

    fn name_lines(&self, name: NameRef<'_>, port: Option<u16>) -> String {
        if self.names_carry_no_ports {
            return table(&self.domains_table, [(name.to_string(), "\"allow\"")]);
        }
        table(
            DOMAINS,
            self.keeping(name, port)
                .into_iter()
                .map(|key| (key, "\"allow\"")),
        )
    }

    /// The keys that list a name on a port, or for a lookup on 80 and 443. Where a wider pattern lists
    /// the name already, a rule for the name alone would be the more specific one and replace its
    /// ports, so they are repeated.
    fn keeping(&self, name: NameRef<'_>, port: Option<u16>) -> Vec<String> {
        let names = &self.rules.names;
        let listed = names.listed_ports(name.as_str(), Transport::Tcp);
        let wanted = match port {
            None => PortSet::WEB,
            Some(port) if PortSet::WEB.contains(port) && listed.is_empty() => PortSet::WEB,
            Some(port) => PortSet::single(port),
        };
        let keep = if names.lists_exactly(name.as_str()) {
            PortSet::EMPTY
        } else {
            listed
        };
        let all = keep.union(&wanted);
        let mut keys = Vec::new();
        let mut rest = all.clone();
        if all.is_any() {
            return vec![format!("{name}:*")];
        }
        if all.contains_all(&PortSet::WEB) {
            keys.push(name.to_string());
            rest = all.difference(&PortSet::WEB);
        }
        keys.extend(rest.iter().flatten().map(|port| format!("{name}:{port}")));
        keys
    }

    fn address_lines(&self, address: IpAddr, port: u16) -> String {
        let keep = self.rules.nets.listed_ports(address, Transport::Tcp);
        let all = keep.union(&PortSet::single(port));
        let key = |port: u16| match address {
            IpAddr::V4(v4) => format!("{v4}:{port}"),
            IpAddr::V6(v6) => format!("[{v6}]:{port}"),
        };
        table(
            ADDRESSES,
            all.iter().flatten().map(|port| (key(port), "\"allow\"")),
        )
    }
}

/// A request that a rule refused, and why.
#[derive(Clone, Copy)]
struct RefusedRequest<'r> {
    reason: Reason,
    method: &'r str,
    path: &'r str,
}

/// What a rule could be about.
struct Subjects<'a> {
    name: Option<NameRef<'a>>,
    address: Option<IpAddr>,
}

/// Texts in quotes, and one more.
fn texts<'t>(own: impl Iterator<Item = &'t str>, more: &str) -> Vec<String> {
    let quoted = |text: &str| format!("\"{text}\"");
    own.map(quoted).chain([quoted(more)]).collect()
}

fn datagram_lines(section: &str, of: impl Display, port: u16) -> String {
    table(section, [(format!("{of}:{port}/udp"), "\"allow\"")])
}

/// What to write for a key: that no SNI is needed, if the key is about this port.
fn terms_without_sni(key: &str, port: u16) -> &'static str {
    match Target::from_policy(key) {
        Ok(target) if target.ports().contains(port) => {
            "{ verdict = \"allow\", allow_no_sni = true }"
        }
        _ => "\"allow\"",
    }
}

/// The name and the address that a rule could be about.
fn subjects<'a>(to: &'a Destination<'_>) -> Subjects<'a> {
    let shown = match &to.shown {
        Shown::Name(shown, _) => Some(shown.as_ref()),
        Shown::Nothing | Shown::Hidden | Shown::Bare => None,
    };
    let name = match &to.asked {
        Asked::Name(name) => Some(name.as_ref()),
        Asked::Address { .. } if to.shown == Shown::Bare => None,
        Asked::Address { .. } | Asked::Synthetic { .. } => shown.or(to.asked.owner()),
    };
    let address = match &to.asked {
        Asked::Address { address, .. } => Some(*address),
        // No rule about a made-up address would allow anything.
        Asked::Name(_) | Asked::Synthetic { .. } => None,
    };
    Subjects { name, address }
}

/// The names that own the destination's address by lease; for a shown name, that name alone.
fn leased<'a>(to: &'a Destination<'_>) -> impl Iterator<Item = NameRef<'a>> + use<'a> {
    let (owners, made_up) = match (&to.asked, &to.shown) {
        (Asked::Address { owners, .. }, Shown::Nothing | Shown::Hidden) => (&**owners, None),
        (Asked::Synthetic { name, .. }, _) => (&[][..], name.as_ref()),
        _ => (&[][..], None),
    };
    let owners = owners.iter().map(|name| name.as_ref());
    owners.chain(made_up.map(|name| name.as_ref()))
}

fn table<'v>(name: &str, lines: impl IntoIterator<Item = (String, &'v str)>) -> String {
    let mut text = format!("[{name}]");
    for (key, value) in lines {
        // writing to a string does not fail
        let _ = write!(text, "\n\"{key}\" = {value}");
    }
    text
}
