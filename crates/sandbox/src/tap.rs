//! A TAP device inside, for a virtual machine that the command starts without any capability.
//!
//! The device is persistent and belongs to the user's id, so QEMU (or another VMM) attaches to it
//! by name. It lives in the sandbox's namespace: the guest has the same doors as a program.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use crate::sys;

/// The prefix length of the guest's network.
pub(crate) const PREFIX: u8 = 24;
pub(crate) const DEVICE: &str = "/dev/net/tun";

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

/// Makes the device for the calling user; returns its index.
pub(crate) fn make(name: &str) -> io::Result<u32> {
    let tun = OpenOptions::new().read(true).write(true).open(DEVICE)?;
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .zip(name.bytes().take(libc::IFNAMSIZ - 1))
    {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as _;
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    sys::check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    // SAFETY: geteuid cannot fail; the two requests take an integer argument.
    unsafe {
        let user = libc::c_ulong::from(libc::geteuid());
        sys::check(libc::ioctl(tun.as_raw_fd(), libc::TUNSETOWNER as _, user))?;
        sys::check(libc::ioctl(
            tun.as_raw_fd(),
            libc::TUNSETPERSIST as _,
            1 as libc::c_ulong,
        ))?;
    }
    // IPv6 on the device would have the kernel speak first; the guest's IPv6 comes later.
    let switch = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    match fs::write(switch, "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let name = std::ffi::CString::new(name)?;
    // SAFETY: name is a NUL-terminated string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
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
