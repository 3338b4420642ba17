//! What a daemon does by itself: it tries again what is cut off, reads its configuration again, keeps no power that it
//! does not need, and takes its socket from a service manager.

use crate::processes::{Background, kill, until};
use crate::support::{finish, portcullis, require, world};
use crate::{API, BIG, Client, Daemon, LIMIT, at};
use portcullis_testkit::World;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

/// A configured sandbox with a proxy at this port.
fn with_proxy(name: &str, port: u16, policy: &str) -> String {
    format!(
        "[[sandbox]]\nname = \"{name}\"\npolicy = [\"{policy}\"]\n\
         attach = {{ kind = \"listeners\", http = \"127.0.0.1:{port}\" }}\n"
    )
}

/// Something else that has a port.
fn taken(world: &World, daemon: &Daemon<'_>, port: u16) -> Background {
    let mut python = world.command("python3");
    python.args([
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        &port.to_string(),
    ]);
    let other = Background::start(&mut python);
    until("the other listens", || {
        daemon.status(&format!("127.0.0.1:{port}"), "127.0.0.1") != 0
    });
    other
}

#[test]
fn what_is_cut_off_is_served_once_that_can_be() {
    let world = world();
    world.file("one.toml", API);
    let mut daemon = Daemon::start(&world, &with_proxy("configured", 3133, "one.toml"));
    let new = serde_json::json!({
        "name": "made",
        "attach": {"kind": "listeners", "http": "127.0.0.1:3134"},
        "policy": {"text": API},
    });
    assert_eq!(daemon.ask("POST", "/v1/sandboxes", Some(&new)).0, 201);
    daemon.end();
    let others = [taken(&world, &daemon, 3133), taken(&world, &daemon, 3134)];
    daemon.begin();
    assert_eq!(daemon.get("/readyz").0, 503);
    let log = world.home().join("log/configured.jsonl");
    let lines = || fs::read_to_string(&log).unwrap_or_default().lines().count();
    let before = lines();
    drop(others);
    until("both are served", || daemon.get("/readyz").0 == 204);
    for port in [3133, 3134] {
        let proxy = format!("127.0.0.1:{port}");
        assert_eq!(daemon.status(&proxy, "api.example.com"), 200);
        assert_eq!(daemon.status(&proxy, "big.example.com"), 403);
    }
    // Attempts that led to nothing are no news to whoever reads the records.
    until("what passed is on record", || lines() >= before + 3);
}

#[test]
fn a_policy_that_cuts_a_sandbox_off_may_be_replaced() {
    let world = world();
    let mut daemon = Daemon::start(&world, "");
    daemon.make("one", API);
    daemon.end();
    // As an earlier release may have kept it.
    let kept = world.home().join("state/one.json");
    let text = fs::read_to_string(&kept).unwrap();
    assert!(text.contains("api.example.com"), "{text}");
    fs::write(&kept, text.replace("api.example.com", "*.com")).unwrap();
    daemon.begin();
    let shown = daemon.get("/v1/sandboxes/one").1;
    assert_eq!(shown["state"], "cut-off", "{shown}");
    let policy = serde_json::json!({"text": BIG});
    let put = daemon.ask("PUT", "/v1/sandboxes/one/policy", Some(&policy));
    assert_eq!(put.0, 200, "{}", put.1);
    let (proxy, _) = at(&daemon.get("/v1/sandboxes/one").1);
    assert_eq!(daemon.status(&proxy, "big.example.com"), 200);
    assert_eq!(daemon.status(&proxy, "api.example.com"), 403);
}

/// By `ip netns`, and again under the same name.
#[test]
fn a_namespace_that_comes_late_and_comes_back_is_served() {
    require("ip");
    let world = world();
    world.file("one.toml", API);
    let path = "/run/netns/late";
    let config = format!(
        "[[sandbox]]\nname = \"late\"\npolicy = [\"one.toml\"]\n\
         attach = {{ kind = \"netns\", path = \"{path}\" }}\n"
    );
    let daemon = Daemon::by(&world, &config, true);
    assert_eq!(daemon.get("/readyz").0, 503);
    let ip = |args: &[&str]| {
        let done = world.command_as_root("ip").args(args).output().unwrap();
        assert!(done.status.success(), "{args:?}: {done:?}");
    };
    for _ in 0..2 {
        ip(&["netns", "add", "late"]);
        until("it is served", || daemon.get("/readyz").0 == 204);
        for (name, status) in [("api.example.com", "200"), ("big.example.com", "000")] {
            let mut curl = world.command_as_root("ip");
            curl.args(["netns", "exec", "late", "curl", "-s", "-o", "/dev/null"]);
            curl.args(["-m", "5", "-w", "%{http_code}"]);
            let curl = curl.arg(format!("http://{name}/")).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&curl.stdout), status, "{curl:?}");
        }
        ip(&["netns", "del", "late"]);
        until("it is cut off", || daemon.get("/readyz").0 == 503);
    }
    let shown = daemon.get("/v1/sandboxes/late").1;
    assert_eq!(shown["state"], "cut-off", "{shown}");
}

#[test]
fn a_process_that_the_configuration_names_is_served_until_it_ends() {
    let world = world();
    world.file("one.toml", API);
    let mut unshare = world.command_as_root("unshare");
    unshare.args(["-rn", "sh", "-c", "echo $$; exec sleep 600"]);
    let process = Background::start(&mut unshare);
    let pid = process.next_line();
    let config = format!(
        "[[sandbox]]\nname = \"one\"\npolicy = [\"one.toml\"]\nattach = {{ kind = \"pid\", pid = {pid} }}\n"
    );
    let daemon = Daemon::by(&world, &config, true);
    until("it is served", || daemon.get("/readyz").0 == 204);
    assert_eq!(daemon.get("/v1/sandboxes/one").1["state"], "serving");
    drop(process);
    until("it is cut off", || daemon.get("/readyz").0 == 503);
}

/// Clients that ask at once get no more than one by one.
#[test]
fn more_sandboxes_than_a_user_may_have_asked_for_at_once() {
    let world = world();
    let daemon = Daemon::by(&world, "max_sandboxes = 3\n", false);
    std::thread::scope(|scope| {
        let made = (0..12).map(|number| {
            let client = &daemon.client;
            scope.spawn(move || {
                let new = serde_json::json!({"name": format!("n{number}"), "attach": {"kind": "listeners"}});
                client.ask("POST", "/v1/sandboxes", Some(&new)).0
            })
        });
        let made: Vec<_> = made.collect();
        let made: Vec<u16> = made.into_iter().map(|made| made.join().unwrap()).collect();
        assert_eq!(
            made.iter().filter(|status| **status == 201).count(),
            3,
            "{made:?}"
        );
        assert_eq!(
            made.iter().filter(|status| **status == 429).count(),
            9,
            "{made:?}"
        );
    });
}

/// The daemon answers while it still starts what it knows: those names are taken all the same.
#[test]
fn the_name_of_a_sandbox_that_is_not_served_yet() {
    let world = world();
    let mut daemon = Daemon::start(&world, "");
    daemon.make("victim", API);
    daemon.end();
    world.file(
        "slow.toml",
        "version = 1\n[network.dns]\nresolve = \"startup\"\n\
        custom_resolvers = [\"192.0.2.1\"]\n[network.domains]\n\"slow.example.com\" = \"allow\"\n",
    );
    daemon.configure(&with_proxy("slow", 3138, "slow.toml"));
    daemon.begin();
    let new = serde_json::json!({"name": "victim", "attach": {"kind": "listeners"}});
    let (status, problem) = daemon.ask("POST", "/v1/sandboxes", Some(&new));
    assert_eq!(status, 409, "{problem}");
    let kept = fs::read_to_string(world.home().join("state/victim.json")).unwrap();
    assert!(kept.contains("api.example.com"), "{kept}");
}

/// The holder's socket has a short path, whatever the sandbox is called.
#[test]
fn a_namespace_that_is_served_under_the_longest_name() {
    let world = world();
    let daemon = Daemon::of_root(&world);
    let name = "n".repeat(63);
    let mut ip = world.command_as_root("ip");
    assert!(
        ip.args(["netns", "add", "longest"])
            .status()
            .unwrap()
            .success()
    );
    let new = serde_json::json!({
        "name": name,
        "attach": {"kind": "netns", "path": "/run/netns/longest"},
    });
    let (status, made) = daemon.ask("POST", "/v1/sandboxes", Some(&new));
    assert_eq!(status, 201, "{made}");
    assert_eq!(
        daemon
            .ask("DELETE", &format!("/v1/sandboxes/{name}"), None)
            .0,
        204
    );
}

#[test]
fn a_hangup_has_the_configuration_read_again() {
    let world = world();
    world.file("one.toml", API);
    world.file("two.toml", BIG);
    let daemon = Daemon::start(&world, &with_proxy("stays", 3135, "one.toml"));
    let (other, _) = daemon.make("made", API);
    let rewrite = |sandboxes: &str| {
        daemon.configure(sandboxes);
        kill("HUP", daemon.real_pid());
    };
    let stays = with_proxy("stays", 3135, "one.toml");
    rewrite(&(stays.clone() + &with_proxy("new", 3136, "two.toml")));
    until("the new one is served", || {
        daemon.status("127.0.0.1:3136", "big.example.com") == 200
    });
    // Another policy for the one, and the other is gone.
    rewrite(&with_proxy("new", 3136, "one.toml"));
    until("the change is in force", || {
        daemon.status("127.0.0.1:3136", "api.example.com") == 200
    });
    assert_eq!(daemon.status("127.0.0.1:3136", "big.example.com"), 403);
    assert_eq!(daemon.get("/v1/sandboxes/stays").0, 404);
    assert_eq!(daemon.status("127.0.0.1:3135", "api.example.com"), 0);
    // What does not load changes nothing, and what clients have made is theirs.
    for broken in ["[[sandbox]]\nname = 1\n", "nonsense = true\n"] {
        rewrite(broken);
        assert_eq!(daemon.status("127.0.0.1:3136", "api.example.com"), 200);
    }
    rewrite(&with_proxy("made", 3137, "two.toml"));
    until("the configured one is gone", || {
        daemon.get("/v1/sandboxes/new").0 == 404
    });
    assert_eq!(daemon.status(&other, "api.example.com"), 200);
    assert_eq!(daemon.status("127.0.0.1:3137", "big.example.com"), 0);
    let mut daemon = daemon;
    kill("TERM", daemon.pid());
    let (_, said) = daemon.process.take().expect("it runs").end();
    for words in [
        "1 sandboxes begun, 0 ended or changed, 1 as before",
        "the configuration is not reloaded: ",
        "unknown field `nonsense`",
        "`made` of the configuration is not served",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
    let left = world.home().join("run");
    let left: Vec<_> = fs::read_dir(left).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The others can neither be had again by the process, nor by what it starts.
#[test]
fn root_keeps_no_capability_that_the_daemon_does_not_need() {
    let world = world();
    let daemon = Daemon::of_root(&world);
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.real_pid())).unwrap();
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("no {name}: {status}"));
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    };
    let unit = include_str!("../../deploy/portcullis.service");
    let bounds = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .expect("the unit has bounds");
    let doctor = finish(world.command(portcullis()).arg("doctor"), LIMIT);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains(bounds), "the unit says {bounds}\n{doctor}");
    assert_eq!(set("CapEff"), set("CapPrm"));
    assert_eq!(set("CapEff"), set("CapBnd"));
    let count = bounds.split(' ').count();
    assert_eq!(set("CapEff").count_ones() as usize, count);
    assert_eq!((set("CapInh"), set("CapAmb")), (0, 0));
    // Every thread.
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.real_pid())).unwrap();
    for task in tasks {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = format!("CapBnd:\t{:016x}", set("CapBnd"));
        assert!(status.contains(&line), "{status}");
    }
}

/// As `systemd` hands a socket over, and waits for the word that everything is served.
#[test]
fn a_socket_that_the_service_manager_has_made_is_served_and_left() {
    let world = world();
    let socket = world.home().join("c.sock");
    let heard = UnixDatagram::bind(world.home().join("notify")).unwrap();
    heard.set_read_timeout(Some(LIMIT)).unwrap();
    let all = fs::Permissions::from_mode(0o666);
    fs::set_permissions(world.home().join("notify"), all).unwrap();
    let launch = "import os, socket, sys\n\
        s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(8); os.chmod(sys.argv[1], 0o666)\n\
        if s.fileno() != 3: os.dup2(s.fileno(), 3)\n\
        os.set_inheritable(3, True)\n\
        os.environ['LISTEN_PID'] = str(os.getpid()); os.environ['LISTEN_FDS'] = '1'\n\
        os.execv(sys.argv[2], sys.argv[2:])\n";
    let mut start = world.command("python3");
    start.args(["-c", launch]).arg(&socket).arg(portcullis());
    start.args(["serve", "--state", "state", "--control", "elsewhere.sock"]);
    start.env("NOTIFY_SOCKET", world.home().join("notify"));
    let process = Background::start(&mut start);
    let word = || {
        let mut bytes = [0; 64];
        let length = heard.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let begun = Instant::now();
    assert_eq!(word(), "READY=1");
    let client = Client {
        world: &world,
        socket: socket.clone(),
    };
    assert_eq!(client.get("/healthz").0, 204, "after {:?}", begun.elapsed());
    kill("TERM", process.pid());
    assert_eq!(word(), "STOPPING=1");
    let (status, said) = process.end();
    assert!(status.success(), "{status}: {said}");
    assert!(socket.exists(), "it is the service manager's");
    assert!(!world.home().join("elsewhere.sock").exists());
}
