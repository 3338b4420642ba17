//! Why something was allowed, refused or failed: the one closed list.
//!
//! DNS extra text, HTTP headers, SOCKS replies, decision records, metrics and the documentation all
//! take their words from here, so that an operator who greps a code finds it everywhere. A reason
//! that is not in this file does not exist.

use serde::{Serialize, Serializer};

use crate::verdict::Verdict;

/// RFC 8914 "Other": a limit refused the query.
const EDE_OTHER: u16 = 0;
/// RFC 8914 "Stale Answer": an earlier answer, because the upstream resolvers fail.
const EDE_STALE_ANSWER: u16 = 3;
/// RFC 8914 "Blocked": policy refused the name.
const EDE_BLOCKED: u16 = 15;
/// RFC 8914 "Prohibited": the resolver is not there for this client.
const EDE_PROHIBITED: u16 = 18;
/// RFC 8914 "Not Supported": the record type is not served.
const EDE_NOT_SUPPORTED: u16 = 21;
/// RFC 8914 "No Reachable Authority": no upstream resolver answered.
const EDE_NO_REACHABLE_AUTHORITY: u16 = 22;
/// RFC 8914 "Network Error": an upstream resolver answered with nonsense or an error.
const EDE_NETWORK_ERROR: u16 = 23;

/// SOCKS5 reply codes, RFC 1928 section 6.
mod socks {
    pub const SUCCEEDED: u8 = 0x00;
    pub const FAILURE: u8 = 0x01;
    pub const NOT_ALLOWED: u8 = 0x02;
    pub const UNREACHABLE: u8 = 0x04;
    pub const REFUSED: u8 = 0x05;
    pub const UNSUPPORTED: u8 = 0x07;
}

/// One row of the table below.
struct Row {
    code: &'static str,
    verdict: Verdict,
    sentence: &'static str,
    http_error: Option<&'static str>,
    http_status: u16,
    ede: Option<u16>,
    socks: u8,
    proxy_status: &'static str,
}

const ALLOWLIST: Option<&str> = Some("blocked-by-allowlist");
const DENYLIST: Option<&str> = Some("blocked-by-denylist");
const PORT_POLICY: Option<&str> = Some("blocked-by-port-policy");
const PRIVATE: Option<&str> = Some("blocked-by-private-address");
const METHOD_POLICY: Option<&str> = Some("blocked-by-method-policy");
const PATH_POLICY: Option<&str> = Some("blocked-by-path-policy");

const fn allow(code: &'static str, sentence: &'static str) -> Row {
    Row {
        code,
        verdict: Verdict::Allow,
        sentence,
        http_error: None,
        http_status: 200,
        ede: None,
        socks: socks::SUCCEEDED,
        proxy_status: "",
    }
}

const fn deny(code: &'static str, http_error: Option<&'static str>, sentence: &'static str) -> Row {
    Row {
        code,
        verdict: Verdict::Deny,
        sentence,
        http_error,
        http_status: 403,
        ede: Some(EDE_BLOCKED),
        socks: socks::NOT_ALLOWED,
        proxy_status: "http_request_denied",
    }
}

const fn error(
    code: &'static str,
    http_status: u16,
    proxy_status: &'static str,
    ede: Option<u16>,
    sentence: &'static str,
) -> Row {
    Row {
        code,
        verdict: Verdict::Error,
        sentence,
        http_error: None,
        http_status,
        ede,
        socks: socks::FAILURE,
        proxy_status,
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $row:expr;)*) => {
        /// Why a decision fell as it did, or why an allowed request failed all the same.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            const fn row(self) -> Row {
                match self { $(Reason::$name => $row,)* }
            }
        }
    };
}

reasons! {
    /// A rule lists it.
    Allowed = allow("allowed", "A rule of the policy allows this.");
    /// The canonical name that a listed name's CNAME chain led to.
    CanonicalName = allow("canonical-name", "This is the canonical name of a listed name.");
    /// A PTR question for an address that was given out for a listed name.
    ReverseLookup = allow("reverse-lookup", "This address was given out for a listed name.");
    /// A proxy was asked for a server of the sandbox's own.
    OwnServer = allow("own-server", "This is the sandbox itself, which needs no rule.");
    /// An allowed name's earlier answer, given out although it has run out (RFC 8767).
    StaleAnswer = Row {
        ede: Some(EDE_STALE_ANSWER),
        ..allow(
            "stale-answer",
            "The upstream resolvers failed or were slow; an earlier answer was given out again.",
        )
    };
    /// The gateway's own start-up probe.
    SelfProbe = allow("self-probe", "The gateway's own probe at start-up.");
    /// The first record of a log.
    Started = allow("started", "The gateway started; `detail` says which build it is.");
    /// A changed policy came into force.
    PolicyReloaded = allow(
        "policy-reloaded",
        "Another policy came into force; `detail` says what that changed.",
    );

    /// No rule lists the name.
    NotListed = deny("not-in-allowlist", ALLOWLIST, "The name is not on the allowlist.");
    /// A deny rule covers it; deny always wins.
    DeniedByRule = deny("denied-by-rule", DENYLIST, "A rule denies this by name or address.");
    /// The name or address is listed, but not with this port.
    PortNotAllowed = deny("port-not-allowed", PORT_POLICY, "This is listed, but not on this port.");
    /// The destination is listed, but its rule has other methods, or the mode is `limited`.
    MethodNotAllowed = deny(
        "method-not-allowed",
        METHOD_POLICY,
        "The destination is listed, but not for requests with this method.",
    );
    /// The destination is listed, but its rule has other paths, or the path could be read as two.
    PathNotAllowed = deny(
        "path-not-allowed",
        PATH_POLICY,
        "The destination is listed, but not for requests with this path.",
    );
    /// The address is one that the guard keeps from programs (*addresses*, docs/threats.md).
    PrivateAddress = Row {
        proxy_status: "destination_ip_prohibited",
        ..deny(
            "private-address",
            PRIVATE,
            "The address is private, local or reserved, and no address rule lifts that.",
        )
    };
    /// A direct connection to an address that DNS did not give out for a listed name.
    AddressNotLeased = deny(
        "address-not-leased",
        ALLOWLIST,
        "The address was not given out by DNS for a listed name, and no address rule has it.",
    );
    /// TLS without a server name on a direct connection.
    SniMissing = deny("sni-missing", ALLOWLIST, "The TLS handshake names no server (SNI).");
    /// TLS with a server name that is not listed.
    SniNotListed = deny(
        "sni-not-listed",
        ALLOWLIST,
        "The server name in the TLS handshake (SNI) is not on the allowlist.",
    );
    /// TLS with a listed server name that does not own this address, or differs from the name asked for.
    SniMismatch = deny(
        "sni-mismatch",
        ALLOWLIST,
        "The server name in the TLS handshake (SNI) does not belong to this destination.",
    );
    /// An HTTP Host that does not belong to this address, or differs from the request's target.
    HostMismatch = deny(
        "host-mismatch",
        ALLOWLIST,
        "The Host of the HTTP request does not belong to this destination.",
    );
    /// UDP, ICMP, SOCKS BIND and the like.
    ProtocolNotAllowed = Row {
        socks: socks::UNSUPPORTED,
        ..deny("protocol-not-allowed", None, "The gateway does not let this protocol out.")
    };
    /// A guest behind a TAP sent it under an address that is not its own.
    SpoofedSource = deny(
        "spoofed-source",
        None,
        "The sender's address is not the guest's own.",
    );
    /// The name is listed, but this DNS record type is not served.
    TypeNotServed = Row {
        ede: Some(EDE_NOT_SUPPORTED),
        ..deny("type-not-served", None, "The resolver does not serve this record type.")
    };
    /// AXFR or IXFR.
    TransferRefused = deny("transfer-refused", None, "Zone transfers are not served.");
    /// Bytes that are not what the protocol says.
    Malformed = Row {
        http_status: 400,
        ede: None,
        proxy_status: "http_request_error",
        ..deny("malformed", None, "The request is not well formed.")
    };
    /// A connection that would come back to the gateway's own listeners.
    GatewayLoop = Row {
        proxy_status: "proxy_loop_detected",
        ..deny("gateway-loop", PRIVATE, "The destination is the gateway itself.")
    };
    /// A client from a network that the listener does not serve (`serve --allow-from`).
    ClientNotAllowed = Row {
        ede: Some(EDE_PROHIBITED),
        ..deny("client-not-allowed", None, "This listener does not serve clients from this network.")
    };
    /// Too many queries, new names or connections in a time.
    RateLimited = Row {
        http_status: 429,
        ede: Some(EDE_OTHER),
        ..deny("rate-limited", None, "A rate limit is used up; try again later.")
    };
    /// Too many connections at once.
    TooManyConnections = Row {
        http_status: 429,
        ede: Some(EDE_OTHER),
        proxy_status: "connection_limit_reached",
        ..deny("too-many-connections", None, "Too many connections are open; try again later.")
    };
    /// `total_bytes` of the sandbox or of the rule.
    TotalBytesUsed = Row {
        http_status: 429,
        ede: Some(EDE_OTHER),
        ..deny("total-bytes-used", None, "The number of bytes that may pass is used up.")
    };

    /// A completion of another name by the search list, which no rule lists.
    SearchExpansion = error(
        "search-expansion", 502, "dns_error", None,
        "The search list of `resolv.conf` made these names of others; no rule lists them, and nobody was asked.",
    );
    /// The upstream resolver says that the name does not exist.
    NameNotFound = Row {
        socks: socks::UNREACHABLE,
        ..error(
            "name-not-found", 502, "dns_error", None,
            "The name is allowed, but does not exist (NXDOMAIN from the upstream resolver).",
        )
    };
    /// The name exists, but has no usable address.
    NoAddress = Row {
        socks: socks::UNREACHABLE,
        ..error("no-address", 502, "dns_error", None, "The name is allowed, but has no address.")
    };
    /// No upstream resolver answered in time.
    DnsTimeout = error(
        "dns-timeout", 504, "dns_timeout", Some(EDE_NO_REACHABLE_AUTHORITY),
        "No upstream resolver answered in time.",
    );
    /// No upstream resolver could be reached.
    DnsUnreachable = error(
        "dns-unreachable", 502, "dns_error", Some(EDE_NO_REACHABLE_AUTHORITY),
        "No upstream resolver can be reached.",
    );
    /// The upstream resolver answered with an error or with nonsense.
    DnsFailed = error(
        "dns-failed", 502, "dns_error", Some(EDE_NETWORK_ERROR),
        "The upstream resolver answered with an error.",
    );
    /// The destination refused the connection.
    ConnectionRefused = Row {
        socks: socks::REFUSED,
        ..error(
            "connection-refused", 502, "connection_refused", None,
            "The destination is allowed, but refused the connection.",
        )
    };
    /// The destination did not answer.
    ConnectionTimeout = error(
        "connection-timeout", 504, "connection_timeout", None,
        "The destination is allowed, but did not answer in time.",
    );
    /// The host has no way to the destination.
    Unreachable = Row {
        socks: socks::UNREACHABLE,
        ..error(
            "unreachable", 502, "destination_ip_unroutable", None,
            "The destination is allowed, but the host has no way to it.",
        )
    };
    /// The destination closed or reset the connection.
    ConnectionReset = error(
        "connection-reset", 502, "connection_terminated", None,
        "The destination ended the connection.",
    );
    /// The certificate of an inspected destination does not hold.
    CertificateInvalid = error(
        "certificate-invalid", 502, "tls_certificate_error", None,
        "The destination's certificate is not valid for its name, or not trusted.",
    );
    /// No TLS session with an inspected destination.
    TlsFailed = error(
        "tls-failed", 502, "tls_protocol_error", None,
        "The destination is allowed, but no TLS session with it could be set up.",
    );
    /// The upstream proxy cannot be reached, or says that it could not reach the destination.
    UpstreamProxyFailed = error(
        "upstream-proxy-failed", 502, "destination_unavailable", None,
        "The upstream proxy cannot be reached, or could not reach the destination.",
    );
    /// The upstream proxy refused: credentials, or rules of its own.
    UpstreamProxyRefused = error(
        "upstream-proxy-refused", 502, "http_request_denied", None,
        "The destination is allowed, but the upstream proxy refused the connection.",
    );
    /// The upstream proxy did not answer.
    UpstreamProxyTimeout = error(
        "upstream-proxy-timeout", 504, "connection_timeout", None,
        "The upstream proxy did not answer in time.",
    );
    /// The upstream proxy closed or reset the connection instead of answering.
    UpstreamProxyClosed = error(
        "upstream-proxy-closed", 502, "connection_terminated", None,
        "The upstream proxy ended the connection without an answer.",
    );
    /// The upstream proxy does not speak the protocol that its URL says.
    UpstreamProxyProtocol = error(
        "upstream-proxy-protocol", 502, "http_protocol_error", None,
        "The upstream proxy answered with something that is not its protocol.",
    );
    /// The certificate of a proxy that is spoken to in TLS does not hold.
    UpstreamProxyCertificate = error(
        "upstream-proxy-certificate", 502, "tls_certificate_error", None,
        "The upstream proxy's certificate is not trusted.",
    );
    /// The destination does not speak the protocol it should.
    UpstreamProtocol = error(
        "upstream-protocol", 502, "http_protocol_error", None,
        "The destination answered with something that is not the protocol asked for.",
    );
    /// A changed policy was not taken over.
    PolicyRejected = error(
        "policy-rejected", 500, "proxy_internal_error", Some(EDE_OTHER),
        "A changed policy could not be taken over; the one before stays in force.",
    );
    /// A fault of the gateway.
    Internal = error(
        "internal", 500, "proxy_internal_error", Some(EDE_OTHER),
        "The gateway itself failed.",
    );
}

impl Reason {
    /// The code, as in records, headers and DNS extra text: lower-case words joined by dashes.
    pub const fn code(self) -> &'static str {
        self.row().code
    }

    /// The reason with this code.
    pub fn from_code(code: &str) -> Option<Reason> {
        Reason::ALL
            .iter()
            .copied()
            .find(|reason| reason.code() == code)
    }

    /// One sentence for a person. It names no rule, no file and no address, so the sandbox may see it.
    pub const fn sentence(self) -> &'static str {
        self.row().sentence
    }

    /// What this reason means for a request when nothing softens it (audit does).
    pub const fn verdict(self) -> Verdict {
        self.row().verdict
    }

    /// The value of the `x-proxy-error` header, for reasons that policy owns.
    pub const fn http_error(self) -> Option<&'static str> {
        self.row().http_error
    }

    /// The HTTP status of a proxy's answer.
    pub const fn http_status(self) -> u16 {
        self.row().http_status
    }

    /// The extended DNS error (RFC 8914), where one fits.
    pub const fn ede(self) -> Option<u16> {
        self.row().ede
    }

    /// The SOCKS5 reply (RFC 1928 section 6).
    pub const fn socks_reply(self) -> u8 {
        self.row().socks
    }

    /// The error type of `Proxy-Status` (RFC 9209 section 2.3); empty for what is allowed.
    pub const fn proxy_status(self) -> &'static str {
        self.row().proxy_status
    }

    /// Whether this refusal stands in audit mode too: the address guard, and what the gateway cannot
    /// serve whatever the policy says.
    pub const fn stands_in_audit(self) -> bool {
        matches!(
            self,
            Reason::PrivateAddress
                | Reason::ProtocolNotAllowed
                | Reason::SpoofedSource
                | Reason::TypeNotServed
                | Reason::TransferRefused
                | Reason::Malformed
                | Reason::GatewayLoop
                | Reason::RateLimited
                | Reason::TooManyConnections
        )
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_words_joined_by_dashes() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        for code in &codes {
            assert!(
                code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{code}"
            );
            assert_eq!(Reason::from_code(code).map(Reason::code), Some(*code));
        }
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert_eq!(Reason::from_code("made-up"), None);
    }

    #[test]
    fn every_denial_has_a_signature_at_every_layer() {
        for &reason in Reason::ALL {
            match reason.verdict() {
                Verdict::Allow => {
                    assert_eq!(reason.socks_reply(), 0);
                    assert_eq!(reason.http_status(), 200);
                }
                Verdict::Deny => {
                    assert!((400..500).contains(&reason.http_status()), "{reason}");
                    let unsupported = reason == Reason::ProtocolNotAllowed;
                    assert_eq!(
                        reason.socks_reply(),
                        if unsupported { 7 } else { 2 },
                        "{reason}"
                    );
                    assert!(!reason.proxy_status().is_empty(), "{reason}");
                }
                Verdict::Error => {
                    assert!(
                        reason.http_status() >= 500,
                        "{reason}: an error is never a 403"
                    );
                    assert_eq!(
                        reason.http_error(),
                        None,
                        "{reason}: policy did not block this"
                    );
                    assert_ne!(reason.socks_reply(), 0, "{reason}");
                    assert_ne!(reason.ede(), Some(EDE_BLOCKED), "{reason}");
                }
                Verdict::Audit => panic!("{reason}: audit is a mode, not a reason's meaning"),
            }
            assert!(reason.sentence().ends_with('.'), "{reason}");
        }
    }

    #[test]
    fn the_http_words() {
        assert_eq!(Reason::NotListed.http_error(), Some("blocked-by-allowlist"));
        assert_eq!(
            Reason::DeniedByRule.http_error(),
            Some("blocked-by-denylist")
        );
        assert_eq!(
            Reason::PortNotAllowed.http_error(),
            Some("blocked-by-port-policy")
        );
        assert_eq!(
            Reason::PrivateAddress.http_error(),
            Some("blocked-by-private-address")
        );
        assert_eq!(
            Reason::PrivateAddress.proxy_status(),
            "destination_ip_prohibited"
        );
        assert_eq!(
            Reason::MethodNotAllowed.http_error(),
            Some("blocked-by-method-policy")
        );
        assert_eq!(
            Reason::PathNotAllowed.http_error(),
            Some("blocked-by-path-policy")
        );
        assert_eq!(Reason::RateLimited.http_status(), 429);
        assert_eq!(Reason::ConnectionTimeout.http_status(), 504);
    }
}
