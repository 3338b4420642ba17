//! Others than those whom the operator means, at listeners that they can reach.

use crate::processes::{Background, kill, until};
use crate::support::{portcullis, read_records, require, world};
use portcullis_testkit::{World, exec};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The ports of DNS, the HTTP proxy and the SOCKS5 proxy.
const PORTS: [u16; 3] = [5300, 3128, 1080];
/// The host, as the internet sees it.
const HOST: [&str; 2] = ["192.0.2.2", "2001:db8:2::2"];

/// Tries every entrance at each address, and prints what came of it.
const TRIES: &str = "
import socket, struct, sys
labels = b''.join(bytes([len(part)]) + part for part in b'api.example.com'.split(b'.'))
# With EDNS, so that the refusal can say why.
query = struct.pack('>6H', 7, 0x100, 1, 0, 0, 1) + labels + b'\\0\\0\\1\\0\\1' + b'\\0\\0\\x29\\4\\xd0\\0\\0\\0\\0\\0\\0'
def udp(at):
    with socket.socket(socket.AF_INET6 if ':' in at else socket.AF_INET, socket.SOCK_DGRAM) as stream:
        stream.settimeout(20)
        stream.sendto(query, (at, 5300))
        answer = stream.recv(4096)
        return answer[3] & 15, b'client-not-allowed' in answer
def stream(at, port, message):
    try:
        with socket.create_connection((at, port), 20) as stream:
            stream.sendall(message)
            return len(stream.recv(4096)) > 0
    except ConnectionError as error:
        return type(error).__name__
for at in sys.argv[1:]:
    print(udp(at), stream(at, 5300, struct.pack('>H', len(query)) + query),
          stream(at, 3128, b'CONNECT api.example.com:443 HTTP/1.1\\r\\nHost: api.example.com:443\\r\\n\\r\\n'),
          stream(at, 1080, b'\\5\\1\\0'))
";

struct Serving {
    process: Background,
    log: PathBuf,
}

impl Serving {
    /// Serves at these addresses, until the ports are open.
    fn start(world: &World, at: &str, flags: &[&str]) -> Serving {
        let log = world.home().join("served.jsonl");
        let mut serve = world.command(portcullis());
        serve.args(["serve", "--allow", "api.example.com", "--log"]);
        serve.arg(&log).args(flags);
        for (entrance, port) in ["--dns", "--http", "--socks5"].iter().zip(PORTS) {
            serve.arg(entrance).arg(format!("{at}:{port}"));
        }
        let process = Background::start(&mut serve);
        until("it listens", || {
            let open = world.run("ss", &["-Hltn"], Duration::from_secs(60)).out();
            let mut ports = PORTS.iter();
            ports.all(|port| open.contains(&format!(":{port} ")))
        });
        Serving { process, log }
    }

    /// Ends it; gives what it said.
    fn end(self) -> String {
        kill("TERM", self.process.pid());
        self.process.end().1
    }
}

fn tries(mut command: Command, at: &[&str]) -> String {
    require("python3");
    command.args(["-c", TRIES]).args(at);
    let ran = exec::run_with_input(&mut command, b"", Duration::from_secs(120)).unwrap();
    assert!(ran.ok(), "{ran}");
    ran.out()
}

#[test]
fn only_the_named_networks_get_anything_at_any_entrance() {
    require("ss");
    let world = world();
    let flags = [
        "--allow-from",
        "192.0.2.2",
        "--allow-from",
        "2001:db8:2::2/128",
    ];
    // One socket for both families: IPv4 comes in mapped.
    let serving = Serving::start(&world, "[::]", &flags);
    let friend = tries(world.command("python3"), &HOST);
    assert_eq!(friend, "(0, False) True True True\n".repeat(2));
    let stranger = tries(world.internet_command("python3"), &HOST);
    let refused = "(5, True) ConnectionResetError ConnectionResetError ConnectionResetError\n";
    assert_eq!(stranger, refused.repeat(2));
    let log = serving.log.clone();
    let said = serving.end();
    assert!(!said.contains("warning"), "{said}");
    let records = read_records(&log);
    for protocol in ["dns-udp", "dns-tcp", "http", "socks5"] {
        let denials = records.all_denials();
        let own = denials
            .iter()
            .filter(|record| record["protocol"] == protocol);
        let own: Vec<_> = own.collect();
        assert!(!own.is_empty(), "{protocol}: {records}");
        for record in own {
            assert_eq!(record["reason"], "client-not-allowed", "{records}");
            let detail = record["detail"].as_str().unwrap_or_default();
            assert!(
                detail == "from 192.0.2.1" || detail.starts_with("from 2001:db8:"),
                "{detail}"
            );
        }
    }
    // Nobody was asked anything for a stranger.
    assert_eq!(world.times_asked("api.example.com"), 2, "A and AAAA, once");
}

#[test]
fn listeners_that_others_can_reach_are_warned_of_in_one_line() {
    require("ss");
    let world = world();
    for (at, flags, warns) in [
        ("127.0.0.1", &[][..], false),
        ("[::1]", &[], false),
        ("0.0.0.0", &[], true),
        ("[::]", &[], true),
        ("192.0.2.2", &[], true),
        ("0.0.0.0", &["--allow-from", "10.0.0.0/8"], false),
        ("0.0.0.0", &["--allow-from", "0.0.0.0/0"], true),
    ] {
        let said = Serving::start(&world, at, flags).end();
        let warnings: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("anyone"))
            .collect();
        assert_eq!(warnings.len(), usize::from(warns), "{at} {flags:?}: {said}");
        for warning in warnings {
            for part in ["dns", "http", "socks5", "--allow-from", at] {
                assert!(warning.contains(part), "{part}: {warning}");
            }
        }
    }
    for wrong in ["10.0.0.1/8", "example.com", "10.0.0.0/33"] {
        let mut serve = world.command(portcullis());
        serve.args(["serve", "--http", "127.0.0.1:3128", "--allow-from", wrong]);
        let ran = exec::run_with_input(&mut serve, b"", Duration::from_secs(60)).unwrap();
        assert_eq!(ran.code(), Some(2), "{wrong}: {ran}");
    }
}
