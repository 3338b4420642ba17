//! A grant of an address to a name, and why one fails.

use std::io;
use std::time::Duration;

use ipnet::Ipv4Net;
use portcullis_names::{Name, PortSet};
use portcullis_policy::Reason;

/// Why an address could not be leased; the answer is then not given out.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The table holds as many fresh leases as it may.
    #[error("too many leased addresses")]
    Full,
    /// Every synthetic address is in use, or was until a short while ago.
    #[error("every address of the synthetic range {0} is in use")]
    RangeFull(Ipv4Net),
    /// There is no range to take a synthetic address from.
    #[error("no synthetic range is set up")]
    NoRange,
    /// An address of the synthetic range is no name's real address.
    #[error("the address is in the synthetic range")]
    Synthetic,
    /// The kernel did not take the address.
    #[error("the kernel's gate did not open: {0}")]
    Gate(#[from] io::Error),
}

impl GrantError {
    /// What the record and the program are told.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            GrantError::Full | GrantError::RangeFull(_) => Reason::RateLimited,
            GrantError::Synthetic => Reason::PrivateAddress,
            GrantError::NoRange | GrantError::Gate(_) => Reason::Internal,
        }
    }
}

/// One grant: whose, on which ports, for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant<'a> {
    /// The listed name that the address is given out for.
    pub name: &'a Name,
    /// The end of the name's CNAME chain, where there is one.
    pub canonical: Option<&'a Name>,
    /// The ports on which the policy lets the name be reached.
    pub ports: &'a PortSet,
    /// How long the answer holds.
    pub ttl: Duration,
}
