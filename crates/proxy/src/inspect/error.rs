//! Why there is no inspection.

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
