//! Whatever an upstream answers, what the sandbox is told stays within bounds: arbitrary bytes behind
//! the right id and question, and good answers with a few bytes changed.
//!
//! The fuzz target `dns_answer` walks the same way with a fuzzer's mutations.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::svcb::SvcParamKey;
use portcullis_dns::Clock;
use proptest::prelude::*;

use crate::memory::MemoryNetwork;
use crate::world::*;

/// An alias, addresses public and guarded, and targets that are not listed.
const ZONE: &str = "listed.example 60 CNAME alias.example\nalias.example 60 A 192.0.2.1\n\
                    alias.example 60 A 10.0.0.1\nalias.example 60 AAAA 2001:db8::1\n\
                    listed.example 60 TXT hello\nlisted.example 60 MX 10 mail.example\n\
                    listed.example 60 SRV 1 2 3 target.example";
const HTTPS_TYPE: u16 = 65;
const TYPES: [u16; 7] = [A_TYPE, AAAA_TYPE, TXT_TYPE, HTTPS_TYPE, 15, 33, 5];

/// What is sent in place of a good answer.
#[derive(Clone, Debug)]
enum Instead {
    /// These bytes behind the header's id and flags and the question.
    Behind {
        flags: u16,
        counts: [u16; 3],
        rest: Vec<u8>,
    },
    /// The good answer with these bytes changed, inserted or cut.
    Changed(Vec<(prop::sample::Index, u8, u8)>),
}

fn instead() -> impl Strategy<Value = Instead> {
    let behind = (
        any::<u16>(),
        any::<[u16; 3]>(),
        proptest::collection::vec(any::<u8>(), 0..120),
    );
    let change = (any::<prop::sample::Index>(), any::<u8>(), any::<u8>());
    prop_oneof![
        behind.prop_map(|(flags, counts, rest)| Instead::Behind {
            flags: flags | 0x8000,
            counts: counts.map(|count| count % 4),
            rest
        }),
        proptest::collection::vec(change, 1..6).prop_map(Instead::Changed),
    ]
}

fn made(query: &Message, sent: &[u8], instead: &Instead) -> Vec<u8> {
    match instead {
        Instead::Behind {
            flags,
            counts,
            rest,
        } => {
            let question = sent.len() - if query.edns.is_some() { 11 } else { 0 };
            let mut answer = sent[..2].to_vec();
            answer.extend(flags.to_be_bytes());
            answer.extend([0, 1]);
            answer.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
            answer.extend(&sent[12..question]);
            answer.extend(rest);
            answer
        }
        Instead::Changed(changes) => {
            let mut answer = Zone::new(ZONE).answer(query);
            for (index, what, byte) in changes {
                // The id stays, so that the answer is looked at.
                let at = 2 + index.index(answer.len() - 2);
                match what % 4 {
                    0 => answer[at] = *byte,
                    1 => answer[at] ^= 1 << (byte % 8),
                    2 => answer.insert(at, *byte),
                    _ => answer.truncate(at.max(12)),
                }
            }
            answer
        }
    }
}

fn is_guarded(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.to_ipv4_mapped().is_some()
        }
    }
}

/// What every reply keeps to, whatever came.
fn check(world: &World, asked: &[u8], qtype: u16, reply: &[u8]) -> Result<(), TestCaseError> {
    let message = Message::from_vec(reply)
        .map_err(|error| TestCaseError::fail(format!("{error}: {reply:02x?}")))?;
    prop_assert_eq!(&reply[..2], &asked[..2]);
    prop_assert_eq!(
        &reply[12..12 + asked.len() - 12 - 11],
        &asked[12..asked.len() - 11],
        "the question"
    );
    let code = message.metadata.response_code;
    let known = [
        ResponseCode::NoError,
        ResponseCode::NXDomain,
        ResponseCode::ServFail,
    ];
    prop_assert!(known.contains(&code), "{code}");
    prop_assert!(message.additionals.is_empty(), "{message:?}");
    for record in &message.answers {
        let own = record.record_type() == hickory_proto::rr::RecordType::CNAME
            || u16::from(record.record_type()) == qtype;
        prop_assert!(own, "{record}");
        let address = match &record.data {
            RData::A(a) => IpAddr::V4(a.0),
            RData::AAAA(a) => IpAddr::V6(a.0),
            RData::HTTPS(https) => {
                let ech = https
                    .0
                    .svc_params
                    .iter()
                    .any(|(key, _)| *key == SvcParamKey::EchConfigList);
                prop_assert!(!ech, "{record}");
                continue;
            }
            _ => continue,
        };
        prop_assert!(!is_guarded(address), "{address}");
        prop_assert!(
            world.leases.is_leased(address),
            "{address} was given out before it was leased"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_an_upstream_answers_a_reply_is_well_formed_leased_and_public(
        instead in instead(),
        over_tcp in instead(),
        which in any::<prop::sample::Index>(),
    ) {
        let qtype = *which.get(&TYPES);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let network = MemoryNetwork::default();
            let server = SocketAddr::from(([192, 0, 2, 53], 53));
            network.serve(server, move |heard, _| {
                let instead = if heard.tcp { &over_tcp } else { &instead };
                vec![Act::Send(made(&heard.message(), &heard.bytes, instead))]
            });
            let world = World::with(policy(&["listed.example"]), vec![server], |config| {
                config.network = Arc::new(network);
                config.clock = Clock::tokio();
            });
            let asked = query("listed.example", qtype, Some(1232));
            let reply = world.raw(&asked).await;
            check(&world, &asked, qtype, &reply)?;
            // What was kept is given out alike.
            let again = world.raw(&asked).await;
            check(&world, &asked, qtype, &again)
        })?;
    }
}
