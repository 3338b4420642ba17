//! Large lists stay small and quick.

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
        .decide(&Request::to_name(last.as_ref(), 443))
        .rule
        .unwrap();
    assert_eq!(
        policy.rule(rule).source.to_string(),
        format!("list.toml:{}", NAMES + 2)
    );
}
