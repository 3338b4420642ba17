//! The kernel's own view: what left the host's namespace, on any interface, while a program ran.

use portcullis_testkit::World;
use serde::Deserialize;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};

/// A kind of packet that left.
#[derive(Debug, Deserialize)]
pub struct Packets {
    /// `uplink` or `lo`.
    pub interface: String,
    /// `tcp` (a first SYN), `udp`, `icmp`, `icmp6`, or what else was seen.
    pub protocol: String,
    /// Where to.
    pub address: String,
    /// The port; of ICMP the type.
    pub number: u16,
}

/// A running capture.
pub struct Capture {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Capture {
    /// Returns once every packet is seen.
    pub fn start(world: &World) -> Capture {
        let program = world.file("capture.py", include_str!("capture.py"));
        let mut child = world
            .command_as_root("python3")
            .arg(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut said = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("it says that it is ready");
        assert_eq!(line.trim(), "capturing", "the capture did not start");
        Capture { child, said }
    }

    /// What left until now. A capture with holes fails the test.
    pub fn end(mut self) -> Vec<Packets> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.said.read_to_string(&mut text).expect("it ends");
        let mut lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.pop(), Some("{\"dropped\": 0}"), "packets were missed");
        let packet =
            |line: &&str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        lines.iter().map(packet).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
