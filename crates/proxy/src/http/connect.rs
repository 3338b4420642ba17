//! CONNECT: a tunnel to a name or an address.

use portcullis_policy::Shown;
use portcullis_record::{Layer, Protocol};

use super::head::Head;
use super::session::{Connected, Next, Session, answer};
use crate::http_only;
use crate::opened::Opened;
use crate::records::At;
use crate::request::{Core, Refused};
use crate::target::{Asks, Target};

/// Said only when the upstream connection stands.
pub(super) const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Decides on a CONNECT and dials. Bytes behind the head stay in the client's inbox, and are
/// looked at like any first bytes in the tunnel.
pub(super) async fn connect(session: &mut Session<'_>, target: Target, head: &Head) -> Next {
    let inbound = session.core.inbound.speaking(Protocol::Connect);
    let Core {
        decider, records, ..
    } = session.core;
    let at = At::new(Layer::Http, inbound).http(&head.read.method, None);
    let (target, mut ruling) = decider.enter(target);
    if http_only::refuses_connect(&target, &ruling) {
        let method = &head.read.method;
        let asks = Asks { method, path: "*" };
        ruling = decider.decide_request(&target, Shown::Nothing, asks);
    }
    if ruling.permit.is_none() {
        let hint = decider.ftp_hint(&target, &ruling);
        let mut refused = Refused::denied(records, at.detail(hint), &target, ruling);
        refused.refusal.hint = hint.map(str::to_owned);
        return answer(&refused, Some(head));
    }
    // An upstream that was kept for plain requests has no business here any more.
    session.upstream = None;
    match session.services.connector.connect(&ruling, None).await {
        Ok(connected) => {
            let (upstream, peer) = (connected.stream, connected.peer);
            let flow = records.open(at, &target, &ruling, &peer);
            let flow = Some(flow);
            let opened = Opened {
                inbound,
                target,
                ruling,
                peer,
                absolute: None,
                flow,
            };
            Next::Connected(Box::new(Connected { opened, upstream }))
        }
        Err(error) => {
            let refused = Refused::undialled(records, at, &target, &ruling, &error);
            answer(&refused, Some(head))
        }
    }
}
