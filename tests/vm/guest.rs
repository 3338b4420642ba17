//! A Linux guest made by the test itself: Debian's cloud kernel, busybox and openssl in an initial
//! RAM disk, and a script that runs each check, says how it ended on the serial console, and
//! switches the machine off.

use crate::support::{guest_kernel, require};
use portcullis_testkit::World;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Loaded in this order; the first only loads once its symbols are there, hence twice.
const MODULES: [&str; 9] = [
    "virtio",
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// The guest's memory, MiB.
const MEMORY_MIB: &str = "256";

/// QEMU's own choice.
const USUAL_MAC: &str = "52:54:00:12:34:56";

/// What the kernel is told: the console, and nothing that costs time under emulation.
const KERNEL_LINE: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check tsc=reliable random.trust_cpu=on";

/// Without a line for services, busybox (which is static) would load a library to find one.
const NSSWITCH: &str = "hosts: files dns\nservices: files\npasswd: files\ngroup: files\n";

/// The address by which the guest meets its gateway is QEMU's usual one.
const SET_UP: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod $module 2>/dev/null; done
ip link set lo up
now() { cut -d' ' -f1 /proc/uptime | tr -d .; }
# check NAME COMMAND: what it says, how it ends, how many milliseconds it takes
check() {
    name=$1; shift
    echo "<<<$name"
    begin=$(now)
    sh -c "$*" < /dev/null 2>&1
    code=$?
    echo ">>>$name $code $(( ($(now) - begin) * 10 ))"
}
"#;

/// A guest that was told its address by hand.
const STATIC: &str = "
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
echo nameserver 10.0.2.3 > /etc/resolv.conf
";

/// A guest that knows nothing: DHCP for IPv4, and for IPv6 what its kernel does by itself.
const AUTOMATIC: &str = r#"
ip link set eth0 up
check dhcp udhcpc -i eth0 -s /bin/dhcp-script -n -q -t 20 -T 1
check autoconf 'for try in 1 2 3 4 5 6 7 8 9; do ip -6 addr show dev eth0 scope global | grep fd50 | grep -qv tentative && break; sleep 1; done; ip -6 addr show dev eth0; ip -6 route'
"#;

/// What busybox's DHCP client has done with what it was told.
const DHCP_SCRIPT: &str = r#"#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
ip link set mtu $mtu dev $interface
ip route add default via $router
for server in $dns; do echo nameserver $server; done > /etc/resolv.conf
echo "told: $ip/$mask via $router dns $dns mtu $mtu lease $lease by $serverid"
"#;

/// How a guest comes to its addresses.
#[derive(Clone, Copy)]
pub enum Addresses {
    Static,
    Automatic,
}

/// How a guest's device is connected.
#[derive(Clone, Copy)]
pub enum Device<'a> {
    /// A TAP of this name.
    Tap(&'a str),
    /// A Unix socket at this path, each frame behind its length.
    Stream(&'a str),
    /// A Unix socket at this path, a datagram for each frame.
    Datagrams(&'a str),
    /// The same, from a socket of the guest's own at the second path.
    DatagramsFrom(&'a str, &'a str),
}

impl Device<'_> {
    fn netdev(self) -> String {
        match self {
            Device::Tap(name) => format!("tap,id=n,ifname={name},script=no,downscript=no"),
            Device::Stream(path) => format!("stream,id=n,addr.type=unix,addr.path={path}"),
            Device::Datagrams(path) => {
                Device::DatagramsFrom(path, &format!("{path}.guest")).netdev()
            }
            Device::DatagramsFrom(path, own) => format!(
                "dgram,id=n,local.type=unix,local.path={own},remote.type=unix,remote.path={path}"
            ),
        }
    }
}

/// The guest's disk and kernel, where the ordinary user of a world can read them.
pub struct Guest {
    kernel: PathBuf,
    disk: PathBuf,
}

/// How one check in the guest ended.
#[derive(Debug, Default)]
pub struct Check {
    pub code: i32,
    pub milliseconds: u64,
    pub said: String,
}

impl Guest {
    /// Builds a guest that does `checks` (lines of `check NAME COMMAND`, and any shell between).
    #[track_caller]
    pub fn build(world: &World, addresses: Addresses, checks: &str) -> Guest {
        for program in ["qemu-system-x86_64", "busybox", "openssl", "curl", "ldd"] {
            require(program);
        }
        let (kernel, modules) = guest_kernel();
        let mut archive = Archive::default();
        for folder in ["bin", "dev", "proc", "tmp", "etc", "modules"] {
            archive.folder(folder);
        }
        for (number, module) in MODULES.iter().enumerate() {
            let file = find(&modules, &format!("{module}.ko")).unwrap_or_else(|| {
                panic!("the guest's kernel has no module {module}.ko in {modules:?}")
            });
            archive.copy(&format!("modules/{number}.ko"), &file);
        }
        archive.copy("bin/busybox", Path::new("/bin/busybox"));
        archive.file("bin/dhcp-script", 0o755, DHCP_SCRIPT.as_bytes());
        let mut needed = BTreeSet::new();
        for program in ["openssl", "curl"] {
            let path = format!("/usr/bin/{program}");
            archive.copy(&format!("bin/{program}"), Path::new(&path));
            needed.extend(libraries(&path));
        }
        for library in needed {
            archive.copy(library.trim_start_matches('/'), Path::new(&library));
        }
        archive.file("etc/nsswitch.conf", 0o644, NSSWITCH.as_bytes());
        archive.copy("etc/ca.pem", &world.ca_pem());
        let addresses = match addresses {
            Addresses::Static => STATIC,
            Addresses::Automatic => AUTOMATIC,
        };
        let script = format!("{SET_UP}{addresses}{checks}\npoweroff -f\n");
        archive.file("init", 0o755, script.as_bytes());
        let copied = world.home().join("vmlinuz");
        if let Err(error) = std::fs::copy(&kernel, &copied) {
            panic!("cannot copy {}: {error}", kernel.display());
        }
        Guest {
            kernel: copied,
            disk: world.file("guest.cpio", archive.end()),
        }
    }

    /// The command that boots it, with its one device.
    pub fn command(&self, device: Device<'_>) -> Vec<String> {
        self.command_as(device, USUAL_MAC)
    }

    /// The same, with this hardware address.
    pub fn command_as(&self, device: Device<'_>, mac: &str) -> Vec<String> {
        // Without its boot ROM, which would look for a server to boot from.
        let virtio = format!("virtio-net-pci,netdev=n,romfile=,mac={mac}");
        let netdev = device.netdev();
        let kernel = self.kernel.display().to_string();
        let disk = self.disk.display().to_string();
        [
            "qemu-system-x86_64",
            "-M",
            "pc",
            "-accel",
            "tcg,thread=multi",
            "-m",
            MEMORY_MIB,
            "-kernel",
            &kernel,
            "-initrd",
            &disk,
            "-append",
            KERNEL_LINE,
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-netdev",
            &netdev,
            "-device",
            &virtio,
        ]
        .map(str::to_owned)
        .to_vec()
    }
}

/// What the console says, by check.
pub fn checks(console: &str) -> BTreeMap<String, Check> {
    let mut all = BTreeMap::new();
    let mut open: Option<(String, String)> = None;
    for line in console.lines().map(|line| line.trim_end_matches('\r')) {
        if let Some(name) = line.strip_prefix("<<<") {
            open = Some((name.to_owned(), String::new()));
        } else if let Some(end) = line.strip_prefix(">>>") {
            let mut words = end.split(' ');
            let (name, said) = open.take().unwrap_or_default();
            assert_eq!(words.next(), Some(&*name), "the console is garbled: {line}");
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
            let (Some(code), Some(milliseconds)) = (number(), number()) else {
                panic!("the console is garbled: {line}");
            };
            let code = i32::try_from(code).unwrap_or(i32::MAX);
            all.insert(
                name,
                Check {
                    code,
                    milliseconds,
                    said,
                },
            );
        } else if let Some((_, said)) = &mut open {
            said.push_str(line);
            said.push('\n');
        }
    }
    all
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        if entry.file_name() == name {
            return Some(entry.path());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders.push(entry.path());
        }
    }
    folders.iter().find_map(|folder| find(folder, name))
}

/// The libraries that a program needs, the loader among them.
fn libraries(program: &str) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run ldd: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(str::to_owned)
        .collect()
}

/// An archive as the kernel unpacks it ("newc", see the kernel's initramfs buffer format).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: Vec<String>,
}

impl Archive {
    const FOLDER: u32 = 0o040_000;
    const FILE: u32 = 0o100_000;

    fn folder(&mut self, name: &str) {
        if !self.folders.iter().any(|known| known == name) {
            self.folders.push(name.to_owned());
            self.entry(name, Self::FOLDER | 0o755, b"");
        }
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        let mut at = 0;
        while let Some(slash) = name[at..].find('/') {
            self.folder(&name[..at + slash]);
            at += slash + 1;
        }
        self.entry(name, Self::FILE | mode, content);
    }

    #[track_caller]
    fn copy(&mut self, name: &str, from: &Path) {
        match std::fs::read(from) {
            Ok(content) => self.file(name, 0o755, &content),
            Err(error) => panic!("cannot read {}: {error}", from.display()),
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let length = |bytes: usize| u32::try_from(bytes).expect("a guest's file is small");
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            length(content.len()),
            0,
            0,
            0,
            0,
            length(name.len() + 1),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, b"");
        self.bytes
    }
}
