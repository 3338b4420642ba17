//! The host's hosts file (hosts(5)): names that no resolver is asked about.
//!
//! A program outside finds these names without DNS, so a program inside must find them too. Answers
//! *addresses* (docs/threats.md): the file says only what a name means. Whether the name may be looked
//! up and its address be reached is decided as for any other name.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis_names::{Name, NameRef};
use smallvec::SmallVec;

/// Names that are read of a hosts file; those of later lines are not known. Lists against
/// advertisements have some hundred thousand lines.
const MAX_NAMES: usize = 256 * 1024;

/// Addresses of one name, and names of one address, that are known.
const MAX_EACH: usize = 64;

/// What a hosts file says.
#[derive(Debug, Default)]
pub struct HostsFile {
    addresses: HashMap<Name, SmallVec<[IpAddr; 1]>>,
    /// In the order of the file: the first name of a line is the canonical one.
    names: HashMap<IpAddr, SmallVec<[Name; 1]>>,
}

/// The hosts file as it is now.
pub(crate) type Hosts = Arc<ArcSwap<HostsFile>>;

impl HostsFile {
    /// Reads a hosts file. A line or a name that means nothing is skipped, as the C library does.
    pub fn parse(text: &str) -> HostsFile {
        let mut file = HostsFile::default();
        let mut count = 0;
        for line in text.lines() {
            let (address, names) = entry(line);
            let Some(address) = address else { continue };
            for name in names {
                let Ok(name) = Name::from_program(name.as_bytes()) else {
                    continue;
                };
                if count == MAX_NAMES {
                    return file;
                }
                count += 1;
                let known = file.addresses.entry(name.clone()).or_default();
                if known.len() < MAX_EACH && !known.contains(&address) {
                    known.push(address);
                }
                // A list against advertisements gives one address to all its names.
                let known = file.names.entry(address).or_default();
                if known.len() < MAX_EACH && !known.contains(&name) {
                    known.push(name);
                }
            }
        }
        file
    }

    /// The addresses of a name, of both families; none where the file does not have the name.
    pub(crate) fn addresses(&self, name: NameRef<'_>) -> Option<&[IpAddr]> {
        self.addresses.get(name.as_str()).map(SmallVec::as_slice)
    }

    /// The addresses of a name that has only such of the loopback, or that mean no host. To programs that
    /// are shown the file, it means the sandbox itself.
    pub fn loopback(&self, name: NameRef<'_>) -> Option<&[IpAddr]> {
        let own = |address: &IpAddr| address.is_loopback() || address.is_unspecified();
        let addresses = self.addresses(name)?;
        addresses.iter().all(own).then_some(addresses)
    }

    /// The names of an address, in the file's order.
    pub(crate) fn names(&self, address: IpAddr) -> &[Name] {
        self.names.get(&address).map_or(&[], SmallVec::as_slice)
    }
}

/// One line's address, where it has one, and its names.
fn entry(line: &str) -> (Option<IpAddr>, impl Iterator<Item = &str>) {
    let line = line.split('#').next().unwrap_or_default();
    let mut words = line.split_ascii_whitespace();
    (words.next().and_then(address), words)
}

/// An address as glibc reads it in a hosts file. One that names its link (`fe80::1%eth0`) is none there; one
/// of a link without the link's name (`fe80::1`) is, and whether it may be reached the guard decides.
fn address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    match address {
        IpAddr::V6(six) => Some(six.to_ipv4_mapped().map_or(IpAddr::V6(six), IpAddr::V4)),
        four => Some(four),
    }
}

/// The hosts file as a program inside sees it. The names that `keep` does not speak for are left out, so
/// that programs ask the gateway for them instead of finding addresses that nobody opened. What the
/// sandbox has itself stays: the loopback, and what means no host at all.
pub fn hosts_inside(text: &str, keep: impl Fn(IpAddr, NameRef<'_>) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let (address, names) = entry(line);
        let own = |address: IpAddr| {
            let link = |six: Ipv6Addr| six.segments()[0] == 0xfe00;
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || matches!(address, IpAddr::V6(six) if link(six))
        };
        let Some(address) = address.filter(|address| !own(*address)) else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let kept = names.filter(|name| {
            let name = Name::from_program(name.as_bytes());
            name.is_ok_and(|name| keep(address, name.as_ref()))
        });
        let mut kept = kept.peekable();
        if kept.peek().is_some() {
            out.push_str(&address.to_string());
            for name in kept {
                out.push(' ');
                out.push_str(name);
            }
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_policy(text).unwrap()
    }

    #[test]
    fn lines_are_read_as_the_c_library_reads_them() {
        let file = HostsFile::parse(
            "# 192.0.2.9 commented.example\n\
             192.0.2.1\tOne.Example. alias ALIAS # 192.0.2.8 no.example\n\
             2001:db8::1 one.example\r\n\
             192.0.2.2 one.example two.example\n\
             ::ffff:192.0.2.3 mapped.example\n\
             192.0.2 short.example\n\
             no-address.example 192.0.2.4\n\
             192.0.2.5\n\
             192.0.2.6 b@d good.example\n\
             fe80::1 link.example\n\
             fe80::1%eth0 scoped.example\n",
        );
        let of = |text: &str| file.addresses(name(text).as_ref()).map(|all| all.len());
        assert_eq!(of("one.example"), Some(3));
        assert_eq!(of("alias"), Some(1));
        assert_eq!(of("good.example"), Some(1));
        assert_eq!(of("link.example"), Some(1));
        let mapped = file.addresses(name("mapped.example").as_ref());
        assert_eq!(mapped, Some(["192.0.2.3".parse().unwrap()].as_slice()));
        for absent in [
            "commented.example",
            "no.example",
            "short.example",
            "scoped.example",
        ] {
            assert_eq!(of(absent), None, "{absent}");
        }
        let names = file.names("192.0.2.1".parse().unwrap());
        assert_eq!(names, [name("one.example"), name("alias")]);
    }

    #[test]
    fn names_of_the_loopback_are_told_from_those_of_hosts() {
        let file = HostsFile::parse(
            "127.0.0.1 dev.example mixed.example\n::1 dev.example\n0.0.0.0 ads.example\n192.0.2.1 mixed.example\n",
        );
        let of = |text: &str| file.loopback(name(text).as_ref()).map(<[_]>::len);
        assert_eq!(of("dev.example"), Some(2));
        assert_eq!(of("ads.example"), Some(1));
        assert_eq!(of("mixed.example"), None);
        assert_eq!(of("absent.example"), None);
    }

    #[test]
    fn a_file_without_end_is_read_to_a_limit() {
        let line = |i: usize| format!("0.0.0.0 n{i}.ads.example\n");
        let text: String = (0..MAX_NAMES + 10).map(line).collect();
        let file = HostsFile::parse(&text);
        assert_eq!(file.addresses.len(), MAX_NAMES);
        assert_eq!(file.names("0.0.0.0".parse().unwrap()).len(), MAX_EACH);
    }

    #[test]
    fn programs_see_what_is_the_sandboxs_own() {
        let text = "# by hand\n127.0.0.1 localhost dev.example\n::1 localhost\nff02::1 all\n\
            0.0.0.0 ads.example\n192.0.2.7 vm redis.corp.example\n192.0.2.8 db.corp.example\n";
        let shown = hosts_inside(text, |_, name| name.as_str() == "vm");
        assert_eq!(
            shown,
            "# by hand\n127.0.0.1 localhost dev.example\n::1 localhost\nff02::1 all\n\
             0.0.0.0 ads.example\n192.0.2.7 vm\n"
        );
    }
}
