//! Verdicts do not depend on the order of rules, and agree with a matcher that is too slow
//! to be wrong.

use std::collections::BTreeMap;

use portcullis_names::{Pattern, PortSet, Target};
use proptest::prelude::*;

use super::*;

/// A rule as a flag, so that any set of rules loads: contradictions across flags are warnings.
#[derive(Clone, Debug)]
struct Rule {
    target: String,
    denies: bool,
}

impl Rule {
    fn input(&self) -> Input {
        if self.denies {
            Input::Deny(self.target.clone())
        } else {
            Input::Allow(self.target.clone())
        }
    }

    fn parsed(&self) -> (Target, PortSet) {
        let target = Target::from_policy(&self.target).unwrap();
        let bare = matches!(
            target,
            Target::Name {
                explicit_ports: false,
                ..
            }
        );
        let ports = if self.denies && bare {
            PortSet::ANY
        } else {
            target.ports().clone()
        };
        (target, ports)
    }
}

fn policy_of(rules: &[Rule]) -> Policy {
    let inputs: Vec<_> = rules.iter().map(Rule::input).collect();
    load(&inputs)
        .unwrap_or_else(|errors| panic!("{}", lines(&errors)))
        .policy
}

/// Few labels and ports, so that rules meet.
fn a_name() -> impl Strategy<Value = String> {
    let label = prop::sample::select(vec!["a", "b", "c"]);
    (
        prop::collection::vec(label, 0..4),
        prop::sample::select(vec!["x.org", "y.example", "example"]),
    )
        .prop_map(|(labels, base)| {
            labels
                .iter()
                .fold(base.to_owned(), |name, label| format!("{label}.{name}"))
        })
}

fn a_port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![22, 80, 443, 8080])
}

fn a_rule() -> impl Strategy<Value = Rule> {
    let kind = prop::sample::select(vec!["", "*.", "**."]);
    let ports = prop_oneof![
        3 => Just(String::new()),
        1 => Just(":*".to_owned()),
        3 => a_port().prop_map(|port| format!(":{port}")),
    ];
    let names = (kind, a_name(), ports, prop::bool::weighted(0.3)).prop_map(
        |(kind, name, ports, denies)| Rule {
            target: format!("{kind}{name}{ports}"),
            denies,
        },
    );
    let nets = prop::sample::select(vec![
        "10.0.0.0/8",
        "10.1.0.0/16:80",
        "10.1.0.1:443",
        "192.0.2.0/24:22",
        "192.0.2.1",
        "192.0.2.0/25:443",
    ]);
    let nets = (nets, prop::bool::weighted(0.3)).prop_map(|(net, denies)| Rule {
        target: net.to_owned(),
        denies,
    });
    prop_oneof![4 => names, 1 => nets]
}

/// The rules for names, one after another: deny first, then the most specific pattern.
fn naive_name(rules: &[Rule], target: &str, port: u16) -> Reason {
    let target = name(target);
    let mut levels: BTreeMap<_, PortSet> = BTreeMap::new();
    for rule in rules {
        let (Target::Name { pattern, .. }, ports) = rule.parsed() else {
            continue;
        };
        if !pattern.matches(target.as_ref()) {
            continue;
        }
        if rule.denies {
            if ports.contains(port) {
                return Reason::DeniedByRule;
            }
        } else {
            let level = levels
                .entry(pattern.specificity())
                .or_insert(PortSet::EMPTY);
            *level = level.union(&ports);
        }
    }
    match levels.last_key_value() {
        None => Reason::NotListed,
        Some((_, ports)) if ports.contains(port) => Reason::Allowed,
        Some(_) => Reason::PortNotAllowed,
    }
}

fn naive_lookup(rules: &[Rule], target: &str) -> Reason {
    let ports = || (1..=u16::MAX).filter(|port| [1, 22, 80, 443, 8080].contains(port));
    let reasons: Vec<_> = ports()
        .map(|port| naive_name(rules, target, port))
        .collect();
    let all_denied = {
        let (target, any) = (name(target), PortSet::ANY);
        rules.iter().any(|rule| match rule.parsed() {
            (Target::Name { pattern, .. }, ports) => {
                rule.denies && ports == any && pattern.matches(target.as_ref())
            }
            _ => false,
        })
    };
    if reasons.contains(&Reason::Allowed) {
        Reason::Allowed
    } else if all_denied {
        Reason::DeniedByRule
    } else {
        let listed = rules.iter().any(|rule| match rule.parsed() {
            (Target::Name { pattern, .. }, _) => {
                !rule.denies && pattern.matches(name(target).as_ref())
            }
            _ => false,
        });
        if listed {
            Reason::DeniedByRule
        } else {
            Reason::NotListed
        }
    }
}

fn naive_address(rules: &[Rule], to: &str, port: u16) -> Reason {
    let to = address(to);
    let mut levels: BTreeMap<u8, PortSet> = BTreeMap::new();
    for rule in rules {
        let (Target::Net { net, .. }, ports) = rule.parsed() else {
            continue;
        };
        if !net.contains(&to) {
            continue;
        }
        if rule.denies {
            if ports.contains(port) {
                return Reason::DeniedByRule;
            }
        } else {
            let level = levels.entry(net.prefix_len()).or_insert(PortSet::EMPTY);
            *level = level.union(&ports);
        }
    }
    match levels.last_key_value() {
        Some((_, ports)) if ports.contains(port) => Reason::Allowed,
        Some(_) => Reason::PortNotAllowed,
        None if portcullis_names::is_guarded(to) => Reason::PrivateAddress,
        None => Reason::AddressNotLeased,
    }
}

const ADDRESSES: [&str; 5] = [
    "10.1.0.1",
    "10.2.0.1",
    "192.0.2.1",
    "192.0.2.200",
    "198.51.100.1",
];

proptest! {
    #[test]
    fn decide_agrees_with_a_naive_matcher(
        rules in prop::collection::vec(a_rule(), 0..12),
        targets in prop::collection::vec(a_name(), 1..8),
        port in a_port(),
    ) {
        let policy = policy_of(&rules);
        for target in &targets {
            prop_assert_eq!(asked(&policy, target, port), naive_name(&rules, target, port), "{}", target);
            prop_assert_eq!(lookup(&policy, target, 1), naive_lookup(&rules, target), "{}", target);
            let open = policy.ports_for(name(target).as_ref()).contains(port);
            prop_assert_eq!(open, naive_name(&rules, target, port) == Reason::Allowed);
        }
        for to in ADDRESSES {
            prop_assert_eq!(reached(&policy, to, port), naive_address(&rules, to, port), "{}", to);
        }
    }

    #[test]
    fn the_order_of_rules_changes_no_verdict(
        (rules, shuffled) in prop::collection::vec(a_rule(), 1..12)
            .prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
        targets in prop::collection::vec(a_name(), 1..6),
        port in a_port(),
    ) {
        let (one, other) = (policy_of(&rules), policy_of(&shuffled));
        let owners: Vec<_> = targets.iter().map(|target| name(target)).collect();
        let (mut requests, mut connections) = (Vec::new(), Vec::new());
        for target in &owners {
            requests.push(Request::Lookup { name: target.as_ref(), qtype: 1.into() });
            connections.push(Destination::name(target.as_ref()));
        }
        for to in ADDRESSES {
            let address = address(to);
            connections.push(Destination::address(address));
            let names = &owners[1..];
            let shown = owners[0].as_ref();
            connections.extend([
                Destination::leased(address, names),
                Destination::leased(address, names).showing(Shown::Hidden),
                Destination::leased(address, names).showing(Shown::sni(shown)),
                Destination::leased(address, &owners).showing(Shown::host(shown)),
            ]);
        }
        requests.extend(connections.iter().map(|to| Request::connect(to, port)));
        for request in &requests {
            let (a, b) = (one.decide(request), other.decide(request));
            prop_assert_eq!((a.verdict, a.reason), (b.verdict, b.reason), "{:?}", request);
            prop_assert_eq!(one.suggestion(request), other.suggestion(request), "{:?}", request);
        }
        let nets = |policy: &Policy| -> Vec<_> {
            policy.address_rules().iter().map(|rule| (rule.net, rule.ports.clone())).collect()
        };
        prop_assert_eq!(nets(&one), nets(&other));
    }

    #[test]
    fn no_text_makes_loading_panic(
        text in "(version = 1\n)?[\\PC\n]{0,200}",
        path in prop::sample::select(vec!["p.toml", "p.yaml", "p.json"]),
    ) {
        if let Err(errors) = load(&[file(path, &text)]) {
            prop_assert!(!errors.is_empty());
            for error in errors {
                prop_assert!(error.render(false).contains(&error.message) || error.message.contains('\n')
                    || error.message.chars().any(|c| c.is_control()));
            }
        }
    }

    #[test]
    fn no_target_makes_loading_panic(target in "\\PC{0,40}") {
        let _ = load(&[Input::Allow(target.clone()), Input::Deny(target.clone())]);
        let _ = load(&[Input::DirectTcpHosts(target.clone()), Input::UpstreamProxy(target)]);
    }
}

#[test]
fn the_most_specific_suffix_wins_not_the_first() {
    // an order that came from a hash map: `com.` of github.com matched before `example.com.`
    let wide = Rule {
        target: "**.example.com:80".into(),
        denies: false,
    };
    let narrow = Rule {
        target: "iapi.example.com:443".into(),
        denies: false,
    };
    for rules in [[wide.clone(), narrow.clone()], [narrow, wide]] {
        let policy = policy_of(&rules);
        assert_eq!(asked(&policy, "iapi.example.com", 443), Reason::Allowed);
        assert_eq!(
            asked(&policy, "iapi.example.com", 80),
            Reason::PortNotAllowed
        );
        assert_eq!(asked(&policy, "other.example.com", 80), Reason::Allowed);
    }
    assert!(Pattern::from_policy("**.example.com").is_ok());
}
