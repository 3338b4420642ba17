//! Loads a policy and measures it: to long it took, what it costs in memory, and to long a
//! decision takes, for names of a list in random order and for names that no rule has.
//!
//! `measure POLICY LIST COUNT`: LIST is a file with a name a line. Prints one line of figures.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use portcullis_names::{NameBuf, NameRef, RecordType};
use portcullis_policy::{Destination, Input, Policy, Reason, Request};

/// Decisions in one round.
const DECISIONS: usize = 200_000;
/// Rounds; the fastest half of each kind counts, since whatever else the machine does only adds.
const ROUNDS: usize = 16;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [policy, list, count] = args.as_slice() else {
        panic!("measure POLICY LIST COUNT");
    };
    let before = memory();
    let (started, cpu) = (Instant::now(), cpu_time());
    let input = Input::File {
        path: policy.into(),
        text: std::fs::read_to_string(policy).expect("the policy"),
    };
    let mut read = |path: &Path| std::fs::read_to_string(path);
    let loaded = Policy::load(&[input], &mut read).expect("a policy that loads");
    let (took, cpu) = (started.elapsed(), cpu_time().saturating_sub(cpu));
    let after = memory();
    let policy = loaded.policy;
    let names = std::fs::read_to_string(list).expect("the list");
    let count: usize = count.parse().expect("a number");
    let listed: Vec<&str> = names.lines().take(count).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    // each probe's text lies where the one before ends, as a query does that was just received
    let (mut allowed, mut denied) = (String::new(), String::new());
    for _ in 0..DECISIONS {
        let name = listed[random.below(listed.len())];
        allowed.push_str(name);
        allowed.push('\n');
        // as long as a name of the list, and not on it
        denied.push_str("x9-");
        denied.push_str(name.get(3..).unwrap_or(name));
        denied.push('\n');
    }
    let mut times: [Vec<Duration>; 6] = Default::default();
    for _ in 0..ROUNDS {
        let kinds = [(&allowed, Reason::Allowed), (&denied, Reason::NotListed)];
        for (kind, (texts, reason)) in kinds.into_iter().enumerate() {
            let names = parsed(texts);
            let lookup = |name| {
                let qtype = RecordType::A;
                policy
                    .decide(black_box(&Request::Lookup { name, qtype }))
                    .reason
            };
            times[3 * kind].push(time(&names, reason, lookup));
            let connection = |name| {
                let to = Destination::name(name);
                policy.decide(black_box(&Request::connect(&to, 443))).reason
            };
            times[3 * kind + 1].push(time(&names, reason, connection));
            times[3 * kind + 2].push(time_questions(&policy, texts, reason));
        }
    }
    let [a, b, c, d, e, f] = times.map(fast_half);
    println!(
        "rules={} load_ms={} load_cpu_ms={} rss_kib={} peak_kib={} before_kib={} lookup_allowed_ns={a:.0} \
         connect_allowed_ns={b:.0} question_allowed_ns={c:.0} lookup_denied_ns={d:.0} \
         connect_denied_ns={e:.0} question_denied_ns={f:.0}",
        policy.rule_count(),
        took.as_millis(),
        cpu.as_millis(),
        after.0,
        after.1,
        before.0,
    );
}

fn parsed(texts: &str) -> Vec<NameRef<'_>> {
    let names = texts.lines().map(NameRef::from_canonical);
    names.collect::<Result<_, _>>().expect("names")
}

fn time<'n>(
    names: &[NameRef<'n>],
    reason: Reason,
    decide: impl Fn(NameRef<'n>) -> Reason,
) -> Duration {
    let mut other = 0;
    let started = cpu_time();
    for name in names {
        other += usize::from(black_box(decide(*name)) != reason);
    }
    let took = cpu_time().saturating_sub(started);
    assert_eq!(other, 0, "decisions for another reason than {reason:?}");
    took
}

/// What the resolver does for each question: the name from its bytes, the decision, and what it
/// hands on, the permit or the lines that would allow the name.
fn time_questions(policy: &Policy, texts: &str, reason: Reason) -> Duration {
    let mut other = 0;
    let started = cpu_time();
    for text in texts.lines() {
        let name = NameBuf::from_program(black_box(text.as_bytes())).expect("a name");
        let request = Request::Lookup {
            name: name.as_ref(),
            qtype: RecordType::A,
        };
        let decision = policy.decide(&request);
        other += usize::from(decision.reason != reason);
        match decision.lookup_permit() {
            Some(permit) => drop(black_box(permit)),
            None => drop(black_box(policy.suggestion(&request))),
        }
    }
    let took = cpu_time().saturating_sub(started);
    assert_eq!(other, 0, "decisions for another reason than {reason:?}");
    took
}

fn fast_half(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.truncate(times.len() / 2);
    let sum: Duration = times.iter().sum();
    sum.as_secs_f64() * 1e9 / (times.len() * DECISIONS) as f64
}

/// What this thread has used of a processor: waiting for other programs is not loading.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("/proc");
    let nanoseconds = text
        .split_whitespace()
        .next()
        .and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a field of schedstat"))
}

/// Resident memory now, and at its highest, in KiB.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        number.expect("a field of /proc/self/status")
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Numbers that are the same in each run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap_or(0)
    }
}
