//! Fatal alerts: how a refused handshake ends, as `openssl s_client` shows it.

/// Why the handshake ends (RFC 8446 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    /// The handshake message does not belong here.
    UnexpectedMessage = 10,
    /// The client may not have this name, or the name is missing or not this address's.
    AccessDenied = 49,
    /// The ClientHello is malformed.
    DecodeError = 50,
    /// The gateway failed.
    InternalError = 80,
    /// The server name is not on the list (RFC 6066 section 3).
    UnrecognizedName = 112,
}

/// Alert level of RFC 8446 section 6: after it, the connection is over.
const FATAL: u8 = 2;

/// A plaintext alert record with any level and description.
pub const fn alert(level: u8, description: u8) -> [u8; 7] {
    const ALERT_RECORD: u8 = 21;
    [ALERT_RECORD, 3, 3, 0, 2, level, description]
}

/// The fatal alert to send before closing.
pub const fn fatal_alert(why: Alert) -> [u8; 7] {
    alert(FATAL, why as u8)
}
