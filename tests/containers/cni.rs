//! `portcullis cni`: called as an engine calls a plugin, alone and after others; and by podman.

use crate::bundle::podman_image;
use crate::daemon::{Daemon, PAGE};
use crate::processes::marker;
use crate::support::{TIMEOUT, finish, portcullis, require};
use portcullis_testkit::exec::{Finished, run_with_input};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// A namespace with a path, and a folder of plugins.
struct Engine<'d> {
    daemon: &'d Daemon,
    plugins: PathBuf,
    namespace: String,
}

impl Engine<'_> {
    fn new(daemon: &Daemon) -> Engine<'_> {
        require("ip");
        let plugins = daemon.folder().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        std::os::unix::fs::symlink(portcullis(), plugins.join("portcullis")).unwrap();
        for plugin in ["bridge", "ptp", "loopback", "host-local"] {
            let path = Path::new(PLUGINS).join(plugin);
            assert!(
                path.exists(),
                "containernetworking-plugins is missing: {plugin}"
            );
            std::os::unix::fs::symlink(path, plugins.join(plugin)).unwrap();
        }
        let namespace = format!("cni-{}", marker());
        let made = finish(
            Command::new("ip").args(["netns", "add", &namespace]),
            TIMEOUT,
        );
        assert!(made.ok(), "{made}");
        Engine {
            daemon,
            plugins,
            namespace,
        }
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.namespace)
    }

    /// Our part of a network's configuration.
    fn config(&self, version: &str) -> Value {
        let policy = self.daemon.policy("p.toml", "");
        json!({"cniVersion": version, "name": "guarded", "type": "portcullis", "policy": policy,
            "control": self.daemon.socket()})
    }

    fn call_raw(&self, command: &str, input: &[u8], without: &str) -> Finished {
        self.call_plugin("portcullis", command, input, without)
    }

    fn call_plugin(&self, plugin: &str, command: &str, input: &[u8], without: &str) -> Finished {
        let mut call = Command::new(self.plugins.join(plugin));
        call.env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        for (name, value) in [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", &self.namespace),
            ("CNI_NETNS", &self.path()),
            (
                "CNI_IFNAME",
                if plugin == "loopback" { "lo" } else { "eth0" },
            ),
            (
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=team;K8S_POD_NAME=web",
            ),
            ("CNI_PATH", &self.plugins.display().to_string()),
        ] {
            if name != without {
                call.env(name, value);
            }
        }
        run_with_input(&mut call, input, TIMEOUT).unwrap()
    }

    /// Calls our plugin; the result, or the error's code.
    #[track_caller]
    fn call(&self, command: &str, config: &Value) -> Result<Value, u64> {
        let done = self.call_raw(command, config.to_string().as_bytes(), "");
        let said: Value = match done.out().trim() {
            "" => Value::Null,
            said => serde_json::from_str(said).unwrap_or_else(|error| panic!("{error}: {done}")),
        };
        match done.ok() {
            true => Ok(said),
            false => Err(said["code"]
                .as_u64()
                .unwrap_or_else(|| panic!("no code: {done}"))),
        }
    }

    fn inside(&self, script: &str) -> String {
        let mut inside = Command::new("ip");
        // `ip netns exec` shows /etc/netns/NAME's files; here a folder of the test's own stands for the engine's.
        inside.args([
            "netns",
            "exec",
            &self.namespace,
            "unshare",
            "-m",
            "sh",
            "-c",
        ]);
        let resolv = self.daemon.folder().join("resolv.conf");
        std::fs::write(&resolv, "nameserver 10.0.2.3\n").unwrap();
        let mount = format!(
            "mount --bind {} /etc/resolv.conf; {script}",
            resolv.display()
        );
        let done = finish(inside.arg(mount), TIMEOUT);
        done.out() + &done.err()
    }

    #[track_caller]
    fn assert_held(&self) {
        let url = self.daemon.url();
        let said = self.inside(&format!(
            "curl -sS -m 60 {url}; echo; \
             curl -sS -m 60 -o /dev/null -w '%{{http_code}}\\n' -x http://10.0.2.2:3128 http://evil.example.net/; \
             node -e 'fetch(\"{url}\").then((got) => got.text()).then((text) => console.log(\"node\", text))'; \
             python3 -c 'import urllib.request as u; print(\"python\", u.urlopen(\"{url}\").read().decode())'; \
             curl -sS -m 60 http://203.0.113.90/ 2>&1 | tail -1"
        ));
        for line in [
            PAGE,
            "403",
            &format!("node {PAGE}"),
            &format!("python {PAGE}"),
        ] {
            assert!(said.lines().any(|said| said == line), "{line}: {said}");
        }
        assert!(said.contains("Couldn't connect"), "{said}");
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .output();
        let _ = Command::new("ip").args(["link", "del", "pctest0"]).output();
    }
}

#[test]
fn a_plugin_alone_gives_a_namespace_its_gateway() {
    let daemon = Daemon::start();
    let engine = Engine::new(&daemon);
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let mut config = engine.config(version);
        let made = engine.call("ADD", &config).unwrap();
        assert_eq!(made["cniVersion"], version);
        assert_eq!(made["ips"][0]["address"], "10.0.2.15/32");
        assert_eq!(made["interfaces"][0]["sandbox"], json!(engine.path()));
        assert_eq!(made["dns"]["nameservers"], json!(["10.0.2.3"]));
        let all = daemon.sandboxes();
        let labels = json!({"container": engine.namespace, "device": "eth0", "network": "guarded",
            "namespace": "team", "pod": "web"});
        assert_eq!(all[0]["labels"], labels);
        if version == "1.0.0" {
            engine.assert_held();
        }
        assert_eq!(engine.call("ADD", &config), Err(100), "it is there");
        config["prevResult"] = made;
        assert_eq!(engine.call("CHECK", &config), Ok(Value::Null));
        for _ in 0..2 {
            assert_eq!(engine.call("DEL", &config), Ok(Value::Null));
            assert_eq!(daemon.sandboxes(), Vec::<Value>::new());
        }
        assert_eq!(engine.call("CHECK", &config), Err(101));
    }
    // The namespace goes first.
    let config = engine.config("1.0.0");
    engine.call("ADD", &config).unwrap();
    let gone = finish(
        Command::new("ip").args(["netns", "del", &engine.namespace]),
        TIMEOUT,
    );
    assert!(gone.ok(), "{gone}");
    assert_eq!(engine.call("DEL", &config), Ok(Value::Null));
    let without = engine.call_raw("DEL", config.to_string().as_bytes(), "CNI_NETNS");
    assert!(without.ok(), "{without}");
    assert_eq!(engine.call("ADD", &config), Err(100));
    assert_eq!(daemon.sandboxes(), Vec::<Value>::new());
}

/// Gives this thread, and whatever it starts, a network namespace of its own for a host's: other plugins make bridges
/// there, and have it forward packets.
fn in_a_host_of_its_own() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(up.unwrap().success());
}

#[test]
fn after_other_plugins_nothing_leaves_by_their_devices() {
    in_a_host_of_its_own();
    let daemon = Daemon::start();
    let engine = Engine::new(&daemon);
    let ipam = json!({"type": "host-local", "subnet": "10.231.7.0/24", "dataDir": daemon.folder().join("ipam"),
        "routes": [{"dst": "0.0.0.0/0"}]});
    let before = |plugin: &str, command: &str| {
        let config = json!({"cniVersion": "1.0.0", "name": "guarded", "type": plugin, "bridge": "pctest0",
            "isGateway": true, "ipam": ipam});
        let done = engine.call_plugin(plugin, command, config.to_string().as_bytes(), "");
        assert!(done.ok(), "{plugin}: {done}");
        serde_json::from_str::<Value>(&done.out()).unwrap_or_default()
    };
    for plugin in ["bridge", "ptp"] {
        before("loopback", "ADD");
        let made = before(plugin, "ADD");
        let gateway = made["ips"][0]["gateway"].as_str().unwrap().to_owned();
        // The way out that this plugin has made.
        let open = format!("ping -c 1 -W 5 {gateway} >/dev/null && echo open");
        let listener = std::net::TcpListener::bind((&*gateway, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let reach = format!("curl -sS -m 5 telnet://{gateway}:{port} </dev/null 2>&1; {open}");
        listener.set_nonblocking(true).unwrap();
        assert!(
            engine.inside(&reach).contains("open") || listener.accept().is_ok(),
            "{plugin}"
        );
        while listener.accept().is_ok() {}
        let mut config = engine.config("1.0.0");
        config["prevResult"] = made.clone();
        let ours = engine.call("ADD", &config).unwrap();
        assert_eq!(ours["ips"], made["ips"]);
        assert_eq!(ours["dns"]["nameservers"], json!(["10.0.2.3"]));
        engine.assert_held();
        let said = engine.inside(&reach);
        assert!(!said.contains("open"), "{plugin}: {said}");
        assert!(listener.accept().is_err(), "{plugin}: the host was reached");
        assert_eq!(engine.call("CHECK", &config), Ok(Value::Null));
        assert_eq!(engine.call("DEL", &config), Ok(Value::Null));
        before(plugin, "DEL");
    }
}

#[test]
fn a_podman_network_is_guarded_by_the_plugin() {
    for program in ["podman", "busybox", "tar"] {
        require(program);
    }
    in_a_host_of_its_own();
    let daemon = Daemon::start();
    let engine = Engine::new(&daemon);
    let folder = daemon.folder();
    let shipped = include_str!("../../deploy/cni/10-portcullis.conflist");
    let mut list: Value = serde_json::from_str(shipped).unwrap();
    // Debian's podman speaks the version before.
    list["cniVersion"] = json!("0.4.0");
    list["plugins"][0]["bridge"] = json!("pctest0");
    list["plugins"][0]["ipam"]["subnet"] = json!("10.231.8.0/24");
    list["plugins"][0]["ipam"]["dataDir"] = json!(folder.join("ipam"));
    list["plugins"][1] = engine.config("0.4.0");
    std::fs::create_dir(folder.join("net.d")).unwrap();
    std::fs::write(
        folder.join("net.d/10-portcullis.conflist"),
        list.to_string(),
    )
    .unwrap();
    let config = folder.join("containers.conf");
    let text = format!(
        "[network]\nnetwork_backend = \"cni\"\nnetwork_config_dir = {:?}\ncni_plugin_dirs = [{:?}]\n",
        folder.join("net.d"),
        engine.plugins,
    );
    std::fs::write(&config, text).unwrap();
    let podman = podman_image(folder);
    let script = format!(
        "cat /etc/resolv.conf; wget -q -O - {}; echo; nslookup evil.example.net; nc -w 20 10.231.8.1 22 </dev/null",
        daemon.url()
    );
    let run = || {
        let mut run = podman();
        run.env("CONTAINERS_CONF", &config)
            .args(["run", "--rm", "--network", "guarded"]);
        run.args([
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
        ]);
        let done = finish(
            run.args(["localhost/busybox", "sh", "-c", &script]),
            TIMEOUT,
        );
        done.out() + &done.err()
    };
    let said = run();
    for part in ["nameserver 10.0.2.3", PAGE, "NXDOMAIN", "refused"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(daemon.sandboxes(), Vec::<Value>::new());
    // A plugin that fails keeps the container from starting.
    std::fs::remove_file(folder.join("p.toml")).unwrap();
    let said = run();
    assert!(
        !said.contains("nameserver") && said.contains("does not load"),
        "{said}"
    );
    let _ = podman().args(["rmi", "-f", "-a"]).output();
}

#[test]
fn what_an_engine_says_wrongly_gets_the_code_of_the_specification() {
    let daemon = Daemon::start();
    let engine = Engine::new(&daemon);
    let config = engine.config("1.0.0");
    let with = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        config
    };
    for (config, code) in [
        (with("cniVersion", json!("2.0.0")), 1),
        (with("cniVersion", json!(1)), 6),
        (with("name", json!("")), 7),
        (with("policy", json!(null)), 7),
        (with("policy", json!("p.toml")), 7),
        (with("policy", json!("/nowhere.toml")), 7),
        (with("policy", json!({})), 6),
        (with("prevResult", json!([])), 6),
        (with("control", json!("/nowhere.sock")), 11),
    ] {
        assert_eq!(engine.call("ADD", &config), Err(code), "{config}");
    }
    let text = config.to_string();
    for without in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        let done = engine.call_raw("ADD", text.as_bytes(), without);
        // Without a command it is no plugin.
        let code = if without == "CNI_COMMAND" {
            "Usage"
        } else {
            "\"code\":4"
        };
        assert!(
            !done.ok() && (done.out() + &done.err()).contains(code),
            "{without}: {done}"
        );
    }
    for input in [&b""[..], b"garbage", &[0xff; 4096], &b"[".repeat(300_000)] {
        let done = engine.call_raw("ADD", input, "");
        assert!(!done.ok() && done.out().contains("\"code\":6"), "{done}");
    }
    assert_eq!(engine.call("GC", &config), Err(4));
    let versions = engine.call("VERSION", &config).unwrap();
    assert_eq!(
        versions["supportedVersions"],
        json!(["0.3.1", "0.4.0", "1.0.0"])
    );
    // The host's own namespace.
    let host = format!("/proc/{}/ns/net", std::process::id());
    let done = {
        let mut call = Command::new(engine.plugins.join("portcullis"));
        call.env_clear().envs([
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "x"),
            ("CNI_NETNS", &*host),
            ("CNI_IFNAME", "eth0"),
        ]);
        run_with_input(&mut call, text.as_bytes(), TIMEOUT).unwrap()
    };
    assert!(!done.ok() && done.out().contains("of the host"), "{done}");
    assert_eq!(daemon.sandboxes(), Vec::<Value>::new());
}
