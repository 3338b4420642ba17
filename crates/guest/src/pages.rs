//! The gateway's page for those inside: what this network is, and how to set a guest up for it.
//!
//! Answers *around the gateway* (docs/threats.md): whoever is inside may read all that stands here. It
//! is what a program inside finds out by itself: the addresses of the proxies and of the resolver, and
//! the certificate of the authority that inspected names are shown by. There is nothing of the policy,
//! of the host or of its network.

use portcullis_names::STATUS_NAME;

use crate::status_page::StatusPage;
use crate::{pac, setup};

/// One answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// The status code of HTTP.
    pub status: u16,
    /// The media type of the body.
    pub media_type: &'static str,
    /// The body.
    pub body: String,
}

/// How a client wants to read what is meant for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A terminal.
    Text,
    /// A browser.
    Html,
}

impl Reader {
    /// What an `Accept` field asks for: HTML only where it is named.
    pub fn wanted(accept: Option<&[u8]>) -> Reader {
        let accept = String::from_utf8_lossy(accept.unwrap_or_default());
        let html = |part: &str| {
            let media_type = part.split(';').next().unwrap_or_default();
            media_type.trim().eq_ignore_ascii_case("text/html")
        };
        match accept.split(',').any(html) {
            true => Reader::Html,
            false => Reader::Text,
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// The answer to a request for `path` (without query).
pub fn answer(page: &StatusPage, path: &str, reader: Reader) -> Page {
    let found = |media_type, body| Page {
        status: 200,
        media_type,
        body,
    };
    match path {
        "/" if reader == Reader::Html => found("text/html; charset=utf-8", html(page)),
        "/" => found(TEXT, text(page)),
        "/health" => found(TEXT, "ok\n".to_owned()),
        "/proxy.pac" => found("application/x-ns-proxy-autoconfig", pac::script(page.http)),
        "/env" => found(TEXT, setup::environment(page)),
        "/setup.sh" => found("text/x-shellscript; charset=utf-8", setup::script(page)),
        "/resolv.conf" => found(TEXT, setup::resolv_conf(page)),
        "/ca.pem" => match &page.ca_pem {
            Some(pem) => found("application/x-pem-file", pem.clone()),
            None => Page {
                status: 404,
                media_type: TEXT,
                body: "Nothing is inspected here, so there is no authority to trust.\n".to_owned(),
            },
        },
        _ => Page {
            status: 404,
            media_type: TEXT,
            body: format!("There is no such page. See http://{STATUS_NAME}/\n"),
        },
    }
}

/// Lines of a path and what is there.
fn contents(page: &StatusPage) -> Vec<(&'static str, &'static str)> {
    let mut contents = vec![
        (
            "/setup.sh",
            "sets this machine up: curl, pipe to sh, as root",
        ),
        ("/env", "variables for a shell: proxies, certificates"),
        ("/proxy.pac", "proxy settings for a browser"),
        ("/resolv.conf", "the resolver"),
        ("/health", "says ok"),
    ];
    if page.ca_pem.is_some() {
        contents.push((
            "/ca.pem",
            "the certificate to trust: some HTTPS is inspected",
        ));
    }
    contents
}

fn text(page: &StatusPage) -> String {
    let mut text = format!(
        "This is a Portcullis sandbox. It has one way out, which decides by name what may pass.\n\n\
         HTTP proxy   http://{}\n\
         SOCKS5 proxy socks5h://{}\n\
         resolver     {} or {}\n\n\
         Proxies need not be set: direct connections to allowed names pass too.\n\
         To set up a guest, as root:\n\n  \
           curl -sS http://{STATUS_NAME}/setup.sh | sh\n\n\
         For one shell:\n\n  \
           eval \"$(curl -sS http://{STATUS_NAME}/env)\"\n\n",
        page.http, page.socks5, page.resolver, page.resolver6,
    );
    for (path, what) in contents(page) {
        text.push_str(&format!("{path:13}{what}\n"));
    }
    text
}

fn html(page: &StatusPage) -> String {
    let row = |(path, what)| format!("<tr><td><a href=\"{path}\">{path}</a><td>{what}\n");
    let rows: String = contents(page).into_iter().map(row).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Portcullis sandbox</title>\n\
         <h1>Portcullis sandbox</h1>\n\
         <p>This sandbox has one way out, which decides by name what may pass.\n\
         <p>HTTP proxy: <code>http://{}</code><br>\n\
         SOCKS5 proxy: <code>socks5h://{}</code><br>\n\
         Resolver: <code>{}</code> or <code>{}</code>\n\
         <p>Proxies need not be set: direct connections to allowed names pass too.\n\
         <p>To set up a guest, as root: <code>curl -sS http://{STATUS_NAME}/setup.sh | sh</code>\n\
         <table>\n{rows}</table>\n",
        page.http, page.socks5, page.resolver, page.resolver6,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status_page::tests::page;

    #[test]
    fn every_page_that_is_named_is_there() {
        let page = page(Some("PEM\n"));
        for (path, _) in contents(&page) {
            for reader in [Reader::Text, Reader::Html] {
                assert_eq!(answer(&page, path, reader).status, 200, "{path}");
                let index = answer(&page, "/", reader).body;
                assert!(index.contains(path), "{index}");
            }
        }
        assert_eq!(answer(&page, "/nothing", Reader::Text).status, 404);
        assert_eq!(answer(&page, "", Reader::Text).status, 404);
    }

    #[test]
    fn the_authority_is_there_only_where_something_is_inspected() {
        let without = page(None);
        let missing = answer(&without, "/ca.pem", Reader::Text);
        assert_eq!(missing.status, 404);
        assert!(missing.body.contains("Nothing is inspected"), "{missing:?}");
        assert!(!answer(&without, "/", Reader::Text).body.contains("/ca.pem"));
        assert!(
            !answer(&without, "/setup.sh", Reader::Text)
                .body
                .contains("CERT")
        );
        assert_eq!(
            answer(&page(Some("PEM\n")), "/ca.pem", Reader::Text).body,
            "PEM\n"
        );
    }

    #[test]
    fn html_is_for_those_who_name_it() {
        for (accept, reader) in [
            (None, Reader::Text),
            (Some("*/*"), Reader::Text),
            (Some("text/plain, text/htmlx"), Reader::Text),
            (Some("text/html,application/xhtml+xml;q=0.9"), Reader::Html),
            (Some("image/png, Text/HTML;q=0.5"), Reader::Html),
        ] {
            assert_eq!(
                Reader::wanted(accept.map(str::as_bytes)),
                reader,
                "{accept:?}"
            );
        }
    }
}
