//! What a request asked for that could not be read: what a person looks for in the log.
//!
//! Answers *the record* (docs/threats.md): queries and credentials are taken out where it is written.

/// The most of a stream that is looked through, in bytes.
const MAX_LOOKED_BYTES: usize = 4 * 1024;
/// The most that is kept of it, in bytes; a record has room for less.
const MAX_KEPT_BYTES: usize = 512;

/// The target of the request that the stream begins with, behind its Host where it has only a path.
pub(crate) fn asked(stream: &[u8]) -> Option<Box<[u8]>> {
    let seen = stream.get(..MAX_LOOKED_BYTES).unwrap_or(stream);
    let mut lines = seen
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .skip_while(|line| line.is_empty());
    let line = lines.next()?;
    let white = |byte: &u8| matches!(byte, b'\t' | 0x0b..=b'\r' | 0x1c..=b' ' | 0x85 | 0xa0);
    let mut words = line.split(white).filter(|word| !word.is_empty());
    let first = words.next()?;
    let target = words.next().unwrap_or(first);
    let mut asked = Vec::new();
    if target.starts_with(b"/") || target == b"*" {
        let host = lines.find_map(|line| {
            let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
            let is_host = name.trim_ascii().eq_ignore_ascii_case(b"host");
            is_host.then(|| value.get(1..).unwrap_or_default().trim_ascii())
        });
        asked.extend_from_slice(host.unwrap_or_default());
    }
    asked.extend_from_slice(target);
    asked.truncate(MAX_KEPT_BYTES);
    Some(asked.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hostile_name_is_found() {
        for (stream, expected) in [
            (
                "CONNECT evil.example:443\0 HTTP/1.1\r\n\r\n",
                "evil.example:443\0",
            ),
            (
                "GET http://a@evil.example/ HTTP/1.1\r\n",
                "http://a@evil.example/",
            ),
            (
                "GET /p HTTP/1.1\r\nX: y\r\nhost : evil_.example\n\r\n",
                "evil_.example/p",
            ),
            (
                "\x0bGET\x0c/p\x1fHTTP/1.1\r\nHost: evil.example\r\n",
                "evil.example/p",
            ),
            ("\r\n\r\nGET evil.example", "evil.example"),
            ("evil.example", "evil.example"),
        ] {
            let asked = asked(stream.as_bytes()).unwrap();
            assert_eq!(String::from_utf8_lossy(&asked), expected);
        }
        assert_eq!(asked(b"\r\n \r\n"), None);
        let long = "x".repeat(100_000);
        assert_eq!(asked(long.as_bytes()).unwrap().len(), MAX_KEPT_BYTES);
    }
}
