//! The only place that calls connect(2).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::error::Failure;
use crate::guard::{ChosenBy, Guard};

/// How long one address may take to answer.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Checks the address and connects to it, with nothing in between.
pub(crate) async fn connect(
    guard: &Guard,
    to: SocketAddr,
    chosen_by: ChosenBy,
) -> Result<TcpStream, Failure> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(Failure::Network)?;
    // Interactive protocols must not wait for a full segment. Nothing is lost if it fails.
    let _ = socket.set_nodelay(true);
    guard.check(to, chosen_by).map_err(Failure::Refused)?;
    match timeout(ATTEMPT_TIMEOUT, socket.connect(to)).await {
        Ok(result) => result.map_err(Failure::Network),
        Err(_) => Err(Failure::Silent),
    }
}
