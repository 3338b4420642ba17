//! Reads an upstream's answer: the CNAME chain from the name that was asked for, and the records at
//! its end. Everything else in the message is dropped.
//!
//! Answers *resolution as a way out* (docs/threats.md): records that do not hang on the asked name
//! (out of bailiwick), the additional section, loops and chains without end go no further than this
//! file.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{self, DNSClass, RData, Record};
use portcullis_names::{Name, NameBuf, NameRef, RecordType};
use smallvec::SmallVec;

use crate::reply::{self, Body, rcode};
use crate::svcb;

/// CNAMEs followed from one name, over all messages.
pub(crate) const MAX_CHAIN: usize = 16;

/// Records of one type taken from one answer, the first ones; a program has no use for more.
const MAX_RECORDS: usize = 256;

/// No answer is cached for less: keeps a TTL of 0 from turning each packet into a question.
pub(crate) const TTL_FLOOR: u32 = 5;

/// How long an answer from the hosts file may be cached, seconds: the file may change.
pub(crate) const HOSTS_TTL: u32 = 10;

/// No answer is cached for more: a wrong answer ends.
pub(crate) const TTL_CEILING: u32 = 3_600;

/// No negative answer is cached for more (RFC 2308 5 lets us choose; an hour is its own advice, but
/// a name that was just created should not stay away that long).
pub(crate) const NEGATIVE_TTL_CEILING: u32 = 300;

/// Why an answer cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChainError {
    #[error("its CNAME chain loops")]
    Loop,
    #[error("its CNAME chain is longer than 16")]
    TooLong,
    #[error("its CNAME chain leads to something that is no host name")]
    BadName,
    #[error("it cannot be written again")]
    Unwritable,
}

/// What hangs on the asked name.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    /// The name asked for.
    asked: Name,
    qtype: RecordType,
    /// Each CNAME's target, in order.
    targets: SmallVec<[Name; 2]>,
    cnames: Vec<Record>,
    /// The records of the asked type at the end.
    records: Vec<Record>,
    soa: Option<Record>,
    nx_domain: bool,
}

impl Chain {
    /// A chain that has not been asked for yet.
    pub(crate) fn new(asked: Name, qtype: RecordType) -> Chain {
        Chain {
            asked,
            qtype,
            targets: SmallVec::new(),
            cnames: Vec::new(),
            records: Vec::new(),
            soa: None,
            nx_domain: false,
        }
    }

    /// What the host's hosts file says: the addresses of the asked type's family, or none.
    ///
    /// # Errors
    /// [`ChainError::Unwritable`]; a canonical name can be written, so this is a bug.
    pub(crate) fn of_addresses(
        asked: Name,
        qtype: RecordType,
        addresses: &[IpAddr],
    ) -> Result<Chain, ChainError> {
        let owner = to_rr(&asked)?;
        let data = addresses.iter().filter_map(|address| match address {
            IpAddr::V4(four) if qtype == RecordType::A => Some(RData::A((*four).into())),
            IpAddr::V6(six) if qtype == RecordType::AAAA => Some(RData::AAAA((*six).into())),
            _ => None,
        });
        let records = data.map(|data| Record::from_rdata(owner.clone(), HOSTS_TTL, data));
        let records = records.collect();
        Ok(Chain {
            records,
            ..Chain::new(asked, qtype)
        })
    }

    /// The name is known to exist: what says that it does not only lacks this type.
    pub(crate) fn set_existing(&mut self) {
        self.nx_domain = false;
    }

    /// The name at the end does not exist, and need not be asked for.
    pub(crate) fn set_absent(&mut self) {
        self.nx_domain = true;
    }

    /// The name at the end: to be asked for next, if the chain is not [complete](Chain::follow).
    pub(crate) fn end(&self) -> &Name {
        self.targets.last().unwrap_or(&self.asked)
    }

    /// The names after the asked one.
    pub(crate) fn targets(&self) -> &[Name] {
        &self.targets
    }

    /// Whether the name at the end does not exist.
    pub(crate) fn nx_domain(&self) -> bool {
        self.nx_domain
    }

    /// The addresses at the end.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.records.iter().filter_map(|record| match &record.data {
            RData::A(a) => Some(a.0.into()),
            RData::AAAA(aaaa) => Some(aaaa.0.into()),
            _ => None,
        })
    }

    /// The first PTR target at the end that is a host name.
    pub(crate) fn pointer(&self) -> Option<Name> {
        self.records.iter().find_map(|record| match &record.data {
            RData::PTR(target) => canonical(&target.0).ok(),
            _ => None,
        })
    }

    /// Whether there is any record at the end.
    pub(crate) fn is_positive(&self) -> bool {
        !self.records.is_empty() || (self.qtype == RecordType::CNAME && !self.cnames.is_empty())
    }

    /// Takes from an answer to a question for [`Chain::end`] what hangs on that name. `true` when
    /// nothing is left to ask, `false` when the answer stopped at a CNAME without saying what is
    /// behind it. What it says of names for which `within` is false is not believed: other servers
    /// are asked about those.
    ///
    /// # Errors
    /// [`ChainError`]: the answer is not used at all.
    pub(crate) fn follow(
        &mut self,
        message: Message,
        within: impl Fn(NameRef<'_>) -> bool,
    ) -> Result<bool, ChainError> {
        let Message {
            metadata,
            answers,
            authorities,
            ..
        } = message;
        let mut answers: Vec<Option<Record>> = answers
            .into_iter()
            .filter(|r| r.dns_class == DNSClass::IN)
            .map(Some)
            .collect();
        let followed_before = self.targets.len();
        loop {
            self.take_records(&mut answers);
            if !self.records.is_empty() || self.qtype == RecordType::CNAME {
                break;
            }
            let Some(cname) = self.take_cname(&mut answers) else {
                break;
            };
            self.push(cname)?;
            if !within(self.end().as_ref()) {
                return Ok(false);
            }
        }
        if self.qtype == RecordType::CNAME {
            // Asked for the alias itself: it is the record, and nothing is followed.
            if let Some(cname) = self.take_cname(&mut answers) {
                self.cnames.push(cname);
            }
        }
        self.nx_domain =
            metadata.response_code == ResponseCode::NXDomain && self.records.is_empty();
        let end = self.end().clone();
        self.soa = authorities.into_iter().find(|r| {
            r.dns_class == DNSClass::IN
                && matches!(r.data, RData::SOA(_))
                && covers(&r.name, end.as_ref())
        });
        let stopped = self.targets.len() > followed_before;
        Ok(self.is_positive() || self.nx_domain || self.soa.is_some() || !stopped)
    }

    fn take_records(&mut self, answers: &mut [Option<Record>]) {
        let kind = rr::RecordType::from(self.qtype.number());
        if self.qtype == RecordType::CNAME {
            return;
        }
        let end = self.end().clone();
        for slot in answers {
            let fits = slot
                .as_ref()
                .is_some_and(|r| r.record_type() == kind && is_name(&r.name, end.as_ref()));
            if let Some(record) = if fits { slot.take() } else { None } {
                if self.records.len() == MAX_RECORDS {
                    return;
                }
                self.records.push(record);
            }
        }
    }

    fn take_cname(&self, answers: &mut [Option<Record>]) -> Option<Record> {
        let (end, kind) = (self.end(), rr::RecordType::CNAME);
        answers
            .iter_mut()
            .find(|slot| {
                slot.as_ref()
                    .is_some_and(|r| r.record_type() == kind && is_name(&r.name, end.as_ref()))
            })
            .and_then(Option::take)
    }

    fn push(&mut self, cname: Record) -> Result<(), ChainError> {
        let RData::CNAME(target) = &cname.data else {
            return Err(ChainError::BadName);
        };
        let target = canonical(&target.0)?;
        if target == self.asked || self.targets.contains(&target) {
            return Err(ChainError::Loop);
        }
        if self.targets.len() == MAX_CHAIN {
            return Err(ChainError::TooLong);
        }
        self.targets.push(target);
        self.cnames.push(cname);
        Ok(())
    }

    /// Keeps only the addresses that `keep` lets through.
    pub(crate) fn retain_addresses(&mut self, keep: impl Fn(IpAddr) -> bool) {
        self.records.retain(|record| match &record.data {
            RData::A(a) => keep(a.0.into()),
            RData::AAAA(aaaa) => keep(aaaa.0.into()),
            _ => true,
        });
    }

    /// Takes out of HTTPS and SVCB records what must not reach the program ([`svcb`]), and returns
    /// the addresses that are still hinted at, for which `keep` spoke.
    pub(crate) fn limit_services(&mut self, keep: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        let end = self.end().clone();
        let mut hinted = Vec::new();
        let own = |target: &rr::Name| target.is_root() || is_name(target, end.as_ref());
        self.records.retain_mut(|record| {
            let service = match &mut record.data {
                RData::SVCB(service) => service,
                RData::HTTPS(service) => &mut service.0,
                _ => return true,
            };
            let hints_count = own(&service.target_name);
            svcb::limit(service, &mut hinted, |address| hints_count && keep(address))
        });
        hinted
    }

    /// Hides the aliases: what is at the end stands under the asked name, for a policy that serves
    /// no CNAME.
    pub(crate) fn flatten(&mut self) {
        if self.qtype == RecordType::CNAME || self.targets.is_empty() {
            return;
        }
        self.cnames.clear();
        self.targets.clear();
        if let (Some(soa), Ok(asked)) = (&mut self.soa, to_rr(&self.asked)) {
            soa.name = asked;
        }
    }

    /// How long the answer may be kept and given out.
    pub(crate) fn ttl(&self) -> Duration {
        let records = self
            .cnames
            .iter()
            .chain(&self.records)
            // With the highest bit set it counts as 0 (RFC 2181 8).
            .map(|record| i32::try_from(record.ttl).map_or(0, i32::unsigned_abs));
        let seconds = if self.is_positive() {
            records.min().unwrap_or(0).clamp(TTL_FLOOR, TTL_CEILING)
        } else {
            let negative = match &self.soa {
                Some(Record {
                    ttl,
                    data: RData::SOA(soa),
                    ..
                }) => (*ttl).min(soa.minimum),
                _ => reply::OWN_NEGATIVE_TTL,
            };
            records
                .chain([negative])
                .min()
                .unwrap_or(0)
                .clamp(TTL_FLOOR, NEGATIVE_TTL_CEILING)
        };
        Duration::from_secs(u64::from(seconds))
    }

    /// Writes the answer for the question that was asked.
    ///
    /// # Errors
    /// [`ChainError::Unwritable`]; a record that was read can be written, so this is a bug.
    pub(crate) fn body(self) -> Result<Body, ChainError> {
        let ttl = self.ttl().as_secs() as u32;
        let positive = self.is_positive();
        let code = if self.nx_domain {
            rcode::NX_DOMAIN
        } else {
            rcode::NO_ERROR
        };
        let mut message = Message::query();
        let asked = to_rr(&self.asked)?;
        message.add_query(Query::query(
            asked.clone(),
            rr::RecordType::from(self.qtype.number()),
        ));
        // Owners are written in their canonical form: what the servers spelt is not passed on.
        let mut owner = asked;
        let mut targets = self.targets.iter();
        for mut cname in self.cnames {
            cname.name = owner.clone();
            cname.ttl = ttl;
            if let Some(target) = targets.next() {
                owner = to_rr(target)?;
                cname.data = RData::CNAME(rr::rdata::CNAME(owner.clone()));
            }
            message.answers.push(cname);
        }
        for mut record in self.records {
            record.name = owner.clone();
            record.ttl = ttl;
            message.answers.push(record);
        }
        if !positive {
            let mut soa = match self.soa {
                Some(soa) => soa,
                None => Record::from_rdata(owner, ttl, own_soa()?),
            };
            soa.ttl = ttl;
            message.authorities.push(soa);
        }
        let authorities = message.authorities.len() as u16;
        // A server may have written names shorter than they can be written here: what does not fit into
        // a message is left out.
        loop {
            let answers = message.answers.len() as u16;
            let bytes = message.to_vec().map_err(|_| ChainError::Unwritable)?;
            let body = reply::body_of(&bytes, code, answers, authorities);
            if let Some(body) = body {
                return Ok(body);
            }
            let left = message.answers.len() * 7 / 8;
            if left == 0 {
                return Err(ChainError::Unwritable);
            }
            message.answers.truncate(left);
        }
    }
}

fn own_soa() -> Result<RData, ChainError> {
    let name = |text| rr::Name::from_ascii(text).map_err(|_| ChainError::Unwritable);
    let (server, person) = (
        name("gateway.portcullis.internal.")?,
        name("hostmaster.portcullis.internal.")?,
    );
    let ttl = reply::OWN_NEGATIVE_TTL;
    Ok(RData::SOA(rr::rdata::SOA::new(
        server, person, 1, 3600, 600, 86_400, ttl,
    )))
}

fn canonical(name: &rr::Name) -> Result<Name, ChainError> {
    NameBuf::from_wire(name.iter())
        .map(Name::from)
        .map_err(|_| ChainError::BadName)
}

fn is_name(theirs: &rr::Name, ours: NameRef<'_>) -> bool {
    let mut labels = ours.labels();
    let same = theirs.iter().all(|label| {
        labels
            .next()
            .is_some_and(|l| label.eq_ignore_ascii_case(l.as_bytes()))
    });
    same && labels.next().is_none()
}

/// Whether `zone` is `name` or above it.
fn covers(zone: &rr::Name, name: NameRef<'_>) -> bool {
    let mut labels = name.labels().rev();
    zone.iter().rev().all(|label| {
        labels
            .next()
            .is_some_and(|l| label.eq_ignore_ascii_case(l.as_bytes()))
    })
}

fn to_rr(name: &Name) -> Result<rr::Name, ChainError> {
    let labels = name.as_ref().labels().map(str::as_bytes);
    rr::Name::from_labels(labels).map_err(|_| ChainError::Unwritable)
}
