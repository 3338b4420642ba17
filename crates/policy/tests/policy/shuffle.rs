//! The same policy gives the same answers, whatever the order of its rules and files, down to
//! the rule that is named and the ports, types and `to` of the permit.

use portcullis_names::Target;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::*;

const ADDRESSES: [&str; 5] = [
    "10.1.0.1",
    "10.2.0.1",
    "10.3.0.1",
    "192.0.2.1",
    "198.51.100.1",
];

/// A policy whose patterns overlap in every way that there is, one rule a line.
const OVERLAPPING: [&str; 34] = [
    r#""**.com.example" = "allow""#,
    r#""**.com.example:8443" = "allow""#,
    r#""*.com.example:22" = "allow""#,
    r#""*.github.com.example" = "allow""#,
    r#""github.com.example" = "allow""#,
    r#""GitHub.com.example:9418" = "allow""#,
    r#""**.github.com.example:9999" = "allow""#,
    r#""api.github.com.example:443" = "allow""#,
    r#""api.github.com.example:8080" = "allow""#,
    r#""api.github.com.example:8081" = "allow""#,
    r#""gist.github.com.example" = "deny""#,
    r#""*.gist.github.com.example:443" = "deny""#,
    r#""**.gist.github.com.example:80" = "deny""#,
    r#""raw.gist.github.com.example" = "allow""#,
    r#""*.raw.gist.github.com.example:*" = "allow""#,
    r#""github.com" = "allow""#,
    r#""api.github.com" = "allow""#,
    r#""*.anthropic.com" = "allow""#,
    r#""iapi.example.com" = "allow""#,
    r#""**.example.com:80" = "allow""#,
    r#""*.example.com:80" = "allow""#,
    r#""typed.example.com" = { verdict = "allow", types = ["A"] }"#,
    r#""typed.example.com:25" = { verdict = "allow", types = ["MX", "TXT"] }"#,
    r#""typed.example.com:26" = "allow""#,
    r#""**.typed.example.com" = { verdict = "allow", types = ["SRV"] }"#,
    r#""*.typed.example.com" = "allow""#,
    r#""mock.example.com:80" = { verdict = "allow", to = ":8080" }"#,
    r#""mock.example.com:443" = { verdict = "allow", to = "10.0.0.7:8443" }"#,
    r#""mock.example.com" = "allow""#,
    r#""*.mock.example.com" = { verdict = "allow", to = ":1" }"#,
    r#""**.mock.example.com" = { verdict = "allow", to = ":2" }"#,
    r#""hidden.example.com" = { verdict = "allow", allow_no_sni = true }"#,
    r#""hidden.example.com:8443" = "allow""#,
    r#""host.portcullis.internal:11434" = "allow""#,
];

/// Everything that a policy decides for these names, one line for each question.
fn everything(policy: &Policy) -> Vec<String> {
    const NAMES: [&str; 26] = [
        "com",
        "example",
        "com.example",
        "x.com.example",
        "github.com.example",
        "api.github.com.example",
        "x.api.github.com.example",
        "gist.github.com.example",
        "a.gist.github.com.example",
        "raw.gist.github.com.example",
        "x.raw.gist.github.com.example",
        "github.com",
        "api.github.com",
        "gist.github.com",
        "anthropic.com",
        "api.anthropic.com",
        "example.com",
        "iapi.example.com",
        "other.example.com",
        "typed.example.com",
        "x.typed.example.com",
        "mock.example.com",
        "x.mock.example.com",
        "hidden.example.com",
        "host.portcullis.internal",
        "notgithub.com",
    ];
    const PORTS: [u16; 12] = [
        22, 25, 26, 80, 443, 1234, 8080, 8081, 8443, 9418, 9999, 11434,
    ];
    const TYPES: [u16; 6] = [1, 5, 12, 15, 16, 33];
    let shown = |request: &Request<'_>| {
        let decision = policy.decide(request);
        let rule = decision.rule.map(|rule| policy.rule(rule).text);
        let (lookup, connect) = (decision.lookup_permit(), decision.connect_permit());
        let lookup = lookup.or_else(|| connect.as_ref()?.lookup());
        format!(
            "{:?} {} {rule:?} {:?} {:?} {:?} {:?}",
            decision.verdict,
            decision.reason,
            lookup.as_ref().map(|permit| permit.ports().to_string()),
            lookup
                .as_ref()
                .map(|permit| (permit.flattened(), permit.by_pattern())),
            lookup.as_ref().and_then(|permit| permit.to()),
            connect.and_then(|permit| permit.to()),
        )
    };
    let mut all = Vec::new();
    for target in NAMES {
        let target = name(target);
        let owners = [target.clone()];
        let target = target.as_ref();
        all.push(format!(
            "{target} {} {}",
            policy.ports_for(target),
            policy.types_for(target)
        ));
        for qtype in TYPES {
            let request = Request::Lookup {
                name: target,
                qtype: qtype.into(),
            };
            all.push(format!("{target} {qtype} {}", shown(&request)));
        }
        let address = address("192.0.2.1");
        for port in PORTS {
            let to = Destination::name(target);
            let request = Request::connect(&to, port);
            all.push(format!("{target}:{port} {}", shown(&request)));
            let to = Destination::leased(address, &owners).showing(Shown::Hidden);
            let request = Request::Connect { to: &to, port };
            all.push(format!("hidden {target}:{port} {}", shown(&request)));
        }
    }
    for to in ADDRESSES {
        for port in PORTS {
            let reached = Destination::address(address(to));
            let request = Request::connect(&reached, port);
            all.push(format!("{to}:{port} {}", shown(&request)));
        }
    }
    for pattern in ["*.com.example", "**.github.com.example", "10.0.0.0/8:80"] {
        let explained = policy.explain(&Target::from_policy(pattern).unwrap());
        let sentences = explained.sentences.iter().map(|sentence| {
            // not where a rule stands, which is what is shuffled
            sentence.split(" (").next().unwrap_or_default()
        });
        all.push(sentences.collect::<Vec<_>>().join(" "));
    }
    all
}

#[test]
fn a_policy_shuffled_a_thousand_times_decides_the_same() {
    const ADDRESS_RULES: [&str; 7] = [
        "\"10.0.0.0/8:80\" = \"allow\"",
        "\"10.0.0.0/8:443\" = \"allow\"",
        "\"10.1.0.0/16:22\" = \"allow\"",
        "\"10.1.0.1\" = \"allow\"",
        "\"10.1.0.1:8080\" = \"allow\"",
        "\"10.2.0.0/16\" = \"deny\"",
        "\"10.2.0.1:80\" = \"deny\"",
    ];
    const FILES: usize = 3;
    /// Shuffles, in the words of the issue.
    const TIMES: usize = 1000;
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut first: Option<Vec<String>> = None;
    for turn in 0..TIMES {
        let mut tables = vec![(Vec::new(), Vec::new()); FILES];
        let (mut rules, mut nets) = (OVERLAPPING, ADDRESS_RULES);
        shuffle(&mut rules, &mut random);
        shuffle(&mut nets, &mut random);
        // what contradicts itself within one file stands in different ones, whichever those are
        for (at, rule) in rules.iter().enumerate() {
            tables[at % FILES].0.push(*rule);
        }
        for (at, rule) in nets.iter().enumerate() {
            tables[at % FILES].1.push(*rule);
        }
        let mut inputs: Vec<Input> = tables
            .iter()
            .enumerate()
            .map(|(number, (names, nets))| {
                let text = format!(
                    "version = 1\n[network.domains]\n{}\n[network.addresses]\n{}\n",
                    names.join("\n"),
                    nets.join("\n")
                );
                file(&format!("{number}.toml"), &text)
            })
            .collect();
        inputs.push(Input::Allow("flag.example.com:7".into()));
        inputs.push(Input::Deny("other.example.com:80".into()));
        shuffle(&mut inputs, &mut random);
        let policy = load(&inputs)
            .unwrap_or_else(|errors| panic!("{}", lines(&errors)))
            .policy;
        let decided = everything(&policy);
        match &first {
            None => first = Some(decided),
            Some(first) => assert_eq!(first, &decided, "shuffle {turn}"),
        }
    }
    // and what it decides is what the rules say in any order
    let first = first.unwrap();
    let has = |line: &str| first.iter().any(|seen| seen.starts_with(line));
    assert!(has("github.com:443 Allow allowed Some(\"github.com\")"));
    assert!(has(
        "iapi.example.com:443 Allow allowed Some(\"iapi.example.com\")"
    ));
    assert!(has(
        "iapi.example.com:80 Allow allowed Some(\"iapi.example.com\")"
    ));
    assert!(has(
        "example.com:80 Allow allowed Some(\"**.example.com:80\")"
    ));
    assert!(has("gist.github.com:443 Deny not-in-allowlist None"));
    assert!(has("mock.example.com 80,443 A"), "{first:#?}");
}

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T], random: &mut impl Rng) {
    for at in (1..items.len()).rev() {
        let other = usize::try_from(random.next_u64() % (at as u64 + 1)).unwrap();
        items.swap(at, other);
    }
}
