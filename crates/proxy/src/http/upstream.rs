//! The upstream connection of a client's connection, and for which requests it does.
//!
//! Answers *decision and destination differ* (docs/threats.md): it is used for a request whose permit
//! ends at the same place as the one that it was dialled by, and for no other.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_dial::{AbsoluteForm, Dialer, Stream};
use portcullis_names::Name;
use portcullis_policy::{ConnectPermit, MAX_PROXIES, PermitTarget, Reason};

use super::exchange::{ExchangeEnd, UpstreamConn};
use crate::connector::{Connected, Peer};
use crate::socket;
use crate::target::{Ruling, Target};

/// The upstream connection of a client's connection. It is never used for another client.
pub(super) struct Upstream {
    pub(super) conn: UpstreamConn,
    pub(super) peer: Peer,
    /// The name that it was dialled by.
    name: Option<Name>,
    /// What it was dialled for, where that was a request.
    dialled_for: Option<DialledFor>,
    /// It ends at the upstream proxy.
    pub(super) absolute: Option<Arc<AbsoluteForm>>,
    /// A request was answered on it: it may have been closed meanwhile.
    pub(super) used: bool,
}

impl Upstream {
    /// A connection that was dialled before the first request was seen.
    pub(super) fn standing(
        stream: Stream,
        peer: Peer,
        name: Option<Name>,
        absolute: Option<Arc<AbsoluteForm>>,
    ) -> Upstream {
        socket::prepare(stream.tcp());
        let conn = UpstreamConn {
            stream,
            inbox: Vec::new(),
        };
        Upstream {
            conn,
            peer,
            name,
            dialled_for: None,
            absolute,
            used: true,
        }
    }

    /// A connection that was dialled for a request.
    pub(super) fn dialled(dialled: Connected, ruling: &Ruling) -> Upstream {
        let Connected {
            stream,
            peer,
            absolute,
        } = dialled;
        socket::prepare(stream.tcp());
        let permit = ruling.permit.as_ref();
        Upstream {
            conn: UpstreamConn {
                stream,
                inbox: Vec::new(),
            },
            peer,
            name: ruling.name.clone(),
            dialled_for: permit.map(DialledFor::new),
            absolute,
            used: false,
        }
    }

    /// Whether a request may go on it, by the decision on that; `destination` is where the client's
    /// connection leads, if it leads anywhere.
    pub(super) fn serves(&mut self, destination: Option<&Target>, ruling: &Ruling) -> bool {
        let same = match destination {
            None => self.dialled_for == ruling.permit.as_ref().map(DialledFor::new),
            // Dialled again by one of several names, which need not all be there.
            Some(target) if self.dialled_for.is_some() && target.ip().is_none() => {
                self.dialled_for == ruling.permit.as_ref().map(DialledFor::new)
            }
            Some(target) => {
                let same_name = self.name == ruling.name;
                !self.peer.may_be_elsewhere(target, same_name, ruling)
            }
        };
        same && self.is_quiet()
    }

    /// Whether it is open, and upstream has not said anything unasked.
    fn is_quiet(&mut self) -> bool {
        let mut byte = Vec::with_capacity(1);
        let would_block = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        self.conn.inbox.is_empty()
            && self
                .conn
                .stream
                .try_read_buf(&mut byte)
                .is_err_and(|error| would_block(&error))
    }
}

/// The upstream proxies that failed one request, after they were reached.
#[derive(Default)]
pub(super) struct FailedUpstreamProxies(Vec<String>);

impl FailedUpstreamProxies {
    /// Whether the request failed because of an upstream proxy that did not fail it before: the dialler asks
    /// another one next, where there is one.
    pub(super) fn another_may_do(
        &mut self,
        dialer: &Dialer,
        upstream: &Upstream,
        ended: &ExchangeEnd,
    ) -> bool {
        use Reason::{UpstreamProxyClosed, UpstreamProxyProtocol};
        let through_upstream_proxy = upstream.absolute.is_some();
        let failed = match ended {
            ExchangeEnd::Silent => true,
            ExchangeEnd::Failed(reason, ..) => {
                matches!(reason, UpstreamProxyClosed | UpstreamProxyProtocol)
            }
            _ => false,
        };
        let Some(failing) = upstream
            .peer
            .upstream_proxy
            .as_ref()
            .filter(|_| through_upstream_proxy && failed)
        else {
            return false;
        };
        dialer.upstream_proxy_failed(failing);
        if self.0.len() >= MAX_PROXIES || self.0.contains(failing) {
            return false;
        }
        self.0.push(failing.clone());
        true
    }
}

/// What a connection was dialled for.
#[derive(PartialEq, Eq)]
struct DialledFor {
    target: PermitTarget,
    port: u16,
    /// Where the rule sends it.
    to: Option<SocketAddr>,
}

impl DialledFor {
    fn new(permit: &ConnectPermit) -> DialledFor {
        DialledFor {
            target: permit.target().clone(),
            port: permit.port(),
            to: permit.to(),
        }
    }
}
