//! Which fields of a message pass through the gateway: one list for every codec.
//!
//! Answers *HTTP framing*
//! (docs/threats.md): fields of one hop and fields that a codec writes anew stay behind, a client
//! does not speak as a proxy, upstream does not speak as the gateway, and a trailer says nothing that
//! a field may not.

/// A part of a message that has fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// Of a request's head.
    Request,
    /// Behind a request's body. Servers add trailers to the fields that were decided on, so nothing
    /// that decides about a request may stand there (RFC 9110 section 6.5.1).
    RequestTrailers,
    /// Of an answer's head.
    Response,
    /// Behind an answer's body.
    ResponseTrailers,
}

/// Fields of one hop (RFC 9110 section 7.6.1) and of its framing. Where a hop needs one of them, its
/// codec writes it.
const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Fields of a request that the gateway writes, or that only a proxy may send: by them servers,
/// frameworks and gateways take another host, scheme or file than the request says. All that begin with
/// one of [`PROXY_PREFIXES`] are among them.
const OF_A_PROXY: [&str; 14] = [
    "forwarded",
    "front-end-https",
    "host",
    // CGI makes HTTP_PROXY of it ("httpoxy").
    "proxy",
    "via",
    "x-envoy-original-host",
    "x-forwarded",
    "x-forward",
    "x-host",
    "x-http-host-override",
    "x-original-host",
    "x-rewrite-host",
    "x-sendfile-type",
    "x-url-scheme",
];
/// See [`OF_A_PROXY`].
const PROXY_PREFIXES: [&str; 3] = ["proxy-", "x-accel-", "x-forwarded-"];

/// Fields of an answer by which the gateway tells of its own refusals, `Proxy-Status` (RFC 9209)
/// among them.
const OF_THE_GATEWAY: &str = "x-proxy-error";
/// See [`OF_THE_GATEWAY`].
const GATEWAY_PREFIX: &str = "proxy-";

/// What a server takes from a field in place of the request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Override {
    /// Another method.
    Method,
    /// Another path.
    Path,
}

/// Fields by which servers, frameworks and gateways take another method or path than the request
/// line's: IIS, Symfony, Zend, Rack, Spring, Azure, Envoy, Traefik, Next.js, WSGI's usual middleware.
const OVERRIDES: [(&str, Override); 26] = [
    ("http-method-override", Override::Method),
    ("x-http-method", Override::Method),
    ("x-http-method-override", Override::Method),
    ("x-method", Override::Method),
    ("x-method-override", Override::Method),
    // WebDAV's COPY and MOVE write there (RFC 4918 section 10.3).
    ("destination", Override::Path),
    // IIS hands out a script's source in place of its answer.
    ("translate", Override::Path),
    ("x-envoy-original-path", Override::Path),
    ("x-http-destinationurl", Override::Path),
    ("x-http-path-override", Override::Path),
    ("x-invoke-path", Override::Path),
    ("x-matched-path", Override::Path),
    ("x-middleware-rewrite", Override::Path),
    ("x-ms-original-url", Override::Path),
    ("x-original-path", Override::Path),
    ("x-original-uri", Override::Path),
    ("x-original-url", Override::Path),
    ("x-override-url", Override::Path),
    ("x-path-info", Override::Path),
    ("x-replaced-path", Override::Path),
    ("x-request-uri", Override::Path),
    ("x-request-url", Override::Path),
    ("x-rewrite-uri", Override::Path),
    ("x-rewrite-url", Override::Path),
    ("x-script-name", Override::Path),
    ("x-waws-unencoded-url", Override::Path),
];

/// What the field overrides, if it does.
pub(crate) fn overrides(name: &str) -> Option<Override> {
    let known = OVERRIDES.iter().find(|(known, _)| alike(name, known));
    known.map(|(_, what)| *what)
}

/// The fields of one section that pass.
#[derive(Debug)]
pub(crate) struct Passing<'f> {
    section: Section,
    /// Names that the section's `Connection` fields take out.
    named: Vec<&'f [u8]>,
}

impl<'f> Passing<'f> {
    /// What passes of these fields.
    pub(crate) fn of(
        section: Section,
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
    ) -> Passing<'f> {
        let named = fields
            .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
            .flat_map(|(_, value)| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|name| !name.is_empty())
            .collect();
        Passing { section, named }
    }

    /// Whether a field of this name passes.
    pub(crate) fn lets(&self, name: &str) -> bool {
        let named = |token: &&[u8]| token.eq_ignore_ascii_case(name.as_bytes());
        !self.named.iter().any(named) && !stays_behind(name, self.section)
    }
}

fn stays_behind(name: &str, section: Section) -> bool {
    let is_one_of = |known: &[&str]| known.iter().any(|known| alike(name, known));
    let begins = |prefix: &&str| {
        let start = name.get(..prefix.len());
        start.is_some_and(|start| alike(start, prefix))
    };
    if is_one_of(&HOP_BY_HOP) {
        return true;
    }
    match section {
        Section::Request => is_one_of(&OF_A_PROXY) || PROXY_PREFIXES.iter().any(begins),
        Section::RequestTrailers => {
            stays_behind(name, Section::Request)
                || alike(name, "expect")
                || overrides(name).is_some()
        }
        Section::Response | Section::ResponseTrailers => {
            alike(name, OF_THE_GATEWAY) || begins(&GATEWAY_PREFIX)
        }
    }
}

/// Whether two names are one to some server: case does not count, and where fields are handed on as
/// variables (CGI, WSGI) every byte but letters and digits is the same.
fn alike(name: &str, known: &str) -> bool {
    let plain = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => byte.to_ascii_lowercase(),
        false => b'-',
    };
    name.len() == known.len() && name.bytes().map(plain).eq(known.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing<'f>(section: Section, fields: &[(&'f str, &'f str)]) -> Vec<&'f str> {
        let pairs = || fields.iter().map(|(n, v)| (*n, v.as_bytes()));
        let passing = Passing::of(section, pairs());
        pairs()
            .map(|(n, _)| n)
            .filter(|n| passing.lets(n))
            .collect()
    }

    #[test]
    fn client_sent_proxy_fields_do_not_get_through() {
        let sent = [
            ("Host", "a.example"),
            ("Proxy-Authorization", "Basic eA=="),
            ("PROXY-Foo", "x"),
            ("proxy_foo", "x"),
            ("X-Forwarded-For", "1.2.3.4"),
            ("X_Forwarded_Host", "evil.example"),
            ("Forwarded", "for=1.2.3.4"),
            ("Via", "1.1 evil"),
            ("Proxy", "http://evil.example"),
            ("PROXY_", "x"),
            ("X.Forwarded_For", "1.2.3.4"),
            ("X-Forwarded", "for=1.2.3.4"),
            ("X_Host", "evil.example"),
            ("X-Original-Host", "evil.example"),
            ("Front_End-Https", "on"),
            ("X-Accel-Mapping", "/=/"),
            ("Connection", "keep-alive, X-Secret"),
            ("X-Secret", "y"),
            ("Keep-Alive", "5"),
            ("TE", "trailers"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AAMA"),
            ("Content_Length", "3"),
            ("X-Kept", "z"),
            ("X-Original-URL", "/decided-on-elsewhere"),
        ];
        assert_eq!(
            passing(Section::Request, &sent),
            ["X-Kept", "X-Original-URL"]
        );
    }

    #[test]
    fn trailers_do_not_say_what_fields_may_not() {
        let sent = [
            ("Host", "evil.example"),
            ("Content-Length", "9"),
            ("Transfer-Encoding", "chunked"),
            ("X-Forwarded-Host", "evil.example"),
            ("Proxy-Authorization", "x"),
            ("X-Original-URL", "/secret"),
            ("x_rewrite_url", "/secret"),
            ("X-HTTP-Method-Override", "DELETE"),
            ("Expect", "100-continue"),
            ("Grpc-Status", "0"),
        ];
        assert_eq!(passing(Section::RequestTrailers, &sent), ["Grpc-Status"]);
    }

    #[test]
    fn upstream_does_not_speak_as_the_gateway() {
        let sent = [
            ("X-Proxy-Error", "blocked-by-allowlist"),
            ("Proxy-Status", "portcullis"),
            ("Connection", "close, X-Hop"),
            ("X-Hop", "1"),
            ("Server", "x"),
            ("Trailer", "grpc-status"),
        ];
        for section in [Section::Response, Section::ResponseTrailers] {
            assert_eq!(passing(section, &sent), ["Server", "Trailer"]);
        }
    }

    #[test]
    fn every_spelling_of_an_override_is_one() {
        assert_eq!(overrides("X_HTTP_Method"), Some(Override::Method));
        assert_eq!(overrides("x-Original_URI"), Some(Override::Path));
        assert_eq!(overrides("Destination"), Some(Override::Path));
        assert_eq!(overrides("X_Replaced_Path"), Some(Override::Path));
        for (known, what) in OVERRIDES {
            let cgi = known.to_ascii_uppercase().replace('-', "_");
            assert_eq!(overrides(&cgi), Some(what), "{known}");
        }
        assert_eq!(overrides("x-original-url-too"), None);
    }
}
