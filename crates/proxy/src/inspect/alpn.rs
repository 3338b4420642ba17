//! Which protocol is spoken inside an inspected connection: HTTP/1.1 or HTTP/2, on both sides the
//! same, chosen by upstream from what the client offers (RFC 7301).

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alpn {
    /// Nothing was said: HTTP/1.1.
    None,
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
}

const HTTP_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";

/// What may be offered to upstream for a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// These, in the client's order; none where the client says nothing.
    Protocols(Vec<Vec<u8>>),
    /// The client speaks something that cannot be inspected.
    Nothing,
}

impl Alpn {
    /// How many there are.
    pub(super) const COUNT: usize = 3;

    pub(super) fn index(self) -> usize {
        self as usize
    }

    /// What upstream chose; `None` where it is nothing that was offered.
    pub(super) fn chosen(protocol: Option<&[u8]>) -> Option<Alpn> {
        match protocol {
            None => Some(Alpn::None),
            Some(HTTP_1) => Some(Alpn::Http1),
            Some(HTTP_2) => Some(Alpn::Http2),
            Some(_) => None,
        }
    }

    /// The list of a configuration.
    pub(super) fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Alpn::None => Vec::new(),
            Alpn::Http1 => vec![HTTP_1.to_vec()],
            Alpn::Http2 => vec![HTTP_2.to_vec()],
        }
    }
}

impl Offer {
    /// From what the client offers.
    pub(super) fn of<'c>(client: Option<impl Iterator<Item = &'c [u8]>>) -> Offer {
        let Some(client) = client else {
            return Offer::Protocols(Vec::new());
        };
        let mut protocols: Vec<Vec<u8>> = Vec::new();
        for protocol in client {
            if matches!(protocol, HTTP_1 | HTTP_2) && !protocols.iter().any(|p| p == protocol) {
                protocols.push(protocol.to_vec());
            }
        }
        match protocols.is_empty() {
            true => Offer::Nothing,
            false => Offer::Protocols(protocols),
        }
    }

    /// What a client is answered with whose upstream has nothing to say.
    pub(super) fn ours(&self) -> Alpn {
        match self {
            Offer::Protocols(offered) => match offered.first() {
                Some(first) => Alpn::chosen(Some(first)).unwrap_or(Alpn::None),
                None => Alpn::None,
            },
            Offer::Nothing => Alpn::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(client: &[&[u8]]) -> Offer {
        Offer::of(Some(client.iter().copied()))
    }

    #[test]
    fn only_http_is_offered_in_the_client_s_order() {
        let both = offer(&[b"http/1.1", b"spdy/3", b"h2", b"h2"]);
        let expected = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
        assert_eq!(both, Offer::Protocols(expected));
        assert_eq!(both.ours(), Alpn::Http1);
        assert_eq!(offer(&[b"h2"]).ours(), Alpn::Http2);
        assert_eq!(offer(&[b"dot", b"imap"]), Offer::Nothing);
        let silent = Offer::of(None::<std::iter::Empty<&[u8]>>);
        assert_eq!(silent, Offer::Protocols(Vec::new()));
        assert_eq!(silent.ours(), Alpn::None);
    }

    #[test]
    fn what_upstream_chose_is_what_the_client_gets() {
        for (chosen, alpn) in [
            (None, Some(Alpn::None)),
            (Some(&b"h2"[..]), Some(Alpn::Http2)),
            (Some(b"http/1.1"), Some(Alpn::Http1)),
            (Some(b"spdy/3"), None),
        ] {
            assert_eq!(Alpn::chosen(chosen), alpn);
        }
        assert_eq!(Alpn::Http2.protocols(), [b"h2".to_vec()]);
        assert!(Alpn::None.protocols().is_empty());
    }
}
