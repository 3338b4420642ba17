//! What a caller asks of a sandbox: the command, its files, its addresses, what the kernel opens.
//!
//! The types know nothing of names or policy: addresses, prefixes and port ranges only.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// The most static rules ([`OpenRules::rules`] and [`OpenRules::closed`]) one sandbox may have.
pub const MAX_OPEN_RULES: usize = 1024;
/// The most UDP ports with a socket of their own in one sandbox.
pub const MAX_DATAGRAM_PORTS: usize = 32;

/// How one sandbox is to be made and what runs in it.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The command and its arguments; the first one is looked up in the `PATH` of [`Spec::env`].
    pub argv: Vec<OsString>,
    /// The whole environment of the command: nothing else is inherited.
    pub env: BTreeMap<OsString, OsString>,
    /// Where the command starts; `None` keeps the caller's directory.
    pub cwd: Option<PathBuf>,
    /// Files or folders that the command must not change (policy, record file).
    pub read_only: Vec<PathBuf>,
    /// Files that the command must not see at all (control socket).
    pub hidden: Vec<PathBuf>,
    /// A TAP device that is made in the sandbox.
    pub tap: Option<Tap>,
    /// The whole process tree is ended after this time.
    pub timeout: Option<Duration>,
    /// What the kernel lets through from the start, besides what [`crate::KernelSet`] adds.
    pub open: OpenRules,
    /// A TCP destination that must be refused before the command starts: half of the start-up check.
    pub probe_refused: SocketAddr,
    /// The addresses inside.
    pub addresses: Addresses,
    /// What the sandbox's files about names say.
    pub name_files: NameFiles,
    /// Which kernel keyrings the command has.
    pub keyring: Keyring,
    /// How the command is kept from the host's Unix sockets.
    pub unix_sockets: UnixSockets,
    /// Unix sockets of the host that the command may reach all the same.
    pub let_in: Vec<PathBuf>,
    /// The gateway hands over what programs inside trust ([`crate::Control::trust`]) before the
    /// command starts.
    pub trust: bool,
}

/// A TAP device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// Its name.
    pub name: String,
    /// The largest packet that it takes, in bytes.
    pub mtu: u16,
    /// Who moves frames there.
    pub user: TapUser,
}

/// Who moves frames between a TAP and its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TapUser {
    /// A program inside, which finds the device by name; it belongs to the caller's user.
    Program,
    /// The same, of another user.
    User(u32),
    /// The gateway, by a descriptor ([`crate::GuestSockets::device`]).
    Gateway,
}

/// What the files about names of a sandbox say, where it is not the host's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameFiles {
    /// The text of the hosts file; `None` leaves the host's.
    pub hosts: Option<String>,
    /// Lines of `resolv.conf` besides the resolver's, each with its end.
    pub resolv_conf: String,
}

impl Default for NameFiles {
    fn default() -> NameFiles {
        NameFiles {
            hosts: None,
            resolv_conf: "options edns0\n".to_owned(),
        }
    }
}

/// How programs inside are kept from the Unix sockets of the host. Those that they make themselves are
/// theirs to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnixSockets {
    /// Supervised where the kernel permits, else by Landlock, else there are none.
    #[default]
    Auto,
    /// A process of the sandbox carries out each `connect`. There are no datagram sockets.
    Supervised,
    /// The kernel itself refuses (Landlock, from Linux 7.1). No program inside can mount anything.
    Landlock,
    /// There are only socket pairs.
    None,
}

/// Which kernel keyrings (keyrings(7)) a command has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keyring {
    /// None of the caller's: a session keyring of its own for what the kernel itself looks up, and no
    /// call that reaches a key.
    #[default]
    Fresh,
    /// The caller's session keyring, and every key that its user may reach by number.
    Inherit,
}

/// Static rules of the kernel inside the sandbox.
///
/// They only shape what a program sees at `connect()`; the gateway decides again on each accept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct OpenRules {
    /// Networks that are open from the start; with [`OpenRules::closed`] at most
    /// [`crate::MAX_OPEN_RULES`].
    pub rules: Vec<OpenRule>,
    /// Networks whose datagrams are open from the start; they count like [`OpenRules::rules`].
    pub datagrams: Vec<OpenRule>,
    /// UDP ports with a socket of their own inside, at most [`crate::MAX_DATAGRAM_PORTS`]: datagrams
    /// to any open address arrive there.
    pub datagram_ports: Vec<u16>,
    /// Networks that are refused even where a rule or a lease has them open.
    pub closed: Vec<OpenRule>,
    /// Let every TCP destination through to the gateway but [`OpenRules::guarded`].
    pub audit: bool,
    /// Networks refused even under `audit`.
    pub guarded: Vec<Network>,
}

/// An IPv4 or IPv6 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// An address in it.
    pub address: IpAddr,
    /// Its prefix length in bits.
    pub prefix: u8,
}

/// One network that is open (or closed) on some ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRule {
    /// The network.
    pub network: Network,
    /// Its ports; `0..=65535` is any port.
    pub ports: Vec<RangeInclusive<u16>>,
}

/// The addresses that exist inside the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The sandbox's own IPv4 address, source of its connections.
    pub own4: Ipv4Addr,
    /// The gateway: proxies listen here, and it stands for the host's loopback.
    pub gateway4: Ipv4Addr,
    /// The resolver named in the sandbox's `resolv.conf`.
    pub resolver4: Ipv4Addr,
    /// The sandbox's own IPv6 address, source of its connections.
    pub own6: Ipv6Addr,
    /// The gateway's IPv6 address: the catch-all listener is bound here.
    pub gateway6: Ipv6Addr,
    /// TCP port of the HTTP proxy at [`Addresses::gateway4`].
    pub http_port: u16,
    /// TCP port of the SOCKS5 proxy at [`Addresses::gateway4`].
    pub socks_port: u16,
    /// TCP port both catch-all listeners are bound to; a destination port never depends on it.
    pub catch_all_port: u16,
}

/// The unique local prefix of the sandbox's IPv6 addresses (RFC 4193).
const ULA: [u16; 4] = [0xfd50, 0x6f72, 0x7463, 0];

impl Addresses {
    /// The usual addresses: those that QEMU's user networking has made familiar.
    pub const fn new() -> Self {
        Self {
            own4: Ipv4Addr::new(10, 0, 2, 15),
            gateway4: Ipv4Addr::new(10, 0, 2, 2),
            resolver4: Ipv4Addr::new(10, 0, 2, 3),
            own6: Ipv6Addr::new(ULA[0], ULA[1], ULA[2], ULA[3], 0, 0, 0, 0x15),
            gateway6: Ipv6Addr::new(ULA[0], ULA[1], ULA[2], ULA[3], 0, 0, 0, 2),
            http_port: 3128,
            socks_port: 1080,
            catch_all_port: 15_001,
        }
    }

    /// The gateway's link-local address on a TAP: the router that is advertised there.
    pub const GATEWAY_LINK6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

    /// The same with a TAP: the guest takes `10.0.2.15`, the sandbox itself `10.0.2.14`, and the same in
    /// IPv6.
    pub const fn with_tap() -> Self {
        let mut addresses = Self::new();
        addresses.own4 = Ipv4Addr::new(10, 0, 2, 14);
        addresses.own6 = Ipv6Addr::new(ULA[0], ULA[1], ULA[2], ULA[3], 0, 0, 0, 0x14);
        addresses
    }

    /// The IPv4 address of a TAP's guest.
    pub const fn guest4(&self) -> Ipv4Addr {
        Self::new().own4
    }

    /// The HTTP proxy's listener.
    pub const fn http(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.gateway4), self.http_port)
    }

    /// The SOCKS5 proxy's listener.
    pub const fn socks(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.gateway4), self.socks_port)
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self::new()
    }
}
