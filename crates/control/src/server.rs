//! The service on the socket: connections accepted, each with the kernel's word on its peer.
//!
//! Answers *exhaustion* and *around the gateway* (docs/threats.md): connections, heads, bodies and their time
//! are bounded, and a peer in another network namespace is not served.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::HttpBody;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use crate::access::{Admins, Caller, Peer};
use crate::handlers::router;
use crate::problem::{Problem, ProblemKind};
use crate::sandboxes::Sandboxes;

/// The largest body of a request, in bytes: a policy, as JSON.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// Connections at once. Others wait to be accepted.
pub const MAX_CONNECTIONS: usize = 1024;
/// Connections at once of one user who is no administrator. Further ones are closed: no user keeps another out.
const MAX_CONNECTIONS_PER_USER: usize = 16;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may take from its head to that of its response: its body, and what it asks for.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// The largest head, and what is read at once, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;
/// The pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long connections may take to end.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// Looks at the other end of a connection; an error for one that may be in a sandbox, or that cannot be looked at.
pub type PeerOf = fn(&UnixStream) -> io::Result<Peer>;

/// Who is let in, and as whom.
#[derive(Clone, Copy, Debug)]
pub struct Gatekeeper {
    /// Who may do everything.
    pub admins: Admins,
    /// Who is at the other end.
    pub peer_of: PeerOf,
}

/// Serves the API on a socket until `token` is cancelled.
///
/// # Errors
/// None at present; what cannot be accepted is tried again.
pub async fn serve(
    listener: UnixListener,
    sandboxes: Arc<dyn Sandboxes>,
    gatekeeper: Gatekeeper,
    token: CancellationToken,
) -> io::Result<()> {
    let router = router(sandboxes)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(bounded));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let users = Users::default();
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = token.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let (router, users, token) = (router.clone(), users.clone(), token.clone());
                tracker.spawn(async move {
                    connection(stream, router, gatekeeper, users, token).await;
                    drop(place);
                });
            }
            Err(error) => {
                debug!(%error, "a control connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    tracker.close();
    // Who follows decisions is cut off.
    let _ = tokio::time::timeout(END_TIMEOUT, tracker.wait()).await;
    Ok(())
}

/// How many connections each user has who is no administrator.
#[derive(Clone, Default)]
struct Users(Arc<Mutex<HashMap<u32, usize>>>);

/// A connection of a user.
struct Place {
    users: Users,
    user: Option<u32>,
}

impl Users {
    fn place(&self, caller: &Caller) -> Option<Place> {
        let user = (!caller.is_admin).then_some(caller.uid);
        if let Some(user) = user {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let count = all.entry(user).or_default();
            if *count == MAX_CONNECTIONS_PER_USER {
                return None;
            }
            *count += 1;
        }
        Some(Place {
            users: self.clone(),
            user,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(user) = self.user else {
            return;
        };
        let all = self.users.0.lock();
        let mut all = all.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                all.remove(&user);
            }
        }
    }
}

/// A request that says that it is too large is not waited for, and none holds its connection for ever.
async fn bounded(request: Request, next: Next) -> Response {
    let length = request.body().size_hint().lower();
    if length > MAX_BODY_BYTES as u64 {
        return Problem {
            status: StatusCode::PAYLOAD_TOO_LARGE.as_u16(),
            ..Problem::new(
                ProblemKind::BadRequest,
                format!("a body has at most {MAX_BODY_BYTES} bytes"),
            )
        }
        .into_response();
    }
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem {
            status: StatusCode::REQUEST_TIMEOUT.as_u16(),
            ..Problem::new(ProblemKind::BadRequest, "the request took too long")
        }
        .into_response(),
    }
}

async fn accept(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
) -> io::Result<(UnixStream, OwnedSemaphorePermit)> {
    let place = places
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    Ok((listener.accept().await?.0, place))
}

async fn connection(
    stream: UnixStream,
    router: Router,
    gatekeeper: Gatekeeper,
    users: Users,
    token: CancellationToken,
) {
    let peer = match (gatekeeper.peer_of)(&stream) {
        Ok(peer) => peer,
        Err(error) => {
            info!(%error, "refused the peer of a control connection");
            return;
        }
    };
    let caller = gatekeeper.admins.caller(&peer);
    let _place = match users.place(&caller) {
        Some(place) => place,
        None => {
            info!(
                uid = caller.uid,
                "refused a control connection: this user has too many"
            );
            return;
        }
    };
    let service = TowerToHyperService::new(router.layer(Extension(caller)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_BYTES);
    let serving = http.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = token.cancelled() => {}
        ended = serving => {
            if let Err(error) = ended {
                debug!(%error, "a control connection failed");
            }
        }
    }
}
