//! systemd's nss-resolve, which asks a service of the host over a Unix socket and never looks at
//! resolv.conf: in a sandbox that service is out of reach, also for a program that insists on it.

use crate::support::{TIMEOUT, finish, nss_resolve, portcullis, read_records, require, world};

/// Plays systemd-resolved: whatever it is asked is at one address; each visit is on file.
const RESOLVED: &str = r#"
import json, os, socket
os.makedirs('/run/systemd/resolve')
s = socket.socket(socket.AF_UNIX)
s.bind('/run/systemd/resolve/.io.systemd.Resolve')
s.listen()
os.rename('/run/systemd/resolve/.io.systemd.Resolve', '/run/systemd/resolve/io.systemd.Resolve')
while True:
    visitor = s.accept()[0]
    open('visitors', 'a').write('x')
    message = b''
    while not message.endswith(b'\0') and (piece := visitor.recv(4096)):
        message += piece
    answer = {'addresses': [{'ifindex': 1, 'family': 2, 'address': [203, 0, 113, 90]}], 'name': 'resolved.example', 'flags': 1}
    visitor.sendall(json.dumps({'parameters': answer}).encode() + b'\0')
    visitor.close()
"#;

#[test]
fn slow_nss_resolve_answers_outside_and_is_out_of_reach_inside() {
    for program in ["unshare", "getent", "python3"] {
        require(program);
    }
    let library = nss_resolve().display().to_string();
    let world = world();
    let server = world.file("resolved.py", RESOLVED).display().to_string();
    let log = world.home().join("nss.jsonl");
    let inside = "getent -s hosts:resolve ahostsv4 api.example.com; echo insisted $?; \
                  getent -s hosts:resolve hosts x.nss.evil.example.net; echo insisted $?; \
                  grep ^hosts: /etc/nsswitch.conf; ls -A /run/systemd 2>/dev/null; \
                  getent ahostsv4 api.example.com | head -1";
    // Mounts of its own, so that /run can be played with; the user stays who he is.
    let script = format!(
        "mount -t tmpfs none /run && export LD_LIBRARY_PATH={library} || exit 9; \
         python3 {server} & server=$!; trap 'kill $server' EXIT; \
         while ! [ -S /run/systemd/resolve/io.systemd.Resolve ]; do kill -0 $server || exit 8; sleep 0.05; done; \
         getent -s hosts:resolve ahostsv4 outside.example | head -1; cat visitors; echo; \
         {program} run --resolver 203.0.113.53 --allow api.example.com --log {log} -- sh -c '{inside}'; \
         cat visitors; echo",
        program = portcullis().display(),
        log = log.display(),
    );
    let done = finish(
        world.command("unshare").args([
            "--user",
            "--mount",
            "--map-current-user",
            "--keep-caps",
            "sh",
            "-c",
            &script,
        ]),
        TIMEOUT,
    );
    let out = done.out();
    let words: Vec<&str> = out.split_whitespace().collect();
    // Outside the service is asked; inside neither by those who insist, nor by anybody.
    assert!(
        out.starts_with("203.0.113.90 "),
        "nss-resolve shows nothing: {done}"
    );
    let visits = words
        .iter()
        .filter(|word| word.starts_with('x') && !word.contains('.'));
    let visits: Vec<&&str> = visits.collect();
    assert!(visits.len() == 2 && visits[0] == visits[1], "{done}");
    assert_eq!(out.matches("insisted 2").count(), 2, "{done}");
    assert!(out.contains("203.0.113.10 "), "{done}");
    assert!(
        !out.contains("resolve "),
        "nsswitch.conf names the service: {done}"
    );
    assert!(!out.contains("io.systemd"), "{done}");
    world.assert_never_asked("evil");
    let records = read_records(&log);
    assert!(records.all_denials().is_empty(), "{records}");
}
