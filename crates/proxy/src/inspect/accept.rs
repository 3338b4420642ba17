//! From the decision on a ClientHello to two TLS connections, upstream's first.
//!
//! Upstream is dialled, verified and asked what it speaks before the program is answered, so that
//! the program speaks what upstream does. Where that fails the program still gets a TLS session,
//! and in it an answer that says what failed: a reset would look like a refusal.

use std::sync::{Arc, Mutex, PoisonError};

use portcullis_dial::Stream;
use portcullis_names::{Name, NameBuf};
use portcullis_policy::Reason;
use portcullis_record::{CloseReason, Layer};
use portcullis_wire::tls::{Alert, ClientHello};
use rustls::AlertDescription;
use rustls::server::Acceptor;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::{StartHandshake, TlsStream};
use tracing::debug;

use super::Inspector;
use super::alpn::{Alpn, Offer};
use super::conclude::conclude;
use super::ended::Ended;
use super::exchange::{Security, Session, Upstream, only_refuse};
use super::io::{self, Activity, Client, SharedMeter};
use super::serve::{self, HeadRules};
use super::tasks::Tasks;
use super::upstream::Secured;
use crate::flows::Carries;
use crate::http_only;
use crate::inbound::Inbound;
use crate::limits;
use crate::open_error::OpenError;
use crate::opened::Opened;
use crate::records::At;
use crate::relay::Relay;
use crate::request::{Change, Core, Place, Refused};
use crate::services::Services;
use crate::socket;
use crate::stop::Stop;
use crate::target::{Ruling, Target};

/// What a ClientHello led to: a decision that says to look inside.
pub(crate) struct ToInspect {
    pub(crate) opened: Opened,
    pub(crate) relay: Relay,
    pub(crate) hello: Box<ClientHello>,
    /// The client's bytes so far, the hello included.
    pub(crate) pending: Vec<u8>,
    /// The decision on it.
    pub(crate) ruling: Ruling,
    /// The name that was decided on.
    pub(crate) name: Name,
}

/// Takes a connection over from the point where its ClientHello was decided on, to its end.
pub(crate) async fn inspect(services: Services<'_>, to_inspect: Box<ToInspect>, stop: &Stop) {
    let ToInspect {
        mut opened,
        relay,
        hello,
        pending,
        ruling,
        name,
    } = *to_inspect;
    let covered = |inspector: &&Inspector| inspector.holds_for(name.as_ref());
    let Some(inspector) = services.inspector.filter(|inspector| covered(inspector)) else {
        // Fails closed: without a certificate that the program trusts there is no looking inside.
        let ruling = services.decider.refuse(Reason::ProtocolNotAllowed);
        let why = "the gateway was started without certificates for this name";
        let at = At::new(Layer::Tls, opened.inbound).shown(Some(name.as_str()));
        (services.records).decision(at.detail(Some(why)), &opened.target, &ruling);
        return opened
            .refuse_tls(relay, Alert::AccessDenied, CloseReason::Denied)
            .await;
    };
    if relay.upstream_spoke() {
        return opened.over(services.records, relay, CloseReason::UpstreamProtocol);
    }
    let (client, upstream) = relay.into_sockets();
    let client = Arc::new(client);
    let activity = Activity::new();
    let meter = services.connector.meter(&opened.peer).map(SharedMeter::new);
    let program = Client::new(client.clone(), pending, activity.clone()).metered(meter.clone());
    let ended = {
        let inspection = Inspection {
            services,
            inspector,
            hello: &hello,
            name: &name,
            activity: &activity,
        };
        tokio::select! {
            biased;
            ended = activity.taken_down(stop.wait(), CloseReason::Shutdown) => ended,
            ended = inspection.run(&mut opened, ruling, program, upstream) => ended,
            ended = io::gone(&client, &activity, meter.as_ref()) => ended,
        }
    };
    conclude(
        ended,
        services.records,
        opened,
        Some(name.as_str()),
        &activity,
        client,
    )
    .await;
}

/// What does not change while one connection is inspected.
struct Inspection<'a> {
    services: Services<'a>,
    inspector: &'a Inspector,
    hello: &'a ClientHello,
    name: &'a Name,
    activity: &'a Arc<Activity>,
}

impl Inspection<'_> {
    async fn run(
        &self,
        opened: &mut Opened,
        ruling: Ruling,
        program: Client,
        upstream: Stream,
    ) -> Ended {
        let at = At::new(Layer::Tls, opened.inbound).shown(Some(self.name.as_str()));
        let patience = limits::handshake_timeout(&self.services.decider.limits());
        let reading = timeout(patience, hello(program, self.hello.sni.as_ref()));
        let Some(start) = reading.await.ok().flatten() else {
            // Two readers that see different names in one hello: nobody knows what it means.
            let why = "a ClientHello that cannot be answered";
            self.services
                .records
                .malformed(at.detail(Some(why)), Some(&opened.target));
            return Ended::of(CloseReason::ClientProtocol);
        };
        let offer = Offer::of(start.client_hello().alpn());
        if offer == Offer::Nothing {
            let ruling = self.services.decider.refuse(Reason::ProtocolNotAllowed);
            let why = "a protocol other than HTTP, where the rule inspects";
            self.services
                .records
                .decision(at.detail(Some(why)), &opened.target, &ruling);
            // The library's own alert: no_application_protocol.
            let _ = self.answer(start, Alpn::Http1).await;
            return Ended::of(CloseReason::Denied);
        }
        match self.upstream(opened, upstream, &ruling, &offer).await {
            Ok(secured) => {
                let ech = (self.hello.ech)
                    .then_some("inspected; an encrypted ClientHello beside the server name");
                let at = at.detail(ech.or(Some("inspected")));
                opened.settle(self.services.records, at, ruling);
                match self.answer(start, secured.alpn).await {
                    Ok(stream) => self.exchange(opened, stream, secured).await,
                    Err(ended) => ended,
                }
            }
            Err(error) => {
                let target = &opened.target;
                let mut refused =
                    Refused::undialled(self.services.records, at, target, &ruling, &error);
                refused.refusal.target = Some(format!("{}:{}", self.name, target.port));
                let alpn = offer.ours();
                match self.answer(start, alpn).await {
                    Ok(stream) => {
                        let serve = |request| only_refuse(&refused.refusal, self.activity, request);
                        let rules = self.head_rules(&opened.target, opened.inbound);
                        serve::requests(stream, alpn, self.activity, &rules, serve).await;
                    }
                    Err(ended) => return ended,
                }
                Ended::of(error.close_reason())
            }
        }
    }

    /// TLS to upstream, on the connection that stands or on one that belongs to the name.
    async fn upstream(
        &self,
        opened: &mut Opened,
        mut stream: Stream,
        ruling: &Ruling,
        offer: &Offer,
    ) -> Result<Secured, OpenError> {
        if opened.must_redial(ruling) {
            drop(stream);
            let already = opened.peer.admitted.clone();
            let connected = (self.services.connector)
                .connect(ruling, already.as_ref())
                .await?;
            (stream, opened.peer) = (connected.stream, connected.peer);
            opened.absolute = None;
        }
        socket::prepare(stream.tcp());
        let name = self.name.as_ref();
        self.inspector
            .secure(stream, name, ruling, offer.protocols())
            .await
    }

    fn head_rules<'h>(&'h self, target: &'h Target, inbound: Inbound) -> HeadRules<'h> {
        HeadRules {
            core: Core::new(self.services, inbound),
            place: Place::Name(target, self.name),
            websockets: false,
        }
    }

    /// Answers the program's hello.
    async fn answer(
        &self,
        start: StartHandshake<Client>,
        alpn: Alpn,
    ) -> Result<TlsStream<Client>, Ended> {
        let config = self.inspector.leaves.config(self.name.as_ref(), alpn);
        let Ok(config) = config else {
            return Err(Ended::of(CloseReason::Internal));
        };
        let patience = limits::handshake_timeout(&self.services.decider.limits());
        match timeout(patience, start.into_stream(config)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(distrust(&error)),
            Err(_) => Err(Ended::because(
                CloseReason::ClientProtocol,
                "the program did not end its TLS handshake in time",
            )),
        }
    }

    async fn exchange(
        &self,
        opened: &Opened,
        stream: TlsStream<Client>,
        secured: Secured,
    ) -> Ended {
        let Some(flow) = &opened.flow else {
            return Ended::of(CloseReason::Internal);
        };
        self.services
            .records
            .carries(&flow.standing, Carries::Http, &opened.ruling);
        debug!(id = %flow.id, name = self.name.as_str(), alpn = ?secured.alpn, "inspected");
        let mut drivers = Tasks::new();
        let alpn = secured.alpn;
        let session = Session {
            services: self.services,
            security: Some(Security {
                inspector: self.inspector,
                name: self.name,
            }),
            target: &opened.target,
            address: None,
            admitted: opened.peer.admitted.clone(),
            place: Place::Name(&opened.target, self.name),
            inbound: opened.inbound,
            alpn,
            standing: &flow.standing,
            activity: self.activity.clone(),
            spawner: drivers.spawner(),
            upstream: Mutex::new(Upstream::original(opened)),
            switched: Mutex::default(),
        };
        let serving = async {
            let mut rules = self.head_rules(&opened.target, opened.inbound);
            if let Ok(sender) = session.speak(secured.stream, alpn).await {
                // Whether there may be WebSockets is one of the first things said in HTTP/2.
                rules.websockets = http_only::allows_change(&opened.ruling, Change::WebSocket)
                    && sender.takes_websockets().await;
                session.begin(sender);
            }
            let serve = |request| session.serve(request);
            let served = serve::requests(stream, alpn, self.activity, &rules, serve).await;
            let switched = session
                .switched
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            match switched {
                Some(switched) => Ended::of(switched.relay().await),
                None => served,
            }
        };
        tokio::select! {
            biased;
            ended = self.activity.taken_down(flow.standing.until_cut(), CloseReason::PolicyChanged) => ended,
            ended = drivers.until(serving) => ended,
        }
    }
}

/// Reads the hello once more, with the library that answers it; it must see the name that was
/// decided on.
async fn hello(program: Client, decided: Option<&NameBuf>) -> Option<StartHandshake<Client>> {
    let acceptor = LazyConfigAcceptor::new(Acceptor::default(), program);
    let start = acceptor.await.ok()?;
    let seen = match start.client_hello().server_name() {
        Some(name) => Some(NameBuf::from_program(name.as_bytes()).ok()?),
        None => None,
    };
    (seen.as_ref() == decided).then_some(start)
}

/// Why a program did not take the handshake, by its own alert where it sent one.
fn distrust(error: &std::io::Error) -> Ended {
    use AlertDescription as Alert;
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired,
        )) => Ended::because(
            CloseReason::ClientProtocol,
            "the program does not trust this sandbox's certificate authority (its TLS alert says so)",
        ),
        Some(rustls::Error::AlertReceived(_)) => Ended::because(
            CloseReason::ClientProtocol,
            "the program ended the TLS handshake with an alert",
        ),
        Some(_) => Ended::because(
            CloseReason::ClientProtocol,
            "no TLS version or protocol in common with the program",
        ),
        None => Ended::because(
            CloseReason::ClientClosed,
            "the program left in the TLS handshake: it may not trust this sandbox's certificate \
             authority",
        ),
    }
}
