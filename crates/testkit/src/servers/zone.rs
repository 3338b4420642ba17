//! The zone: lines of text in, answers out. It answers as a recursive resolver does, with the
//! whole CNAME chain, since that is what a host's upstream resolver is.

use crate::spec::{DnsSpec, Fault};
use anyhow::{Context, Result, bail};
use hickory_proto::rr::rdata::caa::KeyValue;
use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, CAA, CNAME, HTTPS, MX, NS, PTR, SOA, SRV, SVCB, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Mutex;

/// Where a line says no TTL, in seconds.
const DEFAULT_TTL: u32 = 300;
/// The TTL of negative answers, in seconds.
const NEGATIVE_TTL: u32 = 30;
/// The longest CNAME chain that is followed.
const MAX_CHAIN: usize = 12;

/// A zone, ready to be asked.
pub(crate) struct Zone {
    records: HashMap<String, Vec<(RecordType, u32, RData)>>,
    faults: BTreeMap<String, Fault>,
    /// How often each name was asked for, for the faults that count.
    asked: Mutex<HashMap<String, u32>>,
}

/// What the zone has to say about a name and type.
pub(crate) struct Found {
    pub(crate) answers: Vec<Record>,
    pub(crate) soa: Option<Record>,
    pub(crate) exists: bool,
}

impl Zone {
    pub(crate) fn new(spec: &DnsSpec) -> Result<Zone> {
        let mut records: HashMap<String, Vec<_>> = HashMap::new();
        for line in &spec.zone {
            let (name, record) = parse(line).with_context(|| format!("zone line {line:?}"))?;
            records.entry(name).or_default().push(record);
        }
        Ok(Zone {
            records,
            faults: spec.faults.clone(),
            asked: Mutex::default(),
        })
    }

    pub(crate) fn fault(&self, name: &str) -> Option<&Fault> {
        self.faults.get(&name.to_ascii_lowercase())
    }

    /// Counts a query; the first gives 0.
    pub(crate) fn count(&self, name: &str) -> u32 {
        let mut asked = self.asked.lock().unwrap_or_else(|e| e.into_inner());
        let counter = asked.entry(name.to_ascii_lowercase()).or_default();
        let before = *counter;
        *counter += 1;
        before
    }

    /// Every address of a name.
    pub(crate) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let Ok(name) = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))) else {
            return Vec::new();
        };
        [RecordType::A, RecordType::AAAA]
            .into_iter()
            .flat_map(|kind| self.find(&name, kind).answers)
            .filter_map(|record| match record.data {
                RData::A(a) => Some(IpAddr::V4(a.0)),
                RData::AAAA(a) => Some(IpAddr::V6(a.0)),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn find(&self, asked: &Name, kind: RecordType) -> Found {
        let mut name = asked.clone();
        let mut answers = Vec::new();
        for _ in 0..MAX_CHAIN {
            let key = key_of(&name);
            let Some(here) = self.at(&key) else {
                let exists = !answers.is_empty() || self.is_above_something(&key);
                return Found {
                    answers,
                    soa: soa(&key),
                    exists,
                };
            };
            if kind == RecordType::SOA && here.iter().all(|(k, ..)| *k != kind) {
                return Found {
                    answers,
                    soa: soa(&key),
                    exists: true,
                };
            }
            let before = answers.len();
            for (record_kind, ttl, data) in here {
                if *record_kind == kind {
                    answers.push(Record::from_rdata(name.clone(), *ttl, data.clone()));
                }
            }
            if answers.len() > before {
                return Found {
                    answers,
                    soa: None,
                    exists: true,
                };
            }
            let Some((_, ttl, RData::CNAME(target))) =
                here.iter().find(|(k, ..)| *k == RecordType::CNAME)
            else {
                return Found {
                    answers,
                    soa: soa(&key),
                    exists: true,
                };
            };
            let next = target.0.clone();
            answers.push(Record::from_rdata(name, *ttl, RData::CNAME(target.clone())));
            name = next;
        }
        Found {
            answers,
            soa: None,
            exists: true,
        }
    }

    fn at(&self, key: &str) -> Option<&Vec<(RecordType, u32, RData)>> {
        if let Some(found) = self.records.get(key) {
            return Some(found);
        }
        let mut rest = key;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(found) = self.records.get(&format!("*.{parent}")) {
                return Some(found);
            }
            rest = parent;
        }
        None
    }

    fn is_above_something(&self, key: &str) -> bool {
        let suffix = format!(".{key}");
        self.records.keys().any(|name| name.ends_with(&suffix))
    }
}

fn key_of(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

/// The SOA of the zone that a name would be in: its last two labels.
fn soa(key: &str) -> Option<Record> {
    let mut labels: Vec<&str> = key.rsplit('.').take(2).collect();
    labels.reverse();
    let apex = Name::from_ascii(format!("{}.", labels.join("."))).ok()?;
    let server = Name::from_ascii(format!("ns1.{apex}")).ok()?;
    let mail = Name::from_ascii(format!("hostmaster.{apex}")).ok()?;
    let data = SOA::new(server, mail, 1, 3600, 600, 86400, NEGATIVE_TTL);
    Some(Record::from_rdata(apex, NEGATIVE_TTL, RData::SOA(data)))
}

fn parse(line: &str) -> Result<(String, (RecordType, u32, RData))> {
    let mut words = line.split_whitespace();
    let name = words
        .next()
        .context("no name")?
        .trim_end_matches('.')
        .to_ascii_lowercase();
    let mut word = words.next().context("no type")?;
    let mut ttl = DEFAULT_TTL;
    if let Ok(seconds) = word.parse() {
        ttl = seconds;
        word = words.next().context("no type")?;
    }
    let kind: RecordType = word.parse().context("unknown type")?;
    let rest: Vec<&str> = words.collect();
    Ok((name, (kind, ttl, data(kind, &rest)?)))
}

fn data(kind: RecordType, words: &[&str]) -> Result<RData> {
    let number = |i: usize| -> Result<u16> { Ok(word(words, i)?.parse()?) };
    Ok(match kind {
        RecordType::A => RData::A(A(word(words, 0)?.parse()?)),
        RecordType::AAAA => RData::AAAA(AAAA(word(words, 0)?.parse()?)),
        RecordType::CNAME => RData::CNAME(CNAME(absolute(words, 0)?)),
        RecordType::NS => RData::NS(NS(absolute(words, 0)?)),
        RecordType::PTR => RData::PTR(PTR(absolute(words, 0)?)),
        RecordType::MX => RData::MX(MX::new(number(0)?, absolute(words, 1)?)),
        RecordType::SRV => RData::SRV(SRV::new(
            number(0)?,
            number(1)?,
            number(2)?,
            absolute(words, 3)?,
        )),
        RecordType::TXT => RData::TXT(TXT::new(words.iter().map(|w| (*w).to_owned()).collect())),
        RecordType::CAA => RData::CAA(CAA::new_issue(
            false,
            // Without the dot: this name is text inside the record.
            Some(Name::from_ascii(word(words, 1)?)?),
            Vec::<KeyValue>::new(),
        )),
        RecordType::SVCB => RData::SVCB(svcb(words)?),
        RecordType::HTTPS => RData::HTTPS(HTTPS(svcb(words)?)),
        RecordType::SOA => {
            let data = SOA::new(
                absolute(words, 0)?,
                absolute(words, 1)?,
                1,
                3600,
                600,
                86400,
                30,
            );
            RData::SOA(data)
        }
        other => bail!("type {other} is not one the world serves"),
    })
}

fn word<'a>(words: &[&'a str], index: usize) -> Result<&'a str> {
    words.get(index).copied().context("too few words")
}

fn absolute(words: &[&str], index: usize) -> Result<Name> {
    let text = word(words, index)?.trim_end_matches('.');
    Ok(Name::from_ascii(format!("{text}."))?)
}

fn svcb(words: &[&str]) -> Result<SVCB> {
    let mut params = Vec::new();
    for text in words.iter().skip(2) {
        let (key, value) = text.split_once('=').context("KEY=VALUE expected")?;
        let list = || value.split(',');
        params.push(match key {
            "alpn" => (
                SvcParamKey::Alpn,
                SvcParamValue::Alpn(Alpn(list().map(str::to_owned).collect())),
            ),
            "ipv4hint" => {
                let hints = list().map(|a| Ok(A(a.parse()?))).collect::<Result<_>>()?;
                (
                    SvcParamKey::Ipv4Hint,
                    SvcParamValue::Ipv4Hint(IpHint(hints)),
                )
            }
            "ipv6hint" => {
                let hints = list()
                    .map(|a| Ok(AAAA(a.parse()?)))
                    .collect::<Result<_>>()?;
                (
                    SvcParamKey::Ipv6Hint,
                    SvcParamValue::Ipv6Hint(IpHint(hints)),
                )
            }
            "ech" => (
                SvcParamKey::EchConfigList,
                SvcParamValue::EchConfigList(EchConfigList(value.as_bytes().to_vec())),
            ),
            "port" => (SvcParamKey::Port, SvcParamValue::Port(value.parse()?)),
            other => bail!("parameter {other} is not one the world serves"),
        });
    }
    Ok(SVCB::new(
        word(words, 0)?.parse()?,
        absolute(words, 1)?,
        params,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::WorldSpec;

    fn zone(lines: &[&str]) -> Zone {
        let zone = lines.iter().map(|l| (*l).to_owned()).collect();
        Zone::new(&DnsSpec {
            zone,
            ..DnsSpec::default()
        })
        .unwrap()
    }

    fn find(zone: &Zone, name: &str, kind: RecordType) -> Found {
        zone.find(&Name::from_ascii(name).unwrap(), kind)
    }

    #[test]
    fn the_standard_zone_parses() {
        Zone::new(&WorldSpec::standard().dns).unwrap();
    }

    #[test]
    fn a_chain_comes_whole_and_a_missing_type_is_nodata() {
        let zone = zone(&["a.x.org CNAME b.x.org", "b.x.org A 203.0.113.1"]);
        let found = find(&zone, "A.x.org.", RecordType::A);
        assert_eq!(found.answers.len(), 2);
        assert!(found.soa.is_none());
        let found = find(&zone, "a.x.org.", RecordType::AAAA);
        assert_eq!(found.answers.len(), 1);
        assert!(found.soa.is_some() && found.exists);
    }

    #[test]
    fn nothing_below_is_nxdomain_something_below_is_nodata() {
        let zone = zone(&["a.b.x.org A 203.0.113.1"]);
        assert!(!find(&zone, "c.x.org.", RecordType::A).exists);
        assert!(find(&zone, "b.x.org.", RecordType::A).exists);
    }

    #[test]
    fn a_wildcard_answers_any_depth_below() {
        let zone = zone(&["*.x.org A 203.0.113.1"]);
        assert_eq!(find(&zone, "p.q.x.org.", RecordType::A).answers.len(), 1);
        assert!(find(&zone, "x.org.", RecordType::A).answers.is_empty());
    }

    #[test]
    fn a_loop_ends() {
        let zone = zone(&["a.x.org CNAME b.x.org", "b.x.org CNAME a.x.org"]);
        assert_eq!(
            find(&zone, "a.x.org.", RecordType::A).answers.len(),
            MAX_CHAIN
        );
    }

    #[test]
    fn a_bad_line_says_which() {
        let spec = DnsSpec {
            zone: vec!["x.org A nonsense".to_owned()],
            ..DnsSpec::default()
        };
        let error = format!("{:#}", Zone::new(&spec).err().unwrap());
        assert!(error.contains("x.org A nonsense"), "{error}");
    }
}
