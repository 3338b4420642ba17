//! The last that is done for a connection whose requests were read: its records, and the end of the program's
//! side.

use std::sync::Arc;

use portcullis_record::{CloseReason, Layer};
use tokio::net::TcpStream;

use super::ended::Ended;
use super::io::Activity;
use crate::opened::Opened;
use crate::records::{At, Records};
use crate::socket;

/// Records the end of a connection, and ends the program's side of it as that says. `shown` is the name that
/// the program has shown.
pub(super) async fn conclude(
    mut ended: Ended,
    records: &Records,
    opened: Opened,
    shown: Option<&str>,
    activity: &Activity,
    client: Arc<TcpStream>,
) {
    if let Some(cut) = activity.cut() {
        (ended.end, ended.detail) = (cut.end, Some(cut.detail));
    }
    if let Some(why) = ended.malformed.or(activity.bad_body()) {
        let at = At::new(Layer::Http, opened.inbound).shown(shown);
        records.malformed(at.detail(Some(why)), Some(&opened.target));
    }
    let is_refused = matches!(ended.end, CloseReason::Denied | CloseReason::ClientProtocol);
    if let Some(asked) = activity.unfinished_head().filter(|_| !is_refused) {
        let why = "the connection ended inside a request head";
        let at = At::new(Layer::Http, opened.inbound).shown(shown);
        let at = at.detail(Some(why)).asked(Some(&asked));
        records.malformed(at, Some(&opened.target));
    }
    if let Ok(client) = Arc::try_unwrap(client) {
        match ended.end {
            CloseReason::Finished | CloseReason::Denied | CloseReason::ClientProtocol => {
                socket::last_words(client, b"").await;
            }
            _ => socket::reset(client),
        }
    }
    if let Some(mut flow) = opened.flow {
        (flow.up, flow.down) = activity.bytes();
        flow.detail = ended.detail.or(flow.detail);
        flow.finish(ended.end);
    }
}
