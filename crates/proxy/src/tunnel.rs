//! From a dialled connection to a relay: what the client's first bytes show is decided on before
//! any of them goes upstream.
//!
//! Answers "CONNECT to A with SNI B", "connect to the attacker's address with the SNI of a listed
//! name", "two names on one CDN address" and "no SNI, two SNIs".

use portcullis_dial::Stream;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use portcullis_policy::{ConnectPermit, Reason, ShownBy, Verdict};
use portcullis_record::{CloseReason, Layer};
use portcullis_wire::tls::{self, Alert};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::ProxyContext;
use crate::context::Absolute;
use crate::first::{First, Peek};
use crate::flows::{Carries, until_cut};
use crate::http::{self, Behind};
use crate::inspect::{self, Shown};
use crate::limits::RECORD_DELAY;
use crate::narrow::{self, OnTls};
use crate::note::{At, Flow, Peer, Via};
use crate::relay::Relay;
use crate::socket;
use crate::stop::Stop;
use crate::target::{Ruling, Target};

/// A connection that has nothing left to decide: all that stays of it while it lives.
pub(crate) struct Tunnel {
    relay: Relay,
    flow: Flow,
}

impl Tunnel {
    pub(crate) fn new(relay: Relay, flow: Flow) -> Tunnel {
        Tunnel { relay, flow }
    }

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

/// A connection that stands, before the client's first bytes are known.
pub(crate) struct Opened {
    pub(crate) via: Via,
    pub(crate) target: Target,
    /// The decision that it was dialled by.
    pub(crate) ruling: Ruling,
    pub(crate) peer: Peer,
    /// It ends at the company's proxy, which expects a plain HTTP request in absolute form.
    pub(crate) absolute: Absolute,
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

    /// Waits for the client's first bytes and decides on what they show. `None` when the
    /// connection came to its end on the way.
    pub(crate) async fn follow(
        mut self,
        ctx: &ProxyContext,
        stop: &Stop,
        mut relay: Relay,
        pending: Vec<u8>,
    ) -> Option<Tunnel> {
        let look = narrow::look(&self.target, &self.ruling);
        let mut peek = Peek::new(look, pending).within(ctx.handshake_timeout());
        relay.set_meter(ctx.meter(&self.peer));
        let first = loop {
            tokio::select! {
                biased;
                () = stop.wait() => break First::Over(CloseReason::Shutdown),
                () = until_cut(self.flow.as_ref().map(|flow| &**flow.standing)) => {
                    break First::Over(CloseReason::PolicyChanged);
                }
                first = peek.first(&mut relay) => match first {
                    First::Undecided => {}
                    first => break first,
                },
                () = sleep(RECORD_DELAY), if self.flow.is_none() => {
                    self.note_open(ctx, None);
                    continue;
                }
            }
            if self.absolute.is_some() {
                relay = Box::pin(self.leave_absolute(ctx, relay)).await?;
            }
            self.note_open(ctx, None);
            relay.push_up(peek.release());
        };
        match first {
            // Boxed, as whatever is large: most of the time a silent client is waited for.
            First::Tls(hello) => Box::pin(self.tls(ctx, stop, relay, (peek, &hello))).await,
            First::BadTls(why) => {
                let at = At::new(Layer::Tls, self.via).detail(Some(why));
                ctx.note_malformed(at, Some(&self.target));
                let end = CloseReason::ClientProtocol;
                Box::pin(self.refuse_tls(relay, Alert::AccessDenied, end)).await;
                None
            }
            First::Http if peek.has_released() => {
                let why = "a request whose first bytes passed as something else";
                let at = At::new(Layer::Http, self.via).detail(Some(why));
                ctx.note_malformed(at, Some(&self.target));
                self.cut(relay, CloseReason::ClientProtocol);
                None
            }
            First::Http if relay.upstream_spoke() => {
                // The answers on such a connection could not be told from what came before.
                self.over(ctx, relay, CloseReason::UpstreamProtocol);
                None
            }
            First::Http => {
                if let Some(flow) = &self.flow {
                    ctx.carries(&flow.standing, Carries::Http, &self.ruling);
                }
                let (client, upstream) = relay.into_sockets();
                let behind = Behind {
                    target: self.target,
                    via: self.via,
                    upstream: (upstream, self.peer, self.ruling.name),
                    absolute: self.absolute,
                    flow: self.flow,
                };
                // Boxed: only a direct connection that speaks HTTP comes here.
                Box::pin(http::behind(ctx, stop, client, peek.into_pending(), behind)).await
            }
            First::Http2 => {
                let ruling = self.target.refuse(ctx, Reason::ProtocolNotAllowed);
                let why = "HTTP/2 without TLS: its requests' hosts cannot be seen";
                let at = At::new(Layer::Http, self.via).detail(Some(why));
                ctx.note_decision(at, &self.target, &ruling);
                self.cut(relay, CloseReason::Denied);
                None
            }
            First::Other if !peek.is_empty() && !self.may_be_other(ctx) => {
                self.cut(relay, CloseReason::Denied);
                None
            }
            First::Other => {
                if self.absolute.is_some() {
                    relay = Box::pin(self.leave_absolute(ctx, relay)).await?;
                }
                self.pass(ctx, relay, peek, Carries::Other)
            }
            First::Undecided | First::Slow => {
                let why = "the first bytes did not tell in time what they are";
                let at = At::new(Layer::Tcp, self.via).detail(Some(why));
                ctx.note_malformed(at, Some(&self.target));
                self.cut(relay, CloseReason::ClientProtocol);
                None
            }
            First::Over(end) => {
                self.over(ctx, relay, end);
                None
            }
        }
    }

    /// What is not HTTP cannot go to a proxy that expects a request: such a connection is replaced
    /// by a tunnel. `None` when that failed, and the connection ended with it.
    async fn leave_absolute(&mut self, ctx: &ProxyContext, relay: Relay) -> Option<Relay> {
        if self.absolute.is_none() {
            return Some(relay);
        }
        match ctx.dial(&self.ruling, self.peer.admitted.as_ref()).await {
            Ok((upstream, peer)) => {
                self.peer = peer;
                self.absolute = None;
                let mut relay = Relay::new(relay.into_sockets().0, upstream);
                relay.set_meter(ctx.meter(&self.peer));
                Some(relay)
            }
            Err(error) => {
                let at = At::new(Layer::Tcp, self.via);
                ctx.note_failed(at, &self.target, &self.ruling, &error);
                let (up, down) = relay.bytes();
                relay.reset();
                close(self.flow.take(), up, down, CloseReason::UpstreamClosed);
                None
            }
        }
    }

    async fn tls(
        mut self,
        ctx: &ProxyContext,
        stop: &Stop,
        relay: Relay,
        (peek, hello): (Peek, &tls::ClientHello),
    ) -> Option<Tunnel> {
        let ruling = match &hello.sni {
            Some(sni) => self.target.decide_shown(ctx, sni.as_ref(), ShownBy::Sni),
            None => self.target.decide_hidden(ctx),
        };
        let ech = hello
            .ech
            .then_some("an encrypted ClientHello beside the server name");
        let sni = hello.sni.as_ref().map(|name| name.as_str());
        let at = At::new(Layer::Tls, self.via).shown(sni).detail(ech);
        if ruling.permit.is_none() {
            ctx.note_decision(at, &self.target, &ruling);
            let alert = match ruling.reason {
                Reason::SniMissing => Alert::AccessDenied,
                _ => Alert::UnrecognizedName,
            };
            self.refuse_tls(relay, alert, CloseReason::Denied).await;
            return None;
        }
        if let Err(error) = ctx.readmit(&mut self.peer, &ruling) {
            ctx.note_failed(at, &self.target, &ruling, &error);
            self.cut(relay, CloseReason::Limit);
            return None;
        }
        if let Some(name) = inspect::by_name(&ruling) {
            let pending = peek.into_pending();
            let shown = Shown {
                hello,
                pending,
                ruling,
                name,
            };
            // Boxed: two TLS connections and HTTP take more than every other kind of flow.
            Box::pin(inspect::inspect(self, ctx, stop, relay, shown)).await;
            return None;
        }
        match narrow::on_tls(&ruling) {
            // Inspection takes the connection here, with what `peek` holds of it.
            OnTls::Inspect | OnTls::Refuse => {
                ctx.note_not_http((Layer::Tls, self.via), &self.target, &ruling, sni);
                self.refuse_tls(relay, Alert::AccessDenied, CloseReason::Denied)
                    .await;
                return None;
            }
            OnTls::Relay => {
                ctx.note_if_narrow((Layer::Tls, self.via), &self.target, &ruling, sni);
            }
        }
        let mut relay = relay;
        if self.must_redial(&ruling) {
            if relay.upstream_spoke() {
                self.over(ctx, relay, CloseReason::UpstreamProtocol);
                return None;
            }
            let (client, _) = relay.into_sockets();
            match ctx.dial(&ruling, self.peer.admitted.as_ref()).await {
                Ok((upstream, peer)) => {
                    relay = Relay::new(client, upstream);
                    self.peer = peer;
                }
                Err(error) => {
                    ctx.note_failed(at, &self.target, &ruling, &error);
                    socket::reset(client);
                    return None;
                }
            }
        }
        if let Some(flow) = &mut self.flow {
            flow.detail = flow.detail.or(ech);
        }
        self.settle(ctx, at, ruling);
        self.pass(ctx, relay, peek, Carries::Tls)
    }

    /// The flow stands by what was shown: recorded, where it is not yet or where that is news.
    pub(crate) fn settle(&mut self, ctx: &ProxyContext, at: At<'_>, ruling: Ruling) {
        match &mut self.flow {
            // The record says by which name the flow was opened; another one is worth a line.
            Some(flow) => {
                flow.admitted.clone_from(&self.peer.admitted);
                ctx.goes_on(&flow.standing, &ruling, &self.peer);
                flow.lease = ctx.hold(&self.target, &ruling).or(flow.lease.take());
                let news = ruling.verdict == Verdict::Audit && ruling.reason != self.ruling.reason;
                if news || ruling.name != self.ruling.name {
                    ctx.note_decision(at, &self.target, &ruling);
                }
            }
            None => {
                self.flow = Some(ctx.note_open(at, &self.target, &ruling, &self.peer));
            }
        }
        self.ruling = ruling;
    }

    /// Whether a protocol that is neither TLS nor HTTP may pass; records it where it is worth it.
    fn may_be_other(&self, ctx: &ProxyContext) -> bool {
        ctx.note_if_narrow((Layer::Tcp, self.via), &self.target, &self.ruling, None)
    }

    /// Whether the connection leads to a proxy that takes no TLS, or was dialled for another name
    /// than the one shown and may therefore end elsewhere than at an address of that name: a proxy
    /// resolves by itself, and the dialler may have taken another address of the first name.
    pub(crate) fn must_redial(&self, ruling: &Ruling) -> bool {
        self.absolute.is_some()
            || elsewhere(
                &self.target,
                &self.peer,
                self.ruling.name == ruling.name,
                ruling,
            )
    }

    fn pass(
        mut self,
        ctx: &ProxyContext,
        mut relay: Relay,
        peek: Peek,
        carries: Carries,
    ) -> Option<Tunnel> {
        self.note_open(ctx, None);
        let flow = self.flow?;
        ctx.carries(&flow.standing, carries, &self.ruling);
        relay.push_up(peek.into_pending());
        relay.set_meter(ctx.meter(&self.peer));
        Some(Tunnel { relay, flow })
    }

    fn note_open(&mut self, ctx: &ProxyContext, detail: Option<&'static str>) {
        if self.flow.is_none() {
            let at = At::new(Layer::Tcp, self.via).detail(detail);
            self.flow = Some(ctx.note_open(at, &self.target, &self.ruling, &self.peer));
        }
    }

    pub(crate) async fn refuse_tls(self, relay: Relay, alert: Alert, end: CloseReason) {
        let (up, down) = relay.bytes();
        let (client, upstream) = relay.into_sockets();
        drop(upstream);
        socket::last_words(client, &tls::fatal_alert(alert)).await;
        close(self.flow, up, down, end);
    }

    /// Ends a flow that stands, for a reason that is not a refusal.
    pub(crate) fn over(mut self, ctx: &ProxyContext, relay: Relay, end: CloseReason) {
        self.note_open(ctx, None);
        self.cut(relay, end);
    }

    fn cut(mut self, relay: Relay, end: CloseReason) {
        if let Some(flow) = &mut self.flow {
            flow.detail = relay.limit().or(flow.detail);
        }
        let (up, down) = relay.bytes();
        relay.reset();
        close(self.flow, up, down, end);
    }
}

fn close(flow: Option<Flow>, up: u64, down: u64, end: CloseReason) {
    if let Some(mut flow) = flow {
        flow.up += up;
        flow.down += down;
        flow.finish(end);
    }
}

/// Whether a connection that stands to `peer` may have ended at another place than `target` means
/// under another name than the one it was dialled by: the ruling's, whose rule may send it away.
pub(crate) fn elsewhere(target: &Target, peer: &Peer, same_name: bool, ruling: &Ruling) -> bool {
    if let Some(to) = ruling.permit.as_ref().and_then(ConnectPermit::to) {
        return peer.via.is_some() || peer.address != to;
    }
    let there = peer.via.is_none()
        && peer.address.port() == target.port
        && Some(peer.address.ip().to_canonical()) == target.ip();
    !same_name && !there && target.ip().is_some()
}

/// Sockets of a connection that stands.
pub(crate) fn relay(client: TcpStream, upstream: Stream) -> Relay {
    socket::prepare_dialled(upstream.tcp());
    Relay::new(client, upstream)
}
