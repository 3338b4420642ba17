//! What a gateway inspects with: an authority for the names that are inspected, and what upstreams are
//! verified against.

use portcullis_dial::Stream;
use portcullis_names::{Name, NameRef, Pattern};
use portcullis_policy::Policy;

use super::authority::Authority;
use super::error::InspectError;
use super::leaves::Leaves;
use super::upstream::{Secured, Upstreams};
use crate::open_error::OpenError;
use crate::target::Ruling;

/// What one gateway inspects with.
pub struct Inspector {
    pub(super) leaves: Leaves,
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

    pub(super) fn holds_for(&self, name: NameRef<'_>) -> bool {
        self.leaves.authority().covers(name)
    }

    pub(super) async fn secure(
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
    policy.inspected().collect()
}

/// The name that a connection is inspected by, where the decision on it says so.
pub(crate) fn by_name(ruling: &Ruling) -> Option<Name> {
    let inspect = ruling.terms().is_some_and(|terms| terms.inspect);
    ruling.name.clone().filter(|_| inspect)
}
