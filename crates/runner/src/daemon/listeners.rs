//! Listeners of the host for one sandbox of many.

use std::io;
use std::net::{SocketAddr, TcpListener};

use portcullis_control::Listening;

use crate::plain_gateway::{DnsSockets, ListenError, Listeners};

/// Binds what is wanted, and says where that is.
pub(crate) fn bind(wanted: &Listening) -> Result<(Listeners, Listening), String> {
    let text = |error: ListenError| error.to_string();
    let tcp = |address: Option<SocketAddr>| address.map(listener).transpose().map_err(text);
    let dns = wanted.dns.map(DnsSockets::bind).transpose().map_err(text)?;
    let listeners = Listeners {
        dns,
        http: tcp(wanted.http)?,
        socks5: tcp(wanted.socks5)?,
    };
    match at(&listeners) {
        Ok(listening) => Ok((listeners, listening)),
        Err(error) => Err(error.to_string()),
    }
}

fn listener(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).map_err(|error| ListenError {
        address,
        protocol: "TCP",
        error,
    })
}

fn at(listeners: &Listeners) -> io::Result<Listening> {
    let at = |listener: &Option<TcpListener>| {
        let listener = listener.as_ref();
        listener.map(TcpListener::local_addr).transpose()
    };
    Ok(Listening {
        dns: match &listeners.dns {
            Some(dns) => Some(dns.udp.local_addr()?),
            None => None,
        },
        http: at(&listeners.http)?,
        socks5: at(&listeners.socks5)?,
        ..Listening::default()
    })
}
