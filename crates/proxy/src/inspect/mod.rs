//! Inspection of HTTPS, for names whose rule says `inspect = true` and for no other.
//!
//! The program's TLS ends here, with a certificate of an authority that only this sandbox trusts;
//! another TLS connection leads to upstream, whose certificate is verified as the program would
//! have done. In between, each request is decided on by its method and path, which is what rules
//! with `methods` and `paths` need.
//!
//! Answers "decision and destination differ" inside TLS, and keeps what inspection costs small: the
//! authority's key never leaves this process's memory, its certificate holds for the inspected
//! names alone, and everything not listed passes without being looked into.
//!
//! Invariant: nothing is dialled, and no TLS is answered, before the name was decided on.
//! Invariant: a program is only shown a certificate for the name that was decided on.
//! Invariant: nothing but HTTP passes on an inspected connection, each request decided on by itself.

mod accept;
mod alpn;
mod authority;
mod body;
mod exchange;
mod fields;
mod io;
mod leaves;
mod limits;
mod sender;
mod serve;
mod services;
mod tasks;
mod upstream;
mod words;

pub(crate) use self::accept::{ToInspect, inspect};
pub(crate) use self::services::Services;
use portcullis_dial::Stream;
use portcullis_names::{Name, NameRef, Pattern};
use portcullis_policy::Policy;

use self::authority::Authority;
use self::leaves::Leaves;
use self::upstream::{Secured, Upstreams};
use crate::open_error::OpenError;
use crate::target::Ruling;

/// Why a gateway cannot inspect, or not this.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// More names than one authority can be held to.
    #[error(
        "{inspected} or more rules inspect, and an authority is held to {most} names at most: use \
         wildcard rules"
    )]
    TooMany {
        /// How many there are, at least.
        inspected: usize,
        /// How many there may be.
        most: usize,
    },
    /// A name that the authority of this gateway was not made for.
    #[error(
        "this gateway's certificate authority was made without {0}, which the policy now inspects: \
         start the sandbox again"
    )]
    NotCovered(String),
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificates(String),
}

impl From<rcgen::Error> for InspectError {
    fn from(error: rcgen::Error) -> InspectError {
        InspectError::Certificates(error.to_string())
    }
}

impl From<rustls::Error> for InspectError {
    fn from(error: rustls::Error) -> InspectError {
        InspectError::Certificates(error.to_string())
    }
}

/// What one gateway inspects with.
pub struct Inspector {
    leaves: Leaves,
    upstreams: Upstreams,
}

impl std::fmt::Debug for Inspector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Nothing of a key, by any way of writing it.
        f.write_str("Inspector")
    }
}

impl Inspector {
    /// Makes an authority for the names that this policy inspects; `None` where it inspects none.
    ///
    /// # Errors
    /// Too many names, or no random bytes for the key.
    pub fn new(policy: &Policy) -> Result<Option<Inspector>, InspectError> {
        let patterns: Vec<Pattern> = inspected(policy);
        if patterns.is_empty() {
            return Ok(None);
        }
        let authority = Authority::new(patterns.iter())?;
        Ok(Some(Inspector {
            leaves: Leaves::new(authority, portcullis_tls::provider())?,
            upstreams: Upstreams::default(),
        }))
    }

    /// The authority's certificate, PEM: what programs have to trust. It is no secret.
    pub fn ca_pem(&self) -> String {
        self.leaves.authority().pem()
    }

    /// Whether this authority does for another policy: programs trust it already, and no other.
    ///
    /// # Errors
    /// [`InspectError::NotCovered`] names what it was not made for.
    pub fn covers(&self, policy: &Policy) -> Result<(), InspectError> {
        match inspected(policy)
            .iter()
            .find(|pattern| !self.holds_for(pattern.base()))
        {
            Some(pattern) => Err(InspectError::NotCovered(pattern.to_string())),
            None => Ok(()),
        }
    }

    fn holds_for(&self, name: NameRef<'_>) -> bool {
        self.leaves.authority().covers(name)
    }

    async fn secure(
        &self,
        stream: Stream,
        name: NameRef<'_>,
        ruling: &Ruling,
        offer: Vec<Vec<u8>>,
    ) -> Result<Secured, OpenError> {
        let ca = ruling.terms().and_then(|terms| terms.ca_pem.as_ref());
        self.upstreams.secure(stream, name, ca, offer).await
    }
}

/// Whether a gateway with this inspector, or with none, can put a policy in force.
///
/// # Errors
/// The policy inspects a name that the gateway has no certificates for.
pub fn covers(inspector: Option<&Inspector>, policy: &Policy) -> Result<(), InspectError> {
    match inspector {
        Some(inspector) => inspector.covers(policy),
        None => match inspected(policy).first() {
            Some(pattern) => Err(InspectError::NotCovered(pattern.to_string())),
            None => Ok(()),
        },
    }
}

fn inspected(policy: &Policy) -> Vec<Pattern> {
    policy.inspected().map(|(pattern, _)| pattern).collect()
}

/// The name that a connection is inspected by, where the decision on it says so.
pub(crate) fn by_name(ruling: &Ruling) -> Option<Name> {
    let inspect = ruling.terms().is_some_and(|terms| terms.inspect);
    ruling.name.clone().filter(|_| inspect)
}
