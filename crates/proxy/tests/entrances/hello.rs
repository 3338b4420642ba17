//! ClientHellos, written by hand so that they can be wrong.

/// The server_name extension with these names.
pub fn server_name(names: &[&str]) -> Vec<u8> {
    let list: Vec<u8> = names
        .iter()
        .flat_map(|name| [&[0][..], &len16(name.len()), name.as_bytes()].concat())
        .collect();
    let data = [&len16(list.len())[..], &list].concat();
    extension(0, &data)
}

pub fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &len16(data.len()), data].concat()
}

fn len16(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap().to_be_bytes()
}

/// The handshake message.
fn message(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(len16(extensions.len()));
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(len16(body.len()));
    message.extend(body);
    message
}

/// One record.
pub fn record(payload: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &len16(payload.len()), payload].concat()
}

/// A hello with these extensions, in one record.
pub fn hello_with(extensions: &[u8]) -> Vec<u8> {
    record(&message(extensions))
}

/// A hello for this name, or none.
pub fn hello(name: Option<&str>) -> Vec<u8> {
    let padding = extension(21, &[0; 8]);
    let sni = name.map(|name| server_name(&[name])).unwrap_or_default();
    hello_with(&[padding, sni].concat())
}

/// The same, split over records of `size` bytes of payload.
pub fn split_hello(name: &str, size: usize) -> Vec<u8> {
    message(&server_name(&[name]))
        .chunks(size)
        .flat_map(record)
        .collect()
}

/// What a refused handshake ends with.
pub const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
pub const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];
