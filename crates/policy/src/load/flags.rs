//! Flags and variables, which add to the files and replace their settings.

use super::draft::{Draft, Expect};
use super::proxy::{self, CallersUrls};
use super::source::Written;
use crate::input::{CallersProxies, Input};
use crate::rules::Terms;

const ALLOW: &str = "--allow";
const DENY: &str = "--deny";
const RESOLVER: &str = "--resolver";
const UPSTREAM_PROXY: &str = "--upstream-proxy";
const DIRECT_TCP_HOSTS: &str = "OPENSHELL_DIRECT_TCP_HOSTS";

/// Reads them, after all files.
pub(super) fn flags(draft: &mut Draft<'_>, inputs: &[Input]) {
    let mut resolvers = Vec::new();
    for input in inputs {
        match input {
            Input::File { .. } | Input::Environment(_) => {}
            Input::Allow(target) => {
                let place = draft.flag(ALLOW, target);
                draft.rule(place, target, Expect::Both, Terms::plain(false));
            }
            Input::Deny(target) => {
                let place = draft.flag(DENY, target);
                draft.rule(place, target, Expect::Both, Terms::plain(true));
            }
            Input::DirectTcpHosts(hosts) => direct_tcp_hosts(draft, hosts),
            Input::Resolver(text) => {
                let place = draft.flag(RESOLVER, text);
                let text = Written {
                    value: text.as_str(),
                    place,
                };
                resolvers.extend(draft.resolver(text));
            }
            Input::Resolve(resolve) => draft.settings.dns.resolve = *resolve,
            Input::Answers(answers) => draft.settings.dns.answers = *answers,
            Input::UpstreamProxy(url) => {
                // The URL may hold a password: nothing is called by it.
                let place = draft.named_flag(UPSTREAM_PROXY, url, UPSTREAM_PROXY.to_owned());
                let url = Written {
                    value: url.as_str(),
                    place,
                };
                proxy::flag(&mut draft.proxy, &mut draft.sources, url);
            }
            Input::CallersProxies(callers) => callers_proxies(draft, callers),
        }
    }
    if !resolvers.is_empty() {
        draft.settings.resolvers = resolvers;
    }
}

/// `--upstream-proxy env`.
fn callers_proxies(draft: &mut Draft<'_>, callers: &CallersProxies) {
    if callers.http.is_none() && callers.https.is_none() {
        // They take the place of the policy's: what it sends through a proxy would go direct.
        let place = draft.flag(UPSTREAM_PROXY, "env");
        let message = "no proxy variable is set".to_owned();
        let hint = "set https_proxy or http_proxy, or leave out `--upstream-proxy env`";
        return draft
            .sources
            .error_with(place, message, Some(hint.to_owned()));
    }
    let [http, https] = [&callers.http, &callers.https].map(|proxy| {
        let proxy = proxy.as_ref()?;
        // Nothing is called by the URL here either.
        let value = proxy.url();
        let place = draft.named_flag(proxy.variable, &value, proxy.variable.to_owned());
        Some(Written { value, place })
    });
    let place = draft.named_flag("no_proxy", &callers.no_proxy, "no_proxy".to_owned());
    let no_proxy = Written {
        value: callers.no_proxy.as_str(),
        place,
    };
    let urls = CallersUrls { http, https };
    proxy::callers(&mut draft.proxy, &mut draft.sources, &urls, no_proxy);
}

/// Names separated by commas, on port 443.
fn direct_tcp_hosts(draft: &mut Draft<'_>, hosts: &str) {
    let name = DIRECT_TCP_HOSTS.to_owned();
    let whole = draft.named_flag(DIRECT_TCP_HOSTS, hosts, name);
    let mut at = 0;
    for part in hosts.split(',') {
        let host = part.trim();
        let start = at + (part.len() - part.trim_start().len());
        at += part.len() + 1;
        if host.is_empty() {
            continue;
        }
        let place = whole.source.at(start..start + host.len());
        draft.rule(place, host, Expect::DirectHosts, Terms::plain(false));
    }
}
