//! What gateways count, as OpenMetrics text (version 1.0.0).
//!
//! Answers *exhaustion* (docs/threats.md): no label says what a program asked for. Their values are the
//! operator's names of sandboxes and closed lists of codes, so that the number of series is bounded,
//! whatever a program does.

use std::fmt::Write as _;

use portcullis_policy::Reason;
use portcullis_proxy::OpenFlows;
use portcullis_record::{Health, Layer, Snapshot, verdict_code};

/// The media type of [`openmetrics`], for `Content-Type`.
pub const OPENMETRICS_CONTENT_TYPE: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What one gateway has counted, at one moment ([`Gateway::metrics`](crate::Gateway::metrics)).
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Decisions, and flows that have ended.
    pub counters: Snapshot,
    /// Flows that are open.
    pub open: OpenFlows,
    /// Lookups that the cache could not answer.
    pub lookups: u64,
    /// How the record does.
    pub records: Health,
}

/// A gateway's numbers, by its sandbox's name.
pub struct SandboxMetrics<'a> {
    /// The value of the label `sandbox`; each stands once.
    pub sandbox: &'a str,
    /// Its numbers.
    pub metrics: &'a Metrics,
}

/// The numbers of these gateways in one text, for `/metrics`. `version` is that of the program that serves
/// it. Its own families go in ahead of the last line, `# EOF`.
#[must_use]
pub fn openmetrics(version: &str, gateways: &[SandboxMetrics<'_>]) -> String {
    let mut text = Exposition {
        text: String::new(),
        gateways,
    };
    text.family("portcullis_build", "info", "The build that serves.");
    text.sample("portcullis_build_info", &[("version", version)], 1);
    text.decisions();
    text.policy_reloads();
    text.flows();
    text.each(
        "portcullis_dns_upstream_lookups",
        "counter",
        "Lookups that the cache could not answer. The others of portcullis_decisions with layer dns and verdict allow came from it.",
        |metrics| metrics.lookups,
    );
    text.each(
        "portcullis_records_lost",
        "counter",
        "Decisions and closes whose records found no room.",
        |metrics| metrics.records.lost,
    );
    text.each(
        "portcullis_records_waiting",
        "gauge",
        "Records that wait to be written.",
        |metrics| metrics.records.waiting as u64,
    );
    text.each(
        "portcullis_records_failing",
        "gauge",
        "1 while records cannot be written, as on a full disk.",
        |metrics| u64::from(metrics.records.last_error.is_some()),
    );
    text.text.push_str("# EOF\n");
    text.text
}

/// The text under construction. Each family stands in one piece, as the format wants.
struct Exposition<'a> {
    text: String,
    gateways: &'a [SandboxMetrics<'a>],
}

impl Exposition<'_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.text, "# TYPE {name} {kind}\n# HELP {name} {help}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.text.push_str(name);
        let mut between = '{';
        for (label, value) in labels {
            let _ = write!(self.text, "{between}{label}=\"");
            for character in value.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
            between = ',';
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// A family with one number for each gateway.
    fn each(&mut self, name: &str, kind: &str, help: &str, value: impl Fn(&Metrics) -> u64) {
        self.family(name, kind, help);
        let suffix = if kind == "counter" { "_total" } else { "" };
        let sample = format!("{name}{suffix}");
        for gateway in self.gateways {
            let labels = [("sandbox", gateway.sandbox)];
            self.sample(&sample, &labels, value(gateway.metrics));
        }
    }

    fn decisions(&mut self) {
        let help = "Decisions. Their codes are those of decision records.";
        self.family("portcullis_decisions", "counter", help);
        for gateway in self.gateways {
            for (layer, verdict, reason, count) in gateway.metrics.counters.decisions() {
                let labels = [
                    ("sandbox", gateway.sandbox),
                    ("layer", layer.code()),
                    ("verdict", verdict_code(verdict)),
                    ("reason", reason.code()),
                ];
                self.sample("portcullis_decisions_total", &labels, count);
            }
        }
    }

    /// From the decisions of the gateway itself, so that they are counted in one place.
    fn policy_reloads(&mut self) {
        let help = "Changes of the policy, accepted or rejected.";
        self.family("portcullis_policy_reloads", "counter", help);
        for gateway in self.gateways {
            for (result, reason) in [
                ("accepted", Reason::PolicyReloaded),
                ("rejected", Reason::PolicyRejected),
            ] {
                let decisions = gateway.metrics.counters.decisions();
                let of_this = decisions
                    .filter(|(layer, _, of, _)| *layer == Layer::Gateway && *of == reason)
                    .map(|(.., count)| count);
                let labels = [("sandbox", gateway.sandbox), ("result", result)];
                self.sample("portcullis_policy_reloads_total", &labels, of_this.sum());
            }
        }
    }

    fn flows(&mut self) {
        let help = "Connections and flows of datagrams that are open.";
        self.family("portcullis_open_flows", "gauge", help);
        for gateway in self.gateways {
            let OpenFlows {
                connections,
                datagrams,
            } = gateway.metrics.open;
            for (transport, count) in [("tcp", connections), ("udp", datagrams)] {
                let labels = [("sandbox", gateway.sandbox), ("transport", transport)];
                self.sample("portcullis_open_flows", &labels, count as u64);
            }
        }
        let help = "Flows that have ended, and why. A request is a flow of its own.";
        self.family("portcullis_closed_flows", "counter", help);
        for gateway in self.gateways {
            for (reason, count) in gateway.metrics.counters.closes() {
                let labels = [("sandbox", gateway.sandbox), ("reason", reason.code())];
                self.sample("portcullis_closed_flows_total", &labels, count);
            }
        }
        let help = "Bytes of flows that have ended, from programs (up) and to them (down).";
        self.family("portcullis_flow_bytes", "counter", help);
        self.text.push_str("# UNIT portcullis_flow_bytes bytes\n");
        for gateway in self.gateways {
            let counters = &gateway.metrics.counters;
            for (direction, bytes) in [("up", counters.bytes_up()), ("down", counters.bytes_down())]
            {
                let labels = [("sandbox", gateway.sandbox), ("direction", direction)];
                self.sample("portcullis_flow_bytes_total", &labels, bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_record::{Close, CloseReason, Event, Protocol, Recorder};
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    fn metrics(recorder: &Recorder) -> Metrics {
        Metrics {
            counters: recorder.counters(),
            open: OpenFlows {
                connections: 3,
                datagrams: 1,
            },
            lookups: 7,
            records: recorder.health(),
        }
    }

    /// A recorder that has counted something of every kind.
    fn busy() -> Recorder {
        let recorder = Recorder::null();
        for &reason in Reason::ALL {
            let event = Event::new(Layer::Dns, Protocol::DnsUdp, reason.verdict(), reason);
            recorder.decision(event.name("secret.example"));
        }
        for reason in [
            Reason::PolicyReloaded,
            Reason::PolicyRejected,
            Reason::PolicyReloaded,
        ] {
            let event = Event::new(Layer::Gateway, Protocol::Startup, reason.verdict(), reason);
            recorder.decision(event);
        }
        let id = recorder.decision(Event::default());
        recorder.close(
            id,
            Close::new(CloseReason::Finished, 100, 2_000, Duration::ZERO),
        );
        recorder
    }

    /// What stands in a text, held to the rules of the format: families in one piece with a type and a
    /// help, samples of a family's own names, labels quoted, no series twice, `# EOF` at the end.
    fn parsed(text: &str) -> BTreeMap<String, u64> {
        let body = text.strip_suffix("# EOF\n").expect("an end");
        let (mut family, mut kind) = (String::new(), String::new());
        let (mut families, mut samples) = (BTreeSet::new(), BTreeMap::new());
        for line in body.lines() {
            if let Some(about) = line.strip_prefix("# TYPE ") {
                let (name, of) = about.split_once(' ').unwrap();
                assert!(families.insert(name.to_owned()), "{name} stands twice");
                (family, kind) = (name.to_owned(), of.to_owned());
                assert!(["counter", "gauge", "info"].contains(&of), "{line}");
            } else if let Some(about) = line.strip_prefix("# HELP ") {
                assert!(about.starts_with(&format!("{family} ")), "{line}");
            } else if let Some(unit) = line.strip_prefix("# UNIT ") {
                assert!(family.ends_with("_bytes"), "{line}");
                assert_eq!(unit, format!("{family} bytes"));
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                let suffix = match kind.as_str() {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                assert_eq!(name, format!("{family}{suffix}"), "{line}");
                let before = samples.insert(series.to_owned(), value.parse().unwrap());
                assert_eq!(before, None, "{line} stands twice");
            }
        }
        samples
    }

    #[test]
    fn the_numbers_of_several_gateways_are_one_valid_exposition() {
        let (busy, idle) = (metrics(&busy()), metrics(&Recorder::null()));
        let text = openmetrics(
            "1.2.3",
            &[
                SandboxMetrics {
                    sandbox: "busy",
                    metrics: &busy,
                },
                SandboxMetrics {
                    sandbox: "idle",
                    metrics: &idle,
                },
            ],
        );
        let samples = parsed(&text);
        for (series, value) in [
            (r#"portcullis_build_info{version="1.2.3"}"#, 1),
            (
                r#"portcullis_decisions_total{sandbox="busy",layer="dns",verdict="deny",reason="not-in-allowlist"}"#,
                1,
            ),
            (
                r#"portcullis_policy_reloads_total{sandbox="busy",result="accepted"}"#,
                2,
            ),
            (
                r#"portcullis_policy_reloads_total{sandbox="busy",result="rejected"}"#,
                1,
            ),
            (
                r#"portcullis_policy_reloads_total{sandbox="idle",result="rejected"}"#,
                0,
            ),
            (
                r#"portcullis_open_flows{sandbox="busy",transport="tcp"}"#,
                3,
            ),
            (
                r#"portcullis_closed_flows_total{sandbox="busy",reason="finished"}"#,
                1,
            ),
            (
                r#"portcullis_flow_bytes_total{sandbox="busy",direction="up"}"#,
                100,
            ),
            (
                r#"portcullis_flow_bytes_total{sandbox="busy",direction="down"}"#,
                2_000,
            ),
            (
                r#"portcullis_dns_upstream_lookups_total{sandbox="idle"}"#,
                7,
            ),
            (r#"portcullis_records_lost_total{sandbox="idle"}"#, 0),
            (r#"portcullis_records_failing{sandbox="busy"}"#, 0),
        ] {
            assert_eq!(samples.get(series), Some(&value), "{series}\n{text}");
        }
        assert!(!text.contains("secret.example"), "a name is no label");
    }

    #[test]
    fn no_sandbox_at_all_is_valid_too() {
        assert_eq!(parsed(&openmetrics("1", &[])).len(), 1, "the build alone");
    }

    #[test]
    fn a_hostile_name_of_a_sandbox_stays_in_its_label() {
        let metrics = metrics(&Recorder::null());
        let text = openmetrics(
            "1",
            &[SandboxMetrics {
                sandbox: "a\"} 1\n# EOF\n\\",
                metrics: &metrics,
            }],
        );
        let samples = parsed(&text);
        let series = r#"portcullis_records_lost_total{sandbox="a\"} 1\n# EOF\n\\"}"#;
        assert!(samples.contains_key(series), "{text}");
    }
}
