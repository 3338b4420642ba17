//! Tokens (RFC 9110 section 5.6.2): methods and field names.

/// Longest method, in bytes.
pub const MAX_METHOD_BYTES: usize = 32;

/// Whether the byte may stand in a token.
pub const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}
