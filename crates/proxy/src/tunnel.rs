//! A connection that has nothing left to decide: its relay and its record.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use portcullis_record::CloseReason;

use crate::records::Flow;
use crate::relay::Relay;
use crate::stop::Stop;

/// A connection that has nothing left to decide: all that stays of it while it lives.
pub(crate) struct Tunnel {
    pub(crate) relay: Relay,
    pub(crate) flow: Flow,
}

impl Tunnel {
    /// Relays to the end. By reference: a future that owns what it relays holds it twice.
    pub(crate) async fn run(&mut self, stop: &Stop) {
        let Tunnel { relay, flow } = self;
        let mut until_cut = flow.standing.until_cut();
        let end = {
            let mut running = pin!(relay.run(stop));
            poll_fn(|cx| match Pin::new(&mut until_cut).poll(cx) {
                Poll::Ready(()) => Poll::Ready(CloseReason::PolicyChanged),
                Poll::Pending => running.as_mut().poll(cx),
            })
            .await
        };
        if end == CloseReason::PolicyChanged {
            relay.end_hard();
        }
        flow.end = end;
        flow.detail = relay.limit().or(flow.detail);
    }

    /// Closes the sockets, then records the end: who reads the record may rely on it.
    pub(crate) fn finish(self) {
        let Tunnel { relay, mut flow } = self;
        let (up, down) = relay.bytes();
        drop(relay);
        flow.up += up;
        flow.down += down;
    }
}
