//! Records as text and back: `www.example.com 60 A 192.0.2.1`.

use hickory_proto::rr::rdata::caa::KeyValue;
use hickory_proto::rr::rdata::svcb::{
    Alpn, EchConfigList, IpHint, Mandatory, SvcParamKey, SvcParamValue,
};
use hickory_proto::rr::rdata::{
    A, AAAA, CAA, CNAME, HINFO, HTTPS, MX, NS, PTR, SOA, SRV, SVCB, TXT,
};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::tree::Line;
use crate::world::fqdn;

/// Reads `NAME TTL TYPE DATA`.
pub fn parse(line: &Line, words: &[&str]) -> Record {
    let [owner, ttl, kind, data @ ..] = words else {
        line.wrong("a record is `NAME TTL TYPE DATA`");
    };
    let (Ok(ttl), Ok(kind)) = (ttl.parse(), kind.parse()) else {
        line.wrong("a record is `NAME TTL TYPE DATA`");
    };
    let Some(data) = rdata(kind, data) else {
        line.wrong(format!(
            "not the data of {kind}, or not a type of scenarios"
        ));
    };
    Record::from_rdata(fqdn(owner), ttl, data)
}

fn rdata(kind: RecordType, words: &[&str]) -> Option<RData> {
    let word = |at: usize| words.get(at).copied();
    let name = |at| Some(fqdn(word(at)?));
    let number = |at| word(at)?.parse::<u16>().ok();
    Some(match kind {
        RecordType::A => RData::A(A(word(0)?.parse().ok()?)),
        RecordType::AAAA => RData::AAAA(AAAA(word(0)?.parse().ok()?)),
        RecordType::CNAME => RData::CNAME(CNAME(name(0)?)),
        RecordType::NS => RData::NS(NS(name(0)?)),
        RecordType::PTR => RData::PTR(PTR(name(0)?)),
        RecordType::MX => RData::MX(MX::new(number(0)?, name(1)?)),
        RecordType::SRV => RData::SRV(SRV::new(number(0)?, number(1)?, number(2)?, name(3)?)),
        RecordType::TXT => RData::TXT(TXT::new(words.iter().map(|w| (*w).to_owned()).collect())),
        RecordType::CAA => {
            let issuer = Name::from_ascii(word(2)?).ok()?;
            RData::CAA(CAA::new_issue(false, Some(issuer), Vec::<KeyValue>::new()))
        }
        RecordType::SOA => {
            let minimum = word(2)?.parse().ok()?;
            let serial = word(3).map_or(Some(1), |serial| serial.parse().ok())?;
            let (primary, mailbox) = (name(0)?, name(1)?);
            RData::SOA(SOA::new(
                primary, mailbox, serial, 3600, 600, 86_400, minimum,
            ))
        }
        RecordType::HINFO => RData::HINFO(HINFO::new(word(0)?.to_owned(), String::new())),
        RecordType::HTTPS => RData::HTTPS(HTTPS(service(words)?)),
        RecordType::SVCB => RData::SVCB(service(words)?),
        _ => return None,
    })
}

fn service(words: &[&str]) -> Option<SVCB> {
    let mut params = Vec::new();
    for word in words.get(2..)? {
        let (key, value) = word.split_once('=')?;
        let list = || value.split(',');
        let value = match key {
            "alpn" => SvcParamValue::Alpn(Alpn(list().map(str::to_owned).collect())),
            "port" => SvcParamValue::Port(value.parse().ok()?),
            "ech" => SvcParamValue::EchConfigList(EchConfigList(value.into())),
            "ipv4hint" => {
                let hints = list().map(|hint| Some(A(hint.parse().ok()?)));
                SvcParamValue::Ipv4Hint(IpHint(hints.collect::<Option<_>>()?))
            }
            "ipv6hint" => {
                let hints = list().map(|hint| Some(AAAA(hint.parse().ok()?)));
                SvcParamValue::Ipv6Hint(IpHint(hints.collect::<Option<_>>()?))
            }
            "mandatory" => {
                let keys = list().map(key_of).collect::<Option<_>>()?;
                SvcParamValue::Mandatory(Mandatory(keys))
            }
            _ => return None,
        };
        params.push((key_of(key)?, value));
    }
    let target = match *words.get(1)? {
        "." => Name::root(),
        target => fqdn(target),
    };
    Some(SVCB::new(words.first()?.parse().ok()?, target, params))
}

fn key_of(text: &str) -> Option<SvcParamKey> {
    Some(match text {
        "mandatory" => SvcParamKey::Mandatory,
        "alpn" => SvcParamKey::Alpn,
        "port" => SvcParamKey::Port,
        "ipv4hint" => SvcParamKey::Ipv4Hint,
        "ech" => SvcParamKey::EchConfigList,
        "ipv6hint" => SvcParamKey::Ipv6Hint,
        _ => return None,
    })
}

/// A record as text, the same for two equal records; TTLs are part of it.
pub fn show(record: &Record) -> String {
    let owner = record.name.to_ascii();
    let owner = match owner.trim_end_matches('.') {
        "" => ".",
        owner => owner,
    };
    format!(
        "{owner} {} {} {}",
        record.ttl,
        record.record_type(),
        record.data
    )
}
