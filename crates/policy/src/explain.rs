//! The policy's verdict for a target, in words, without a packet being sent.
//!
//! It asks [`Policy::decide`], the function that enforces, so that what it says is what happens.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_names::{
    NameRef, Pattern, PortSet, RecordType, Target, Transport, classify, is_guarded,
};

use crate::decision::Decision;
use crate::destination::Destination;
use crate::policy::Policy;
use crate::reason::Reason;
use crate::request::Request;
use crate::rules::RuleId;
use crate::verdict::Verdict;

/// A label that stands for "any name below": no rule is likely to have it.
const ANY_LABEL: &str = "any-name-below";

/// What the policy says to a target, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Allow, deny, or audit where the policy only watches.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The target, in canonical form.
    pub target: String,
    /// The deciding rule as written.
    pub rule: Option<String>,
    /// Where it was written: `file:line`, or the flag.
    pub source: Option<String>,
    /// What there is to say, a sentence each.
    pub sentences: Vec<String>,
    /// The lines that would allow it.
    pub suggestion: Option<String>,
}

/// What to list instead of it, where that is not what the reader has in mind.
const OWN: &str = "Inside a sandbox this is the sandbox itself, which needs no rule. The loopback of the host is \
    `host.portcullis.internal`: list that name.";

impl Explanation {
    /// Says so where the target means the sandbox itself.
    pub(crate) fn add_own(&mut self, is_own: bool) {
        if is_own {
            self.sentences.push(OWN.to_owned());
            // Inside, a rule for it would open nothing.
            self.suggestion = None;
        }
    }
}

/// The first word is `allow`, `deny` or `audit`.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.verdict {
            Verdict::Allow => "allow",
            Verdict::Deny | Verdict::Error => "deny",
            Verdict::Audit => "audit",
        };
        write!(f, "{word} {} ({})", self.target, self.reason)?;
        for sentence in &self.sentences {
            write!(f, "\n  {sentence}")?;
        }
        if let Some(lines) = &self.suggestion {
            f.write_str("\n  To allow it, add to the policy:")?;
            for line in lines.lines() {
                write!(f, "\n    {line}")?;
            }
        }
        Ok(())
    }
}

/// The parts of an explanation that a decision supplies.
pub(crate) struct Finding {
    pub verdict: Verdict,
    pub reason: Reason,
    pub rule: Option<RuleId>,
    pub suggestion: Option<String>,
    pub sentences: Vec<String>,
}

impl Policy {
    /// Explains what happens to a target. A bare name is asked about on ports 80 and 443 and allowed
    /// if one of them is; a pattern is asked about through a name that no narrower rule has.
    pub fn explain(&self, target: &Target) -> Explanation {
        let found = match target {
            Target::Name {
                pattern,
                ports,
                explicit_ports,
                transport,
            } => {
                let ports = AskedPorts {
                    transport: *transport,
                    ports,
                };
                self.explain_pattern(pattern, ports, *explicit_ports)
            }
            Target::Net {
                net,
                ports,
                transport,
            } => {
                let ports = AskedPorts {
                    transport: *transport,
                    ports,
                };
                self.explain_net(*net, ports)
            }
        };
        let mut explanation = self.explanation(found, target.to_string());
        self.suggest_all_ports(&mut explanation, target);
        explanation.add_own(target.is_loopback());
        explanation
    }

    /// Suggests all the ports that were asked about, where they are several: the lines for one would not do.
    fn suggest_all_ports(&self, explanation: &mut Explanation, target: &Target) {
        let Target::Name {
            pattern: Pattern::Exact(_),
            ports,
            explicit_ports: true,
            ..
        } = target
        else {
            return;
        };
        if explanation.suggestion.is_some() && one_port(ports).is_none() {
            let lines = format!("[network.domains]\n\"{target}\" = \"allow\"");
            explanation.suggestion = Some(lines);
        }
    }

    /// A finding in words.
    pub(crate) fn explanation(&self, found: Finding, target: String) -> Explanation {
        let info = found.rule.map(|id| self.rule(id));
        let mut sentences = vec![found.reason.sentence().to_owned()];
        sentences.extend(info.map(|info| {
            let does = match (found.reason, info.denies) {
                (_, true) => "denies it",
                (Reason::Allowed, _) => "allows it",
                _ => "is the closest match",
            };
            format!("Rule `{}` ({}) {does}.", info.text, info.source)
        }));
        sentences.extend(found.sentences);
        Explanation {
            verdict: found.verdict,
            reason: found.reason,
            target,
            rule: info.map(|info| info.text.to_owned()),
            source: info.map(|info| info.source.to_string()),
            sentences,
            suggestion: found.suggestion,
        }
    }

    fn explain_pattern(&self, pattern: &Pattern, ports: AskedPorts<'_>, explicit: bool) -> Finding {
        let base = pattern.base();
        let below = format!("{ANY_LABEL}.{base}");
        // a base too long for another label has nothing below it
        let below = NameRef::from_canonical(&below).unwrap_or(base);
        match pattern {
            Pattern::Exact(_) => self.explain_name(base, ports, explicit),
            Pattern::Below(_) | Pattern::ApexAndBelow(_) => {
                let mut found = self.explain_name(below, ports, explicit);
                if matches!(pattern, Pattern::ApexAndBelow(_)) {
                    let apex = self.explain_name(base, ports, explicit);
                    if found.verdict == Verdict::Allow && apex.verdict != Verdict::Allow {
                        found = apex;
                    }
                }
                // lines for the stand-in would be of no use
                found.suggestion = None;
                if found.reason == Reason::Allowed
                    && let Some(info) = self.rules.names.denies_within(base.as_str())
                {
                    let info = self.rule(info);
                    let text = format!("But `{}` is denied ({}).", info.text, info.source);
                    found.sentences.push(text);
                }
                found
            }
        }
    }

    fn explain_name(
        &self,
        name: NameRef<'_>,
        AskedPorts { transport, ports }: AskedPorts<'_>,
        explicit: bool,
    ) -> Finding {
        let lookup = Request::Lookup {
            name,
            qtype: RecordType::A,
        };
        let decision = self.decide(&lookup);
        let to = Destination::name(name);
        if decision.reason != Reason::Allowed {
            // the suggestion for the port that was asked about, rather than for the lookup
            let port = one_port(ports).unwrap_or(443);
            let suggestion = self.suggestion(&over(transport, &to, port));
            return Finding {
                suggestion,
                ..finding(&decision)
            };
        }
        let open = self.rules.names.ports_for(name.as_str(), transport);
        let refused = ports.difference(&open);
        let asked = if explicit || open.intersection(ports).is_empty() {
            first_port(&refused)
        } else {
            None
        };
        let asked = asked.or_else(|| first_port(&ports.intersection(&open)));
        let Some(port) = asked else {
            return finding(&decision);
        };
        let request = over(transport, &to, port);
        let mut found = finding(&self.decide(&request));
        found.suggestion = self.suggestion(&request);
        if found.reason != Reason::Allowed && open.is_empty() {
            // listed for the other transport
        } else if found.reason != Reason::Allowed {
            found.sentences.push(format!("It is allowed on: {open}."));
        } else if !refused.is_empty() {
            found
                .sentences
                .push(format!("It is not allowed on: {refused}."));
        }
        found
    }

    fn explain_net(&self, net: IpNet, asked: AskedPorts<'_>) -> Finding {
        let AskedPorts { transport, ports } = asked;
        let address = net.network();
        let open = self.rules.nets.allowed_ports(address, transport);
        let some = open.intersection(ports);
        let asked = if ports.is_any() {
            first_port(&some)
        } else {
            None
        };
        let asked = asked
            .or_else(|| first_port(&ports.difference(&open)))
            .or_else(|| first_port(&some))
            .unwrap_or(443);
        let to = Destination::address(address);
        let request = over(transport, &to, asked);
        let mut found = finding(&self.decide(&request));
        let single = net.prefix_len() == net.max_prefix_len();
        if found.reason == Reason::Allowed && !some.contains_all(ports) {
            found
                .sentences
                .push(format!("It is allowed only on: {some}."));
        }
        if found.reason == Reason::PrivateAddress && is_guarded(address) {
            found.sentences.push(class_sentence(address));
        }
        if single {
            // a bare address says no port, so no line can be proposed for it
            let suggest = one_port(ports).is_some();
            found.suggestion = suggest.then(|| self.suggestion(&request)).flatten();
        } else if let Some(rule) = self.rules.nets.narrower(net) {
            let info = self.rule(rule);
            let text = format!(
                "Another rule covers part of the range: `{}` ({}).",
                info.text, info.source
            );
            found.sentences.push(text);
        } else if found.reason == Reason::Allowed
            && self.lifts_on(net.broadcast(), transport, asked).is_none()
        {
            let last = Destination::address(net.broadcast());
            let refused = finding(&self.decide(&over(transport, &last, asked)));
            found = Finding {
                sentences: vec!["Only part of the range is allowed.".into()],
                ..refused
            };
        }
        found
    }
}

/// The ports that a question is about.
#[derive(Clone, Copy)]
struct AskedPorts<'p> {
    transport: Transport,
    ports: &'p PortSet,
}

fn over<'a>(transport: Transport, to: &'a Destination<'a>, port: u16) -> Request<'a> {
    match transport {
        Transport::Tcp => Request::Connect { to, port },
        Transport::Udp => Request::Datagrams { to, port },
    }
}

fn class_sentence(address: IpAddr) -> String {
    format!("{address} is {}.", classify(address).describe())
}

pub(crate) fn finding(decision: &Decision<'_>) -> Finding {
    Finding {
        verdict: decision.verdict,
        reason: decision.reason,
        rule: decision.rule,
        suggestion: None,
        sentences: Vec::new(),
    }
}

fn first_port(ports: &PortSet) -> Option<u16> {
    // 443 is the one that people mean
    if ports.contains(443) {
        Some(443)
    } else {
        ports.ranges().first().map(|range| range.first)
    }
}

fn one_port(ports: &PortSet) -> Option<u16> {
    match ports.ranges() {
        [range] if range.first == range.last => Some(range.first),
        _ => None,
    }
}
