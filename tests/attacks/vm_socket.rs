//! A hostile guest on the socket of `vm-socket`: frames of wrong lengths, no frames at all, a peer that does
//! not read, a second guest, and one that pretends to be another.

use crate::processes::{Background, kill, until};
use crate::support::{Records, portcullis, read_records, require, require_kernel, world};
use portcullis_testkit::World;
use std::path::PathBuf;
use std::time::Duration;

const FRAMES: &str = include_str!("../support/frames.py");

/// What every test's guest begins with.
const BEGIN: &str = "
path = './vm.sock'
def check(link, mac=MAC):
    guest = Guest(link, mac)
    guest.settle()
    return guest.dhcp(1)[1], guest.lookup('10.0.2.3', 'api.example.com'), guest.syn('203.0.113.10', 22)
";
const SERVED: &str = "('10.0.2.15', 0, 'refused')";

struct Served {
    process: Background,
    log: PathBuf,
    socket: PathBuf,
}

fn serve(world: &World, framing: &str) -> Served {
    require("python3");
    require_kernel("/dev/net/tun", "TAP devices for ordinary users");
    let (log, socket) = (world.home().join("vm.jsonl"), world.home().join("vm.sock"));
    let mut command = world.command(portcullis());
    command
        .arg("vm-socket")
        .arg(&socket)
        .args(["--framing", framing, "--allow", "api.example.com", "--log"])
        .arg(&log);
    let process = Background::start(&mut command);
    until("the socket is there", || socket.exists());
    Served {
        process,
        log,
        socket,
    }
}

impl Served {
    /// What a guest sees, line by line.
    fn guest(&self, world: &World, script: &str) -> Vec<String> {
        let program = format!("{FRAMES}{BEGIN}{script}");
        let ran = world.run("python3", &["-c", &program], Duration::from_secs(60));
        assert!(ran.status.success(), "{ran}");
        ran.out().lines().map(str::to_owned).collect()
    }

    /// Ends it in order.
    fn end(self) -> Records {
        kill("TERM", self.process.pid());
        let (status, said) = self.process.end();
        assert!(status.success(), "{status}: {said}");
        assert!(!self.socket.exists(), "the socket's file is left");
        read_records(&self.log)
    }
}

fn count(records: &Records, reason: &str) -> u64 {
    let all = records.all_denials();
    let of_reason = all.iter().filter(|record| record["reason"] == reason);
    of_reason
        .map(|record| record["count"].as_u64().unwrap_or(1))
        .sum()
}

#[test]
fn frames_of_wrong_lengths_are_dropped_and_a_second_guest_is_refused() {
    let world = world();
    let served = serve(&world, "stream");
    let seen = served.guest(
        &world,
        "
first = Stream(path)
print(check(first))
try: print(check(Stream(path)))
except (EOFError, OSError): print('refused')
for length in (0, 1, 13, 65539, 65540, 200000): first.socket.sendall(struct.pack('!I', length) + bytes(length))
print(check(first))
first.socket.close()
# Another guest may follow at once, under another hardware address.
print(check(Stream(path), OTHER_MAC))
",
    );
    assert_eq!(seen, [SERVED, "refused", SERVED, SERVED]);
    let records = served.end();
    assert_eq!(count(&records, "malformed"), 6);
    assert_eq!(count(&records, "too-many-connections"), 1);
    assert_eq!(count(&records, "spoofed-source"), 0);
}

#[test]
fn half_a_length_a_length_of_gigabytes_and_a_guest_that_does_not_read_hold_up_nobody() {
    let world = world();
    let served = serve(&world, "stream");
    let seen = served.guest(
        &world,
        "
half = Stream(path)
half.socket.sendall(b'\\0\\0')
time.sleep(1)
half.socket.close()
broken = Stream(path)
print(check(broken))
broken.socket.sendall(b'\\xff' * 100)
try: print(broken.receive(5))
except (EOFError, OSError): print('ended')
silent = Stream(path)
guest = Guest(silent)
guest.settle()
ping = b'\\x08\\0\\0\\0\\0\\1\\0\\1' + bytes(1000)
ping = ping[:2] + struct.pack('!H', checksum(ping)) + ping[4:]
frame = guest.gateway + MAC + struct.pack('!H', IP4) + ip4(GATEWAY4, 1, ping)
flood, sent, end = 50 * (struct.pack('!I', len(frame)) + frame), 0, time.time() + 2
silent.socket.setblocking(False)
while time.time() < end:
    try: sent += silent.socket.send(flood)
    except BlockingIOError: time.sleep(0.01)
print(sent > 1000000)
silent.socket.close()
print(check(Stream(path)))
",
    );
    assert_eq!(seen, [SERVED, "ended", "True", SERVED]);
    served.end();
}

#[test]
fn a_guest_of_datagrams_is_served_alone_and_another_may_follow() {
    for (framing, kind) in [("datagram", "SOCK_DGRAM"), ("seqpacket", "SOCK_SEQPACKET")] {
        let world = world();
        let served = serve(&world, framing);
        let script = format!(
            "
kind, own = socket.{kind}, './guest' if '{framing}' == 'datagram' else None
first = Packets(path, kind, own)
if own: first.send(b'VFKT')
print(check(first))
try: print(check(Packets(path, kind, own and own + '2')))
except (OSError, EOFError): print('refused')
for length in (1, 13, 65539, 66000): first.send(bytes(length))
# Without a byte: of datagrams one more that is no frame.
if own: first.send(b'')
print(check(first))
first.socket.close()
if own: os.unlink(own)
time.sleep(1.2)
print(check(Packets(path, kind, own and own + '3'), OTHER_MAC))
"
        );
        let seen = served.guest(&world, &script);
        assert_eq!(seen, [SERVED, "refused", SERVED, SERVED], "{framing}");
        let records = served.end();
        let malformed = if framing == "datagram" { 5 } else { 4 };
        assert_eq!(count(&records, "malformed"), malformed, "{framing}");
    }
}

/// Each guest has a sandbox of its own: nobody else is on its network.
#[test]
fn a_guest_reaches_neither_the_sandbox_nor_a_neighbour() {
    let world = world();
    let served = serve(&world, "stream");
    let seen = served.guest(
        &world,
        "
guest = Guest(Stream(path))
guest.settle()
for host in ('10.0.2.14', '10.0.2.77', '127.0.0.1'): print(guest.who_has(host, 2))
print(guest.syn('10.0.2.14', 22), guest.syn('fd50:6f72:7463::14', 22), guest.syn('169.254.169.254', 80))
guest.send(OWN4, v4('10.0.2.77'), 17, udp(OWN4, v4('10.0.2.77'), 5353, b'are you there'))
print(guest.wait(lambda f: f if b'are you there' in f and f[23] == 17 else None, 0.5))
",
    );
    assert_eq!(
        seen,
        ["None", "None", "None", "refused refused refused", "None"]
    );
    served.end();
}
