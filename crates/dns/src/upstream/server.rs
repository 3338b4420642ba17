//! One upstream resolver: what it is, how it stands, and one question to it.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, ResponseCode};
use portcullis_policy::{ProxyHost, Resolver};
use tokio::time::Instant;

use super::endpoint::{Endpoint, Protocol};
use super::error::ExchangeError;
use super::health::Health;
use super::lines::{Lines, Raw};
use super::lookup::Core;
use super::manners::Manners;
use super::plain::Plain;
use super::question::{Form, Question};

/// One upstream resolver.
#[derive(Debug)]
pub(super) struct Server {
    pub resolver: Resolver,
    /// The resolver as text, for records.
    pub text: Arc<str>,
    pub health: Health,
    manners: Manners,
    way: Way,
}

/// How it is reached.
#[derive(Debug)]
enum Way {
    Plain(SocketAddr),
    Encrypted(Arc<Endpoint>, Lines),
}

impl Server {
    pub(super) fn new(resolver: Resolver) -> Server {
        let encrypted = |host: &ProxyHost, port, protocol| {
            let permit = resolver.lookup_permit();
            let endpoint = Endpoint::new((host, port), protocol, permit);
            Way::Encrypted(Arc::new(endpoint), Lines::default())
        };
        let way = match &resolver {
            Resolver::Plain(address) => Way::Plain(*address),
            Resolver::Tls { host, port } => encrypted(host, *port, Protocol::Tls),
            Resolver::Https { host, port, path } => {
                encrypted(host, *port, Protocol::https((host, *port), path))
            }
        };
        Server {
            text: resolver.to_string().into(),
            resolver,
            health: Health::new(Instant::now()),
            manners: Manners::default(),
            way,
        }
    }

    /// Asks, for the `retry`-th time in a lookup; the caller sets the time limit by dropping the
    /// future.
    pub(super) async fn ask(
        &self,
        core: &Arc<Core>,
        question: Question<'_>,
        retry: usize,
    ) -> Result<Message, ExchangeError> {
        let edns = self.manners.bears_edns();
        let message = self.exchange(core, question, edns, retry).await?;
        let code = message.metadata.response_code;
        if !(edns && matches!(code, ResponseCode::FormErr | ResponseCode::NotImp)) {
            return usable(message);
        }
        // Perhaps it is EDNS that it does not know (RFC 6891 section 7).
        let message = usable(self.exchange(core, question, false, retry).await?)?;
        self.manners.needs_no_edns();
        Ok(message)
    }

    async fn exchange(
        &self,
        core: &Arc<Core>,
        question: Question<'_>,
        edns: bool,
        retry: usize,
    ) -> Result<Message, ExchangeError> {
        let raw = match &self.way {
            Way::Plain(server) => {
                let plain = Plain {
                    network: &*core.network,
                    server: *server,
                    manners: &self.manners,
                };
                let bytes = plain.ask(question, edns).await?;
                Raw { bytes, age: 0 }
            }
            Way::Encrypted(endpoint, lines) => {
                let query = question.write(Form {
                    edns,
                    mixed_case: false,
                    padded: true,
                })?;
                lines.ask(core, endpoint, query, retry).await?
            }
        };
        let mut message = Message::from_vec(&raw.bytes).map_err(|_| ExchangeError::Malformed)?;
        if raw.age > 0 {
            for record in message.answers.iter_mut().chain(&mut message.authorities) {
                record.ttl = record.ttl.saturating_sub(raw.age);
            }
        }
        Ok(message)
    }
}

fn usable(message: Message) -> Result<Message, ExchangeError> {
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(message),
        code => Err(ExchangeError::Code(code)),
    }
}
