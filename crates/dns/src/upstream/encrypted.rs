//! One resolver over TLS or HTTPS: questions go over its long-lived connections.

use std::sync::Arc;

use hickory_proto::op::Message;

use super::connections::Connections;
use super::connector::Connector;
use super::error::ExchangeError;
use super::question::{Form, Question};
use super::server::{Server, ServerState};

/// One encrypted resolver.
#[derive(Debug)]
pub(super) struct EncryptedServer {
    state: ServerState,
    connector: Arc<Connector>,
    connections: Connections,
}

impl EncryptedServer {
    pub(super) fn new(text: String, connector: Connector) -> EncryptedServer {
        EncryptedServer {
            state: ServerState::new(text),
            connector: Arc::new(connector),
            connections: Connections::default(),
        }
    }

    async fn exchange(
        &self,
        question: Question<'_>,
        edns: bool,
        retry: usize,
    ) -> Result<Message, ExchangeError> {
        let query = question.write(Form {
            edns,
            mixed_case: false,
            padded: true,
        })?;
        let raw = self.connections.ask(&self.connector, query, retry).await?;
        let mut message = Message::from_vec(&raw.bytes).map_err(|_| ExchangeError::Malformed)?;
        if raw.age > 0 {
            for record in message.answers.iter_mut().chain(&mut message.authorities) {
                record.ttl = record.ttl.saturating_sub(raw.age);
            }
        }
        Ok(message)
    }
}

impl Server for EncryptedServer {
    fn state(&self) -> &ServerState {
        &self.state
    }

    async fn ask(&self, question: Question<'_>, retry: usize) -> Result<Message, ExchangeError> {
        self.state
            .with_edns_fallback(move |edns| self.exchange(question, edns, retry))
            .await
    }
}
