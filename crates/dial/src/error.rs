//! Why a connection could not be opened, in the words of the policy's reasons.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;

use nix::errno::Errno;
use portcullis_dns::ResolveError;
use portcullis_policy::Reason;
use portcullis_record::Timings;

use crate::eyeballs::Tried;

/// Longest detail, in bytes.
const MAX_DETAIL_BYTES: usize = 1024;

/// A connection that could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct DialError {
    /// A refusal (`private-address`, `denied-by-rule`, `gateway-loop`) or a failure
    /// (`connection-refused`, `dns-timeout`, …).
    pub reason: Reason,
    /// What happened, address by address, for the operator's record. Never for the sandbox: it
    /// names internal addresses.
    pub detail: String,
    /// The addresses that were tried or refused.
    pub addresses: Vec<IpAddr>,
    /// How long the stages took that were reached.
    pub timings: Timings,
    /// The status with which an upstream proxy refused.
    pub received_status: Option<u16>,
}

impl DialError {
    /// A failure without addresses, timings or a proxy's answer.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> DialError {
        DialError {
            reason,
            detail: bounded(detail.into()),
            addresses: Vec::new(),
            timings: Timings::default(),
            received_status: None,
        }
    }

    /// The same with another detail.
    pub(crate) fn with_detail(mut self, detail: String) -> DialError {
        self.detail = bounded(detail);
        self
    }
}

/// A name that has no address to dial.
impl From<ResolveError> for DialError {
    fn from(error: ResolveError) -> DialError {
        let mut failed = DialError::new(error.reason, error.to_string());
        failed.addresses = error.refused;
        failed
    }
}

fn bounded(mut detail: String) -> String {
    detail.truncate(detail.floor_char_boundary(MAX_DETAIL_BYTES));
    detail
}

/// Why one address did not work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It may not be dialled.
    Refused(Reason),
    /// It did not connect.
    Network(io::Error),
    /// It did not answer in time.
    Silent,
}

impl Failure {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Failure::Refused(reason) => *reason,
            Failure::Network(error) => reason_of(error),
            Failure::Silent => Reason::ConnectionTimeout,
        }
    }

    /// How much this failure says about the destination: where several addresses failed in
    /// different ways, the most telling one names the reason.
    fn weight(&self) -> u8 {
        match self.reason() {
            Reason::ConnectionRefused => 6,
            Reason::ConnectionReset => 5,
            Reason::ConnectionTimeout => 4,
            Reason::Unreachable => 3,
            Reason::Internal | Reason::TooManyConnections => 2,
            _ => 1,
        }
    }
}

/// The reason if this process, or the host, has no free descriptor.
pub(crate) fn exhausted(error: &io::Error) -> Option<Reason> {
    match Errno::from_raw(error.raw_os_error()?) {
        Errno::EMFILE | Errno::ENFILE => Some(Reason::TooManyConnections),
        _ => None,
    }
}

/// The reason for an error of connect(2), or of socket(2) before it.
pub(crate) fn reason_of(error: &io::Error) -> Reason {
    match error.raw_os_error() {
        Some(errno) => reason_of_errno(Errno::from_raw(errno)),
        None => match error.kind() {
            // Our own word for a connection that ended at itself.
            io::ErrorKind::ConnectionRefused => Reason::ConnectionRefused,
            _ => Reason::Internal,
        },
    }
}

/// What Linux says at connect(2): by its own routes and firewall, by what ICMP and ICMPv6 told it, and
/// by what it has left of its own.
fn reason_of_errno(errno: Errno) -> Reason {
    match errno {
        Errno::ECONNREFUSED => Reason::ConnectionRefused,
        Errno::ETIMEDOUT => Reason::ConnectionTimeout,
        Errno::ECONNRESET | Errno::ECONNABORTED | Errno::EPIPE | Errno::ENETRESET => {
            Reason::ConnectionReset
        }
        // No route, a route that says no (`unreachable`, `prohibit`, `blackhole`, in this order), and
        // a device that is down or gone.
        Errno::ENETUNREACH
        | Errno::EHOSTUNREACH
        | Errno::EACCES
        | Errno::EINVAL
        | Errno::ENETDOWN
        | Errno::EHOSTDOWN
        | Errno::ENODEV
        | Errno::ENXIO
        | Errno::ESRCH
        // The host's own firewall, and a family without an address or that the kernel leaves out.
        | Errno::EPERM
        | Errno::EADDRNOTAVAIL
        | Errno::EAFNOSUPPORT
        // Other things that ICMP tells: host isolated, no such protocol, source route failed, header
        // at fault, packet too big.
        | Errno::ENONET
        | Errno::ENOPROTOOPT
        | Errno::EOPNOTSUPP
        | Errno::EPROTO
        | Errno::EMSGSIZE => Reason::Unreachable,
        // Descriptors or local ports are used up.
        Errno::EMFILE | Errno::ENFILE | Errno::EADDRINUSE | Errno::EAGAIN => {
            Reason::TooManyConnections
        }
        // No memory, or a call that should not have been made: ours, not the destination's.
        _ => Reason::Internal,
    }
}

/// One error for all addresses that failed.
pub(crate) fn all_failed(failures: &[Tried<Failure>]) -> DialError {
    let heaviest = failures
        .iter()
        .rev()
        .max_by_key(|failed| failed.result.weight());
    let reason = heaviest.map_or(Reason::NoAddress, |failed| failed.result.reason());
    let mut detail = String::new();
    for Tried {
        to: address,
        result,
    } in failures
    {
        let between = if detail.is_empty() { "" } else { "; " };
        // Writing into a String cannot fail.
        let _ = match result {
            Failure::Refused(reason) => {
                write!(detail, "{between}{address}: not dialled ({reason})")
            }
            Failure::Network(error) => write!(detail, "{between}{address}: {error}"),
            Failure::Silent => write!(detail, "{between}{address}: no answer in time"),
        };
    }
    if failures.is_empty() {
        detail.push_str("no address to dial");
    }
    let mut error = DialError::new(reason, detail);
    error.addresses = failures.iter().map(|failed| failed.to.ip()).collect();
    error
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn network(errno: Errno) -> Failure {
        Failure::Network(errno.into())
    }

    #[test]
    fn errors_of_connect_have_their_reasons() {
        use Reason::*;
        for (reason, status, socks, errnos) in [
            (ConnectionRefused, 502, 5, &[Errno::ECONNREFUSED][..]),
            (ConnectionTimeout, 504, 1, &[Errno::ETIMEDOUT]),
            (
                ConnectionReset,
                502,
                1,
                &[
                    Errno::ECONNRESET,
                    Errno::ECONNABORTED,
                    Errno::EPIPE,
                    Errno::ENETRESET,
                ],
            ),
            (
                Unreachable,
                502,
                4,
                &[
                    Errno::ENETUNREACH,
                    Errno::EHOSTUNREACH,
                    Errno::EACCES,
                    Errno::EINVAL,
                    Errno::ENETDOWN,
                    Errno::EHOSTDOWN,
                    Errno::ENODEV,
                    Errno::ENXIO,
                    Errno::ESRCH,
                    Errno::EPERM,
                    Errno::EADDRNOTAVAIL,
                    Errno::EAFNOSUPPORT,
                    Errno::ENONET,
                    Errno::ENOPROTOOPT,
                    Errno::EOPNOTSUPP,
                    Errno::EPROTO,
                    Errno::EMSGSIZE,
                ],
            ),
            (
                TooManyConnections,
                429,
                2,
                &[
                    Errno::EMFILE,
                    Errno::ENFILE,
                    Errno::EADDRINUSE,
                    Errno::EAGAIN,
                ],
            ),
            (
                Internal,
                500,
                1,
                &[
                    Errno::ENOMEM,
                    Errno::ENOBUFS,
                    Errno::EBADF,
                    Errno::EFAULT,
                    Errno::EINTR,
                    Errno::EALREADY,
                    Errno::EISCONN,
                    Errno::ENOTSOCK,
                    Errno::EPROTOTYPE,
                ],
            ),
        ] {
            assert_eq!(
                (reason.http_status(), reason.socks_reply()),
                (status, socks)
            );
            for errno in errnos {
                let error = io::Error::from_raw_os_error(*errno as i32);
                assert_eq!(reason_of(&error), reason, "{errno}");
            }
        }
    }

    #[test]
    fn the_most_telling_failure_names_the_reason() {
        let tried = |last: u8, result| Tried {
            to: SocketAddr::from(([192, 0, 2, last], 443)),
            result,
        };
        let failures = [
            tried(1, Failure::Refused(Reason::PrivateAddress)),
            tried(2, network(Errno::ENETUNREACH)),
            tried(3, network(Errno::ECONNREFUSED)),
            tried(4, Failure::Silent),
        ];
        let error = all_failed(&failures);
        assert_eq!(error.reason, Reason::ConnectionRefused);
        assert_eq!(error.addresses.len(), 4);
        assert!(
            error
                .detail
                .contains("192.0.2.1:443: not dialled (private-address)"),
            "{error}"
        );
        assert_eq!(all_failed(&failures[..1]).reason, Reason::PrivateAddress);
        assert_eq!(all_failed(&[]).reason, Reason::NoAddress);
    }

    #[test]
    fn details_are_bounded() {
        let error = DialError::new(Reason::Internal, "é".repeat(5_000));
        assert!(error.detail.len() <= MAX_DETAIL_BYTES && error.detail.len() > 1_000);
    }
}
