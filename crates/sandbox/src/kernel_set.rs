//! The kernel's set of open destinations, so that everything else is refused at `connect()`.
//!
//! Written before a DNS answer is sent. The set only makes refusals quick and their signature
//! right: a program that reached the catch-all some other way meets the same decision there.

use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::frames;
use crate::netlink;
use crate::nft::{Key, Transaction};
use crate::rules::{self, ANY4, ANY6, DATAGRAMS4, DATAGRAMS6, OPEN4, OPEN6, OpenSet, TABLE};
use crate::spec::{MAX_OPEN_RULES, OpenRule};

/// An address with more open ports than this is opened as a whole; the gateway still checks each.
const MAX_SINGLE_PORTS: usize = 64;
/// The shortest and the longest time an element stays.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often an element that expires between two attempts is tried again.
const MAX_ATTEMPTS: usize = 3;

/// The sets of open destinations in one sandbox's kernel rules. May be shared by threads.
#[derive(Debug)]
pub struct KernelSet {
    socket: Mutex<OwnedFd>,
}

impl KernelSet {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Mutex::new(socket),
        }
    }

    /// Opens `ports` of an address for `timeout`, or extends the
    /// time. Returns when the kernel has it: an answer sent afterwards can be used at once.
    ///
    /// # Errors
    /// The kernel's refusal, such as `ENFILE` when the set is full.
    pub fn allow(
        &self,
        address: IpAddr,
        ports: &[RangeInclusive<u16>],
        timeout: Duration,
    ) -> io::Result<()> {
        match elements(address, ports) {
            Some((set, keys)) => self.open(set, keys, timeout),
            None => Ok(()),
        }
    }

    /// The same for datagrams to these ports. More than a few ports of one address are refused: a
    /// rule names each.
    ///
    /// # Errors
    /// As for [`KernelSet::allow`]; `E2BIG` for too many ports.
    pub fn allow_datagrams(
        &self,
        address: IpAddr,
        ports: &[RangeInclusive<u16>],
        timeout: Duration,
    ) -> io::Result<()> {
        match elements(address, ports) {
            Some((OPEN4, keys)) => self.open(DATAGRAMS4, keys, timeout),
            Some((OPEN6, keys)) => self.open(DATAGRAMS6, keys, timeout),
            Some(_) => Err(io::Error::from_raw_os_error(libc::E2BIG)),
            None => Ok(()),
        }
    }

    /// Forgets the addresses of a TAP's guest, so that another may come at once.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn forget_guest(&self) -> io::Result<()> {
        netlink::transact(self.kernel().0.as_fd(), frames::forget())
    }

    fn open(&self, set: OpenSet, keys: Vec<Vec<u8>>, timeout: Duration) -> io::Result<()> {
        let timeout = timeout.clamp(MIN_TIMEOUT, MAX_TIMEOUT).as_millis() as u64;
        // Held to the end: another thread that opens the same address must not come between the
        // attempts, each of which would then find what the one before did not.
        let kernel = self.kernel();
        match kernel.transact(|tx| tx.add_elements(set.name, &keys, timeout, true)) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            result => return result,
        }
        // Something was there: replace one by one, since kernels before 6.12 keep an element's
        // first timeout otherwise.
        keys.into_iter()
            .try_for_each(|key| kernel.replace(set, &[key], timeout))
    }

    /// Closes `ports` of an address again; what is not open is no error.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn remove(&self, address: IpAddr, ports: &[RangeInclusive<u16>]) -> io::Result<()> {
        let Some((set, keys)) = elements(address, ports) else {
            return Ok(());
        };
        let kernel = self.kernel();
        for key in keys {
            let result = kernel.transact(|tx| tx.delete_elements(set.name, &[key]));
            if errno(&result) != Some(libc::ENOENT) {
                result?;
            }
        }
        Ok(())
    }

    /// Puts other networks in the place of those that are open or closed from the start
    /// ([`crate::OpenRules`]). Leased addresses stay as they are.
    ///
    /// # Errors
    /// More networks than [`crate::MAX_OPEN_RULES`], or the kernel's refusal: less may be open then
    /// than before, never more.
    pub fn replace_networks(&self, open: &[OpenRule], closed: &[OpenRule]) -> io::Result<()> {
        let rules = open.len() + closed.len();
        if rules > MAX_OPEN_RULES {
            return Err(io::Error::other(format!(
                "{rules} address rules exceed the limit of {MAX_OPEN_RULES}"
            )));
        }
        let kernel = self.kernel();
        rules::replacement(open, closed)
            .into_iter()
            .try_for_each(|batch| netlink::transact(kernel.0.as_fd(), batch))
    }

    fn kernel(&self) -> Kernel<'_> {
        Kernel(self.socket.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The kernel's rules while one thread changes them.
struct Kernel<'s>(MutexGuard<'s, OwnedFd>);

impl Kernel<'_> {
    fn transact(&self, build: impl FnOnce(&mut Transaction)) -> io::Result<()> {
        let mut tx = Transaction::new(TABLE, 512);
        build(&mut tx);
        netlink::transact(self.0.as_fd(), tx.finish())
    }

    fn replace(&self, set: OpenSet, keys: &[Vec<u8>], timeout: u64) -> io::Result<()> {
        let mut last = Ok(());
        for _ in 0..MAX_ATTEMPTS {
            last = self.transact(|tx| {
                tx.delete_elements(set.name, keys);
                tx.add_elements(set.name, keys, timeout, true);
            });
            if errno(&last) != Some(libc::ENOENT) {
                return last;
            }
            // It was not there, or has expired meanwhile.
            last = self.transact(|tx| tx.add_elements(set.name, keys, timeout, true));
            if errno(&last) != Some(libc::EEXIST) {
                return last;
            }
        }
        last
    }
}

fn errno(result: &io::Result<()>) -> Option<i32> {
    result.as_ref().err().and_then(io::Error::raw_os_error)
}

/// Which set, and which of its elements, stand for these ports of an address.
fn elements(address: IpAddr, ports: &[RangeInclusive<u16>]) -> Option<(OpenSet, Vec<Vec<u8>>)> {
    let count: usize = ports.iter().map(ExactSizeIterator::len).sum();
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    if count == 0 {
        return None;
    }
    if count > MAX_SINGLE_PORTS {
        return Some((if address.is_ipv4() { ANY4 } else { ANY6 }, vec![octets]));
    }
    let set = if address.is_ipv4() { OPEN4 } else { OPEN6 };
    debug_assert!(matches!(set.key, Key::Address4Port | Key::Address6Port));
    let mut keys: Vec<Vec<u8>> = ports
        .iter()
        .flat_map(Clone::clone)
        .map(|port| {
            let mut key = octets.clone();
            key.extend_from_slice(&port.to_be_bytes());
            // The second part of a concatenated key fills a whole register.
            key.extend_from_slice(&[0, 0]);
            key
        })
        .collect();
    keys.sort_unstable();
    keys.dedup();
    Some((set, keys))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn ports_become_elements_and_any_port_its_own_set() {
        let v4 = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let (set, keys) = elements(v4, &[80..=80, 443..=443, 80..=80]).unwrap();
        assert_eq!((set.name, keys.len(), keys[0].len()), ("open4", 2, 8));
        assert_eq!(keys[0], [192, 0, 2, 1, 0, 80, 0, 0]);
        assert_eq!(elements(v4, &[0..=u16::MAX]).unwrap().0.name, "any4");
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        assert_eq!(elements(v6, &[1..=2]).unwrap().1[1].len(), 20);
        assert_eq!(elements(v6, &[0..=u16::MAX]).unwrap().0.name, "any6");
        assert!(elements(v6, &[]).is_none());
    }
}
