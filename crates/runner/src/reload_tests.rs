//! A policy that is followed while it is in force.

use super::*;
use portcullis_gateway::{Entrances, Input, Policy};
use std::path::PathBuf;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

/// How long a reload may take to be told.
const TIMEOUT: Duration = Duration::from_secs(20);

fn load(
    path: &Path,
    read: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Result<Loaded, Vec<Diagnostic>> {
    let text = read(path).expect("the policy's file");
    let path = path.to_owned();
    Policy::load(&[Input::File { path, text }], read)
}

fn text(names: &[&str]) -> String {
    let rules: String = names
        .iter()
        .map(|name| format!("\"{name}\" = \"allow\"\n"))
        .collect();
    format!("version = 1\n[network.domains]\n{rules}")
}

struct Followed {
    path: PathBuf,
    gateway: Arc<Gateway>,
    told: std_mpsc::Receiver<String>,
    requests: OwnedFd,
    rejected: Rejected,
    token: CancellationToken,
    tracker: TaskTracker,
    _folder: tempfile::TempDir,
}

/// A gateway that follows one file, which lists `a.example`.
async fn follow() -> Followed {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("policy.toml");
    std::fs::write(&path, text(&["a.example"])).expect("a file");
    let mut files = PolicyFiles::new(1024 * 1024);
    let loaded = load(&path, &mut |path| files.read(path)).expect("a policy");
    let gateway = Gateway::builder().policy(loaded.policy).build();
    let gateway = Arc::new(gateway.expect("a gateway"));
    let (tell, told) = std_mpsc::sync_channel(16);
    let (requested, requests) = pipe_with(PipeFlags::NONBLOCK).expect("a pipe");
    let again = path.clone();
    let reload = Reload {
        load: Box::new(move |read| load(&again, read)),
        files,
        requests: Some(requested),
        tell: Some(Box::new(move |result| {
            let result = match result {
                ReloadResult::Applied { replaced, .. } => format!("applied {}", replaced.rules),
                ReloadResult::Invalid(errors) => format!("invalid {}", errors.len()),
                ReloadResult::Unread(why) | ReloadResult::Refused(why) => why.clone(),
            };
            tell.send(result).expect("somebody listens");
        })),
    };
    let (rejected, token, tracker) = Default::default();
    let starting = gateway.start(Entrances::default(), &tracker, &token);
    let serving = starting.await.expect("it serves");
    let following = reload.follow(
        gateway.clone(),
        &serving,
        Rejected::clone(&rejected),
        &tracker,
        &token,
    );
    following.expect("a thread");
    Followed {
        path,
        gateway,
        told,
        requests,
        rejected,
        token,
        tracker,
        _folder: folder,
    }
}

impl Followed {
    async fn end(&self) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    fn next(&self) -> String {
        self.told.recv_timeout(TIMEOUT).expect("a reload")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_applied_and_a_broken_one_changes_nothing() {
    let followed = follow().await;
    std::fs::write(&followed.path, text(&["a.example", "b.example"])).unwrap();
    assert_eq!(followed.next(), "applied 2");
    std::fs::write(&followed.path, "version = 1\n[network.domains\n").unwrap();
    assert!(followed.next().starts_with("invalid"));
    assert_eq!(followed.gateway.policy().load().rule_count(), 2);
    std::fs::write(&followed.path, text(&["a.example"])).unwrap();
    assert_eq!(followed.next(), "applied 1");
    // What stands in the report is why the *latest* change was not applied: none here.
    followed.end().await;
    assert_eq!(followed.rejected.take(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reloads_what_has_not_changed() {
    let followed = follow().await;
    rustix::io::write(&followed.requests, &[1]).unwrap();
    assert_eq!(followed.next(), "applied 1");
    std::fs::write(&followed.path, "version = 7\n").unwrap();
    assert!(followed.next().starts_with("invalid"));
    followed.end().await;
    assert!(followed.rejected.take().is_some(), "the report says why");
}
