//! The API over its socket: who may do what, what is refused and how, what is followed.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use portcullis_control::{
    Admins, Applied, AttachTo, Caller, Change, Client, ClientError, Counts, Event, Explained,
    Gatekeeper, Name, NewSandbox, Peer, PeerOf, PolicyFormat, PolicyText, Problem, ProblemKind,
    Sandbox, Sandboxes, State, document, serve,
};
use portcullis_policy::Reason;
use portcullis_record::{Event as Decided, Layer, Protocol, Recorder, Subscription};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// Sandboxes that are only names.
#[derive(Default)]
struct Names {
    all: Mutex<BTreeMap<Name, (Sandbox, Recorder)>>,
}

fn sandbox(new: NewSandbox, owner: u32) -> Sandbox {
    Sandbox {
        name: new.name,
        attach: new.attach,
        owner,
        state: State::Serving,
        error: None,
        note: None,
        listening: None,
        since: 0,
        rules: 0,
        audit: new.audit,
        labels: new.labels,
        decisions: Counts::default(),
    }
}

fn missing() -> Problem {
    Problem::new(ProblemKind::NotFound, "gone")
}

impl Names {
    fn add(&self, name: &str, owner: u32) -> Recorder {
        let recorder = Recorder::null();
        let sandbox = sandbox(new(name), owner);
        let mut all = self.all.lock().unwrap();
        all.insert(sandbox.name.clone(), (sandbox, recorder.clone()));
        recorder
    }
}

impl Sandboxes for Names {
    fn list(&self) -> Vec<Sandbox> {
        let all = self.all.lock().unwrap();
        all.values().map(|(sandbox, _)| sandbox.clone()).collect()
    }

    fn get(&self, name: &Name) -> Option<Sandbox> {
        Some(self.all.lock().unwrap().get(name)?.0.clone())
    }

    fn owner(&self, name: &Name) -> Option<u32> {
        Some(self.get(name)?.owner)
    }

    fn create(&self, caller: Caller, new: NewSandbox) -> BoxFuture<'_, Result<Sandbox, Problem>> {
        Box::pin(async move {
            let name = new.name.clone();
            if self.get(&name).is_some() {
                return Err(Problem::new(ProblemKind::Conflict, "taken"));
            }
            self.add(name.as_str(), caller.uid);
            self.get(&name).ok_or_else(missing)
        })
    }

    fn change<'a>(
        &'a self,
        name: &'a Name,
        change: Change,
    ) -> BoxFuture<'a, Result<Sandbox, Problem>> {
        Box::pin(async move {
            let mut all = self.all.lock().unwrap();
            let (sandbox, _) = all.get_mut(name).ok_or_else(missing)?;
            sandbox.audit = change.audit.unwrap_or(sandbox.audit);
            Ok(sandbox.clone())
        })
    }

    fn remove<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async move {
            let removed = self.all.lock().unwrap().remove(name);
            removed.map(drop).ok_or_else(missing)
        })
    }

    fn put_policy<'a>(
        &'a self,
        _name: &'a Name,
        policy: PolicyText,
    ) -> BoxFuture<'a, Result<Applied, Problem>> {
        Box::pin(async move {
            Ok(Applied {
                rules: policy.text.len() as u64,
                cut: 0,
                findings: Vec::new(),
            })
        })
    }

    fn policy(&self, _name: &Name) -> Option<PolicyText> {
        Some(PolicyText::default())
    }

    fn explain(&self, _name: &Name, targets: &[String]) -> Result<Vec<Explained>, Problem> {
        Err(Problem::new(ProblemKind::BadRequest, targets.join(",")))
    }

    fn follow(&self, name: &Name) -> Option<Subscription> {
        Some(self.all.lock().unwrap().get(name)?.1.subscribe())
    }

    fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }

    fn ready(&self) -> Result<(), String> {
        Err("one is cut off".to_owned())
    }
}

fn new(name: &str) -> NewSandbox {
    NewSandbox {
        name: name.parse().unwrap(),
        attach: AttachTo::Listeners {
            dns: None,
            http: Some("127.0.0.1:0".parse().unwrap()),
            socks5: None,
        },
        policy: PolicyText::default(),
        labels: BTreeMap::new(),
        audit: false,
    }
}

fn peer(uid: u32) -> std::io::Result<Peer> {
    Ok(Peer {
        uid,
        gid: uid,
        groups: Vec::new(),
        pid: 1,
    })
}

struct Served {
    folder: tempfile::TempDir,
    names: Arc<Names>,
    token: CancellationToken,
}

impl Served {
    /// A daemon that takes whoever asks for this user. Users 0 and 500 are its administrators.
    fn start(peer_of: PeerOf) -> Served {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("c")).unwrap();
        let (names, token) = (Arc::new(Names::default()), CancellationToken::new());
        let admins = Admins {
            user: 500,
            group: None,
        };
        let gatekeeper = Gatekeeper { admins, peer_of };
        tokio::spawn(serve(listener, names.clone(), gatekeeper, token.clone()));
        Served {
            folder,
            names,
            token,
        }
    }

    fn client(&self) -> Client {
        Client::new(self.folder.path().join("c"))
    }

    /// What is answered to these bytes.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = tokio::net::UnixStream::connect(self.folder.path().join("c"))
            .await
            .unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(5), reading).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

fn status(error: &ClientError) -> u16 {
    match error {
        ClientError::Refused(problem) => problem.status,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_sandbox_is_made_listed_changed_and_removed() {
    let served = Served::start(|_| peer(0));
    let client = served.client();
    let name: Name = "a".parse().unwrap();
    assert_eq!(client.list().await.unwrap(), []);
    let made = client.create(&new("a")).await.unwrap();
    assert_eq!(made.owner, 0);
    assert_eq!(client.list().await.unwrap(), std::slice::from_ref(&made));
    assert_eq!(client.get(&name).await.unwrap(), made);
    assert_eq!(status(&client.create(&new("a")).await.unwrap_err()), 409);
    let change = Change { audit: Some(true) };
    assert!(client.change(&name, &change).await.unwrap().audit);
    let policy = PolicyText {
        format: PolicyFormat::Yaml,
        text: "x".repeat(1 << 20),
    };
    assert_eq!(
        client.put_policy(&name, &policy).await.unwrap().rules,
        1 << 20
    );
    let targets = vec!["b.example".to_owned()];
    assert_eq!(
        status(&client.explain(&name, targets).await.unwrap_err()),
        400
    );
    assert_eq!(client.metrics().await.unwrap(), "# EOF\n");
    client.remove(&name).await.unwrap();
    assert_eq!(status(&client.remove(&name).await.unwrap_err()), 404);
    assert_eq!(status(&client.get(&name).await.unwrap_err()), 404);
}

#[tokio::test]
async fn what_is_another_users_is_not_there() {
    let served = Served::start(|_| peer(1000));
    let client = served.client();
    served.names.add("theirs", 4711);
    let theirs: Name = "theirs".parse().unwrap();
    assert_eq!(client.list().await.unwrap(), []);
    assert_eq!(status(&client.get(&theirs).await.unwrap_err()), 404);
    assert_eq!(status(&client.policy(&theirs).await.unwrap_err()), 404);
    assert_eq!(status(&client.remove(&theirs).await.unwrap_err()), 404);
    let policy = PolicyText::default();
    assert_eq!(
        status(&client.put_policy(&theirs, &policy).await.unwrap_err()),
        404
    );
    let change = Change { audit: Some(true) };
    assert_eq!(
        status(&client.change(&theirs, &change).await.unwrap_err()),
        404
    );
    let targets = vec!["b.example".to_owned()];
    assert_eq!(
        status(&client.explain(&theirs, targets).await.unwrap_err()),
        404
    );
    assert!(client.follow(Some(&theirs)).await.is_err());
    assert_eq!(status(&client.metrics().await.unwrap_err()), 403);
    client.create(&new("mine")).await.unwrap();
    assert_eq!(client.list().await.unwrap().len(), 1);
    assert!(!served.names.get(&theirs).unwrap().audit);
}

/// Such as one that lives in a sandbox.
#[tokio::test]
async fn a_peer_that_is_refused_is_told_nothing() {
    let served = Served::start(|_| Err(std::io::ErrorKind::PermissionDenied.into()));
    let answer = served
        .raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    assert_eq!(answer, "");
}

#[tokio::test]
async fn decisions_are_followed_and_filtered() {
    let served = Served::start(|_| peer(0));
    let (one, two) = (served.names.add("one", 0), served.names.add("two", 0));
    let reason = Reason::NotListed;
    let deny = |recorder: &Recorder, name: &str| {
        let event = Decided::new(Layer::Dns, Protocol::DnsUdp, reason.verdict(), reason);
        recorder.decision(event.name(name));
    };
    let one_name: Name = "one".parse().unwrap();
    let mut events = served.client().follow(Some(&one_name)).await.unwrap();
    let mut all = served.client().follow(None).await.unwrap();
    let filter = served.raw(
        b"GET /v1/decisions?layer=dns&name=b.example HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    let say = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        deny(&one, "a.example");
        deny(&two, "x.b.example");
        deny(&one, "notb.example\u{202e}\n");
        tokio::time::sleep(Duration::from_millis(300)).await;
        // The last recorders: every stream ends.
        served.names.all.lock().unwrap().clear();
        drop((one, two));
    };
    let (filtered, ()) = tokio::join!(filter, say);
    assert!(filtered.contains("x.b.example"), "{filtered}");
    assert!(!filtered.contains("a.example\""), "{filtered}");
    assert!(!filtered.contains("notb"), "{filtered}");
    let mut seen = Vec::new();
    while let Some(Event::Decision(decision)) = events.next().await.unwrap() {
        assert_eq!(
            (decision.sandbox.as_str(), decision.layer.as_str()),
            ("one", "dns")
        );
        seen.push(decision.name);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    let mut count = 0;
    while let Some(Event::Decision(_)) = all.next().await.unwrap() {
        count += 1;
    }
    assert_eq!(count, 3);
}

#[tokio::test]
async fn what_is_wrong_is_a_problem() {
    let served = Served::start(|_| peer(0));
    served.names.add("a", 0);
    for (request, status, says) in [
        (
            "GET /v1/nothing HTTP/1.1",
            404,
            "there is nothing at this path",
        ),
        ("GET /v1/sandboxes/A HTTP/1.1", 400, "a name is 1 to 63"),
        (
            "GET /v1/sandboxes/..%2fetc HTTP/1.1",
            400,
            "a name is 1 to 63",
        ),
        (
            "GET /v1/sandboxes/b HTTP/1.1",
            404,
            "no sandbox `b` of yours",
        ),
        (
            "PUT /v1/sandboxes HTTP/1.1",
            405,
            "does not take that method",
        ),
        (
            "GET /v1/decisions?layr=dns HTTP/1.1",
            400,
            "unknown field `layr`",
        ),
        (
            "GET /v1/decisions?verdict=foo HTTP/1.1",
            400,
            "`verdict` is allow",
        ),
        (
            "GET /v1/sandboxes/a/decisions?reason=foo HTTP/1.1",
            400,
            "no reason has this code",
        ),
        ("GET /readyz HTTP/1.1", 503, "one is cut off"),
        (
            "POST /v1/sandboxes HTTP/1.1\r\nContent-Length: 1",
            415,
            "Content-Type",
        ),
        (
            "POST /v1/sandboxes HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 1",
            400,
            "the body is not what is expected",
        ),
        (
            "POST /v1/sandboxes HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2",
            422,
            "missing field",
        ),
        (
            "PATCH /v1/sandboxes/a HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 17000000",
            413,
            "at most 4194304 bytes",
        ),
    ] {
        let body = if request.ends_with(": 2") { "{}" } else { "x" };
        let request = format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n{body}");
        let answer = served.raw(request.as_bytes()).await;
        let first = answer.lines().next().unwrap_or_default();
        assert!(
            first.contains(&format!(" {status} ")),
            "{request}\n{answer}"
        );
        assert!(answer.contains(says), "{request}\n{answer}");
        assert!(
            answer.contains("application/problem+json"),
            "{request}\n{answer}"
        );
        assert!(
            answer.contains(&format!("\"status\":{status}")),
            "{request}\n{answer}"
        );
    }
}

#[tokio::test]
async fn idle_clients_of_one_user_keep_nobody_out() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static USER: AtomicU32 = AtomicU32::new(1000);
    let served = Served::start(|_| peer(USER.load(Ordering::SeqCst)));
    let path = served.folder.path().join("c");
    let idle: Vec<UnixStream> = (0..100)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    // All of them are accepted by the time that one is refused.
    until(async || served.client().list().await.is_err()).await;
    for other in [1001, 0] {
        USER.store(other, Ordering::SeqCst);
        assert_eq!(served.client().list().await.unwrap(), []);
    }
    drop(idle);
    USER.store(1000, Ordering::SeqCst);
    until(async || served.client().list().await.is_ok()).await;
}

async fn until(is: impl AsyncFn() -> bool) {
    for _ in 0..500 {
        if is().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within five seconds");
}

#[test]
fn the_document_describes_every_path() {
    let document: serde_json::Value = serde_json::from_str(&document().unwrap()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = document["paths"].as_object().unwrap();
    let mut all: Vec<String> = Vec::new();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path}");
            all.push(format!("{method} {path}"));
        }
    }
    all.sort();
    assert_eq!(
        all,
        [
            "delete /v1/sandboxes/{name}",
            "get /healthz",
            "get /metrics",
            "get /openapi.json",
            "get /readyz",
            "get /v1/decisions",
            "get /v1/sandboxes",
            "get /v1/sandboxes/{name}",
            "get /v1/sandboxes/{name}/decisions",
            "get /v1/sandboxes/{name}/policy",
            "patch /v1/sandboxes/{name}",
            "post /v1/sandboxes",
            "post /v1/sandboxes/{name}/explain",
            "put /v1/sandboxes/{name}/policy",
        ]
    );
}
