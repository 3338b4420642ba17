//! CONNECT: a tunnel to a name or an address.

use portcullis_record::{Layer, Protocol};
use portcullis_wire::http1::RequestHead;

use super::{Next, Session, say};
use crate::narrow;
use crate::note::At;
use crate::refuse::{Refusal, authority};
use crate::target::{Asks, Target};
use crate::tunnel::Opened;

/// Said only when the upstream connection stands.
pub(super) const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

impl Session<'_> {
    /// Decides on a CONNECT and dials. Bytes behind the head stay in the client's inbox, and are
    /// looked at like any first bytes in the tunnel.
    pub(super) async fn connect(&mut self, target: Target, head: &RequestHead, raw: &[u8]) -> Next {
        let via = self.via.speaking(Protocol::Connect);
        let at = At::new(Layer::Http, via).http(&head.method, None);
        let mut ruling = target.decide(self.ctx);
        if narrow::refuses_connect(&target, &ruling) {
            let method = &head.method;
            ruling = target.decide_plain(self.ctx, Asks { method, path: "*" });
        }
        if ruling.permit.is_none() {
            return self.denied(at, &target, &ruling, (head, raw));
        }
        // An upstream that was kept for plain requests has no business here any more.
        self.upstream = None;
        match self.ctx.dial(&ruling, None).await {
            Ok((upstream, peer)) => {
                let flow = Some(self.ctx.note_open(at, &target, &ruling, &peer));
                let opened = Opened {
                    via,
                    target,
                    ruling,
                    peer,
                    absolute: None,
                    flow,
                };
                Next::Connected(Box::new((opened, upstream)))
            }
            Err(error) => {
                let id = self.ctx.note_failed(at, &target, &ruling, &error);
                let mut refusal = Refusal::failed(&error, id);
                let authority = authority(&target);
                refusal.target = Some(&authority);
                Next::Words(say(&refusal, Some((head, raw))), error.close_reason())
            }
        }
    }
}
