//! The SOCKS5 entrance (RFC 1928): names and addresses, CONNECT only.
//!
//! The reply says success only after the upstream connection stands, and never names an address.

use portcullis_policy::Reason;
use portcullis_record::{CloseReason, Layer};
use portcullis_wire::socks5::{self, Command, MessageError, Step};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http;
use crate::inbound::Inbound;
use crate::opened::{Entered, Opened, Unread};
use crate::records::At;
use crate::relay::Relay;
use crate::services::Services;
use crate::stop::Stop;
use crate::{limits, request, socket};

/// Takes one connection to the point where it only has to be relayed.
pub(crate) async fn open(
    services: Services<'_>,
    mut client: TcpStream,
    inbound: Inbound,
    stop: &Stop,
) -> Option<Entered> {
    let Services {
        decider,
        connector,
        records,
        ..
    } = services;
    // The decisions of this entrance are about connections, not about what is said on them.
    let at = At::new(Layer::Tcp, inbound);
    let mut inbox = Vec::new();
    let mut said = false;
    let reading = handshake(&mut client, &mut inbox, &mut said);
    let within_time = timeout(limits::handshake_timeout(&decider.limits()), reading);
    let read = tokio::select! {
        biased;
        () = stop.wait() => Handshake::Ended("the gateway ended inside a SOCKS handshake"),
        read = within_time => read.unwrap_or(Handshake::Slow),
    };
    let request = match read {
        Handshake::Request(request) => *request,
        Handshake::Malformed(error) => {
            let asked = request::asked(&inbox);
            let at = at.asked(asked.as_deref());
            records.malformed(at.detail(Some(error.why)), None);
            if error.answer {
                refuse(client, Reason::Malformed).await;
            }
            return None;
        }
        Handshake::NoMethod => {
            // Its request may have come already.
            let asked = request::asked(&inbox);
            let why = "no SOCKS method without authentication";
            records.malformed(at.detail(Some(why)).asked(asked.as_deref()), None);
            socket::last_words(client, &socks5::METHOD_REFUSED).await;
            return None;
        }
        Handshake::Slow if said => {
            let why = "the SOCKS handshake took too long";
            let asked = request::asked(&inbox);
            records.malformed(at.detail(Some(why)).asked(asked.as_deref()), None);
            return None;
        }
        Handshake::Ended(why) if !inbox.is_empty() => {
            let asked = request::asked(&inbox);
            records.malformed(at.detail(Some(why)).asked(asked.as_deref()), None);
            return None;
        }
        Handshake::Ended(_) | Handshake::Slow => return None,
    };
    let target = decider
        .target_in_full(&connector.dialer, &request.destination, request.port)
        .await;
    if matches!(request.command, Command::Connect) && decider.leads_to_page(&target) {
        if socket::answer(&mut client, &reply(Reason::Allowed)).await {
            let serving = http::at_page(services, client, inbox, inbound, target, stop);
            Box::pin(serving).await;
        }
        return None;
    }
    let (target, ruling) = match request.command {
        Command::Connect => decider.enter(target),
        Command::Bind | Command::UdpAssociate | Command::Other(_) => {
            (target, decider.refuse(Reason::ProtocolNotAllowed))
        }
    };
    if ruling.permit.is_none() {
        let what = match request.command {
            Command::Connect => decider.ftp_hint(&target, &ruling),
            Command::Bind => Some("BIND"),
            Command::UdpAssociate => {
                Some("UDP ASSOCIATE: datagrams pass directly, where a rule for UDP lets them")
            }
            Command::Other(_) => Some("an unknown SOCKS command"),
        };
        records.decision(at.detail(what), &target, &ruling);
        refuse(client, ruling.reason).await;
        return None;
    }
    let dialled = tokio::select! {
        biased;
        () = stop.wait() => return None,
        dialled = connector.connect(&ruling, None) => dialled,
    };
    let connected = match dialled {
        Ok(connected) => connected,
        Err(error) => {
            records.failed(at, &target, &ruling, &error);
            refuse(client, error.reason()).await;
            return None;
        }
    };
    let flow = records.open(at, &target, &ruling, &connected.peer);
    if flow.standing.is_cut() {
        socket::reset(client);
        socket::reset_upstream(connected.stream);
        flow.finish(CloseReason::PolicyChanged);
        return None;
    }
    if !socket::answer(&mut client, &reply(Reason::Allowed)).await {
        flow.finish(CloseReason::ClientReset);
        return None;
    }
    let opened = Opened {
        inbound,
        target,
        ruling,
        peer: connected.peer,
        absolute: None,
        flow: Some(flow),
    };
    Some(Entered::Opened(Box::new(Unread {
        opened,
        relay: Relay::new(client, connected.stream),
        pending: inbox,
    })))
}

/// The reply that says this: its code comes from the table of reasons and from nowhere else.
pub(crate) fn reply(reason: Reason) -> [u8; 10] {
    socks5::reply(reason.socks_reply())
}

async fn refuse(client: TcpStream, reason: Reason) {
    socket::last_words(client, &reply(reason)).await;
}

/// Why a handshake has no end.
const CLIENT_GONE: &str = "the connection ended inside a SOCKS handshake";

/// How the handshake went.
enum Handshake {
    Request(Box<socks5::Request>),
    Malformed(MessageError),
    NoMethod,
    /// The connection ended, and how.
    Ended(&'static str),
    /// It took too long.
    Slow,
}

/// Reads greeting and request; what the client sent behind them stays in `inbox`.
async fn handshake(client: &mut TcpStream, inbox: &mut Vec<u8>, said: &mut bool) -> Handshake {
    let greeting = match message(client, inbox, said, socks5::read_greeting).await {
        Ok(greeting) => greeting,
        Err(ended) => return ended,
    };
    if !greeting.no_auth {
        return Handshake::NoMethod;
    }
    if !socket::answer(client, &socks5::METHOD_NONE).await {
        return Handshake::Ended(CLIENT_GONE);
    }
    match message(client, inbox, said, socks5::read_request).await {
        Ok(request) => Handshake::Request(Box::new(request)),
        Err(ended) => ended,
    }
}

/// Reads one message. The readers refuse what is longer than a message can be.
async fn message<T>(
    client: &TcpStream,
    inbox: &mut Vec<u8>,
    said: &mut bool,
    read: fn(&[u8]) -> Step<T>,
) -> Result<T, Handshake> {
    loop {
        match read(inbox) {
            Step::Done { value, used } => {
                inbox.drain(..used);
                return Ok(value);
            }
            Step::Malformed(error) => return Err(Handshake::Malformed(error)),
            Step::NeedMore => {}
        }
        inbox.reserve(socks5::MAX_MESSAGE_BYTES);
        if client.readable().await.is_err() {
            return Err(Handshake::Ended(CLIENT_GONE));
        }
        match client.try_read_buf(inbox) {
            Ok(0) => return Err(Handshake::Ended(CLIENT_GONE)),
            Ok(_) => *said = true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Handshake::Ended(CLIENT_GONE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn every_reason_s_reply_is_what_is_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        for &reason in Reason::ALL {
            let (client, gateway) = tokio::join!(TcpStream::connect(at), listener.accept());
            let (mut client, (gateway, _)) = (client.unwrap(), gateway.unwrap());
            let said = async {
                let mut said = Vec::new();
                client.read_to_end(&mut said).await.unwrap();
                drop(client);
                said
            };
            let ((), said) = tokio::join!(refuse(gateway, reason), said);
            assert_eq!(
                said,
                [5, reason.socks_reply(), 0, 1, 0, 0, 0, 0, 0, 0],
                "{reason}"
            );
        }
    }
}
