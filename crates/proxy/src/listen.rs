//! Accept loops.

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::ProxyContext;

/// Serves the HTTP proxy (CONNECT and absolute form) until `token` is cancelled.
///
/// # Errors
/// Only an error that makes the listener useless.
pub async fn serve_http(
    ctx: Arc<ProxyContext>,
    listener: TcpListener,
    token: CancellationToken,
) -> io::Result<()> {
    let _ = (ctx, listener);
    token.cancelled().await;
    Ok(())
}

/// Serves SOCKS5 until `token` is cancelled.
///
/// # Errors
/// Only an error that makes the listener useless.
pub async fn serve_socks5(
    ctx: Arc<ProxyContext>,
    listener: TcpListener,
    token: CancellationToken,
) -> io::Result<()> {
    let _ = (ctx, listener);
    token.cancelled().await;
    Ok(())
}

/// Serves the transparent catch-all until `token` is cancelled. The local address of an accepted
/// socket is the destination that the program asked for.
///
/// # Errors
/// Only an error that makes the listener useless.
pub async fn serve_transparent(
    ctx: Arc<ProxyContext>,
    listener: TcpListener,
    token: CancellationToken,
) -> io::Result<()> {
    let _ = (ctx, listener);
    token.cancelled().await;
    Ok(())
}
