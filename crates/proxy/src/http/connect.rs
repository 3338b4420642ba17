//! CONNECT: a tunnel to a name or an address.

use portcullis_policy::Shown;
use portcullis_record::{Layer, Protocol};
use portcullis_wire::http1::RequestHead;

use super::{Next, Session, say};
use crate::http_only;
use crate::opened::Opened;
use crate::records::At;
use crate::refuse::{Refusal, authority};
use crate::target::{Asks, Target};

/// Said only when the upstream connection stands.
pub(super) const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

impl Session<'_> {
    /// Decides on a CONNECT and dials. Bytes behind the head stay in the client's inbox, and are
    /// looked at like any first bytes in the tunnel.
    pub(super) async fn connect(&mut self, target: Target, head: &RequestHead, raw: &[u8]) -> Next {
        let inbound = self.inbound.speaking(Protocol::Connect);
        let at = At::new(Layer::Http, inbound).http(&head.method, None);
        let mut ruling = self.decider.decide(&target);
        if http_only::refuses_connect(&target, &ruling) {
            let method = &head.method;
            let asks = Asks { method, path: "*" };
            ruling = self.decider.decide_request(&target, Shown::Nothing, asks);
        }
        if ruling.permit.is_none() {
            return self.denied(at, &target, &ruling, (head, raw));
        }
        // An upstream that was kept for plain requests has no business here any more.
        self.upstream = None;
        match self.connector.connect(&ruling, None).await {
            Ok(connected) => {
                let peer = connected.peer;
                let flow = Some(self.records.open(at, &target, &ruling, &peer));
                let opened = Opened {
                    inbound,
                    target,
                    ruling,
                    peer,
                    absolute: None,
                    flow,
                };
                Next::Connected(Box::new((opened, connected.stream)))
            }
            Err(error) => {
                let id = self.records.failed(at, &target, &ruling, &error);
                let mut refusal = Refusal::failed(&error, id);
                let authority = authority(&target);
                refusal.target = Some(&authority);
                Next::Words(say(&refusal, Some((head, raw))), error.close_reason())
            }
        }
    }
}
