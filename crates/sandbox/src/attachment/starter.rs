//! The process that starts holders, and that each of them is a copy of.
//!
//! One for each sandbox has to be a process of its own: a user namespace cannot be left. What a program has in memory
//! once it has started is made once, and shared by all of them. It ends with its gateway; they stay.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{DumpableBehavior, set_dumpable_behavior, setsid};

use super::holder::{live, tell_failure};
use crate::channel::{Channel, ToInit};
use crate::error::{At, Step};
use crate::{fds, signals, streams, sys};

const EXIT_FAILED: i32 = 1;

/// The whole life of it, and of each holder: standard input is the channel to the gateway. Returns the exit code. Call
/// it in a process of its own, with a single thread.
pub fn hold() -> i32 {
    match gateway() {
        Ok(gateway) => start_holders(gateway),
        Err(_) => EXIT_FAILED,
    }
}

/// Makes this a process that nobody looks into, and that holds nothing but its channel.
fn gateway() -> io::Result<Channel> {
    // Programs of the same user must not look into it: a holder has capabilities over its sandbox.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Its terminal's signals are not meant for it.
    let _ = setsid();
    let gateway = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    // A copy of the caller's own would keep a pipe open.
    let mut needed = [0, 1, 2, gateway.as_raw_fd()];
    // SAFETY: nothing else of this process owns a descriptor yet.
    unsafe { fds::close_all_but(&mut needed) }?;
    streams::replace_by(&streams::null()?)?;
    std::env::set_current_dir("/")?;
    // Nobody waits for a holder.
    signals::forget_children()?;
    Ok(gateway.into())
}

/// Starts a holder for each sandbox that the gateway names, until it is gone.
fn start_holders(gateway: Channel) -> i32 {
    loop {
        if sys::poll([gateway.as_fd()], None).is_err() {
            return EXIT_FAILED;
        }
        let mut message = match gateway.receive_now() {
            Ok(Some(message)) => message,
            Ok(None) => continue,
            Err(_) => return EXIT_FAILED,
        };
        let (code, request, caller) = match (&*message.bytes, message.fds.pop(), message.fds.pop())
        {
            ([], _, _) => return 0,
            ([code], Some(request), Some(caller)) => (*code, request, Channel::from(caller)),
            _ => return EXIT_FAILED,
        };
        if code != ToInit::Attach as u8 {
            return EXIT_FAILED;
        }
        // SAFETY: the process has a single thread.
        match unsafe { sys::fork() }.at(Step::Attach, "its holder") {
            Ok(Some(_)) => {}
            Ok(None) => {
                // The starter alone answers for it.
                drop(gateway);
                return match signals::wait_for_children() {
                    Ok(()) => live(caller, request),
                    Err(_) => EXIT_FAILED,
                };
            }
            Err(error) => tell_failure(&caller, error),
        }
    }
}
