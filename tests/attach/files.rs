//! The files about names and trust that programs inside see.

use crate::places::{Attached, Who, started};
use crate::processes::until;
use crate::support::world;

const INSPECTING: &str = "
version = 1
[network.domains]
\"api.example.com\" = { verdict = \"allow\", inspect = true, methods = [\"GET\"] }
";

#[test]
fn they_are_shown_over_the_sandboxs_own_and_taken_away() {
    let world = world();
    for who in Who::BOTH {
        let mut inside = started(&world, who, &["unshare", "-rnm"]);
        let read =
            "sh cat /etc/resolv.conf /etc/hosts /etc/nsswitch.conf; grep -c . /proc/self/mountinfo";
        let before = inside.ask(read);
        let attached = Attached::to(&world, who, &inside, &["--allow", "api.example.com"]);
        inside.expect("sh grep -c ^nameserver.10.0.2.3$ /etc/resolv.conf", "1|");
        inside.expect(
            "sh grep ^hosts: /etc/nsswitch.conf | tr -s [:blank:] _",
            "hosts:_files_dns|",
        );
        let said = inside.ask("sh echo x >> /etc/resolv.conf && echo written");
        assert!(!said.contains("written"), "{said}");
        assert_eq!(attached.stop("TERM"), Some(0));
        inside.expect(read, &before);
    }
}

#[test]
fn the_hosts_files_are_never_covered() {
    let world = world();
    let hosts = |world: &portcullis_testkit::World| {
        world
            .run(
                "cat",
                &["/etc/resolv.conf", "/etc/hosts"],
                crate::support::TIMEOUT,
            )
            .out()
    };
    let before = hosts(&world);
    // One shares the host's mounts, in the others they would spread to the host.
    for by in [
        &["unshare", "-n"][..],
        &["unshare", "-nm", "--propagation", "unchanged"],
        &["unshare", "-nm", "--propagation", "shared"],
    ] {
        let mut inside = started(&world, Who::Root, by);
        let attached = Attached::to(&world, Who::Root, &inside, &["--allow", "api.example.com"]);
        inside.expect("name api.example.com", "203.0.113.10");
        assert_eq!(hosts(&world), before, "{by:?}");
        assert_eq!(attached.stop("TERM"), Some(0));
        assert_eq!(hosts(&world), before, "{by:?}");
    }
}

#[test]
fn inspected_names_are_trusted_inside() {
    let world = world();
    let policy = world.file("inspect.toml", INSPECTING);
    let policy = policy.display().to_string();
    for who in Who::BOTH {
        let mut inside = started(&world, who, &["unshare", "-rnm"]);
        let attached = Attached::to(&world, who, &inside, &["--policy", &policy]);
        let curl = |rest: &str| {
            format!(
                "sh env -u CURL_CA_BUNDLE -u SSL_CERT_FILE curl -sS -m 60 -o /dev/null -w %{{http_code}} {rest} \
                 https://api.example.com/"
            )
        };
        inside.expect(&curl(""), "200");
        inside.expect(&curl("-X POST"), "403");
        assert_eq!(attached.stop("TERM"), Some(0));
    }
}

#[test]
fn files_are_written_where_the_caller_says() {
    let world = world();
    let policy = world.file("inspect.toml", INSPECTING).display().to_string();
    let [resolv, ca] = ["inside-resolv.conf", "inside-ca.pem"].map(|name| world.home().join(name));
    let [resolv_text, ca_text] = [&resolv, &ca].map(|path| path.display().to_string());
    let mut inside = started(&world, Who::Root, &["unshare", "-nm"]);
    let before = inside.ask("sh cat /etc/resolv.conf");
    let options = [
        "--policy",
        &policy,
        "--resolv-conf",
        &resolv_text,
        "--ca-cert",
        &ca_text,
    ];
    let _attached = Attached::to(&world, Who::Root, &inside, &options);
    inside.expect("sh cat /etc/resolv.conf", &before);
    let text = std::fs::read_to_string(&resolv).unwrap();
    assert!(text.starts_with("nameserver 10.0.2.3\n"), "{text}");
    inside.expect(
        &format!("sh curl -sS --cacert {ca_text} -m 60 -o /dev/null -w %{{http_code}} https://api.example.com/"),
        "200",
    );
}

#[test]
fn a_changed_policy_takes_effect_at_once() {
    let world = world();
    let text = |name: &str| format!("version = 1\n[network.domains]\n\"{name}\" = \"allow\"\n");
    let policy = world.file("live.toml", text("api.example.com"));
    let mut inside = started(&world, Who::User, &["unshare", "-rn"]);
    let path = policy.display().to_string();
    let _attached = Attached::to(&world, Who::User, &inside, &["--policy", &path]);
    inside.expect("name api.example.com", "203.0.113.10");
    inside.expect("name ssh.example.com", "none");
    std::fs::write(&policy, text("ssh.example.com")).unwrap();
    until("the new policy holds", || {
        inside.ask("name ssh.example.com") == "203.0.113.22"
    });
    inside.expect("name api.example.com", "none");
}

#[test]
fn a_published_port_leads_inside() {
    let world = world();
    let mut inside = started(&world, Who::User, &["unshare", "-rn"]);
    let _attached = Attached::to(&world, Who::User, &inside, &["--publish", "18090:8000"]);
    inside.python(
        "import socket, threading\ns = socket.create_server(('127.0.0.1', 8000))\n\
         def serve():\n    while True:\n        c, _ = s.accept(); c.sendall(b'from inside'); c.close()\n\
         threading.Thread(target=serve, daemon=True).start()\n",
    );
    let program = "import socket\nc = socket.create_connection(('127.0.0.1', 18090), 60)\n\
                   print(c.recv(100).decode())";
    let done = world.run("python3", &["-c", program], crate::support::TIMEOUT);
    assert_eq!(done.out(), "from inside\n", "{done}");
}
