//! A property that all incremental readers here share, checked on every prefix of a message.

/// What a reader said about some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reading<T> {
    NeedMore,
    Verdict(T),
}

/// Feeds every prefix of `message`: once the reader has given a verdict it keeps to it.
/// Returns the length of the first prefix that got one.
pub(crate) fn check_every_prefix<T: PartialEq + std::fmt::Debug>(
    message: &[u8],
    read: impl Fn(&[u8]) -> Reading<T>,
) -> Option<usize> {
    let mut first: Option<(usize, T)> = None;
    for len in 0..=message.len() {
        match (read(&message[..len]), &first) {
            (Reading::NeedMore, None) => {}
            (Reading::NeedMore, Some((at, verdict))) => {
                panic!("{verdict:?} after {at} bytes, but more is needed after {len}");
            }
            (Reading::Verdict(verdict), None) => first = Some((len, verdict)),
            (Reading::Verdict(now), Some((at, verdict))) => {
                assert_eq!(
                    &now, verdict,
                    "after {len} bytes; the first verdict was after {at}"
                );
            }
        }
    }
    first.map(|(len, _)| len)
}
