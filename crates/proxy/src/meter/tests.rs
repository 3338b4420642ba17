//! Meters in virtual time.

use std::num::{NonZeroU32, NonZeroU64};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;
use crate::meter::share::Of;

const KB: u64 = 1_000;
const MB: u64 = 1_000 * KB;

fn caps(bytes_per_second: u64) -> FlowLimits {
    FlowLimits {
        bytes_per_second: NonZeroU64::new(bytes_per_second),
        ..FlowLimits::default()
    }
}

fn sandbox(bytes_per_second: u64) -> Arc<Share> {
    Share::new(Of::Sandbox, caps(bytes_per_second))
}

fn meter(share: &Arc<Share>) -> Box<Meter> {
    Meter::new([Some(share.clone()), None]).unwrap()
}

/// What a flow does that always has something to say; what it moved, second by second.
async fn greedy(mut meter: Box<Meter>, way: Way, seconds: usize) -> Vec<u64> {
    let start = Instant::now();
    let mut moved = vec![0; seconds];
    let end = Duration::from_secs(seconds as u64);
    let _ = timeout(end, async {
        loop {
            let bytes = meter.tap(way).grant(1_000_000_000).await.unwrap();
            let second = usize::try_from(start.elapsed().as_secs()).unwrap();
            if let Some(sum) = moved.get_mut(second) {
                *sum += bytes as u64;
            }
            // As reading and writing do.
            tokio::task::yield_now().await;
        }
    })
    .await;
    moved
}

async fn all_greedy(share: &Arc<Share>, flows: usize, seconds: usize) -> Vec<Vec<u64>> {
    let mut running = JoinSet::new();
    for flow in 0..flows {
        let way = if flow % 2 == 0 { Way::Up } else { Way::Down };
        running.spawn(greedy(meter(share), way, seconds));
    }
    running.join_all().await
}

/// Jain's index: 1 where all have the same, 1/n where one has everything.
#[allow(clippy::cast_precision_loss)]
fn fairness(flows: &[u64]) -> f64 {
    let sum: f64 = flows.iter().map(|b| *b as f64).sum();
    let squares: f64 = flows.iter().map(|b| (*b as f64).powi(2)).sum();
    sum * sum / (flows.len() as f64 * squares)
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept_smoothly_by_1_10_and_100_flows_that_share_it_alike() {
    const SECONDS: usize = 20;
    for rate in [KB, 50 * KB, MB, 50 * MB] {
        for flows in [1, 10, 100] {
            let share = sandbox(rate);
            let moved = all_greedy(&share, flows, SECONDS).await;
            let total: u64 = moved.iter().flatten().sum();
            let expected = rate * SECONDS as u64;
            assert!(
                (expected * 97 / 100..=expected * 103 / 100 + 64).contains(&total),
                "{rate} bytes a second, {flows} flows: {total} of {expected}"
            );
            for second in 0..SECONDS {
                let of_all: u64 = moved.iter().map(|flow| flow[second]).sum();
                assert!(
                    of_all <= rate * 11 / 10 + 64,
                    "{rate} bytes a second, {flows} flows: {of_all} in second {second}"
                );
            }
            let each: Vec<u64> = moved.iter().map(|flow| flow.iter().sum()).collect();
            let fair = fairness(&each);
            // Of the slowest rate, each of many flows gets three or four turns altogether.
            let least = if rate == KB { 0.95 } else { 0.99 };
            assert!(fair > least, "{rate} bytes a second, {flows} flows: {fair}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_flow_gets_what_it_wants_beside_greedy_ones_and_at_once() {
    let share = sandbox(MB);
    let mut running = JoinSet::new();
    for _ in 0..9 {
        running.spawn(greedy(meter(&share), Way::Down, 20));
    }
    let mut slow = meter(&share);
    let mut longest = Duration::ZERO;
    for _ in 0..150 {
        sleep(Duration::from_millis(100)).await;
        let asked = Instant::now();
        slow.tap(Way::Up).take(200).await.unwrap();
        longest = longest.max(asked.elapsed());
    }
    assert!(longest < Duration::from_millis(100), "{longest:?}");
    running.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_uses_both_directions_gets_no_more_than_others() {
    let share = sandbox(MB);
    let mut both = meter(&share);
    let other = tokio::spawn(greedy(meter(&share), Way::Down, 20));
    let mut moved = [0u64; 2];
    let (mut up, mut down, _) = both.split();
    let [up_moved, down_moved] = &mut moved;
    let send = async {
        loop {
            *up_moved += up.grant(1 << 20).await.unwrap() as u64;
        }
    };
    let receive = async {
        loop {
            *down_moved += down.grant(1 << 20).await.unwrap() as u64;
        }
    };
    let _ = timeout(Duration::from_secs(20), async {
        tokio::join!(send, receive)
    })
    .await;
    let other: u64 = other.await.unwrap().iter().sum();
    let [up, down] = moved;
    assert!(fairness(&[up, down]) > 0.98, "{up} {down}");
    assert!(fairness(&[up + down, other]) > 0.98, "{up} {down} {other}");
    assert!(up + down + other <= 20 * MB * 103 / 100);
}

#[tokio::test(start_paused = true)]
async fn both_shares_hold_and_the_narrower_one_leaves_the_rest_to_others() {
    let all = sandbox(MB);
    let rule = Share::new(Of::Rule, caps(100 * KB));
    let narrow = Meter::new([Some(all.clone()), Some(rule)]).unwrap();
    let narrow = tokio::spawn(greedy(narrow, Way::Down, 20));
    let wide = tokio::spawn(greedy(meter(&all), Way::Down, 20));
    let narrow: u64 = narrow.await.unwrap().iter().sum();
    let wide: u64 = wide.await.unwrap().iter().sum();
    assert!((1_900 * KB..=2_100 * KB).contains(&narrow), "{narrow}");
    assert!((17_400 * KB..=18_700 * KB).contains(&wide), "{wide}");
}

#[tokio::test(start_paused = true)]
async fn a_want_beyond_the_bucket_is_served_in_its_time() {
    let share = sandbox(10 * MB);
    let mut meter = meter(&share);
    let start = Instant::now();
    meter.tap(Way::Down).take(1_000_000_000).await.unwrap();
    let took = start.elapsed().as_secs_f64();
    assert!((99.0..101.0).contains(&took), "{took} s for 1 GB");
    let one = Share::new(Of::Sandbox, caps(1));
    let mut slowest = Meter::new([Some(one), None]).unwrap();
    slowest.tap(Way::Up).take(LEAST).await.unwrap();
    let start = Instant::now();
    slowest.tap(Way::Up).take(10).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 10, "a byte a second");
}

/// What a bucket of the lowest rate holds at first.
const LEAST: usize = 64;

#[tokio::test(start_paused = true)]
async fn a_waiting_flow_that_goes_gives_its_place_back() {
    let share = sandbox(KB);
    let mut waiting = JoinSet::new();
    for _ in 0..200 {
        let mut meter = meter(&share);
        waiting.spawn(async move {
            loop {
                let _ = meter.tap(Way::Up).grant(100).await;
            }
        });
    }
    tokio::task::yield_now().await;
    sleep(Duration::from_millis(10)).await;
    let mut last = meter(&share);
    let mut tap = last.tap(Way::Down);
    let asked = tokio::spawn(async move {
        sleep(Duration::from_millis(10)).await;
        waiting.shutdown().await;
    });
    let start = Instant::now();
    tap.grant(64).await.unwrap();
    asked.await.unwrap();
    let took = start.elapsed();
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    assert_eq!(share.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_changed_rate_takes_effect_for_flows_that_wait() {
    let share = sandbox(100);
    let flow = tokio::spawn(greedy(meter(&share), Way::Down, 20));
    sleep(Duration::from_secs(10)).await;
    share.change(caps(MB));
    let moved = flow.await.unwrap();
    let (before, after): (u64, u64) = (moved[..10].iter().sum(), moved[12..].iter().sum());
    assert!(before < 1_200, "{before}");
    assert!((7_700 * KB..8_300 * KB).contains(&after), "{after}");
    share.change(FlowLimits::default());
    let mut free = meter_of_any(&share);
    let start = Instant::now();
    free.tap(Way::Up).take(1_000_000_000).await.unwrap();
    assert!(start.elapsed().is_zero(), "the rate is limited no more");
}

/// A meter as a flow has it that was opened while there was a limit.
fn meter_of_any(share: &Arc<Share>) -> Box<Meter> {
    let idle = FlowLimits {
        idle_timeout: Some(Duration::from_secs(3_600)),
        ..FlowLimits::default()
    };
    let other = Share::new(Of::Rule, idle);
    Meter::new([Some(share.clone()), Some(other)]).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_total_is_spent_to_the_byte_and_then_ends_flows_and_refuses_new_ones() {
    let total = FlowLimits {
        total_bytes: NonZeroU64::new(100_000),
        ..caps(50 * KB)
    };
    let rule = Share::new(Of::Rule, total);
    let mut running = JoinSet::new();
    for _ in 0..10 {
        let mut meter = Meter::new([None, Some(rule.clone())]).unwrap();
        running.spawn(async move {
            let mut moved = 0;
            loop {
                match meter.tap(Way::Up).grant(5_000).await {
                    Ok(bytes) => moved += bytes,
                    Err(cut) => return (moved, cut),
                }
            }
        });
    }
    // One that goes while it waits has used nothing.
    let mut gone = Meter::new([None, Some(rule.clone())]).unwrap();
    let _ = timeout(Duration::from_nanos(1), gone.tap(Way::Up).take(1 << 20)).await;
    drop(gone);
    let ends = running.join_all().await;
    let moved: usize = ends.iter().map(|(moved, _)| moved).sum();
    assert!(
        (100_000 - MAX_CHUNK_BYTES..=100_000).contains(&moved),
        "{moved}"
    );
    for (_, cut) in ends {
        assert_eq!(cut.end, CloseReason::Limit);
        assert_eq!(cut.detail, "total_bytes of the rule");
    }
    let refused = rule.open().unwrap_err();
    assert_eq!(refused.reason.code(), "total-bytes-used");
    let more = FlowLimits {
        total_bytes: NonZeroU64::new(200_000),
        ..total
    };
    rule.change(more);
    assert!(rule.open().is_ok(), "raised by a reload");
}

#[tokio::test(start_paused = true)]
async fn leave_that_is_not_used_is_given_back() {
    let total = FlowLimits {
        total_bytes: NonZeroU64::new(10_000),
        ..FlowLimits::default()
    };
    let share = Share::new(Of::Sandbox, total);
    for _ in 0..100 {
        let mut meter = meter(&share);
        let permitted = poll_fn(|cx| meter.poll_permit(cx, Way::Up, 5_000)).await;
        assert_eq!(permitted, Ok(5_000));
        meter.passed(Way::Up, 50);
        let rest = poll_fn(|cx| meter.poll_permit(cx, Way::Up, 10_000)).await;
        assert_eq!(rest, Ok(4_950), "asked for once");
    }
    assert_eq!(share.used(), 5_000);
    let mut meter = meter(&share);
    meter.tap(Way::Down).take(5_000).await.unwrap();
    let permitted = poll_fn(|cx| meter.poll_permit(cx, Way::Up, 1)).await;
    assert_eq!(permitted, Err(CloseReason::Limit));
    assert_eq!(meter.cut().unwrap().detail, "total_bytes of the sandbox");
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_flow_and_waiting_for_a_permit_is_none() {
    let idle = FlowLimits {
        idle_timeout: Some(Duration::from_secs(10)),
        ..caps(1)
    };
    let share = Share::new(Of::Sandbox, idle);
    let mut meter = meter(&share);
    let start = Instant::now();
    {
        let (mut up, _, mut watch) = meter.split();
        up.take(LEAST).await.unwrap();
        tokio::select! {
            taken = up.take(100) => taken.unwrap(),
            cut = watch.idle() => panic!("{cut:?} after {:?}", start.elapsed()),
        }
        assert_eq!(start.elapsed().as_secs(), 100);
    }
    let start = Instant::now();
    for passed in 1..=5 {
        let idle = poll_fn(|cx| meter.poll_idle(cx, passed));
        assert!(timeout(Duration::from_secs(9), idle).await.is_err());
    }
    let cut = poll_fn(|cx| meter.poll_idle(cx, 5)).await;
    assert_eq!(cut, CloseReason::IdleTimeout);
    let took = start.elapsed().as_secs();
    assert_eq!(took, 4 * 9 + 10);
}

#[tokio::test(start_paused = true)]
async fn connections_are_counted_and_paced() {
    let caps = FlowLimits {
        connections: NonZeroU32::new(2),
        connections_per_second: NonZeroU32::new(4),
        ..FlowLimits::default()
    };
    let share = Share::new(Of::Sandbox, caps);
    let (first, second) = (share.open().unwrap(), share.open().unwrap());
    let refused = share.open().unwrap_err();
    assert_eq!(refused.reason.code(), "too-many-connections");
    assert_eq!(refused.detail, "connections of the sandbox");
    drop(first);
    drop(second);
    for _ in 0..2 {
        drop(share.open().unwrap());
    }
    let refused = share.open().unwrap_err();
    assert_eq!(refused.reason.code(), "rate-limited");
    assert_eq!(refused.retry_after, Duration::from_millis(250));
    assert_eq!(refused.detail, "connections_per_second of the sandbox");
    sleep(refused.retry_after).await;
    assert!(share.open().is_ok());
    assert!(
        Meter::new([Some(share), None]).is_none(),
        "no bytes to meter"
    );
}
