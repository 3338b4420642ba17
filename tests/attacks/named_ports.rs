//! A server of FTP and a program that act together: what the server names opens one port of its own, once, and
//! nothing else. Answers *a port that a server names* (docs/threats.md).

use crate::processes::Background;
use crate::support::{require, sandbox, world_from};
use portcullis_testkit::WorldSpec;
use std::time::Duration;

crate::attacks! {
    a_hostile_server_s_answers_open_one_port_of_its_own_once,
}

/// Where the server is, and another one whose address is leased too.
const SERVER: &str = "203.0.113.150";
const OTHER: &str = "203.0.113.151";

/// Says what it is told to say; and says `victim` on ports that nobody is to reach, but for one.
const SERVICE: &str = r#"
import socket, sys, threading
log, server, other = sys.argv[1:]
def victim(at):
    listener = socket.create_server(at)
    def serve():
        while True:
            stream, peer = listener.accept()
            with open(log, 'a') as out: print(at[0], at[1], file=out)
            stream.sendall(b'victim'); stream.close()
    threading.Thread(target=serve, daemon=True).start()
for at in ((server, 22), (server, 50000), (other, 50000)): victim(at)
def control(stream):
    stream.sendall(b'220 ready\r\n')
    for line in stream.makefile('r', newline='\n'):
        said = line.strip().partition(' ')[2].replace('|n|', '\r\n')
        stream.sendall(said.encode() + b'\r\n')
listener = socket.create_server((server, 21))
print('ready', flush=True)
while True: threading.Thread(target=control, args=(listener.accept()[0],), daemon=True).start()
"#;

const ATTACK: &str = r#"
import socket
own = socket.gethostbyname('ftp.example.com'); other = socket.gethostbyname('other.example.com')
def begin():
    control = socket.create_connection((own, 21), 20); control.recv(100); return control
def say(control, line):
    control.sendall(line.encode() + b'\r\n')
    control.recv(1000)
def reach(address, port):
    try:
        with socket.create_connection((address, port), 10) as data: return data.recv(100).decode() or 'closed'
    except OSError: return 'refused'
comma = own.replace('.', ',')
named = f'227 ({comma},195,80)'
for line, address, port in [
    (f"PASV 227 ({other.replace('.', ',')},195,80)", other, 50000),
    ('EPSV 229 (|||22|)', own, 22),
    (f'SAY {named}', own, 50000),
    (f'PASV 213-x|n|{named}|n|213 end', own, 50000),
    (f'PASV 200 x{named}', own, 50000),
    ('AUTH 234 go on', own, 50000),
]:
    control = begin(); say(control, line)
    print(line.split()[0], reach(address, port)); control.close()
control = begin(); say(control, f'PASV {named}'); control.close()
import time; time.sleep(0.5)
print('closed', reach(own, 50000))
control = begin(); say(control, f'PASV {named}')
print('named', reach(own, 50000), reach(own, 50000))
"#;

fn a_hostile_server_s_answers_open_one_port_of_its_own_once() {
    require("python3");
    let world = world_from(
        WorldSpec::standard()
            .record("ftp.example.com A 203.0.113.150")
            .record("other.example.com A 203.0.113.151")
            .closed(SERVER)
            .closed(OTHER),
    );
    let reached = world.home().join("reached");
    let mut command = world.internet_command("python3");
    command
        .arg(world.file("service.py", SERVICE))
        .arg(&reached)
        .args([SERVER, OTHER]);
    let server = Background::start(&mut command);
    server.wait_line("ready");
    let ran = sandbox(&world)
        .policy(
            "toml",
            "version = 1\n[network.domains]\n\
             \"ftp.example.com:21\" = { verdict = \"allow\", ftp = true }\n\
             \"other.example.com:21\" = \"allow\"\n",
        )
        .limit(Duration::from_secs(120))
        .python(ATTACK);
    ran.assert_ok();
    assert_eq!(
        ran.out(),
        "PASV refused\nEPSV refused\nSAY refused\nPASV refused\nPASV refused\nAUTH refused\n\
         closed refused\nnamed victim refused\n",
        "{ran}"
    );
    let reached = std::fs::read_to_string(reached).unwrap_or_default();
    assert_eq!(reached, format!("{SERVER} 50000\n"), "{ran}");
    let low = ran
        .records
        .denials("tcp", "port-not-allowed", "ftp.example.com");
    let told = |record: &&&serde_json::Value| {
        let detail = record["detail"].as_str().unwrap_or_default();
        detail.contains("a port below 1024")
    };
    assert_eq!(low.iter().filter(told).count(), 1, "{ran}");
    let passed = ran.records.about(SERVER).into_iter();
    let passed = passed.filter(|record| record["port"] == 50_000 && record["verdict"] == "allow");
    assert_eq!(passed.count(), 1, "{ran}");
}
