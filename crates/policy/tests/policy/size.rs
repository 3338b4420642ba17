//! Large lists stay small and quick.

use portcullis_names::Target;
use portcullis_policy::Reason;

use super::*;

/// Names in the list; a blocklist of the real world has ten times as many and costs ten times this.
const NAMES: usize = 50_000;
/// What one plain rule may cost once it is compiled, texts and places included, in bytes.
const MAX_BYTES_PER_RULE: u64 = 120;

#[test]
fn a_large_list_is_compact() {
    let list: String = (0..NAMES)
        .map(|n| format!("\"host{n}.example.org\" = \"allow\"\n"))
        .collect();
    let text = format!("version = 1\n[network.domains]\n{list}");
    let inputs = [file("list.toml", &text)];
    let mut policy = None;
    let used = allocation_counter::measure(|| policy = Some(load(&inputs).unwrap().policy));
    let policy = policy.unwrap();
    let per_rule = u64::try_from(used.bytes_current).unwrap() / NAMES as u64;
    assert!(per_rule <= MAX_BYTES_PER_RULE, "{per_rule} bytes a rule");
    for n in [0, 1, NAMES / 2, NAMES - 1] {
        assert_eq!(
            asked(&policy, &format!("host{n}.example.org"), 443),
            Reason::Allowed
        );
    }
    assert_eq!(
        asked(&policy, &format!("host{NAMES}.example.org"), 443),
        Reason::NotListed
    );
    let last = name(&format!("host{}.example.org", NAMES - 1));
    let rule = policy
        .decide(&Request::connect(&Destination::name(last.as_ref()), 443))
        .rule
        .unwrap();
    assert_eq!(
        policy.rule(rule).source.to_string(),
        format!("list.toml:{}", NAMES + 2)
    );
}

/// Names in the plain list; a million cost ten times as much.
const LISTED: usize = 100_000;
/// What a name of a plain list may cost for as long as the policy lives, in bytes: its text once,
/// eight bytes of terms, its line, and its share of the index and the filter.
const MAX_BYTES_PER_NAME: u64 = 60;
/// What may be in memory at once while the list is read, in bytes a name, the text included.
const MAX_PEAK_BYTES_PER_NAME: u64 = 180;

#[test]
fn a_plain_list_of_a_hundred_thousand_names_is_small_and_knows_its_lines() {
    let list: String = (0..LISTED)
        .map(|n| match n % 10 {
            // a few of every other kind among them
            0 => format!("deny d{n}.example.org\n"),
            1 => format!("*.w{n}.example.net:8443\n"),
            _ => format!("host{n}.zone{}.example\n", n % 1000),
        })
        .collect();
    let main = [file(
        "main.toml",
        "version = 1\ninclude = [\"names.txt\"]\n",
    )];
    let mut policy = None;
    let used = allocation_counter::measure(|| {
        let mut read = |_: &Path| Ok(list.clone());
        let loaded = Policy::load(&main, &mut read);
        policy = Some(
            loaded
                .unwrap_or_else(|errors| panic!("{}", lines(&errors)))
                .policy,
        );
    });
    let policy = policy.unwrap();
    let per_name = |bytes: u64| bytes / LISTED as u64;
    let kept = per_name(u64::try_from(used.bytes_current).unwrap());
    assert!(kept <= MAX_BYTES_PER_NAME, "{kept} bytes a name are kept");
    let peak = per_name(used.bytes_max);
    assert!(
        peak <= MAX_PEAK_BYTES_PER_NAME,
        "{peak} bytes a name at once"
    );
    assert_eq!(policy.rule_count(), LISTED);
    for (target, port, reason, line) in [
        ("d0.example.org", 443, Reason::DeniedByRule, Some(1)),
        ("a.b.w1.example.net", 8443, Reason::Allowed, Some(2)),
        ("a.b.w1.example.net", 443, Reason::PortNotAllowed, Some(2)),
        ("host2.zone2.example", 443, Reason::Allowed, Some(3)),
        (
            "host99999.zone999.example",
            80,
            Reason::Allowed,
            Some(100_000),
        ),
        ("host99999.zone998.example", 80, Reason::NotListed, None),
        ("w1.example.net", 8443, Reason::NotListed, None),
    ] {
        assert_eq!(asked(&policy, target, port), reason, "{target}");
        let explained = policy.explain(&Target::from_policy(&format!("{target}:{port}")).unwrap());
        let source = line.map(|line| format!("names.txt:{line}"));
        assert_eq!(explained.source, source, "{target}");
    }
}

#[test]
fn a_decision_allocates_nothing_however_many_rules_there_are() {
    let list: String = (0..10_000)
        .map(|n| format!("host{n}.example.org\n"))
        .collect();
    let main = [file(
        "main.toml",
        "version = 1\ninclude = [\"names.txt\"]\n",
    )];
    let policy = Policy::load(&main, &mut |_| Ok(list.clone()))
        .unwrap()
        .policy;
    for target in ["host77.example.org", "nothost.example.org"] {
        let target = name(target);
        let used = allocation_counter::measure(|| {
            let lookup = Request::Lookup {
                name: target.as_ref(),
                qtype: 1.into(),
            };
            assert!(policy.decide(&lookup).rule.is_some() == target.as_str().contains("77"));
            let to = Destination::name(target.as_ref());
            let _ = policy.decide(&Request::connect(&to, 443));
        });
        assert_eq!(used.count_total, 0, "{target}");
    }
}
