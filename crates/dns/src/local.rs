//! Names that are answered here and never asked of anyone: the sandbox's own loopback, the
//! gateway's self-probe and status page, and the host's name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::OwnNames;
use crate::grants::Grants;
use crate::lookup::Permits;
use crate::query::{ClientQuery, Decided, Refusal};
use crate::reply::{self, rcode};
use portcullis_names::{RecordType, STATUS_NAME};

/// Below this name everything is the gateway's own probe: it shows that the resolver answers.
const PROBE_ZONE: &str = ".probe.portcullis.internal";

/// What the probe is told.
const PROBE_TEXT: &[u8] = b"\x0aportcullis";

/// How long answers about the sandbox itself may be cached, seconds.
const LOCAL_TTL: u32 = 60;

/// How long the answer to ANY may be cached, seconds.
const ANY_TTL: u32 = 3_600;

/// The data of the HINFO record that answers ANY (RFC 8482 4.2): CPU "RFC8482", no OS.
const ANY_HINFO: &[u8] = b"\x07RFC8482\x00";

/// Answers a name that is nobody else's business. `false`: it is not one.
///
/// `localhost` and what is below it is the loopback, and never leaves.
pub(crate) fn answer(query: &ClientQuery<'_>, out: &mut Vec<u8>) -> bool {
    let (name, qtype) = (query.name.as_str(), query.qtype());
    if qtype.is_transfer() {
        return false;
    }
    if query.name.is_localhost() {
        match qtype {
            RecordType::A => {
                let data = Ipv4Addr::LOCALHOST.octets();
                reply::one(out, &query.reply, RecordType::A, LOCAL_TTL, &data);
            }
            RecordType::AAAA => {
                let data = Ipv6Addr::LOCALHOST.octets();
                reply::one(out, &query.reply, RecordType::AAAA, LOCAL_TTL, &data);
            }
            _ => reply::negative(out, &query.reply, rcode::NO_ERROR, None),
        }
        return true;
    }
    if name.ends_with(PROBE_ZONE) {
        match qtype {
            RecordType::TXT => reply::one(out, &query.reply, RecordType::TXT, 0, PROBE_TEXT),
            _ => reply::negative(out, &query.reply, rcode::NO_ERROR, None),
        }
        return true;
    }
    false
}

/// Answers ANY for a permitted name with one small record (RFC 8482).
pub(crate) fn answer_any(query: &ClientQuery<'_>, out: &mut Vec<u8>) {
    reply::one(out, &query.reply, RecordType::HINFO, ANY_TTL, ANY_HINFO);
}

/// The sandbox's own names and addresses.
pub(crate) struct LocalNames {
    pub own: OwnNames,
    pub grants: Grants,
}

impl LocalNames {
    /// Answers for the sandbox's own host name, which the hosts file has and the policy need not
    /// list: it exists, with nothing to say. `false`: it is not that name.
    pub(crate) fn answer_hostname(&self, query: &ClientQuery<'_>, out: &mut Vec<u8>) -> bool {
        let own = self.own.hostname.as_ref().map(|own| own.as_ref());
        let transfer = query.qtype().is_transfer();
        if own != Some(query.name) || transfer {
            return false;
        }
        reply::negative(out, &query.reply, rcode::NO_ERROR, None);
        true
    }

    /// Answers for the status page, where there is one, without a record: nothing was decided. `false`: it
    /// is not that name.
    pub(crate) fn answer_status(&self, query: &ClientQuery<'_>, out: &mut Vec<u8>) -> bool {
        let qtype = query.qtype();
        let is_it = query.name.as_str() == STATUS_NAME && !self.own.status.is_empty();
        if !is_it || qtype.is_transfer() {
            return false;
        }
        let mut addresses = self.own.status.iter();
        let data = match qtype {
            RecordType::A => addresses.find_map(|address| match address {
                IpAddr::V4(address) => Some(address.octets().to_vec()),
                IpAddr::V6(_) => None,
            }),
            RecordType::AAAA => addresses.find_map(|address| match address {
                IpAddr::V6(address) => Some(address.octets().to_vec()),
                IpAddr::V4(_) => None,
            }),
            _ => None,
        };
        match data {
            Some(data) => reply::one(out, &query.reply, qtype, LOCAL_TTL, &data),
            None => reply::negative(out, &query.reply, rcode::NO_ERROR, None),
        }
        true
    }

    /// Answers `host.portcullis.internal`, once the policy permits it: the address inside that the
    /// gateway maps to the host's loopback. It has no other records.
    pub(crate) fn answer_host(
        &self,
        query: &ClientQuery<'_>,
        decided: &Decided<'_>,
        permits: &Permits,
        out: &mut Vec<u8>,
    ) {
        if query.qtype() != RecordType::A {
            return query.answer_no_data(decided, out);
        }
        let address = IpAddr::V4(self.own.host);
        let ttl = Duration::from_secs(LOCAL_TTL.into());
        for permit in permits {
            if let Err(error) = self.grants.grant(permit, address, None, ttl) {
                let refusal = Refusal::Code(rcode::SERV_FAIL);
                return query.refuse(&decided.but(error.reason()), refusal, out);
            }
        }
        query.record_own(decided, &[address]);
        let data = self.own.host.octets();
        reply::one(out, &query.reply, RecordType::A, LOCAL_TTL, &data);
    }
}
