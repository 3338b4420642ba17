//! Orders of the terminal's parent that the sandbox's first process has not taken yet.
//!
//! Answers *exhaustion* (docs/threats.md). The parent never waits for the first process: what the
//! channel has no room for stays here, each order once, however often it is given.

use std::io::ErrorKind;

use crate::channel::Channel;
use crate::message::Order;

/// What is still to be said.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    mapped: bool,
    followed: Option<i32>,
    /// A bit for each signal's number.
    signals: u64,
    stop_to_continue: Option<i32>,
}

/// Whether all was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    All,
    Some,
}

impl Orders {
    pub(crate) fn add(&mut self, order: Order) {
        match order {
            Order::Mapped => self.mapped = true,
            Order::Followed(stop) => self.followed = Some(stop),
            Order::Signal(signal) => self.signals |= 1 << (signal & 63),
            Order::Continue(stop) => self.stop_to_continue = Some(stop),
        }
    }

    /// Sends what there is room for. A first process that has ended needs no orders: its end is news of
    /// its own.
    pub(crate) fn send(&mut self, channel: &Channel) -> Sent {
        while let Some(order) = self.next() {
            match channel.send(&order.encode(), &[]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Sent::Some,
                Ok(()) | Err(_) => self.remove(order),
            }
        }
        Sent::All
    }

    /// The order that comes first. Signals go by number: SIGTERM before the SIGCONT that lets a stopped
    /// command see it.
    fn next(&self) -> Option<Order> {
        let signal = (self.signals != 0).then(|| self.signals.trailing_zeros() as i32);
        self.mapped
            .then_some(Order::Mapped)
            .or(self.followed.map(Order::Followed))
            .or(signal.map(Order::Signal))
            .or(self.stop_to_continue.map(Order::Continue))
    }

    fn remove(&mut self, order: Order) {
        match order {
            Order::Mapped => self.mapped = false,
            Order::Followed(_) => self.followed = None,
            Order::Signal(signal) => self.signals &= !(1 << (signal & 63)),
            Order::Continue(_) => self.stop_to_continue = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(channel: &Channel) -> Vec<Order> {
        std::iter::from_fn(|| channel.receive_now().unwrap())
            .map(|message| Order::decode(&message.bytes).unwrap())
            .collect()
    }

    #[test]
    fn orders_that_found_no_room_are_given_once_when_there_is_some() {
        let (ours, theirs) = Channel::pair().unwrap();
        while ours.send(&Order::Mapped.encode(), &[]).is_ok() {}
        let mut orders = Orders::default();
        for stop in 0..10_000 {
            for signal in [libc::SIGCONT, libc::SIGTERM] {
                orders.add(Order::Signal(signal));
            }
            orders.add(Order::Continue(stop));
            orders.add(Order::Followed(stop));
            assert_eq!(orders.send(&ours), Sent::Some);
        }
        taken(&theirs);
        assert_eq!(orders.send(&ours), Sent::All);
        let expected = [
            Order::Followed(9_999),
            Order::Signal(libc::SIGTERM),
            Order::Signal(libc::SIGCONT),
            Order::Continue(9_999),
        ];
        assert_eq!(taken(&theirs), expected);
        assert_eq!(orders.send(&ours), Sent::All);
        assert!(taken(&theirs).is_empty());
    }
}
