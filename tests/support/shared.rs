//! One world for all tests of a program that run at the same time, and the Python module `gate`
//! (`support/gate.py`) in its home: what a hostile program writes by hand.
//!
//! Included beside `mod support` by the programs that share a world:
//! `#[path = "support/shared.rs"] mod shared;`. Every test of such a program asserts on the logs of
//! the whole world, so that a leak in one test fails its neighbours too.

use portcullis_testkit::World;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, Weak};

/// The module that tests import as `gate`.
pub const GATE: &str = include_str!("gate.py");

/// The shared world. It lives until the last test that asked for it has ended: each test holds it
/// by its own thread, so that what is asserted on at a test's end is what ran at its beginning.
pub fn world() -> Arc<World> {
    static LIVING: Mutex<Weak<World>> = Mutex::new(Weak::new());
    thread_local! {
        static HELD: RefCell<Option<Arc<World>>> = const { RefCell::new(None) };
    }
    HELD.with_borrow_mut(|held| {
        let world = held.get_or_insert_with(|| {
            let mut living = LIVING.lock().unwrap_or_else(|poison| poison.into_inner());
            living.upgrade().unwrap_or_else(|| {
                let world = Arc::new(crate::support::world());
                world.file("gate.py", GATE);
                *living = Arc::downgrade(&world);
                world
            })
        });
        world.clone()
    })
}
