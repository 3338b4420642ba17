//! HTTP/2 without TLS, spoken at once (RFC 9113 section 3.3), as gRPC does inside a company.
//!
//! Answers *decision and destination differ* (docs/threats.md): the host of each request stands inside a
//! compressed block, so the connection is served by the codec that inspection has, and every stream is
//! decided on by its `:authority` as a request of HTTP/1.1 is by its `Host`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use portcullis_dial::Stream;
use portcullis_record::CloseReason;
use tracing::debug;

use super::alpn::Alpn;
use super::conclude::conclude;
use super::ended::Ended;
use super::exchange::{Session, Upstream};
use super::io::{self, Activity, Client, SharedMeter};
use super::serve::{self, HeadRules};
use super::tasks::Tasks;
use crate::flows::Carries;
use crate::opened::{Opened, Unread};
use crate::request::{Core, Place};
use crate::services::Services;
use crate::socket;
use crate::stop::Stop;

/// Serves a connection from its client's preface to its end.
pub(crate) async fn cleartext(services: Services<'_>, unread: Box<Unread>, stop: &Stop) {
    let Unread {
        mut opened,
        relay,
        pending,
    } = *unread;
    opened.record(services.records);
    let (client, upstream) = relay.into_sockets();
    let client = Arc::new(client);
    let activity = Activity::new();
    let meter = services.connector.meter(&opened.peer).map(SharedMeter::new);
    let program = Client::new(client.clone(), pending, activity.clone()).metered(meter.clone());
    let ended = tokio::select! {
        biased;
        ended = activity.taken_down(stop.wait(), CloseReason::Shutdown) => ended,
        ended = requests(services, &opened, &activity, program, upstream) => ended,
        ended = io::gone(&client, &activity, meter.as_ref()) => ended,
    };
    conclude(ended, services.records, opened, None, &activity, client).await;
}

/// The address that a tunnel leads to, unless an upstream proxy found the way.
fn tunnelled_to(opened: &Opened) -> Option<SocketAddr> {
    let direct = opened.peer.upstream_proxy.is_none();
    direct.then_some(opened.peer.address)
}

/// Serves its requests.
async fn requests(
    services: Services<'_>,
    opened: &Opened,
    activity: &Arc<Activity>,
    program: Client,
    upstream: Stream,
) -> Ended {
    let Some(flow) = &opened.flow else {
        return Ended::of(CloseReason::Internal);
    };
    (services.records).carries(&flow.standing, Carries::Http, &opened.ruling);
    debug!(id = %flow.id, "HTTP/2 without TLS");
    socket::prepare(upstream.tcp());
    let mut drivers = Tasks::new();
    let place = Place::Destination(&opened.target);
    let session = Session {
        services,
        security: None,
        target: &opened.target,
        address: tunnelled_to(opened),
        admitted: opened.peer.admitted.clone(),
        place,
        inbound: opened.inbound,
        alpn: Alpn::Http2,
        standing: &flow.standing,
        activity: activity.clone(),
        spawner: drivers.spawner(),
        upstream: Mutex::new(Upstream::original(opened)),
        switched: Mutex::default(),
    };
    let serving = async {
        let rules = HeadRules {
            core: Core::new(services, opened.inbound),
            place,
            websockets: false,
        };
        if let Ok(sender) = session.speak(upstream, Alpn::Http2).await {
            session.begin(sender);
        }
        let serve = |request| session.serve(request);
        serve::requests(program, Alpn::Http2, activity, &rules, serve).await
    };
    tokio::select! {
        biased;
        ended = activity.taken_down(flow.standing.until_cut(), CloseReason::PolicyChanged) => ended,
        ended = drivers.until(serving) => ended,
    }
}
