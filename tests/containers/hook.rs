//! `portcullis hook`: what containers see that start behind a gateway, and what does not start.

use crate::bundle::{Bundle, STALE, podman_image};
use crate::daemon::{Daemon, PAGE};
use crate::support::{TIMEOUT, finish, portcullis, read_records, require};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// A rule that has HTTPS to a name inspected.
const INSPECTED: &str = "\"inspected.example.com\" = { verdict = \"allow\", inspect = true }";

/// What programs of each kind say of a page that is allowed and of what is not.
fn script(url: &str) -> String {
    let node = format!(
        "const get = (url) => fetch(url).then((got) => got.text(), (error) => error.cause.code);\
         get(\"{url}\").then((text) => {{ console.log(\"node\", text);\
         get(\"http://evil.example.net/\").then((text) => console.log(\"node\", text)); }})"
    );
    let python = format!(
        "import socket, ssl, urllib.request\n\
         print(\"python\", urllib.request.urlopen(\"{url}\").read().decode())\n\
         try:\n    socket.getaddrinfo(\"evil.example.net\", 80)\n\
         except socket.gaierror as error:\n    print(\"python\", error.errno)\n\
         try:\n    socket.create_connection((\"203.0.113.90\", 443), 10)\n\
         except OSError as error:\n    print(\"python\", type(error).__name__)\n\
         context = ssl.create_default_context(cafile=\"/etc/ssl/certs/ca-certificates.crt\")\n\
         print(\"authority\", \"Portcullis\" in str(context.get_ca_certs()))\n"
    );
    format!(
        "touch /out/ran\ncat /etc/resolv.conf\n\
         echo curl $(curl -sS -m 60 {url})\n\
         echo curl $(curl -sS -m 60 -o /dev/null -w '%{{http_code}}' -x http://10.0.2.2:3128 http://evil.example.net/)\n\
         node -e '{node}'\npython3 -c '{python}'\n"
    )
}

/// Asserts that a container saw what its policy lists and nothing else.
#[track_caller]
fn assert_held(daemon: &Daemon, said: &str) {
    for line in [
        "nameserver 10.0.2.3",
        &format!("curl {PAGE}"),
        "curl 403",
        &format!("node {PAGE}"),
        "node ENOTFOUND",
        &format!("python {PAGE}"),
        "python -2",
        "python ConnectionRefusedError",
        "authority True",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}: {said}");
    }
    assert!(!said.contains(STALE.trim()), "{said}");
    assert_eq!(daemon.sandboxes(), Vec::<Value>::new(), "it is gone");
}

#[test]
fn a_runc_container_starts_behind_a_gateway() {
    let daemon = Daemon::start();
    let policy = daemon.policy("p.toml", INSPECTED);
    let bundle = Bundle::new(daemon.folder().join("b"), &script(&daemon.url()));
    let bundle = bundle.hooked(&daemon, &[], Some(&policy));
    let done = bundle.run(&mut Command::new("runc"), "box");
    assert!(done.ok(), "{done}");
    assert_held(&daemon, &done.out());
    let records = read_records(&daemon.folder().join("log/oci-box.jsonl"));
    let denied = |layer, reason, whom| !records.denials(layer, reason, whom).is_empty();
    assert!(denied("dns", "not-in-allowlist", "evil.example.net"));
    assert!(denied("tcp", "address-not-leased", "203.0.113.90"));
    let first = records.decisions()[0];
    assert_eq!(first["labels"]["container"], "box", "{first}");
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    assert!(!host.contains("10.0.2.3"), "the host's own is as it was");
    // The name is free again.
    assert!(bundle.run(&mut Command::new("runc"), "box").ok());
}

#[test]
fn a_crun_container_starts_behind_a_gateway() {
    require("crun");
    let daemon = Daemon::start();
    let policy = daemon.policy("p.toml", INSPECTED);
    let bundle = Bundle::new(daemon.folder().join("b"), &script(&daemon.url()));
    let bundle = bundle.hooked(&daemon, &[], Some(&policy));
    // It refuses the hybrid layout of control groups.
    let hidden = "umount /sys/fs/cgroup/unified 2>/dev/null; exec crun \"$@\"";
    let mut crun = Command::new("unshare");
    let done = bundle.run(crun.args(["-m", "sh", "-c", hidden, "sh"]), "Box+1");
    assert!(done.ok(), "{done}");
    assert_held(&daemon, &done.out());
}

#[test]
fn a_podman_container_starts_behind_a_gateway_by_the_hook_that_is_shipped() {
    for program in ["podman", "busybox", "tar"] {
        require(program);
    }
    let daemon = Daemon::start();
    let folder = daemon.folder();
    let policy = daemon.policy("p.toml", INSPECTED);
    let shipped = include_str!("../../deploy/oci-hooks.d/portcullis.json");
    let mut hook: Value = serde_json::from_str(shipped).unwrap();
    hook["hook"]["path"] = json!(portcullis());
    hook["hook"]["args"][3] = json!(daemon.socket());
    std::fs::create_dir(folder.join("hooks")).unwrap();
    std::fs::write(folder.join("hooks/portcullis.json"), hook.to_string()).unwrap();
    let plain = podman_image(folder);
    let podman = || {
        let mut podman = plain();
        podman.arg("--hooks-dir").arg(folder.join("hooks"));
        podman
    };
    let script = format!(
        "cat /etc/resolv.conf; wget -q -O - {}; echo; nslookup evil.example.net; \
         nc -w 20 203.0.113.90 443 </dev/null; tail -n 20 /etc/ssl/certs/ca-certificates.crt | cat",
        daemon.url()
    );
    let run = |network: &str, policy: &Path| {
        let annotation = format!("portcullis.policy={}", policy.display());
        let mut run = podman();
        run.args(["run", "--rm", "--network", network, "--annotation"]);
        run.args([&annotation, "--ulimit", "nofile=1024:1024", "--ulimit"]);
        run.args(["nproc=1024:1024", "localhost/busybox", "sh", "-c", &script]);
        finish(&mut run, TIMEOUT)
    };
    let done = run("none", &policy);
    let said = done.out() + &done.err();
    for part in ["nameserver 10.0.2.3", PAGE, "NXDOMAIN", "refused"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(daemon.sandboxes(), Vec::<Value>::new());
    // The host's own network, and a policy that is not there.
    for (network, policy) in [("host", policy), ("none", folder.join("none.toml"))] {
        let done = run(network, &policy);
        assert!(!done.ok() && !done.out().contains("nameserver"), "{done}");
    }
    let _ = podman().args(["rmi", "-f", "-a"]).output();
}

#[test]
fn a_container_that_cannot_be_guarded_does_not_start() {
    let daemon = Daemon::start();
    let policy = daemon.policy("p.toml", "");
    let broken = daemon.policy("broken.toml", "\"*\" = \"allow\"");
    let includes = daemon.folder().join("includes.toml");
    std::fs::write(&includes, "version = 1\ninclude = [\"p.toml\"]\n").unwrap();
    let open = daemon.policy("open.toml", "");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&open, mode).unwrap();
    let theirs = daemon.policy("theirs.toml", "");
    std::os::unix::fs::chown(&theirs, Some(65_534), None).unwrap();
    let folder = daemon.folder().display().to_string();
    let default = policy.display().to_string();
    type Change = fn(&mut Value);
    let nothing: Change = |_| {};
    let number: Change = |config| config["annotations"] = json!({"portcullis.policy": 7});
    let host: Change = |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
    };
    type Case<'a> = (&'a str, &'a [&'a str], Option<&'a Path>, Change, &'a str);
    let cases: [Case<'_>; 10] = [
        (
            "no policy",
            &[],
            None,
            nothing,
            "no annotation portcullis.policy",
        ),
        (
            "missing policy",
            &[],
            Some(Path::new("/nowhere.toml")),
            nothing,
            "cannot read",
        ),
        (
            "relative policy",
            &[],
            Some(Path::new("p.toml")),
            nothing,
            "no absolute path",
        ),
        (
            "invalid policy",
            &[],
            Some(&broken),
            nothing,
            "does not serve the container",
        ),
        (
            "policy that includes",
            &[],
            Some(&includes),
            nothing,
            "no other files",
        ),
        (
            "policy that all may write",
            &[],
            Some(&open),
            nothing,
            "may write it",
        ),
        (
            "policy of another user",
            &[],
            Some(&theirs),
            nothing,
            "belongs to user 65534",
        ),
        (
            "path for a name",
            &["--policies", &folder],
            Some(&policy),
            nothing,
            "no name of a policy",
        ),
        (
            "annotation unasked",
            &["--policy", &default, "--no-annotations"],
            Some(&policy),
            nothing,
            "is for all",
        ),
        ("host network", &[], Some(&policy), host, "of the host"),
    ];
    let try_one = |number: usize, flags: &[&str], policy: Option<&Path>, change: Change| {
        let bundle = Bundle::new(daemon.folder().join(format!("b{number}")), "touch /out/ran");
        let mut bundle = bundle.hooked(&daemon, flags, policy);
        change(&mut bundle.config);
        let done = bundle.run(&mut Command::new("runc"), "box");
        (done, bundle.ran())
    };
    for (number, (what, flags, policy, change, why)) in cases.into_iter().enumerate() {
        let (done, ran) = try_one(number, flags, policy, change);
        assert!(!done.ok() && !ran, "{what}: {done}");
        assert!(done.err().contains(why), "{what}: {done}");
        assert_eq!(daemon.sandboxes(), Vec::<Value>::new(), "{what}");
    }
    let (done, ran) = try_one(20, &[], None, number);
    assert!(!done.ok() && !ran, "annotation that is a number: {done}");
    // What is right starts: by name, by the default, and after all these.
    let (done, ran) = try_one(21, &["--policies", &folder], Some(Path::new("p")), nothing);
    assert!(done.ok() && ran, "{done}");
    let flags = ["--policy", &*default, "--no-annotations"];
    let (done, ran) = try_one(22, &flags, None, nothing);
    assert!(done.ok() && ran, "{done}");
    // Without a daemon.
    drop(daemon);
    let folder = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::new(folder.path().join("b"), "touch /out/ran");
    bundle.config["hooks"] = json!({"createRuntime": [{"path": portcullis(),
        "args": ["portcullis", "hook", "--control", "/nowhere.sock", "--policy", "/dev/null"]}]});
    let done = bundle.run(&mut Command::new("runc"), "box");
    assert!(!done.ok() && !bundle.ran(), "{done}");
}

/// `portcullis hook` with this on standard input; its exit code and what it said.
fn hook(daemon: &Daemon, input: &[u8]) -> (Option<i32>, String) {
    let mut child = Command::new(portcullis())
        .args(["hook", "--control"])
        .arg(daemon.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may stop reading.
    let writing = std::thread::spawn(move || {
        let _ = pipe.write_all(&input);
    });
    let done = child.wait_with_output().unwrap();
    writing.join().unwrap();
    assert_eq!(done.stdout, b"", "stdout is for data");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    (done.status.code(), said)
}

/// Ids are unique for one runtime's folder only: a second container of the name is refused, and its end is not that of
/// the first. Nor is that of one whose name would be shortened to the same.
#[test]
fn the_end_of_another_container_of_the_same_name() {
    let daemon = Daemon::start();
    let policy = daemon.policy("p.toml", "");
    let bundle = Bundle::new(daemon.folder().join("b"), "true");
    let sandbox = |id: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(["-nm", "sh", "-c", "echo $$; exec sleep 600"]);
        let process = crate::processes::Background::start(&mut unshare);
        let pid: u32 = process.next_line().parse().unwrap();
        let state = json!({"ociVersion": "1.0.2", "id": id, "status": "creating", "pid": pid,
            "bundle": bundle.folder(), "annotations": {"portcullis.policy": policy}});
        (process, state.to_string().into_bytes())
    };
    let ended = |id: &str| {
        let state = json!({"ociVersion": "1.0.2", "id": id, "status": "stopped",
            "bundle": bundle.folder()});
        hook(&daemon, state.to_string().as_bytes())
    };
    let listed = || daemon.cli(&["ps"]).out();
    let (first, state) = sandbox("web");
    assert_eq!(hook(&daemon, &state), (Some(0), String::new()));
    let (_second, state) = sandbox("web");
    let (code, said) = hook(&daemon, &state);
    assert_ne!(code, Some(0), "{said}");
    assert_eq!(ended("web").0, Some(0));
    assert!(listed().contains("oci-web"), "{}", listed());
    let long = "l".repeat(70);
    let (_third, state) = sandbox(&long);
    assert_eq!(hook(&daemon, &state), (Some(0), String::new()));
    let all = listed();
    let shortened = all
        .split_whitespace()
        .find(|word| word.starts_with("oci-lll"));
    let shortened = shortened.and_then(|name| name.strip_prefix("oci-"));
    let shortened = shortened.unwrap_or_else(|| panic!("{all}"));
    assert_eq!(ended(shortened).0, Some(0));
    assert!(listed().contains(shortened), "{}", listed());
    drop(first);
    crate::processes::until("it is forgotten", || !listed().contains("oci-web"));
}

#[test]
fn what_is_no_state_of_a_container_is_refused() {
    let daemon = Daemon::start();
    let policy = daemon.policy("p.toml", "");
    let state = |pid: Value, bundle: Value, policy: Value| {
        let text = json!({"ociVersion": "1.0.2", "id": "box", "status": "creating", "pid": pid,
            "bundle": bundle, "annotations": {"portcullis.policy": policy, "other": [1]}});
        text.to_string().into_bytes()
    };
    let policy = json!(policy);
    let bundle = Bundle::new(daemon.folder().join("b"), "true");
    let bundle = json!(bundle.folder());
    let own = json!(std::process::id());
    let long = format!("{{\"id\": \"{}\"}}", "x".repeat(2 * 1024 * 1024)).into_bytes();
    for input in [
        Vec::new(),
        b"garbage".to_vec(),
        vec![0; 4096],
        vec![0xff; 70_000],
        b"[".repeat(500_000),
        long,
        state(json!(null), bundle.clone(), policy.clone()),
        state(json!(4_000_000_000_u32), bundle.clone(), policy.clone()),
        state(own.clone(), json!("/nowhere"), policy.clone()),
        state(own.clone(), json!(null), policy.clone()),
        state(own.clone(), bundle.clone(), json!(["/p.toml"])),
        state(own.clone(), bundle.clone(), json!(null)),
        state(own.clone(), bundle.clone(), json!("/p\0.toml")),
        // The host's own network.
        state(own, bundle, policy),
    ] {
        let shown = String::from_utf8_lossy(&input[..input.len().min(80)]).into_owned();
        let (code, said) = hook(&daemon, &input);
        assert_eq!(code, Some(1), "{shown}: {said}");
        assert!(said.contains("must not start"), "{shown}: {said}");
    }
    // Standard input closed, or never ending.
    let closed = format!("exec {} hook <&-", portcullis().display());
    let done = finish(Command::new("sh").args(["-c", &closed]), TIMEOUT);
    assert_eq!(done.code(), Some(1), "{done}");
    let endless = format!("sleep 15 | exec timeout 30 {} hook", portcullis().display());
    let done = finish(
        Command::new("sh").args(["-c", &format!("({endless}; echo $?) & wait $!")]),
        TIMEOUT,
    );
    assert!(
        done.out().contains('1') && done.err().contains("does not end"),
        "{done}"
    );
    assert_eq!(daemon.sandboxes(), Vec::<Value>::new());
    // What is gone need not be removed.
    let stopped = br#"{"ociVersion": "1.0.2", "id": "box", "status": "stopped", "bundle": "/b"}"#;
    assert_eq!(hook(&daemon, stopped), (Some(0), String::new()));
}
