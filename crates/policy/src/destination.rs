//! Where a connection goes, and how the gateway knows the name of it.
//!
//! Answers *decision and destination differ* (docs/threats.md): one type says what was asked for and
//! what was shown since. It goes from the entrance through [`Policy::decide`](crate::Policy::decide)
//! to the registry of flows, so the policy weighs it in one place and nothing of it gets lost on
//! the way.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use portcullis_names::{Name, NameRef};

/// The destination of a connection.
#[derive(Clone, Debug)]
pub struct Destination<'a> {
    /// What the program asked for.
    pub asked: Asked<'a>,
    /// What the connection has shown of its destination since.
    pub shown: Shown<'a>,
}

/// What a program asked for.
#[derive(Clone, Debug)]
pub enum Asked<'a> {
    /// A name: CONNECT, SOCKS5 with a domain, a request in absolute form.
    Name(CowName<'a>),
    /// An address.
    Address {
        /// The address.
        address: IpAddr,
        /// The listed names that DNS gave it out for; empty where no lease knows it.
        owners: Cow<'a, [Name]>,
    },
    /// A synthetic address. It stands for one name and is dialled by it.
    Synthetic {
        /// The address.
        address: IpAddr,
        /// The name that it was made up for, while it stands for one. Without it the address leads
        /// nowhere, whatever the rules say about its network.
        name: Option<CowName<'a>>,
    },
}

/// What a connection has shown of its destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shown<'a> {
    /// Nothing yet, or a protocol that shows no name.
    #[default]
    Nothing,
    /// TLS without a server name.
    Hidden,
    /// An HTTP request whose host is the address itself.
    Bare,
    /// A name.
    Name(CowName<'a>, ShownBy),
}

/// Where a program showed the name of its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShownBy {
    /// The server name of a TLS handshake.
    Sni,
    /// The Host of an HTTP request.
    Host,
}

/// A name, borrowed or shared.
#[derive(Clone, Debug)]
pub enum CowName<'a> {
    /// Borrowed: making one allocates nothing.
    Borrowed(NameRef<'a>),
    /// Shared: cloning it allocates nothing.
    Owned(Name),
}

impl CowName<'_> {
    /// The name.
    pub fn as_ref(&self) -> NameRef<'_> {
        match self {
            CowName::Borrowed(name) => *name,
            CowName::Owned(name) => name.as_ref(),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        match self {
            CowName::Borrowed(name) => name.as_str(),
            CowName::Owned(name) => name.as_str(),
        }
    }

    /// The same name, to be kept. Allocates where it is borrowed.
    pub fn into_owned(self) -> CowName<'static> {
        CowName::Owned(match self {
            CowName::Borrowed(name) => name.to_name(),
            CowName::Owned(name) => name,
        })
    }

    fn borrowed(&self) -> CowName<'_> {
        CowName::Borrowed(self.as_ref())
    }
}

impl fmt::Display for CowName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl PartialEq for CowName<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl Eq for CowName<'_> {}

impl<'a> From<NameRef<'a>> for CowName<'a> {
    fn from(name: NameRef<'a>) -> Self {
        CowName::Borrowed(name)
    }
}

impl From<Name> for CowName<'_> {
    fn from(name: Name) -> Self {
        CowName::Owned(name)
    }
}

impl<'a> Asked<'a> {
    /// An address and the listed names that own it.
    pub fn address(address: IpAddr, owners: &'a [Name]) -> Asked<'a> {
        Asked::Address {
            address,
            owners: Cow::Borrowed(owners),
        }
    }

    /// The name asked for; none of a program that asked for an address.
    pub fn name(&self) -> Option<NameRef<'_>> {
        match self {
            Asked::Name(name) => Some(name.as_ref()),
            Asked::Address { .. } | Asked::Synthetic { .. } => None,
        }
    }

    /// The first of the names that the address asked for belongs to.
    pub fn owner(&self) -> Option<NameRef<'_>> {
        match self {
            Asked::Name(_) => None,
            Asked::Address { owners, .. } => owners.first().map(Name::as_ref),
            Asked::Synthetic { name, .. } => name.as_ref().map(CowName::as_ref),
        }
    }

    /// The address asked for.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Asked::Name(_) => None,
            Asked::Address { address, .. } | Asked::Synthetic { address, .. } => Some(*address),
        }
    }

    /// The same, borrowed. Allocates nothing.
    pub fn borrowed(&self) -> Asked<'_> {
        match self {
            Asked::Name(name) => Asked::Name(name.borrowed()),
            Asked::Address { address, owners } => Asked::address(*address, owners),
            Asked::Synthetic { address, name } => Asked::Synthetic {
                address: *address,
                name: name.as_ref().map(CowName::borrowed),
            },
        }
    }

    /// The same, to be kept. Allocates for what is borrowed.
    pub fn into_owned(self) -> Asked<'static> {
        match self {
            Asked::Name(name) => Asked::Name(name.into_owned()),
            Asked::Address { address, owners } => Asked::Address {
                address,
                owners: Cow::Owned(owners.into_owned()),
            },
            Asked::Synthetic { address, name } => Asked::Synthetic {
                address,
                name: name.map(CowName::into_owned),
            },
        }
    }

    /// The destination of a connection that has shown nothing yet.
    pub fn unshown(self) -> Destination<'a> {
        self.showing(Shown::Nothing)
    }

    /// The destination of a connection that has shown this.
    pub fn showing(self, shown: Shown<'a>) -> Destination<'a> {
        Destination { asked: self, shown }
    }
}

impl<'a> Shown<'a> {
    /// A server name in a TLS handshake.
    pub fn sni(name: impl Into<CowName<'a>>) -> Shown<'a> {
        Shown::Name(name.into(), ShownBy::Sni)
    }

    /// The host that an HTTP request names.
    pub fn host(name: impl Into<CowName<'a>>) -> Shown<'a> {
        Shown::Name(name.into(), ShownBy::Host)
    }

    /// The same, borrowed. Allocates nothing.
    pub fn borrowed(&self) -> Shown<'_> {
        match self {
            Shown::Nothing => Shown::Nothing,
            Shown::Hidden => Shown::Hidden,
            Shown::Bare => Shown::Bare,
            Shown::Name(name, by) => Shown::Name(name.borrowed(), *by),
        }
    }

    /// The same, to be kept. Allocates for what is borrowed.
    pub fn into_owned(self) -> Shown<'static> {
        match self {
            Shown::Nothing => Shown::Nothing,
            Shown::Hidden => Shown::Hidden,
            Shown::Bare => Shown::Bare,
            Shown::Name(name, by) => Shown::Name(name.into_owned(), by),
        }
    }
}

impl<'a> Destination<'a> {
    /// A name that was asked for.
    pub fn name(name: impl Into<CowName<'a>>) -> Destination<'a> {
        Asked::Name(name.into()).unshown()
    }

    /// An address that no lease knows.
    pub fn address(address: IpAddr) -> Destination<'a> {
        Asked::address(address, &[]).unshown()
    }

    /// An address that DNS gave out for these names.
    pub fn leased(address: IpAddr, owners: &'a [Name]) -> Destination<'a> {
        Asked::address(address, owners).unshown()
    }

    /// The same destination after the connection has shown this.
    #[must_use]
    pub fn showing(self, shown: Shown<'a>) -> Destination<'a> {
        Destination { shown, ..self }
    }
}
