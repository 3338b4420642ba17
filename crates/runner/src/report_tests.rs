//! What a report tells of what was recorded.

use super::*;
use std::net::Ipv4Addr;

const ADDRESSES: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9))];

fn event<'a>(layer: Layer, verdict: Verdict, reason: Reason) -> Event<'a> {
    let protocol = match layer {
        Layer::Dns => Protocol::DnsUdp,
        _ => Protocol::Transparent,
    };
    Event::new(layer, protocol, verdict, reason)
}

async fn report(record: impl FnOnce(&Recorder)) -> Report {
    let recorder = Recorder::null();
    let collector = Collector::new(&recorder);
    record(&recorder);
    let over = CancellationToken::new();
    over.cancel();
    let mut report = collector.run(over).await;
    report.add_denied(&recorder.denied_summary());
    report
}

#[tokio::test]
async fn what_was_recorded_before_the_end_is_reported() {
    let report = report(|recorder| {
        let allowed = || event(Layer::Tcp, Verdict::Allow, Reason::Allowed);
        recorder.decision(allowed().name("a.example").port(443));
        recorder.decision(allowed().name("a.example").port(443));
        recorder.decision(allowed().addresses(&ADDRESSES).port(7));
        let lookup = || event(Layer::Dns, Verdict::Allow, Reason::Allowed).name("a.example");
        recorder.decision(lookup().qtype(RecordType::A));
        recorder.decision(lookup().qtype(RecordType::SRV));
        let failed = event(Layer::Tcp, Verdict::Error, Reason::ConnectionTimeout);
        recorder.decision(failed.name("dead.example").port(22).detail("no answer"));
        for _ in 0..2 {
            let denied = event(Layer::Tcp, Verdict::Deny, Reason::NotListed);
            recorder.decision(denied.name("b.example").port(443));
        }
    })
    .await;
    let used: Vec<(&str, u16, bool)> = report
        .used
        .iter()
        .map(|used| (used.target.as_str(), used.port, used.is_address))
        .collect();
    assert_eq!(used, [("203.0.113.9", 7, true), ("a.example", 443, false)]);
    assert_eq!(report.looked_up.len(), 1);
    let records: Vec<&String> = report.looked_up[0].records.iter().collect();
    assert_eq!(records, ["SRV"], "addresses are asked for on the way");
    let failed = &report.errors[0];
    assert_eq!(failed.target, "dead.example:22");
    assert_eq!(failed.reason, Reason::ConnectionTimeout.code());
    assert_eq!(failed.detail.as_deref(), Some("no answer"));
    assert_eq!((report.denied_total, report.denied.len()), (2, 1));
    assert_eq!(report.denied[0].target, "b.example:443");
    assert_eq!(report.denied[0].count, 2);
}

#[tokio::test]
async fn what_was_denied_was_not_used() {
    let report = report(|recorder| {
        for layer in [Layer::Dns, Layer::Tcp, Layer::Http] {
            let denied = event(layer, Verdict::Deny, Reason::NotListed);
            recorder.decision(denied.name("b.example").port(443));
        }
    })
    .await;
    assert!(report.used.is_empty() && report.looked_up.is_empty() && report.errors.is_empty());
}

#[tokio::test]
async fn all_names_of_an_address_are_used_where_the_connection_shows_none() {
    let report = report(|recorder| {
        for name in ["a.example", "b.example"] {
            let lookup = event(Layer::Dns, Verdict::Allow, Reason::Allowed).name(name);
            recorder.decision(lookup.qtype(RecordType::A).addresses(&ADDRESSES));
        }
        let other = event(Layer::Dns, Verdict::Allow, Reason::Allowed).name("c.example");
        recorder.decision(other.qtype(RecordType::A));
        let open = |layer| event(layer, Verdict::Allow, Reason::Allowed).addresses(&ADDRESSES);
        recorder.decision(open(Layer::Tcp).name("b.example").port(5432));
        recorder.decision(open(Layer::Tls).name("a.example").port(443));
    })
    .await;
    let used: Vec<(&str, u16)> = report
        .used
        .iter()
        .map(|used| (used.target.as_str(), used.port))
        .collect();
    let expected = [("a.example", 443), ("a.example", 5432), ("b.example", 5432)];
    assert_eq!(
        used, expected,
        "the one that shows its name is for that name"
    );
}
