//! Which addresses are tried when (RFC 8305): families by turns, the next one after a quarter of a
//! second or as soon as one fails, the first that connects wins.
//!
//! Generic over what "connect" is, so that its tests need neither sockets nor real time.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};

/// RFC 8305, section 5: the recommended pause before the next attempt.
pub(crate) const STAGGER: Duration = Duration::from_millis(250);
/// Addresses tried for one connection.
pub(crate) const MAX_ATTEMPTS: usize = 16;

/// Families by turns, IPv6 first (RFC 8305, section 4), each family in the resolver's order,
/// nothing twice, at most [`MAX_ATTEMPTS`].
pub(crate) fn interleave(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let mut six = addresses.iter().filter(|address| address.is_ipv6());
    let mut four = addresses.iter().filter(|address| address.is_ipv4());
    let mut order: Vec<SocketAddr> = Vec::new();
    loop {
        let (a, b) = (six.next(), four.next());
        if (a.is_none() && b.is_none()) || order.len() >= MAX_ATTEMPTS {
            order.truncate(MAX_ATTEMPTS);
            return order;
        }
        for &address in [a, b].into_iter().flatten() {
            let to = SocketAddr::new(address, port);
            if !order.contains(&to) {
                order.push(to);
            }
        }
    }
}

/// What came of trying one address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tried<R> {
    pub(crate) to: SocketAddr,
    pub(crate) result: R,
}

/// Tries `first`, then whatever `more` yields; `more` is not polled before it is its turn.
///
/// # Errors
/// Every address with its failure, when none connected.
pub(crate) async fn race<T, E, F: Future<Output = Result<T, E>>>(
    first: Vec<SocketAddr>,
    more: impl Future<Output = Vec<SocketAddr>>,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<Tried<T>, Vec<Tried<E>>> {
    let attempt = |to: SocketAddr| {
        let connecting = connect(to);
        async move {
            let result = connecting.await;
            Tried { to, result }
        }
    };
    let mut tried = Vec::new();
    let mut waiting: VecDeque<SocketAddr> = first.into();
    let mut running = FuturesUnordered::new();
    let mut failures = Vec::new();
    let mut more = Some(Box::pin(more));
    let mut asking = false;
    let mut next_at = Instant::now();
    loop {
        let due = running.is_empty() || Instant::now() >= next_at;
        if due && tried.len() < MAX_ATTEMPTS {
            if let Some(to) = waiting.pop_front() {
                if !tried.contains(&to) {
                    tried.push(to);
                    running.push(attempt(to));
                    next_at = Instant::now() + STAGGER;
                }
                continue;
            }
            asking = more.is_some();
        }
        let more_to_come = more.is_some() && tried.len() < MAX_ATTEMPTS;
        if running.is_empty() && !more_to_come {
            return Err(failures);
        }
        tokio::select! {
            biased;
            Some(Tried { to, result }) = running.next(), if !running.is_empty() => match result {
                Ok(result) => return Ok(Tried { to, result }),
                Err(result) => {
                    failures.push(Tried { to, result });
                    next_at = Instant::now();
                }
            },
            found = async { more.as_mut().expect("asked only while there is more").await },
                if asking && more.is_some() =>
            {
                more = None;
                asking = false;
                waiting.extend(found);
            }
            () = sleep_until(next_at), if !due => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::{pending, ready};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 443))
    }

    fn tried<R>(to: SocketAddr, result: R) -> Tried<R> {
        Tried { to, result }
    }

    #[test]
    fn rfc_8305_families_take_turns_ipv6_first() {
        let addresses = [
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.3",
            "2001:db8::1",
            "192.0.2.1",
        ]
        .map(ip);
        let order: Vec<_> = interleave(&addresses, 443).iter().map(|a| a.ip()).collect();
        assert_eq!(
            order,
            ["2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"].map(ip)
        );
        assert!(interleave(&[], 443).is_empty());
    }

    #[test]
    fn an_answer_of_many_addresses_is_not_dialled_without_end() {
        let many: Vec<_> = (0..200).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        assert_eq!(interleave(&many, 443).len(), MAX_ATTEMPTS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_is_overtaken_after_a_quarter_of_a_second() {
        let start = Instant::now();
        let started = RefCell::new(Vec::new());
        let result = race(vec![at(1), at(2)], ready(vec![]), |to| {
            started.borrow_mut().push((to, start.elapsed()));
            async move {
                if to == at(1) {
                    pending::<Result<u8, ()>>().await
                } else {
                    Ok(7)
                }
            }
        })
        .await;
        assert_eq!(result, Ok(tried(at(2), 7)));
        assert_eq!(
            *started.borrow(),
            [(at(1), Duration::ZERO), (at(2), STAGGER)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_address_is_followed_at_once() {
        let start = Instant::now();
        let result = race(vec![at(1), at(2)], ready(vec![]), |to| async move {
            if to == at(1) { Err("refused") } else { Ok(7) }
        })
        .await;
        assert_eq!(result, Ok(tried(at(2), 7)));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_attempt_may_still_win_after_the_second_has_started() {
        let result = race(vec![at(1), at(2)], pending(), |to| async move {
            let wait = if to == at(1) { 300 } else { 600 };
            tokio::time::sleep(Duration::from_millis(wait)).await;
            Ok::<_, ()>(wait)
        })
        .await;
        assert_eq!(result, Ok(tried(at(1), 300)));
    }

    #[tokio::test(start_paused = true)]
    async fn more_addresses_are_asked_for_only_when_the_first_are_slow_or_fail() {
        let quick = race(
            vec![at(1)],
            async { panic!("asked without need") },
            |_| async { Ok::<_, ()>(1) },
        )
        .await;
        assert_eq!(quick, Ok(tried(at(1), 1)));
        let failed = race(vec![at(1)], ready(vec![at(1), at(2)]), |to| async move {
            if to == at(2) { Ok(2) } else { Err(()) }
        })
        .await;
        assert_eq!(failed, Ok(tried(at(2), 2)));
        let silent = race(vec![at(1)], ready(vec![at(2)]), |to| async move {
            if to == at(1) {
                pending::<()>().await
            }
            Ok::<_, ()>(2)
        })
        .await;
        assert_eq!(silent, Ok(tried(at(2), 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn all_failures_are_told() {
        let result = race(vec![at(1), at(2)], ready(vec![at(3)]), |to| async move {
            Err::<(), _>(to.to_string())
        })
        .await;
        let failures = result.unwrap_err();
        assert_eq!(failures.len(), 3);
        assert!(
            failures
                .iter()
                .all(|failed| failed.result == failed.to.to_string())
        );
        let none = race(vec![], ready(vec![]), |_| async { Ok::<_, ()>(()) }).await;
        assert_eq!(none, Err(vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_bounded_whatever_more_yields() {
        let many: Vec<_> = (0..200).map(at).collect();
        let result = race(vec![at(201)], ready(many), |_| async { Err::<(), _>(()) }).await;
        assert_eq!(result.unwrap_err().len(), MAX_ATTEMPTS);
    }
}
