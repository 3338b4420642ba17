//! Which upstream proxies failed lately: they come last, and come back by themselves.
//!
//! Only the order depends on it. A proxy that failed is still asked when no other is left, so that
//! nothing a program does to make a proxy look bad takes the way out from anybody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use portcullis_policy::UpstreamProxy;
use tokio::time::Instant;

/// How long a proxy that failed comes last.
pub(crate) const DOWN_TIME: Duration = Duration::from_secs(30);
/// Proxies that are remembered as failed; of more, those that failed first are forgotten.
const MAX_DOWN: usize = 64;

/// A proxy that failed.
struct Down {
    /// Its URL without credentials.
    url: String,
    /// When it comes back.
    until: Instant,
}

/// The proxies that failed lately.
#[derive(Default)]
pub(crate) struct Health {
    down: Mutex<Vec<Down>>,
    /// Whether there are any, so that nobody waits for the list while there are none.
    any: AtomicBool,
}

impl Health {
    /// The proxies in the order in which to ask them.
    pub(crate) fn order<'p>(&self, proxies: &'p [UpstreamProxy]) -> Vec<&'p UpstreamProxy> {
        let mut order: Vec<_> = proxies.iter().collect();
        if proxies.len() > 1 && self.any.load(Ordering::Acquire) {
            let now = Instant::now();
            let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
            let until = |proxy: &UpstreamProxy| {
                let url = proxy.to_string();
                let entry = down.iter().find(|down| down.url == url);
                entry.map(|down| down.until).filter(|until| *until > now)
            };
            // A stable sort: those that did not fail stay in the operator's order.
            order.sort_by_cached_key(|proxy| until(proxy));
        }
        order
    }

    /// A proxy failed.
    pub(crate) fn failed(&self, url: &str) {
        let now = Instant::now();
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        down.retain(|down| down.url != url && down.until > now);
        if down.len() >= MAX_DOWN {
            down.remove(0);
        }
        down.push(Down {
            url: url.to_owned(),
            until: now + DOWN_TIME,
        });
        self.any.store(true, Ordering::Release);
    }

    /// A proxy answered.
    pub(crate) fn answered(&self, proxy: &UpstreamProxy) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let (url, now) = (proxy.to_string(), Instant::now());
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        down.retain(|down| down.url != url && down.until > now);
        self.any.store(!down.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_failed_comes_last_for_a_while() {
        let proxies = ["http://a:1", "http://b:1", "http://c:1"]
            .map(|url| UpstreamProxy::parse(url).unwrap());
        let health = Health::default();
        let order = || -> Vec<String> {
            let order = health.order(&proxies).into_iter();
            order.map(|proxy| proxy.host_text()).collect()
        };
        assert_eq!(order(), ["a", "b", "c"]);
        health.failed("http://a:1");
        assert_eq!(order(), ["b", "c", "a"]);
        tokio::time::advance(Duration::from_secs(1)).await;
        health.failed("http://b:1");
        assert_eq!(
            order(),
            ["c", "a", "b"],
            "the one that failed first comes back first"
        );
        health.answered(&proxies[1]);
        assert_eq!(order(), ["b", "c", "a"]);
        tokio::time::advance(DOWN_TIME).await;
        assert_eq!(order(), ["a", "b", "c"], "its time is over");
    }

    #[tokio::test(start_paused = true)]
    async fn the_list_is_bounded() {
        let health = Health::default();
        for number in 0..MAX_DOWN + 10 {
            health.failed(&format!("http://p{number}:1"));
        }
        assert_eq!(health.down.lock().unwrap().len(), MAX_DOWN);
        tokio::time::advance(DOWN_TIME).await;
        health.answered(&UpstreamProxy::parse("http://a:1").unwrap());
        assert!(!health.any.load(Ordering::Acquire));
    }

    trait HostText {
        fn host_text(&self) -> String;
    }

    impl HostText for UpstreamProxy {
        fn host_text(&self) -> String {
            let url = self.to_string();
            url.trim_start_matches("http://")
                .trim_end_matches(":1")
                .to_owned()
        }
    }
}
