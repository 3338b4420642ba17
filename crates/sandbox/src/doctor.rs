//! What this host can do, and the exact command that fixes what it cannot.
//!
//! Each check does the real thing, in a throw-away process with throw-away namespaces, as the
//! user who asks: a setting that looks right is no proof, and a sandbox needs no more than this.

use std::fs;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use nix::sched::unshare;
use rustix::net::netlink::NETFILTER;
use rustix::process::{Signal, WaitOptions, geteuid, kill_process, waitpid};
use rustix::system::uname;

use crate::channel::Channel;
use crate::error::{At, SandboxError, Step};
use crate::ids::IdMaps;
use crate::init::NAMESPACES;
use crate::message::Report;
use crate::namespace_limits::NamespaceLimits;
use crate::seccomp::UnixCalls;
use crate::spec::{Addresses, Keyring, OpenRules, Tap, TapUser};
use crate::{landlock, link, listeners, mounts, netlink, refused, rules, seccomp, sys, tap};

/// How long one throw-away process may take.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The name of the throw-away TAP device.
const TRIAL_TAP: &str = "portcullis0";

/// One thing a sandbox needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// Whether it is there.
    pub ok: bool,
    /// Whether every sandbox needs it, not only some.
    pub needed: bool,
    /// What was found.
    pub found: String,
    /// The exact command that fixes it, when it is not well.
    pub fix: Option<String>,
}

/// Looks at everything a sandbox needs. Makes and throws away namespaces; changes nothing.
///
/// The calling process must have a single thread, as for [`crate::run`].
pub fn checks() -> Vec<Check> {
    let mut found = vec![kernel()];
    found.extend(SETTINGS.iter().filter_map(Setting::check));
    found.push(trial("user and PID namespaces", || Ok(())));
    found.push(trial("network and mount namespaces", spaces));
    found.push(trial("a /proc of the sandbox's own", || {
        spaces()?;
        mounts::begin()
    }));
    found.push(trial("loopback routes that accept every address", || {
        spaces()?;
        link::configure(&Addresses::new(), None).at(Step::Network, "")
    }));
    found.push(trial("transparent listeners", || {
        spaces()?;
        listeners::make(&Addresses::new(), |_, _| {}).at(Step::Listeners, "")
    }));
    found.push(trial(
        "packet rules (nf_tables: sets, tproxy, log, reject)",
        packet_rules,
    ));
    found.push(trial("system call filter", || {
        seccomp::install(&seccomp::program(UnixCalls::Pairs, Keyring::Fresh)).at(Step::Confine, "")
    }));
    found.push(trial("limits of the namespaces inside", || {
        spaces()?;
        mounts::begin()?;
        let limits = NamespaceLimits::open().and_then(|limits| limits.set());
        limits.at(Step::Confine, "limits of namespaces")
    }));
    found.push(Check {
        needed: false,
        ..trial("signals end at the sandbox (Landlock, Linux 6.12)", || {
            match landlock::scope_signals().at(Step::Confine, "signals")? {
                true => Ok(()),
                false => Err(SandboxError::refused(
                    Step::Confine,
                    "the kernel has no such scope: a signal to CMD's own process group reaches its caller's",
                )),
            }
        })
    });
    found.push(Check {
        needed: false,
        ..trial(
            "Unix sockets of programs inside (seccomp notifications)",
            || {
                seccomp::install_asking(&seccomp::program(UnixCalls::Ask, Keyring::Fresh))
                    .at(Step::SuperviseSockets, "")
                    .map(drop)
            },
        )
    });
    found.push(Check {
        needed: false,
        ..trial("TAP devices, for virtual machines (/dev/net/tun)", || {
            spaces()?;
            let trial = Tap {
                name: TRIAL_TAP.to_owned(),
                mtu: 1500,
                user: TapUser::Program,
            };
            tap::make(&trial).at(Step::Tap, tap::DEVICE).map(drop)
        })
    });
    found
}

fn spaces() -> Result<(), SandboxError> {
    unshare(NAMESPACES).at(Step::Namespaces, "")
}

fn packet_rules() -> Result<(), SandboxError> {
    spaces()?;
    let socket = netlink::open(Some(NETFILTER)).at(Step::Rules, "")?;
    for batch in rules::transactions(&Addresses::new(), &OpenRules::default(), None, None) {
        netlink::transact(socket.as_fd(), batch).at(Step::Rules, "")?;
    }
    let log = refused::make_socket().at(Step::Rules, "log of refusals")?;
    refused::begin_refusal_log(log.as_fd()).at(Step::Rules, "log of refusals")
}

/// Does something in a throw-away process with its own user and PID namespaces.
fn trial(name: &'static str, attempt: impl FnOnce() -> Result<(), SandboxError>) -> Check {
    let result = in_throw_away(attempt);
    let fix = result
        .as_ref()
        .err()
        .and_then(SandboxError::fix)
        .map(str::to_owned);
    let found = match &result {
        Ok(()) => "works".to_owned(),
        Err(error) => error.to_string(),
    };
    Check {
        name,
        ok: result.is_ok(),
        needed: true,
        found,
        fix,
    }
}

fn in_throw_away(attempt: impl FnOnce() -> Result<(), SandboxError>) -> Result<(), SandboxError> {
    let (ours, theirs) = Channel::pair().at(Step::Prepare, "channel")?;
    let maps = IdMaps::of_caller().at(Step::IdMap, "reading")?;
    // SAFETY: as for `run`, the caller has one thread.
    let child = unsafe { sys::fork_into_namespaces() }.at(Step::UserNamespace, "")?;
    let Some(child) = child else {
        let own = || {
            if maps.privileged() {
                Ok(())
            } else {
                maps.write_own().at(Step::IdMap, "")
            }
        };
        // A panic must end here: what is above on the stack is the caller's own code.
        let result = catch_unwind(AssertUnwindSafe(|| own().and_then(|()| attempt())));
        let message = match result {
            Ok(Ok(())) => Report::Exited(0),
            Ok(Err(error)) => Report::Failed(error),
            Err(_) => Report::Exited(1),
        };
        let _ = theirs.send(&message.encode(), &[]);
        // A process that has ended cannot be mapped any more: wait to be killed, or for the end of
        // who would do it.
        drop(ours);
        let _ = theirs.receive(TRIAL_TIMEOUT);
        sys::exit(0)
    };
    drop(theirs);
    let mapped = if maps.privileged() {
        maps.write_for(child).at(Step::IdMap, "")
    } else {
        Ok(())
    };
    let answer = ours.receive(TRIAL_TIMEOUT);
    let _ = kill_process(child, Signal::KILL);
    let _ = waitpid(Some(child), WaitOptions::empty());
    mapped?;
    let message = answer.at(Step::Prepare, "no answer")?;
    match Report::decode(&message.bytes) {
        Some(Report::Exited(0)) => Ok(()),
        Some(Report::Failed(error)) => Err(error),
        _ => Err(SandboxError::refused(
            Step::Prepare,
            "the test process exited without a report",
        )),
    }
}

/// A kernel setting that forbids sandboxes when it has a certain value.
struct Setting {
    name: &'static str,
    path: &'static str,
    forbids: &'static str,
    fix: &'static str,
}

const SETTINGS: [Setting; 5] = [
    Setting {
        name: "kernel.unprivileged_userns_clone",
        path: "/proc/sys/kernel/unprivileged_userns_clone",
        forbids: "0",
        fix: "sudo sysctl -w kernel.unprivileged_userns_clone=1",
    },
    Setting {
        name: "kernel.apparmor_restrict_unprivileged_userns",
        path: "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        forbids: "1",
        fix: "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    },
    Setting {
        name: "user.max_user_namespaces",
        path: "/proc/sys/user/max_user_namespaces",
        forbids: "0",
        fix: "sudo sysctl -w user.max_user_namespaces=15000",
    },
    Setting {
        name: "user.max_net_namespaces",
        path: "/proc/sys/user/max_net_namespaces",
        forbids: "0",
        fix: "sudo sysctl -w user.max_net_namespaces=15000",
    },
    Setting {
        name: "user.max_mnt_namespaces",
        path: "/proc/sys/user/max_mnt_namespaces",
        forbids: "0",
        fix: "sudo sysctl -w user.max_mnt_namespaces=15000",
    },
];

impl Setting {
    /// None where the kernel does not have the setting.
    fn check(&self) -> Option<Check> {
        let value = fs::read_to_string(Path::new(self.path)).ok()?;
        Some(self.judge(value.trim()))
    }

    fn judge(&self, value: &str) -> Check {
        // Root is not held up by what keeps others from user namespaces.
        let root = geteuid().is_root() && self.path.starts_with("/proc/sys/kernel/");
        let ok = value != self.forbids || root;
        Check {
            name: self.name,
            ok,
            needed: true,
            found: value.to_owned(),
            fix: (!ok).then(|| self.fix.to_owned()),
        }
    }
}

/// The oldest kernel whose calls are all used: `mount_setattr`.
const OLDEST_KERNEL: (u32, u32) = (5, 12);

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_else(|_| uname().release().to_string_lossy().into_owned());
    judge_kernel(release.trim())
}

fn judge_kernel(release: &str) -> Check {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut next = || {
        numbers
            .next()
            .and_then(|number| number.parse::<u32>().ok())
            .unwrap_or(0)
    };
    let version = (next(), next());
    let ok = version >= OLDEST_KERNEL;
    Check {
        name: "kernel",
        ok,
        needed: true,
        found: release.to_owned(),
        fix: (!ok).then(|| "install kernel 5.12 or newer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        assert!(judge_kernel("6.18.44-x").ok);
        assert!(judge_kernel("5.12").ok);
        assert!(!judge_kernel("5.4.0-100-generic").ok);
        assert!(!judge_kernel("").ok);
    }

    #[test]
    fn settings_that_forbid_name_their_fix() {
        for setting in &SETTINGS[2..] {
            assert!(setting.judge("100").ok);
            let bad = setting.judge(setting.forbids);
            assert!(!bad.ok);
            assert!(bad.fix.unwrap().contains(setting.name));
        }
    }
}
