//! What of an HTTPS or SVCB record reaches the program (RFC 9460).
//!
//! Answers *resolution as a way out* (docs/threats.md): ECH would hide the name in the handshake. A
//! hint is an address like any other: it stays only where it is one of the asked name's own, passes
//! the guard, and is leased before the answer leaves. Parameters that this code does not know are
//! taken out too; a record that declares one of them mandatory is dropped whole, since a client
//! would have to do without it.

use std::net::IpAddr;

use hickory_proto::rr::rdata::svcb::{SVCB, SvcParamKey, SvcParamValue};

/// Addresses hinted at in one answer; more are taken out. Browsers try a few.
const MAX_HINTS: usize = 16;

/// Limits one record: `keep` says which hints stay, and those are added to `hinted`. `false` where
/// the record is of no use to a client afterwards.
pub(crate) fn limit(
    record: &mut SVCB,
    hinted: &mut Vec<IpAddr>,
    keep: impl Fn(IpAddr) -> bool,
) -> bool {
    let mut take = |address: IpAddr| {
        let known = hinted.contains(&address);
        let stays = keep(address) && (known || hinted.len() < MAX_HINTS);
        if stays && !known {
            hinted.push(address);
        }
        stays
    };
    record.svc_params.retain_mut(|(_, value)| match value {
        SvcParamValue::Mandatory(_)
        | SvcParamValue::Alpn(_)
        | SvcParamValue::NoDefaultAlpn
        | SvcParamValue::Port(_) => true,
        SvcParamValue::Ipv4Hint(hints) => {
            hints.0.retain(|hint| take(IpAddr::V4(hint.0)));
            !hints.0.is_empty()
        }
        SvcParamValue::Ipv6Hint(hints) => {
            hints.0.retain(|hint| take(IpAddr::V6(hint.0)));
            !hints.0.is_empty()
        }
        _ => false,
    });
    let has = |key: &SvcParamKey| record.svc_params.iter().any(|(other, _)| other == key);
    record.svc_params.iter().all(|(_, value)| match value {
        SvcParamValue::Mandatory(keys) => keys.0.iter().all(has),
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, IpHint, Mandatory, Unknown};

    use super::*;

    fn record(mandatory: &[SvcParamKey], hints: &[[u8; 4]]) -> SVCB {
        let mut params = Vec::new();
        if !mandatory.is_empty() {
            let value = SvcParamValue::Mandatory(Mandatory(mandatory.to_vec()));
            params.push((SvcParamKey::Mandatory, value));
        }
        let alpn = SvcParamValue::Alpn(Alpn(vec!["h2".to_owned()]));
        params.push((SvcParamKey::Alpn, alpn));
        let hints = hints.iter().map(|octets| A((*octets).into())).collect();
        let hints = SvcParamValue::Ipv4Hint(IpHint(hints));
        params.push((SvcParamKey::Ipv4Hint, hints));
        let ech = SvcParamValue::EchConfigList(EchConfigList(vec![1, 2, 3]));
        params.push((SvcParamKey::EchConfigList, ech));
        let unknown = SvcParamValue::Unknown(Unknown(vec![9]));
        params.push((SvcParamKey::Key(65_000), unknown));
        SVCB::new(1, Name::root(), params)
    }

    fn keys(record: &SVCB) -> Vec<SvcParamKey> {
        record.svc_params.iter().map(|(key, _)| *key).collect()
    }

    #[test]
    fn ech_unknown_parameters_and_refused_hints_go() {
        let mut one = record(&[], &[[192, 0, 2, 1], [10, 0, 0, 1], [192, 0, 2, 1]]);
        let mut hinted = Vec::new();
        let public = |address: IpAddr| address != IpAddr::from([10, 0, 0, 1]);
        assert!(limit(&mut one, &mut hinted, public));
        assert_eq!(hinted, [IpAddr::from([192, 0, 2, 1])]);
        assert_eq!(keys(&one), [SvcParamKey::Alpn, SvcParamKey::Ipv4Hint]);
        let mut none = record(&[], &[[10, 0, 0, 1]]);
        assert!(limit(&mut none, &mut Vec::new(), public));
        assert_eq!(keys(&none), [SvcParamKey::Alpn]);
    }

    #[test]
    fn a_record_that_needs_what_was_taken_out_is_dropped() {
        for (mandatory, stays) in [
            (SvcParamKey::Alpn, true),
            (SvcParamKey::EchConfigList, false),
            (SvcParamKey::Key(65_000), false),
            (SvcParamKey::Ipv4Hint, false),
            (SvcParamKey::Ipv6Hint, false),
        ] {
            let mut one = record(&[mandatory], &[[10, 0, 0, 1]]);
            assert_eq!(
                limit(&mut one, &mut Vec::new(), |_| false),
                stays,
                "{mandatory}"
            );
        }
        let mut kept = record(&[SvcParamKey::Ipv4Hint], &[[192, 0, 2, 1]]);
        assert!(limit(&mut kept, &mut Vec::new(), |_| true));
    }

    #[test]
    fn hints_are_bounded() {
        let many: Vec<[u8; 4]> = (0..100).map(|n| [192, 0, 2, n]).collect();
        let (mut one, mut hinted) = (record(&[], &many), Vec::new());
        assert!(limit(&mut one, &mut hinted, |_| true));
        assert_eq!(hinted.len(), MAX_HINTS);
    }
}
