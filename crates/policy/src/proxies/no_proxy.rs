//! `no_proxy`: what goes direct, in the words that curl understands.
//!
//! A name is matched by names alone and an address by addresses and ranges alone, as in curl:
//! nothing is looked up for the choice of a way.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_names::{Name, NameRef, PortSet, parse_port};

/// Most entries of a list.
const MAX_ENTRIES: usize = 4096;

/// A list of what goes direct.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoProxy {
    text: String,
    entries: Vec<Entry>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    All,
    /// The name and everything below it.
    Name(Name, Option<u16>),
    Net(IpNet, Option<u16>),
}

impl NoProxy {
    /// Reads entries that are separated by commas or blanks.
    ///
    /// # Errors
    /// The first entry that is neither a name, an address, a range nor `*`.
    pub(crate) fn parse(text: &str) -> Result<NoProxy, String> {
        let separated = text.split(|c: char| c == ',' || c.is_ascii_whitespace());
        let words: Vec<&str> = separated.filter(|entry| !entry.is_empty()).collect();
        if words.len() > MAX_ENTRIES {
            return Err(format!("no_proxy has more than {MAX_ENTRIES} entries"));
        }
        if words.len() > 1 && words.contains(&"*") {
            return Err("`*` in no_proxy must stand alone: it sends everything direct".to_owned());
        }
        let entries = words.into_iter().map(Entry::parse);
        Ok(NoProxy {
            entries: entries.collect::<Result<_, _>>()?,
            text: text.to_owned(),
        })
    }

    /// The list as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a connection to this name goes direct.
    pub(super) fn has_name(&self, name: NameRef<'_>, port: u16) -> bool {
        self.entries.iter().any(|entry| match entry {
            Entry::All => true,
            Entry::Name(base, only) => only.is_none_or(|p| p == port) && below(name, base),
            Entry::Net(..) => false,
        })
    }

    /// Whether a connection to this address goes direct.
    pub(super) fn has_address(&self, address: IpAddr, port: u16) -> bool {
        self.entries.iter().any(|entry| match entry {
            Entry::All => true,
            Entry::Name(..) => false,
            Entry::Net(net, only) => only.is_none_or(|p| p == port) && net.contains(&address),
        })
    }

    /// Whether a connection to this name goes direct on any of these ports.
    pub(super) fn mentions(&self, name: NameRef<'_>, ports: &PortSet) -> bool {
        self.entries.iter().any(|entry| match entry {
            Entry::All => true,
            Entry::Name(base, only) => {
                only.is_none_or(|port| ports.contains(port)) && below(name, base)
            }
            Entry::Net(..) => false,
        })
    }
}

fn below(name: NameRef<'_>, base: &Name) -> bool {
    name == base.as_ref() || name.is_below(base.as_ref())
}

impl Entry {
    fn parse(entry: &str) -> Result<Entry, String> {
        if entry == "*" {
            return Ok(Entry::All);
        }
        let bad = || format!("`{entry}` in no_proxy is not a name, an address, a range or `*`");
        if let Some(net) = net(entry) {
            return Ok(Entry::Net(net, None));
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(parse_port(port.as_bytes()).ok_or_else(bad)?)),
            None => (entry, None),
        };
        if let Some(net) = net(host) {
            return Ok(Entry::Net(net, port));
        }
        let base = host
            .strip_prefix("*.")
            .or_else(|| host.strip_prefix('.'))
            .unwrap_or(host);
        Name::from_policy(base)
            .map(|base| Entry::Name(base, port))
            .map_err(|_| bad())
    }
}

/// An address or a range, IPv6 in brackets or without. A range counts from its first address, as in
/// curl.
pub(super) fn net(text: &str) -> Option<IpNet> {
    let inside = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let (inner, range) = match text.split_once("]/") {
        // the brackets around the address alone
        Some((address, bits)) => (address.strip_prefix('[')?, Some(bits)),
        None => match inside.unwrap_or(text).split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (inside.unwrap_or(text), None),
        },
    };
    let address: IpAddr = inner.parse().ok()?;
    let address = address.to_canonical();
    match range {
        None => Some(IpNet::from(address)),
        Some(bits) => Some(IpNet::new(address, bits.parse().ok()?).ok()?.trunc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a connection to HOST:PORT goes direct.
    fn direct(list: &str, host: &str, port: u16) -> bool {
        let list = NoProxy::parse(list).unwrap_or_else(|why| panic!("{list:?}: {why}"));
        match host.parse::<IpAddr>() {
            Ok(address) => list.has_address(address, port),
            Err(_) => list.has_name(Name::from_policy(host).unwrap().as_ref(), port),
        }
    }

    /// The table of cases: the list, the destination, whether it goes direct.
    const CASES: &[(&str, &str, bool)] = &[
        // empty lists, and `*`
        ("", "a.example", false),
        (" , ,,", "a.example", false),
        ("*", "a.example", true),
        (" * ", "192.0.2.1", true),
        // a name, and everything below it, with or without a dot
        ("a.example", "a.example", true),
        ("a.example", "b.a.example", true),
        ("a.example", "c.b.a.example", true),
        (".a.example", "a.example", true),
        (".a.example", "b.a.example", true),
        ("*.a.example", "b.a.example", true),
        ("example", "a.example", true),
        ("b.a.example", "a.example", false),
        // at a label, never in the middle of one
        ("a.example", "xa.example", false),
        ("a.example", "a.example.net", false),
        ("a.example", "example", false),
        // case and trailing dots
        ("A.Example", "a.example", true),
        ("a.example", "A.EXAMPLE", true),
        ("a.example.", "a.example", true),
        (".a.example.", "b.a.example", true),
        // separators
        ("x.example,a.example", "a.example", true),
        ("x.example, a.example", "a.example", true),
        ("x.example a.example", "a.example", true),
        ("\tx.example\n,, a.example ,", "a.example", true),
        // localhost is a name like any other
        ("localhost", "localhost", true),
        ("localhost", "127.0.0.1", false),
        // addresses and ranges are for addresses
        ("127.0.0.1", "127.0.0.1", true),
        ("127.0.0.1", "127.0.0.2", false),
        ("127.0.0.1", "a.example", false),
        ("a.example", "127.0.0.1", false),
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("10.9.9.9/8", "10.1.2.3", true),
        ("10.0.0.0/8", "a.example", false),
        ("10.0.0.1/32", "10.0.0.1", true),
        ("0.0.0.0/0", "192.0.2.1", true),
        ("0.0.0.0/0", "2001:db8::1", false),
        // IPv6, bare and in brackets, in any spelling
        ("::1", "::1", true),
        ("[::1]", "::1", true),
        ("2001:DB8:0::1", "2001:db8::1", true),
        ("2001:db8::/32", "2001:db8:1::1", true),
        ("[2001:db8::]/32", "2001:db8:1::1", true),
        ("2001:db8::/32", "2001:db9::1", false),
        ("::ffff:192.0.2.1", "192.0.2.1", true),
    ];

    #[test]
    fn the_table_of_curls_semantics() {
        for (list, host, wanted) in CASES {
            assert_eq!(
                direct(list, host, 443),
                *wanted,
                "no_proxy {list:?}, {host}"
            );
        }
    }

    #[test]
    fn an_entry_with_a_port_is_for_that_port() {
        for (list, host, port, wanted) in [
            ("a.example:443", "a.example", 443, true),
            ("a.example:443", "b.a.example", 443, true),
            ("a.example:443", "a.example", 80, false),
            (".a.example:443", "b.a.example", 443, true),
            ("10.0.0.1:22", "10.0.0.1", 22, true),
            ("10.0.0.1:22", "10.0.0.1", 443, false),
            ("10.0.0.0/8:22", "10.3.0.1", 22, true),
            ("[2001:db8::1]:22", "2001:db8::1", 22, true),
            ("[2001:db8::1]:22", "2001:db8::1", 443, false),
            ("[2001:db8::]/32:22", "2001:db8::1", 22, true),
        ] {
            assert_eq!(
                direct(list, host, port),
                wanted,
                "no_proxy {list:?}, {host}:{port}"
            );
        }
    }

    #[test]
    fn what_is_no_entry_is_an_error() {
        for bad in [
            "a_b!",
            ".",
            "a.example:0",
            "a.example:x",
            "a.example,*",
            "10.0.0.0/33",
            "[::1",
            "http://a.example",
            "a*.example",
        ] {
            assert!(NoProxy::parse(bad).is_err(), "{bad}");
        }
        assert!(NoProxy::parse(&"a,".repeat(MAX_ENTRIES)).is_ok());
        assert!(NoProxy::parse(&"a,".repeat(MAX_ENTRIES + 1)).is_err());
    }
}
