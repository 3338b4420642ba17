//! A connection that stands, whose client has not shown yet what it says on it.

use std::sync::Arc;

use portcullis_dial::{AbsoluteForm, Stream};
use portcullis_policy::Verdict;
use portcullis_record::{CloseReason, Layer};
use portcullis_wire::tls::{self, Alert};
use tokio::net::TcpStream;

use crate::connector::Peer;
use crate::inbound::Inbound;
use crate::records::{At, Flow, Records};
use crate::relay::Relay;
use crate::socket;
use crate::target::{Ruling, Target};
use crate::tunnel::Tunnel;

/// What an entrance has made of a connection.
#[allow(clippy::large_enum_variant)] // moved once, into the task
pub(crate) enum Entered {
    /// Nothing on it has a decision to come.
    Tunnel(Tunnel),
    /// What the client says first is still to be looked at.
    Opened(Box<Unread>),
}

/// A connection that stands, with what its client has sent so far.
pub(crate) struct Unread {
    pub(crate) opened: Opened,
    pub(crate) relay: Relay,
    pub(crate) pending: Vec<u8>,
}

/// A connection that stands: by which decision, to which end.
pub(crate) struct Opened {
    pub(crate) inbound: Inbound,
    pub(crate) target: Target,
    /// The decision that it was dialled by.
    pub(crate) ruling: Ruling,
    pub(crate) peer: Peer,
    /// It ends at an upstream proxy, which expects a plain HTTP request in absolute form.
    pub(crate) absolute: Option<Arc<AbsoluteForm>>,
    /// The flow, where it is recorded already; a direct connection's record waits for the name.
    pub(crate) flow: Option<Flow>,
}

impl Opened {
    /// The client went away before it could be told that the connection stands.
    pub(crate) fn gone(self) {
        close(self.flow, 0, 0, CloseReason::ClientReset);
    }

    /// Whether the policy changed since it was decided on, and does not allow it any more.
    pub(crate) fn is_cut(&self) -> bool {
        let flow = self.flow.as_ref();
        flow.is_some_and(|flow| flow.standing.is_cut())
    }

    /// Ends what is no longer allowed, before the client is told that it stands.
    pub(crate) fn cut_short(self, client: TcpStream, upstream: Stream) {
        socket::reset(client);
        socket::reset_upstream(upstream);
        close(self.flow, 0, 0, CloseReason::PolicyChanged);
    }

    /// The flow stands by what was shown: recorded, where it is not yet or where that is news.
    pub(crate) fn settle(&mut self, records: &Records, at: At<'_>, ruling: Ruling) {
        match &mut self.flow {
            // The record says by which name the flow was opened; another one is worth a line.
            Some(flow) => {
                records.goes_on(flow, &self.target, &ruling, &self.peer);
                let news = ruling.verdict == Verdict::Audit && ruling.reason != self.ruling.reason;
                if news || ruling.name != self.ruling.name {
                    records.decision(at, &self.target, &ruling);
                }
            }
            None => {
                self.flow = Some(records.open(at, &self.target, &ruling, &self.peer));
            }
        }
        self.ruling = ruling;
    }

    /// Whether the connection leads to a proxy that takes no TLS, or was dialled for another name
    /// than the one shown and may therefore end elsewhere than at an address of that name: a proxy
    /// resolves by itself, and the dialler may have taken another address of the first name.
    pub(crate) fn must_redial(&self, ruling: &Ruling) -> bool {
        self.absolute.is_some()
            || (self.peer).may_be_elsewhere(&self.target, self.ruling.name == ruling.name, ruling)
    }

    /// Records the flow, where it is not recorded yet.
    pub(crate) fn record(&mut self, records: &Records) {
        if self.flow.is_none() {
            let at = At::new(Layer::Tcp, self.inbound);
            self.flow = Some(records.open(at, &self.target, &self.ruling, &self.peer));
        }
    }

    /// Ends it with a TLS alert.
    pub(crate) async fn refuse_tls(self, relay: Relay, alert: Alert, end: CloseReason) {
        let (up, down) = relay.bytes();
        let (client, upstream) = relay.into_sockets();
        drop(upstream);
        socket::last_words(client, &tls::fatal_alert(alert)).await;
        close(self.flow, up, down, end);
    }

    /// Ends a flow that stands, for a reason that is not a refusal.
    pub(crate) fn over(mut self, records: &Records, relay: Relay, end: CloseReason) {
        self.record(records);
        self.cut(relay, end);
    }

    /// Resets both sides.
    pub(crate) fn cut(mut self, relay: Relay, end: CloseReason) {
        if let Some(flow) = &mut self.flow {
            flow.detail = relay.limit().or(flow.detail);
        }
        let (up, down) = relay.bytes();
        relay.reset();
        close(self.flow, up, down, end);
    }
}

/// Records the end of a flow that has carried so much more.
pub(crate) fn close(flow: Option<Flow>, up: u64, down: u64, end: CloseReason) {
    if let Some(mut flow) = flow {
        flow.up += up;
        flow.down += down;
        flow.finish(end);
    }
}
