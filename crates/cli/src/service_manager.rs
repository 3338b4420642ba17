//! Words to the service manager that has started this process (sd_notify(3)).

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where it hears them; a name that begins with `@` has no file.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Everything is served from now on.
pub const READY: &str = "READY=1";
/// The end has begun.
pub const STOPPING: &str = "STOPPING=1";

/// Tells it, if there is one.
///
/// # Errors
/// It cannot be reached.
pub fn tell(state: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let address = match path.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    // It may be slow, and it is not waited for.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}
