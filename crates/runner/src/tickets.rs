//! The caller's Kerberos tickets, for upstream proxies that take them.

use portcullis_gateway::Tickets;
use portcullis_sandbox::http_token;

/// Those that the system's GSS-API library finds for this process (`KRB5CCNAME`).
pub(crate) struct CallersTickets;

impl Tickets for CallersTickets {
    fn http_token(&self, host: &str) -> Result<Vec<u8>, String> {
        http_token(host)
    }
}
