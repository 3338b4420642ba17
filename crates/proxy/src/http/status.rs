//! The gateway's own page, for programs inside: no destination, so nothing is decided or dialled.
//!
//! Answers *around the gateway* (docs/threats.md): a page of the web whose name leads to the gateway's
//! address (DNS rebinding) is not answered, since its requests carry another Host; and what is read here
//! changes nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_guest::{Page, Reader, StatusPage};
use portcullis_names::{Host, STATUS_NAME, STATUS_PORT};
use portcullis_record::CloseReason;
use portcullis_wire::http1::{
    HeadParse, HeadScanner, RequestForm, RequestHead, Scan, Scheme, read_head,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connect::ESTABLISHED;
use super::head::Head;
use super::session::{Next, Session};
use crate::decider::Decider;
use crate::limits::HEAD_BUFFER_BYTES;
use crate::socket;
use crate::target::Target;

/// How long a client may take to show that it means the page, where it may mean the host's own server
/// at the same address. Most servers of this port wait for their clients.
const SHOW_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads until the client has shown whether it means the page; what was read is in `inbox`.
pub(crate) async fn means_page(client: &mut TcpStream, inbox: &mut Vec<u8>) -> bool {
    let shown = async {
        let mut scanner = HeadScanner::new();
        loop {
            match scanner.scan(inbox) {
                Scan::End(length) => {
                    return matches!(
                        read_head(&inbox[..length]),
                        HeadParse::Head(head) if names_page(&head)
                    );
                }
                Scan::Malformed(_) => return false,
                Scan::NeedMore => {}
            }
            inbox.reserve(HEAD_BUFFER_BYTES);
            if !matches!(client.read_buf(inbox).await, Ok(1..)) {
                return false;
            }
        }
    };
    timeout(SHOW_TIMEOUT, shown).await.unwrap_or(false)
}

/// A tunnel to the page: what comes next on the connection is for it.
pub(super) async fn tunnel(session: &mut Session<'_>, target: Target) -> Next {
    session.upstream = None;
    session.destination = Some(Arc::new(target));
    match socket::answer(&mut session.client.stream, ESTABLISHED).await {
        true => Next::Continue,
        false => Next::Close,
    }
}

/// The page, where a request is for it.
pub(super) fn page<'p>(session: &Session<'p>, head: &RequestHead) -> Option<&'p StatusPage> {
    let decider: &Decider = session.core.decider;
    match &session.destination {
        None => match &head.form {
            RequestForm::Absolute {
                scheme: Scheme::Http,
                host,
                port,
                ..
            } => {
                let target = decider.target(host.clone(), *port);
                let page = decider.status_page.as_ref();
                page.filter(|_| decider.leads_to_page(&target))
            }
            _ => None,
        },
        Some(target) => {
            let by_address = || decider.status_page_at(SocketAddr::new(target.ip()?, target.port));
            let page = decider.status_page(target.name(), target.port);
            page.or_else(by_address)
                .filter(|_| names_page(head) || names_address(head, target))
        }
    }
}

/// Whether a request on a connection is for the page by its name.
fn names_page(head: &RequestHead) -> bool {
    let Some((Host::Name(name), port)) = &head.host else {
        return false;
    };
    name.as_str() == STATUS_NAME && port.is_none_or(|port| port == STATUS_PORT)
}

/// The same by the address that was connected to, which no name of the web can stand for.
fn names_address(head: &RequestHead, target: &Target) -> bool {
    let address = target.ip().map(Host::Address);
    address.is_some_and(|host| head.names_host_port(&host, target.port))
}

/// The answer, which ends the connection.
pub(super) fn answer(page: &StatusPage, head: &Head) -> Next {
    let mut fields = head.fields();
    let accept = fields.find(|(name, _)| name.eq_ignore_ascii_case("accept"));
    let (RequestForm::Absolute { path, .. } | RequestForm::Origin { path }) = &head.read.form
    else {
        return Next::Answer(not_allowed(), CloseReason::Finished);
    };
    let reader = Reader::wanted(accept.map(|(_, value)| value));
    let answer = match &*head.read.method {
        "GET" => respond(
            &portcullis_guest::answer(page, path.path(), reader),
            "",
            true,
        ),
        "HEAD" => respond(
            &portcullis_guest::answer(page, path.path(), reader),
            "",
            false,
        ),
        _ => not_allowed(),
    };
    Next::Answer(answer, CloseReason::Finished)
}

fn not_allowed() -> Vec<u8> {
    let page = Page {
        status: 405,
        media_type: "text/plain; charset=utf-8",
        body: "This page can only be read.\n".to_owned(),
    };
    respond(&page, "allow: GET, HEAD\r\n", true)
}

/// The response. Nothing of it may be kept, framed or read by a script of another page.
fn respond(page: &Page, field: &str, with_body: bool) -> Vec<u8> {
    let phrase = match page.status {
        200 => "OK",
        404 => "Not Found",
        _ => "Method Not Allowed",
    };
    let body = if with_body { &*page.body } else { "" };
    format!(
        "HTTP/1.1 {} {phrase}\r\ncontent-type: {}\r\ncontent-length: {}\r\n{field}\
         cache-control: no-store\r\nx-content-type-options: nosniff\r\n\
         content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n\
         connection: close\r\n\r\n{body}",
        page.status,
        page.media_type,
        page.body.len(),
    )
    .into_bytes()
}
