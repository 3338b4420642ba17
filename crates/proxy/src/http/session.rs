//! One client connection, and what may follow from a request on it.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_dial::Stream;
use portcullis_record::{CloseReason, Layer};
use portcullis_wire::http1::{RequestForm, RequestHead};

use super::exchange::Conn;
use super::head::Head;
use super::metered;
use super::upstream::Upstream;
use crate::flows::{self, until_cut};
use crate::meter::Meter;
use crate::opened::Opened;
use crate::records::{At, Flow};
use crate::request::{self, Core, Format, HeadError, Place, Refused};
use crate::services::Services;
use crate::target::Target;

/// One client connection.
pub(super) struct Session<'a> {
    pub(super) core: Core<'a>,
    pub(super) services: Services<'a>,
    /// Where it leads, unless it is one to the proxy port: then each request says where.
    pub(super) destination: Option<Arc<Target>>,
    /// The address that it leads to, unless an upstream proxy found the way.
    pub(super) address: Option<SocketAddr>,
    pub(super) client: Conn,
    pub(super) upstream: Option<Upstream>,
    /// What holds for it between two requests.
    pub(super) idle: Option<Idle>,
    /// The flow around the requests: that of a SOCKS connection, for instance.
    pub(super) around: Option<Flow>,
    /// Whether what is read now is a request's head.
    pub(super) in_head: bool,
}

/// A connection whose last request was answered. It goes on only as long as that request's
/// destination is allowed, and is as long silent as its limits say.
pub(super) struct Idle {
    /// Its place among the flows that stand, unless there is a flow around it that has one.
    pub(super) standing: Option<flows::Entered>,
    pub(super) meter: Option<Box<Meter>>,
}

impl Idle {
    /// Ends where the connection must.
    pub(super) async fn over(idle: &mut Option<Idle>) -> Next {
        let Some(Idle { standing, meter }) = idle else {
            return pending().await;
        };
        let mut watch = meter.as_deref_mut().map(|meter| meter.split().2);
        tokio::select! {
            biased;
            () = until_cut(standing.as_ref().map(|entered| &***entered)) => Next::Reset,
            _ = metered::idle(&mut watch) => Next::Close,
        }
    }
}

/// What comes after a request.
pub(super) enum Next {
    /// Another one.
    Continue,
    /// This answer, and the end.
    Answer(Vec<u8>, CloseReason),
    /// The end.
    Close,
    /// A reset of both sides.
    Reset,
    /// Another protocol.
    Switched(Flow),
    /// A tunnel; the 200 is still to be said.
    Connected(Box<Connected>),
}

/// A tunnel that CONNECT opened.
pub(super) struct Connected {
    pub(super) opened: Opened,
    pub(super) upstream: Stream,
}

impl Session<'_> {
    /// Records and answers a request that turned out to be malformed.
    pub(super) fn malformed(&self, why: &'static str, head: &Head) -> Next {
        let at = At::new(Layer::Http, self.core.inbound).detail(Some(why));
        let at = at.http(&head.read.method, path(&head.read));
        let asked = request::asked(&head.raw);
        let at = at.asked(asked.as_deref());
        let place = place(self.destination.as_deref());
        let refused = request::malformed(self.core.records, at, place, Some(why));
        answer(&refused, Some(head))
    }

    /// The same where there is no request yet.
    pub(super) fn malformed_head(&self, error: HeadError) -> Next {
        answer(
            &error.refuse(self.core, place(self.destination.as_deref())),
            None,
        )
    }

    /// Records the request whose head was cut off because the gateway ended the connection.
    pub(super) fn record_cut_head(&mut self, why: &'static str) {
        if std::mem::take(&mut self.in_head) && !self.client.inbox.is_empty() {
            let error = HeadError::malformed(why, &self.client.inbox);
            self.malformed_head(error);
        }
    }

    pub(super) fn end_around(&mut self, end: CloseReason) {
        if let Some(flow) = self.around.take() {
            flow.finish(end);
        }
    }
}

/// What the core is asked about requests on a connection that leads there.
pub(super) fn place(destination: Option<&Target>) -> Place<'_> {
    match destination {
        Some(target) => Place::Destination(target),
        None => Place::Anywhere,
    }
}

/// The refusal, in the form that the request asks for; it ends the connection.
pub(super) fn answer(refused: &Refused, request: Option<&Head>) -> Next {
    let (accept, with_body) = match request {
        Some(head) => {
            let mut fields = head.fields();
            let accept = fields.find(|(name, _)| name.eq_ignore_ascii_case("accept"));
            (accept.map(|(_, value)| value), &*head.read.method != "HEAD")
        }
        None => (None, true),
    };
    let answer = refused.refusal.answer(Format::wanted(accept));
    Next::Answer(answer.http1(with_body), refused.end)
}

/// The path for the record, without query.
fn path(head: &RequestHead) -> Option<&str> {
    match &head.form {
        RequestForm::Absolute { path, .. } | RequestForm::Origin { path } => Some(path.path()),
        RequestForm::Asterisk => Some("*"),
        RequestForm::Connect { .. } => None,
    }
}
