//! Many sandboxes at once while no daemon serves them: nothing leaves, by the kernel's own view, and all are served
//! again after.

use crate::Daemon;
use crate::capture::{Capture, Packets};
use crate::lifetime::Inside;
use crate::processes::until;
use crate::support::{require, world};

const SANDBOXES: usize = 20;
/// What a program in a sandbox does that wants out, by each way; says how each ended.
const KNOCK: &str = r#"
import errno, socket
def how(act):
    try: act(); return 'open'
    except OSError as error: return errno.errorcode.get(error.errno, str(error))
def tcp(*to): return how(lambda: socket.create_connection(to, 5).close())
def udp(family, *to):
    def ask():
        with socket.socket(family, socket.SOCK_DGRAM) as asking: asking.sendto(QUERY, to)
    return how(ask)
QUERY = b'\1\2\1\0\0\1\0\0\0\0\0\0\3api\7example\3com\0\0\1\0\1'
for to in [('203.0.113.10', 80), ('203.0.113.10', 443), ('10.0.2.2', 3128), ('10.0.2.2', 1080), ('10.0.2.3', 53),
           ('2001:db8:10::10', 443), ('192.0.2.53', 53)]:
    print(tcp(*to))
for to in [('10.0.2.3', 53), ('192.0.2.53', 53), ('203.0.113.10', 443)]: udp(socket.AF_INET, *to)
udp(socket.AF_INET6, '2001:db8:10::10', 443)
"#;

#[test]
fn nothing_leaves_many_sandboxes_while_their_daemon_is_gone() {
    require("python3");
    let world = world();
    let mut daemon = Daemon::of_root(&world);
    let all: Vec<Inside<'_>> = (0..SANDBOXES).map(|_| Inside::start(&world)).collect();
    for (number, inside) in all.iter().enumerate() {
        let (status, made) = daemon.attach(&format!("s{number}"), inside);
        assert_eq!(status, 201, "{made}");
    }
    // What one has leased is closed again.
    assert_eq!(all[0].curl("api.example.com"), "200");
    daemon.crash();
    until("the doors are closed", || {
        all.iter()
            .all(|inside| inside.run(&CONNECT).contains("ECONNREFUSED"))
    });
    let capture = Capture::start(&world);
    for inside in &all {
        let said = inside.run(&["python3", "-c", KNOCK]);
        assert_eq!(
            said.split_whitespace().collect::<Vec<_>>(),
            ["ECONNREFUSED"; 7],
            "{said}"
        );
    }
    let told = |one: &Packets| {
        let Packets {
            interface,
            protocol,
            address,
            number,
        } = one;
        format!("{interface} {protocol} {address} {number}")
    };
    // The host's own kernel looks for neighbours, and says which groups it listens to.
    let is_kernels = |one: &Packets| one.protocol == "icmp6" && (133..=143).contains(&one.number);
    let left = capture.end();
    let left = left.iter().filter(|one| !is_kernels(one));
    let left: Vec<String> = left.map(told).collect();
    assert!(left.is_empty(), "{left:?}");
    daemon.begin();
    until("all are served", || daemon.get("/readyz").0 == 204);
    for (number, inside) in all.iter().enumerate() {
        assert_eq!(inside.curl("api.example.com"), "200", "s{number}");
        assert_eq!(inside.curl("big.example.com"), "000", "s{number}");
    }
    let listed = daemon.get("/v1/sandboxes").1;
    assert_eq!(listed.as_array().map(Vec::len), Some(SANDBOXES), "{listed}");
}

/// A connection to the proxy, said how it ended.
const CONNECT: [&str; 3] = [
    "python3",
    "-c",
    "import errno, socket\ntry: socket.create_connection(('10.0.2.2', 3128), 5); print('open')\n\
     except OSError as error: print(errno.errorcode.get(error.errno, error))",
];
