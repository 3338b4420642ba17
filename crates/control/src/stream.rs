//! Decisions as server-sent events (HTML Living Standard, section 9.2).
//!
//! Answers *exhaustion* (docs/threats.md): a reader that is slow misses decisions, and is told how many; it
//! holds up nobody, and what waits for it is bounded.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use portcullis_policy::Reason;
use portcullis_record::{ObservedDecision, Subscription};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use utoipa::IntoParams;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use crate::api::{Decision, Name};

/// How often new decisions are looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long nothing may be said: who waits then knows that the stream still stands.
const SILENCE: Duration = Duration::from_secs(15);
/// A comment, which readers pass over.
const STILL_HERE: &[u8] = b": nothing new\n\n";

/// Which decisions are wanted. What is left out means all.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// `allow`, `deny`, `error` or `audit`.
    #[param(schema_with = verdicts)]
    pub(crate) verdict: Option<String>,
    /// `dns`, `tcp`, `tls`, `http`, `udp` or `gateway`.
    #[param(schema_with = layers)]
    pub(crate) layer: Option<String>,
    /// A reason's code, such as `not-listed`.
    #[param(schema_with = reasons)]
    pub(crate) reason: Option<String>,
    /// A name, or the end of one behind a dot.
    pub(crate) name: Option<String>,
}

/// What a decision may come to.
const VERDICTS: [&str; 4] = ["allow", "deny", "error", "audit"];
/// Where it may fall.
const LAYERS: [&str; 6] = ["dns", "tcp", "tls", "http", "udp", "gateway"];

fn reason_codes() -> impl Iterator<Item = &'static str> {
    Reason::ALL.iter().map(|reason| reason.code())
}

fn one_of(all: impl IntoIterator<Item = &'static str>) -> Object {
    let one_of = ObjectBuilder::new().schema_type(Type::String);
    one_of.enum_values(Some(all)).build()
}

fn verdicts() -> Object {
    one_of(VERDICTS)
}

fn layers() -> Object {
    one_of(LAYERS)
}

fn reasons() -> Object {
    one_of(reason_codes())
}

impl Filter {
    /// What no decision ever has, and would wait for ever.
    pub(crate) fn unknown(&self) -> Option<String> {
        let known = |value: &Option<String>, all: &[&str]| {
            value.as_deref().is_none_or(|value| all.contains(&value))
        };
        let reasons: Vec<&str> = reason_codes().collect();
        if !known(&self.verdict, &VERDICTS) {
            return Some("`verdict` is allow, deny, error or audit".to_owned());
        }
        if !known(&self.layer, &LAYERS) {
            return Some(format!("`layer` is one of {}", LAYERS.join(", ")));
        }
        (!known(&self.reason, &reasons)).then(|| "no reason has this code".to_owned())
    }

    fn wants(&self, decision: &Decision) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        is(&self.verdict, &decision.verdict)
            && is(&self.layer, &decision.layer)
            && is(&self.reason, &decision.reason)
            && self
                .name
                .as_ref()
                .is_none_or(|name| is_or_is_below(&decision.name, name))
    }
}

fn is_or_is_below(name: &str, wanted: &str) -> bool {
    name.strip_suffix(wanted)
        .is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

/// One sandbox that is followed.
struct Followed {
    name: Name,
    subscription: Subscription,
    missed: u64,
}

struct Stream {
    followed: Vec<Followed>,
    filter: Filter,
    waiting: VecDeque<Bytes>,
    said: Instant,
}

impl Stream {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Stream)> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                self.said = Instant::now();
                return Some((Ok(event), self));
            }
            self.look();
            if !self.waiting.is_empty() {
                continue;
            }
            self.followed
                .retain(|followed| !followed.subscription.is_over());
            if self.followed.is_empty() {
                return None;
            }
            if self.said.elapsed() >= SILENCE {
                self.waiting.push_back(Bytes::from_static(STILL_HERE));
                continue;
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Takes what is there of each.
    fn look(&mut self) {
        for followed in &mut self.followed {
            for seen in followed.subscription.drain() {
                self.waiting
                    .extend(event(&followed.name, seen, &self.filter));
            }
            let missed = followed.subscription.missed();
            if missed > followed.missed {
                let count = missed - followed.missed;
                followed.missed = missed;
                let text = format!(
                    "event: missed\ndata: {{\"sandbox\":\"{}\",\"count\":{count}}}\n\n",
                    followed.name
                );
                self.waiting.push_back(text.into());
            }
        }
    }
}

fn event(name: &Name, seen: ObservedDecision, filter: &Filter) -> Option<Bytes> {
    let decision = Decision::of(name, seen);
    if !filter.wants(&decision) {
        return None;
    }
    // JSON has no line breaks, so that it is one line of data whatever a sandbox says.
    let json = serde_json::to_string(&decision).ok()?;
    Some(format!("event: decision\nid: {}\ndata: {json}\n\n", decision.id).into())
}

/// The decisions of these sandboxes, until the last of them is gone.
pub(crate) fn response(followed: Vec<(Name, Subscription)>, filter: Filter) -> Response {
    let followed = followed.into_iter().map(|(name, subscription)| Followed {
        name,
        subscription,
        missed: 0,
    });
    let stream = Stream {
        followed: followed.collect(),
        filter,
        // The head leaves with it: who follows knows that nothing is missed from then on.
        waiting: VecDeque::from([Bytes::from_static(b": following\n\n")]),
        said: Instant::now(),
    };
    let mut response = Body::from_stream(unfold(stream, Stream::next)).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_itself_and_what_is_below_it() {
        assert!(is_or_is_below("a.example", "a.example"));
        assert!(is_or_is_below("b.a.example", "a.example"));
        assert!(!is_or_is_below("ba.example", "a.example"));
        assert!(!is_or_is_below("a.example", "b.a.example"));
    }
}
