//! What an upstream resolver answers: the whole way from its bytes, behind the right id and question,
//! to the reply that the sandbox reads. No sockets, no waiting: a network in memory, paused time.
#![no_main]

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use libfuzzer_sys::fuzz_target;
use portcullis_dns::{ByteStream, Clock, Datagrams, DnsConfig, DnsService, Leases, Network, NoGate};
use portcullis_policy::{Input, Policy};
use portcullis_record::{Protocol, Recorder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Header, `listed.example`, type and class.
const QUESTION_END: usize = 12 + 16 + 4;
/// What the client sends, but for its type; with EDNS.
const QUERY: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\x01\x06listed\x07example\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";
/// The types that a plain allow serves and that have contents to be looked at.
const TYPES: [u8; 8] = [1, 28, 5, 65, 16, 15, 33, 6];

/// Answers every query with the same bytes behind its own id and question.
#[derive(Clone)]
struct Same(Arc<[u8]>);

impl fmt::Debug for Same {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Same")
    }
}

impl Same {
    /// Two bytes of flags and six of counts come from the input, then records.
    fn answer(&self, sent: &[u8]) -> Vec<u8> {
        let (front, rest) = self.0.split_at(self.0.len().min(8));
        let mut header = [0x81, 0x80, 0, 1, 0, 1, 0, 0];
        header[..front.len()].copy_from_slice(front);
        let mut out = sent[..2].to_vec();
        out.extend([header[0] | 0x80, header[1], 0, 1]);
        out.extend(header[2..].iter().map(|byte| byte % 4));
        out.extend(sent.get(12..QUESTION_END).unwrap_or_default());
        out.extend(rest);
        out
    }
}

struct Socket {
    same: Same,
    sent: Mutex<Option<Vec<u8>>>,
}

impl Datagrams for Socket {
    fn send<'a>(&'a self, datagram: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        *self.sent.lock().unwrap() = Some(datagram.to_vec());
        Box::pin(std::future::ready(Ok(())))
    }

    fn recv<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>> {
        let Some(sent) = self.sent.lock().unwrap().take() else {
            return Box::pin(std::future::pending());
        };
        let answer = self.same.answer(&sent);
        let length = answer.len().min(buffer.len());
        buffer[..length].copy_from_slice(&answer[..length]);
        Box::pin(std::future::ready(Ok(length)))
    }
}

impl Network for Same {
    fn udp(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>> {
        let socket = Socket {
            same: self.clone(),
            sent: Mutex::new(None),
        };
        Box::pin(std::future::ready(Ok(Box::new(socket) as Box<dyn Datagrams>)))
    }

    fn stream(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let same = self.clone();
        tokio::spawn(async move {
            while let Ok(length) = theirs.read_u16().await {
                let mut sent = vec![0; length.into()];
                theirs.read_exact(&mut sent).await?;
                let answer = same.answer(&sent);
                theirs.write_u16(answer.len() as u16).await?;
                theirs.write_all(&answer).await?;
            }
            io::Result::Ok(())
        });
        Box::pin(std::future::ready(Ok(Box::new(ours) as Box<dyn ByteStream>)))
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, input)) = input.split_first() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut no_files = |_: &std::path::Path| Err(io::ErrorKind::NotFound.into());
        let inputs = [Input::Allow("listed.example".to_owned())];
        let policy = Policy::load(&inputs, &mut no_files).unwrap().policy;
        let clock = Clock::tokio();
        let leases = Arc::new(Leases::new(Box::new(NoGate), clock.clone()));
        let (recorder, _memory) = Recorder::to_memory("fuzz");
        let server = SocketAddr::from(([192, 0, 2, 53], 53));
        let handle = Arc::new(ArcSwap::from_pointee(policy));
        let mut config = DnsConfig::new(handle, vec![server], leases.clone(), recorder);
        config.network = Arc::new(Same(input.into()));
        config.clock = clock;
        let service = Arc::new(DnsService::new(config));
        let mut query = QUERY.to_vec();
        query[QUESTION_END - 3] = TYPES[usize::from(*kind) % TYPES.len()];
        let mut reply = Vec::new();
        for _ in 0..2 {
            service.answer(&query, Protocol::DnsUdp, &mut reply).await;
            assert_eq!(reply[..2], query[..2]);
            assert_eq!(reply[12..QUESTION_END], query[12..QUESTION_END]);
            let message = hickory_proto::op::Message::from_vec(&reply).unwrap();
            for record in &message.answers {
                if let Some(address) = record.data.ip_addr() {
                    assert!(leases.is_leased(address), "{address} was not leased");
                }
            }
        }
    });
});
