//! Reverse names: addresses under `in-addr.arpa` and `ip6.arpa` (RFC 1035 section 3.5, RFC 3596
//! section 2.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_names::{Name, NameBuf, NameRef};

/// The address that a reverse name stands for; `None` for names that are not exactly one
/// address's.
pub fn ptr_address(name: NameRef<'_>) -> Option<IpAddr> {
    let text = name.as_str();
    if let Some(front) = text.strip_suffix(".in-addr.arpa") {
        let mut octets = [0u8; 4];
        let mut labels = front.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = decimal(labels.next()?)?;
        }
        return labels
            .next()
            .is_none()
            .then(|| Ipv4Addr::from(octets).into());
    }
    let front = text.strip_suffix(".ip6.arpa")?;
    let mut address = 0u128;
    let mut labels = front.split('.');
    for place in 0..32 {
        address |= u128::from(nibble(labels.next()?)?) << (4 * place);
    }
    labels
        .next()
        .is_none()
        .then(|| Ipv6Addr::from(address).into())
}

/// The reverse name of an address.
pub fn ptr_name(address: IpAddr) -> Name {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(72);
    // Writing to a String cannot fail.
    match address {
        IpAddr::V4(v4) => {
            for octet in v4.octets().iter().rev() {
                let _ = write!(text, "{octet}.");
            }
            text.push_str("in-addr.arpa");
        }
        IpAddr::V6(v6) => {
            for octet in v6.octets().iter().rev() {
                let _ = write!(text, "{:x}.{:x}.", octet & 0xf, octet >> 4);
            }
            text.push_str("ip6.arpa");
        }
    }
    NameBuf::from_program(text.as_bytes())
        .expect("at most 72 bytes of [0-9a-f.], below arpa")
        .into()
}

/// 0 to 255 without leading zeros.
fn decimal(label: &str) -> Option<u8> {
    let plain =
        label.bytes().all(|b| b.is_ascii_digit()) && (label == "0" || !label.starts_with('0'));
    if plain { label.parse().ok() } else { None }
}

fn nibble(label: &str) -> Option<u8> {
    match label.as_bytes() {
        [b @ b'0'..=b'9'] => Some(b - b'0'),
        [b @ b'a'..=b'f'] => Some(b - b'a' + 10),
        _ => None,
    }
}
