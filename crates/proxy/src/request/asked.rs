//! What a request asked for that could not be read: what a person looks for in the log.
//!
//! Answers *the record* (docs/threats.md): queries and credentials are taken out where it is written. A
//! program may say anything at any entrance, so the stream's beginning tells what is read here, not the
//! entrance. All of it is lenient: nothing is decided by it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// The most of a stream that is looked through, in bytes: a ClientHello may be long.
const MAX_LOOKED_BYTES: usize = 16 * 1024;
/// The most that is kept of it, in bytes; a record has room for less.
const MAX_KEPT_BYTES: usize = 512;
/// Fewer bytes in a row are no name.
const MIN_NAME_BYTES: usize = 4;
/// The head of a TLS record, in bytes.
const RECORD_HEAD_BYTES: usize = 5;

/// The target of what the stream begins with: of a request in HTTP (behind its Host where it has only a
/// path) or SOCKS, or the name in a ClientHello.
pub(crate) fn asked(stream: &[u8]) -> Option<Box<[u8]>> {
    let seen = stream.get(..MAX_LOOKED_BYTES).unwrap_or(stream);
    let mut asked = match seen {
        [4, ..] => of_socks4(seen),
        // A greeting without methods, and what stands behind it.
        [5, 0, rest @ ..] => return asked(rest),
        [5, ..] => of_socks5(seen),
        [22, 3, ..] | [0x80..=0xff, _, 1, ..] => of_hello(seen),
        [0..=8 | 14..=31, ..] => longest_name(seen).map(Vec::from),
        _ => of_http(seen),
    }?;
    asked.truncate(MAX_KEPT_BYTES);
    Some(asked.into())
}

fn of_http(seen: &[u8]) -> Option<Vec<u8>> {
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
    Some(asked)
}

/// A request of SOCKS 4 or 4a, which has a name behind an address that is none and the user's id.
fn of_socks4(seen: &[u8]) -> Option<Vec<u8>> {
    let Some((&[_, _, high, low, a, b, c, d], rest)) = seen.split_first_chunk::<8>() else {
        return longest_name(seen).map(Vec::from);
    };
    let mut texts = rest.split(|byte| *byte == 0);
    if [a, b, c] == [0; 3] && d != 0 {
        return texts
            .nth(1)
            .filter(|name| !name.is_empty())
            .or_else(|| longest_name(rest))
            .map(Vec::from);
    }
    let port = u16::from_be_bytes([high, low]);
    Some(format!("{}:{port}", Ipv4Addr::new(a, b, c, d)).into())
}

fn of_socks5(seen: &[u8]) -> Option<Vec<u8>> {
    match seen {
        [_, _, _, 1, a, b, c, d, high, low, ..] => {
            let port = u16::from_be_bytes([*high, *low]);
            Some(format!("{}:{port}", Ipv4Addr::new(*a, *b, *c, *d)).into())
        }
        [_, _, _, 3, length, rest @ ..] => {
            let name = rest.get(..usize::from(*length)).unwrap_or(rest);
            Some(name.to_vec())
        }
        [_, _, _, 4, rest @ ..] if rest.len() >= 18 => {
            let (address, port) = rest.split_first_chunk::<16>()?;
            let port = u16::from_be_bytes(*port.first_chunk()?);
            Some(
                SocketAddr::from((Ipv6Addr::from(*address), port))
                    .to_string()
                    .into(),
            )
        }
        other => longest_name(other).map(Vec::from),
    }
}

/// The name in the first server_name extension (RFC 6066 section 3) of a ClientHello that is none.
fn of_hello(seen: &[u8]) -> Option<Vec<u8>> {
    let hello = without_record_heads(seen);
    let name = (0..hello.len()).find_map(|at| {
        let (head, rest) = hello[at..].split_first_chunk::<9>()?;
        let [0, 0, extension @ .., 0, high, low] = head else {
            return None;
        };
        let [extension, list] = [&extension[..2], &extension[2..]]
            .map(|pair| usize::from(u16::from_be_bytes([pair[0], pair[1]])));
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let name = rest.get(..length).unwrap_or(rest);
        let fits = extension == list + 2 || list == length + 3;
        (fits && name.len() >= MIN_NAME_BYTES && name.is_ascii()).then_some(name)
    });
    name.or_else(|| longest_name(&hello)).map(Vec::from)
}

/// What the records of a TLS stream carry; the stream from where it has none.
fn without_record_heads(mut stream: &[u8]) -> Vec<u8> {
    let mut carried = Vec::with_capacity(stream.len());
    while let Some(([22, 3, _, high, low], rest)) = stream.split_first_chunk::<RECORD_HEAD_BYTES>()
    {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (record, behind) = rest.split_at(length.min(rest.len()));
        carried.extend_from_slice(record);
        stream = behind;
    }
    // What was cut off in a record's head carries nothing.
    let is_cut =
        !carried.is_empty() && stream.len() < RECORD_HEAD_BYTES && stream.starts_with(&[22]);
    if !is_cut {
        carried.extend_from_slice(stream);
    }
    carried
}

/// The longest row of bytes that could be a host's name or address.
fn longest_name(bytes: &[u8]) -> Option<&[u8]> {
    let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:".contains(byte);
    let rows = bytes.split(|byte| !of_name(byte));
    let names = rows.filter(|row| row.len() >= MIN_NAME_BYTES && row.contains(&b'.'));
    names.max_by_key(|row| row.len())
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
            // SOCKS of every version, whole and cut off.
            ("\x04\x01\0\x50\x01\x02\x03\x04me\0", "1.2.3.4:80"),
            ("\x04\x01\0\x50\0\0\0\x01me\0evil.example\0", "evil.example"),
            ("\x04\x01\0\x50\0\0\0\x01evil.example", "evil.example"),
            ("\x05\x01\0\x01\x01\x02\x03\x04\0\x50", "1.2.3.4:80"),
            ("\x05\x01\0\x03\x0cevil.example\0\x50", "evil.example"),
            ("\x05\x01\0\x03\x0cevil.ex", "evil.ex"),
            ("\x05\x01\0\x09\x0cevil.example\0\x50", "evil.example"),
            ("\x05\0\x05\x01\0\x03\x0cevil.example\0\x50", "evil.example"),
            ("\x06\x01\0\x03\x0cevil.example\0\x50", "evil.example"),
        ] {
            let asked = asked(stream.as_bytes()).unwrap();
            assert_eq!(String::from_utf8_lossy(&asked), expected);
        }
        assert_eq!(asked(b"\r\n \r\n"), None);
        assert_eq!(asked(b"\x05\x01\0"), None);
        let long = "x".repeat(100_000);
        assert_eq!(asked(long.as_bytes()).unwrap().len(), MAX_KEPT_BYTES);
    }

    #[test]
    fn the_name_in_a_broken_hello_is_found() {
        let name = b"evil.example.net";
        let length = name.len() as u8;
        let extension = [
            &[0, 0, 0, length + 5, 0, length + 3, 0, 0, length],
            &name[..],
        ]
        .concat();
        let hello = [
            &[1, 0, 1, 0, 3, 3][..],
            &[7; 32],
            &extension,
            b"\0\x10h2.http/1.1",
        ]
        .concat();
        let record = |part: &[u8]| [&[22, 3, 1, 0, part.len() as u8], part].concat();
        let (front, back) = hello.split_at(60);
        for stream in [record(&hello), [record(front), record(back)].concat()] {
            assert_eq!(asked(&stream).as_deref(), Some(&name[..]));
            // Cut off in the name.
            let cut = stream.len() - 20;
            assert!(name.starts_with(&asked(&stream[..cut]).unwrap()));
        }
        // With lengths that fit nothing.
        let mut broken = record(&hello);
        broken[5 + 38 + 3] = 0xff;
        broken[5 + 38 + 5] = 0xee;
        assert_eq!(asked(&broken).as_deref(), Some(&name[..]));
    }
}
