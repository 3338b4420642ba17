//! The example that shows how to embed the gateway is a sandbox: it lets through what is listed, for an
//! ordinary user, and nothing else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

/// The user and group that own nothing.
const NOBODY: u32 = 65_534;
/// The only name that is listed.
const ALLOWED: &str = "allowed.example.com";
/// A name that is not.
const OTHER: &str = "other.example.com";
/// An address that is not.
const ADDRESS: &str = "198.51.100.7";
/// The longest DNS query over UDP that the small server reads, in bytes.
const MAX_QUERY: usize = 1232;

/// Cargo builds examples beside the folder of the tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples/embed");
    assert!(
        path.is_file(),
        "{} is not there: `cargo build --package portcullis-gateway --examples`",
        path.display()
    );
    path
}

/// A resolver that knows every name, and a web server, on the host's loopback.
struct Internet {
    resolver: SocketAddr,
    port: u16,
}

impl Internet {
    fn start() -> Internet {
        let dns = UdpSocket::bind("127.0.0.1:0").unwrap();
        let web = TcpListener::bind("127.0.0.1:0").unwrap();
        let internet = Internet {
            resolver: dns.local_addr().unwrap(),
            port: web.local_addr().unwrap().port(),
        };
        thread::spawn(move || {
            let mut query = [0; MAX_QUERY];
            while let Ok((length, from)) = dns.recv_from(&mut query) {
                if let Some(answer) = answer(&query[..length]) {
                    let _ = dns.send_to(&answer, from);
                }
            }
        });
        thread::spawn(move || {
            for mut client in web.incoming().flatten() {
                let _ = client.read(&mut [0; MAX_QUERY]);
                let _ = client.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n",
                );
            }
        });
        internet
    }

    /// Runs a script of bash's in the example, as an ordinary user.
    fn sandboxed(&self, script: &str) -> Output {
        let port = self.port;
        let mut command = Command::new(example());
        if nix::unistd::getuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
            .arg(self.resolver.to_string())
            .arg(format!("{ALLOWED}:{port}"))
            // This internet is on the host's loopback, which is refused unless a rule opens it.
            .arg(format!("127.0.0.1:{port}"))
            .args(["--", "bash", "-c", script]);
        command.current_dir("/").output().unwrap()
    }
}

/// 127.0.0.1 for every A query, nothing for other types.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const A: &[u8] = &[0, 1];
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)? + 1;
    let question_end = HEADER + name + 4;
    let is_a = query.get(HEADER + name..HEADER + name + 2)? == A;
    let mut reply = query.get(..question_end)?.to_vec();
    // A response, recursion available; one question, one answer or none, nothing else.
    reply[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    if is_a {
        // The question's name, A, IN, 60 seconds, four bytes.
        reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some(reply)
}

#[test]
fn the_example_lets_through_what_is_listed_and_shows_what_it_denies() {
    let internet = Internet::start();
    let port = internet.port;
    let script = format!(
        r#"
        get() {{
            proxy=${{http_proxy##*/}}
            exec 3<>/dev/tcp/${{proxy%:*}}/${{proxy#*:}}
            printf 'GET http://%s:{port}/ HTTP/1.1\r\nHost: %s:{port}\r\nConnection: close\r\n\r\n' $1 $1 >&3
            head -1 <&3
        }}
        echo "{ALLOWED}: $(get {ALLOWED})"
        echo "{OTHER}: $(get {OTHER})"
        exec 4<>/dev/udp/10.0.2.3/53
        printf '\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07allowed\x07example\x03com\0\0\x01\0\x01' >&4
        echo "address: $(timeout 10 dd bs=512 count=1 status=none <&4 | tail -c 4 | od -An -tx1)"
        exec 5<>/dev/tcp/{ADDRESS}/80 && timeout 10 cat <&5 && echo "{ADDRESS} answered"
        grep CapEff /proc/self/status
        exit 7
        "#
    );
    let output = internet.sandboxed(&script);
    let said = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{said}{told}");
    for part in [
        &format!("{ALLOWED}: HTTP/1.1 200"),
        &format!("{OTHER}: HTTP/1.1 403"),
        "address:  7f 00 00 01",
        // The power to change the network that it is in.
        "CapEff:\t0000000000000000",
    ] {
        assert!(said.contains(part), "{part:?} is missing: {said}{told}");
    }
    assert!(!said.contains("answered"), "{said}{told}");
    for denied in [
        format!("embed: denied: {OTHER}:{port} (not-in-allowlist)"),
        format!("embed: denied: {ADDRESS}:80 ("),
    ] {
        assert!(
            told.contains(&denied),
            "{denied:?} is missing: {said}{told}"
        );
    }
    assert!(!told.contains(&format!("denied: {ALLOWED}")), "{told}");
}

#[test]
fn the_example_says_how_it_is_used() {
    let output = Command::new(example()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("usage: embed RESOLVER TARGET"), "{told}");
    assert!(!output.status.success());
}
