//! The policy's verdict for one request, written as people write it: `URL` or `METHOD URL`.

use portcullis_names::{Host, Name};

use crate::destination::Destination;
use crate::explain::{Explanation, finding};
use crate::policy::Policy;
use crate::reason::Reason;
use crate::request::Request;

/// What a URL without a method means.
const GET: &str = "GET";

/// A request, taken apart.
struct UrlRequest<'t> {
    method: &'t str,
    tls: bool,
    host: Host,
    port: u16,
    path: &'t str,
}

impl Policy {
    /// Explains what happens to a request; the query is not looked at. `None` if the text has no URL in
    /// it: then it may be a target.
    ///
    /// # Errors
    /// What is wrong with the URL, a few words.
    pub fn explain_url(&self, text: &str) -> Option<Result<Explanation, &'static str>> {
        let (method, url) = match text.split_once(' ') {
            Some((method, url)) => (method, url.trim_start()),
            None => (GET, text),
        };
        let (scheme, rest) = url.split_once("://")?;
        Some(read(method, scheme, rest).map(|asked| self.explain_request(&asked)))
    }

    fn explain_request(&self, asked: &UrlRequest<'_>) -> Explanation {
        let to = match &asked.host {
            Host::Name(name) => Destination::name(name.as_ref()),
            Host::Address(address) => Destination::address(*address),
        };
        let to = &to;
        let port = asked.port;
        let connect = Request::Connect { to, port };
        let permit = self.decide(&connect).connect_permit();
        let terms = permit.as_ref().and_then(|permit| permit.terms().cloned());
        let inspected = terms.as_ref().is_some_and(|terms| terms.inspect);
        let narrow = terms.is_some_and(|terms| terms.only_http());
        let http = |method, path| Request::Http {
            to,
            port,
            method,
            path,
        };
        let request = match asked.tls && !inspected {
            // all that is seen of it
            true if narrow => http("CONNECT", "*"),
            true => connect,
            false => http(asked.method, asked.path),
        };
        let mut found = finding(&self.decide(&request));
        found.suggestion = self.suggestion(&request);
        if found.reason == Reason::Allowed && asked.tls && !inspected {
            let text = "Method and path are not checked: the rule does not inspect HTTPS.";
            found.sentences.push(text.to_owned());
        }
        let scheme = if asked.tls { "https" } else { "http" };
        let (method, host, path) = (asked.method, &asked.host, asked.path);
        let target = format!("{method} {scheme}://{host}:{port}{path}");
        let mut explanation = self.explanation(found, target);
        explanation.add_own(match &asked.host {
            Host::Name(name) => name.as_ref().is_localhost(),
            Host::Address(address) => address.is_loopback() || address.is_unspecified(),
        });
        explanation
    }
}

fn read<'t>(method: &'t str, scheme: &str, rest: &'t str) -> Result<UrlRequest<'t>, &'static str> {
    if method.eq_ignore_ascii_case("CONNECT") {
        return Err("a tunnel leads to NAME:PORT, which is explained without a method");
    }
    let tls = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err("a request's URL must begin with http:// or https://"),
    };
    let split = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(split);
    if authority.contains('@') {
        return Err("the URL must not contain a user name");
    }
    // Programs send international names in ASCII.
    let (name, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
    let ascii = Name::from_policy(name).ok().filter(|_| !name.is_ascii());
    let ascii = ascii.map(|name| match port {
        "" => name.to_string(),
        port => format!("{name}:{port}"),
    });
    let authority = ascii.as_deref().unwrap_or(authority);
    let (host, port) = Host::with_port(authority.as_bytes())
        .map_err(|_| "the URL's host is not a name or an address")?;
    let path = path.split(['?', '#']).next().unwrap_or_default();
    Ok(UrlRequest {
        method,
        tls,
        host,
        port: port.unwrap_or(if tls { 443 } else { 80 }),
        path: if path.is_empty() { "/" } else { path },
    })
}
