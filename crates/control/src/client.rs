//! A client for the API, for the command line and for programs in Rust.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api::{
    Applied, Change, Decision, Explained, Name, NewSandbox, PolicyText, Sandbox, TargetList,
};
use crate::problem::Problem;

/// How long a response's head may take: a sandbox may resolve its names before it is served.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest response that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// The longest event, in bytes.
const MAX_EVENT_BYTES: usize = 64 * 1024;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("cannot reach the daemon at {}: {error}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The daemon closed the connection: it serves its own host's programs only.
    #[error("the daemon did not answer: {0}")]
    Broken(String),
    /// The daemon's own word.
    #[error("{}", .0.title)]
    Refused(Box<Problem>),
}

/// A daemon's control socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The daemon at this socket. Nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client {
            socket: socket.into(),
        }
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The sandboxes that this user may see.
    ///
    /// # Errors
    /// See [`ClientError`], here and below.
    pub async fn list(&self) -> Result<Vec<Sandbox>, ClientError> {
        self.json(Method::GET, "/v1/sandboxes", NOTHING).await
    }

    /// One of them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get(&self, name: &Name) -> Result<Sandbox, ClientError> {
        self.json(Method::GET, &format!("/v1/sandboxes/{name}"), NOTHING)
            .await
    }

    /// Makes one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create(&self, new: &NewSandbox) -> Result<Sandbox, ClientError> {
        self.json(Method::POST, "/v1/sandboxes", Some(new)).await
    }

    /// Changes one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn change(&self, name: &Name, change: &Change) -> Result<Sandbox, ClientError> {
        self.json(
            Method::PATCH,
            &format!("/v1/sandboxes/{name}"),
            Some(change),
        )
        .await
    }

    /// Removes one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn remove(&self, name: &Name) -> Result<(), ClientError> {
        let path = format!("/v1/sandboxes/{name}");
        self.send(Method::DELETE, &path, NOTHING).await.map(drop)
    }

    /// Puts a policy in force.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put_policy(
        &self,
        name: &Name,
        policy: &PolicyText,
    ) -> Result<Applied, ClientError> {
        let path = format!("/v1/sandboxes/{name}/policy");
        self.json(Method::PUT, &path, Some(policy)).await
    }

    /// The policy in force.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn policy(&self, name: &Name) -> Result<PolicyText, ClientError> {
        self.json(
            Method::GET,
            &format!("/v1/sandboxes/{name}/policy"),
            NOTHING,
        )
        .await
    }

    /// What the policy says to targets.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn explain(
        &self,
        name: &Name,
        targets: Vec<String>,
    ) -> Result<Vec<Explained>, ClientError> {
        let path = format!("/v1/sandboxes/{name}/explain");
        self.json(Method::POST, &path, Some(&TargetList { targets }))
            .await
    }

    /// The daemon's figures as OpenMetrics text.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let body = self.send(Method::GET, "/metrics", NOTHING).await?;
        let body = whole(body).await?;
        String::from_utf8(body.into()).map_err(broken)
    }

    /// Decisions from now on: of one sandbox, or of all.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn follow(&self, name: Option<&Name>) -> Result<Events, ClientError> {
        let path = match name {
            Some(name) => format!("/v1/sandboxes/{name}/decisions"),
            None => "/v1/decisions".to_owned(),
        };
        let response = self.send(Method::GET, &path, NOTHING).await?;
        Ok(Events {
            body: response.into_body(),
            held: Vec::new(),
        })
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = whole(self.send(method, path, body).await?).await?;
        serde_json::from_slice(&body).map_err(broken)
    }

    /// The response to a request, if it is carried out.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response<Incoming>, ClientError> {
        let connecting = UnixStream::connect(&self.socket).await;
        let stream = connecting.map_err(|error| ClientError::Unreachable {
            path: self.socket.clone(),
            error,
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // It ends with the response's body.
        tokio::spawn(connection);
        let body = body.map(serde_json::to_vec).transpose().map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(broken)?;
        let answer = timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
        let response = answer.map_err(broken)?.map_err(broken)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = whole(response).await?;
        let problem = serde_json::from_slice(&body).unwrap_or_else(|_| unknown(status));
        Err(ClientError::Refused(Box::new(problem)))
    }
}

/// No body.
const NOTHING: Option<&()> = None;

fn broken(error: impl ToString) -> ClientError {
    ClientError::Broken(error.to_string())
}

fn unknown(status: StatusCode) -> Problem {
    Problem {
        title: format!("the daemon answered {status}"),
        status: status.as_u16(),
        detail: None,
        findings: Vec::new(),
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
    match body.await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(broken("too large an answer")),
        Err(error) => Err(broken(error)),
    }
}

/// Decisions as they fall.
pub struct Events {
    body: Incoming,
    held: Vec<u8>,
}

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A decision.
    Decision(Box<Decision>),
    /// So many decisions were not kept, because this reader was slow.
    Missed(u64),
}

impl Events {
    /// The next one; none when the daemon or the last sandbox is gone.
    ///
    /// # Errors
    /// The connection broke, or says what no daemon says.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            while let Some(end) = self.held.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.held.drain(..end + 2).collect();
                if let Some(event) = read_event(&block)? {
                    return Ok(Some(event));
                }
            }
            if self.held.len() > MAX_EVENT_BYTES {
                return Err(broken("too long an event"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(broken)?.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// One block of a stream; nothing if it is a comment.
fn read_event(block: &[u8]) -> Result<Option<Event>, ClientError> {
    #[derive(serde::Deserialize)]
    struct Missed {
        count: u64,
    }
    let text = std::str::from_utf8(block).map_err(broken)?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let (Some(kind), Some(data)) = (field("event: "), field("data: ")) else {
        return Ok(None);
    };
    Ok(Some(match kind {
        "decision" => Event::Decision(serde_json::from_str(data).map_err(broken)?),
        "missed" => Event::Missed(serde_json::from_str::<Missed>(data).map_err(broken)?.count),
        _ => return Ok(None),
    }))
}
