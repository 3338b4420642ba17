//! WebSockets inside inspected connections: bytes both ways, as they come.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use portcullis_record::CloseReason;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::time::timeout;

use super::body::Open;
use super::limits::SOCKET_BUFFER_BYTES;
use crate::limits::HEADER_TIMEOUT;

/// Two connections, or two streams of HTTP/2, that are about to be let go by their protocol.
pub(super) struct Switched {
    pub(super) program: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    pub(super) open: Arc<Open>,
}

impl Switched {
    /// Relays once both sides have agreed on that; how it ended, which is recorded.
    pub(super) async fn relay(self) -> CloseReason {
        let Switched {
            program,
            upstream,
            open,
        } = self;
        let relayed = async {
            let agreed = async { tokio::try_join!(program, upstream) };
            let agreed = timeout(HEADER_TIMEOUT, agreed).await.ok()?.ok()?;
            let (mut program, mut upstream) = (TokioIo::new(agreed.0), TokioIo::new(agreed.1));
            let size = SOCKET_BUFFER_BYTES;
            copy_bidirectional_with_sizes(&mut program, &mut upstream, size, size)
                .await
                .ok()
        };
        let end = match relayed.await {
            Some((up, down)) => {
                open.count(up, down);
                CloseReason::Finished
            }
            None => CloseReason::UpstreamReset,
        };
        open.close(end, None);
        end
    }
}
