//! A TAP device inside, for a virtual machine that the command starts without any capability.
//!
//! For a program inside the device is persistent and belongs to the user's id, so QEMU (or another VMM)
//! attaches to it by name. It lives in the sandbox's namespace: the guest has the same doors as a program.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::net::SocketType;
use rustix::net::netdevice::name_to_index;
use rustix::process::geteuid;

use crate::listeners;
use crate::spec::{Tap, TapUser};
use crate::sys;

/// The prefix length of the guest's network.
pub(crate) const PREFIX: u8 = 24;
/// The prefix length of the guest's IPv6 networks.
pub(crate) const PREFIX6: u8 = 64;
pub(crate) const DEVICE: &str = "/dev/net/tun";

/// How the kernel behaves towards a guest.
const SETTINGS: [(&str, &str); 11] = [
    // Every address of the world is local here: without this, ARP would be answered for all of them.
    ("ipv4/conf/DEVICE/arp_ignore", "2"),
    ("ipv4/conf/DEVICE/arp_announce", "2"),
    ("ipv4/conf/DEVICE/accept_redirects", "0"),
    ("ipv6/conf/DEVICE/accept_redirects", "0"),
    ("ipv6/conf/DEVICE/accept_ra", "0"),
    // No link-local address but the one that is advertised.
    ("ipv6/conf/DEVICE/addr_gen_mode", "1"),
    ("ipv6/conf/DEVICE/disable_ipv6", "0"),
    // A neighbour that is no router makes guests forget their route through it (RFC 4861, section
    // 7.3.3). Nothing is forwarded: that takes the same setting for all devices, and a rule drops it.
    ("ipv6/conf/DEVICE/forwarding", "1"),
    ("ipv6/conf/DEVICE/proxy_ndp", "0"),
    // Every refusal is said at once, however many there are.
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
];

/// Whether a name can be a device's, and never anything else than one path component.
pub(crate) fn valid_name(name: &str) -> bool {
    (1..libc::IFNAMSIZ).contains(&name.len())
        && name != "lo"
        && name != "all"
        && name != "default"
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// A device that has been made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) index: u32,
    /// For whoever moves the frames, where the gateway does.
    pub(crate) device: Option<OwnedFd>,
}

/// Makes the device, for the calling user where a program inside is to find it.
pub(crate) fn make(tap: &Tap) -> io::Result<Made> {
    let name = tap.name.as_str();
    let handed_out = tap.user == TapUser::Gateway;
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(DEVICE)?;
    // Without the header of virtio-net where frames are handed on as they are.
    let header = if handed_out { 0 } else { libc::IFF_VNET_HDR };
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: (libc::IFF_TAP | libc::IFF_NO_PI | header) as libc::c_short,
        },
    };
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .zip(name.bytes().take(libc::IFNAMSIZ - 1))
    {
        *to = from as libc::c_char;
    }
    let user = match tap.user {
        TapUser::User(user) => user,
        TapUser::Program | TapUser::Gateway => geteuid().as_raw(),
    };
    let user = libc::c_ulong::from(user);
    let persist: libc::c_ulong = 1;
    // SAFETY: TUNSETIFF reads and writes one live ifreq; the other two take a number.
    unsafe {
        let tun = tun.as_raw_fd();
        sys::check(libc::ioctl(tun, libc::TUNSETIFF as _, &raw mut request))?;
        if !handed_out {
            sys::check(libc::ioctl(tun, libc::TUNSETOWNER as _, user))?;
            sys::check(libc::ioctl(tun, libc::TUNSETPERSIST as _, persist))?;
        }
    }
    for (setting, value) in SETTINGS {
        let path = format!("/proc/sys/net/{}", setting.replace("DEVICE", name));
        fs::write(path, value)?;
    }
    // Any socket of the namespace answers.
    let socket = listeners::open(true, SocketType::DGRAM)?;
    Ok(Made {
        index: name_to_index(&socket, name)?,
        device: handed_out.then(|| tun.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_plain_component() {
        assert!(valid_name("tap0"));
        assert!(valid_name("vm-1_a"));
        for bad in [
            "",
            "lo",
            "all",
            "default",
            ".",
            "..",
            "a/b",
            "a b",
            "0123456789abcdef",
            "a%d",
        ] {
            assert!(!valid_name(bad), "{bad}");
        }
    }
}
