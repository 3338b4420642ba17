//! The command's system call filter: classic BPF as commented data.
//!
//! `connect` and `listen` stand still until the supervisor has answered for them, and Unix sockets for
//! datagrams do not exist: their destination comes with each message, where no filter sees it. The
//! supervisor is told of raw Internet sockets too, so that what the kernel refuses is recorded.
//!
//! Answers *around the gateway* (docs/threats.md). It leaves UNIX, INET, INET6 and NETLINK sockets
//! (no packet, vsock, bluetooth, ... sockets), no io_uring (it would make sockets past this filter),
//! no keys unless the caller's keyrings are to be inherited, and never `request_key` (the kernel
//! resolves names for it on the host). It lets no input be pushed into the terminal, and no leases be
//! taken on files (the program could hold up whoever opens a policy or a log, also one of another
//! sandbox).
//!
//! It refuses changes of limits, priorities and processors for the sandbox's own two processes and for
//! groups that reach beyond the sandbox; and `clone3`, whose arguments a filter cannot see, since it
//! can start a process in another control group although control groups are mounted read-only. C
//! libraries use `clone` then.
//!
//! Calls through the i386 entry on x86-64 meet the same filter; x32 has no entry at all. Everything
//! else stays, so that a sandbox inside the sandbox works.
//!
//! The instructions are written here and not compiled by `seccompiler`: its filters know one
//! architecture, end a process that calls by another entry, and refuse with one error, while this
//! one answers two entries with three errors.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::thread::set_no_new_privs;

use crate::spec::Keyring;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`; arguments are 64 bits, of which the kernel's own code uses
/// the low 32 for all that is looked at here.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
#[cfg(target_endian = "little")]
const fn argument(index: u32) -> u32 {
    16 + index * 8
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const ASK: u32 = libc::SECCOMP_RET_USER_NOTIF;
const fn fail(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

/// The call numbers of one architecture.
struct Calls {
    architecture: u32,
    socket: u32,
    socketpair: u32,
    connect: u32,
    listen: u32,
    ioctl: u32,
    /// `fcntl`, and `fcntl64` where there is one.
    fcntl: &'static [u32],
    request_key: u32,
    /// `add_key`, `keyctl`.
    keys: [u32; 2],
    /// `prlimit64`, `sched_setaffinity`, `sched_setscheduler`, `sched_setparam`, `sched_setattr`: the
    /// first argument is the process.
    of_process: [u32; 5],
    setpriority: u32,
    ioprio_set: u32,
    /// The old multiplexer of i386, whose arguments a filter cannot see.
    socketcall: Option<u32>,
    /// The first number of another table on the same entry (x32).
    beyond: Option<u32>,
}

#[cfg(target_arch = "x86_64")]
const X86_64: Calls = Calls {
    architecture: 0xc000_003e,
    socket: 41,
    socketpair: 53,
    connect: 42,
    listen: 50,
    ioctl: 16,
    fcntl: &[72],
    request_key: 249,
    keys: [248, 250],
    of_process: [302, 203, 144, 142, 314],
    setpriority: 141,
    ioprio_set: 251,
    socketcall: None,
    beyond: Some(0x4000_0000),
};
#[cfg(target_arch = "x86_64")]
const I386: Calls = Calls {
    architecture: 0x4000_0003,
    socket: 359,
    socketpair: 360,
    connect: 362,
    listen: 363,
    ioctl: 54,
    fcntl: &[55, 221],
    request_key: 287,
    keys: [286, 288],
    of_process: [340, 241, 156, 154, 351],
    setpriority: 97,
    ioprio_set: 289,
    socketcall: Some(102),
    beyond: None,
};
#[cfg(target_arch = "aarch64")]
const AARCH64: Calls = Calls {
    architecture: 0xc000_00b7,
    socket: 198,
    socketpair: 199,
    connect: 203,
    listen: 201,
    ioctl: 29,
    fcntl: &[25],
    request_key: 218,
    keys: [217, 219],
    of_process: [261, 122, 119, 118, 274],
    setpriority: 140,
    ioprio_set: 30,
    socketcall: None,
    beyond: None,
};
#[cfg(target_arch = "aarch64")]
const ARM: Calls = Calls {
    architecture: 0x4000_0028,
    socket: 281,
    socketpair: 288,
    connect: 283,
    listen: 284,
    ioctl: 54,
    fcntl: &[55, 221],
    request_key: 310,
    keys: [309, 311],
    of_process: [369, 241, 156, 154, 380],
    setpriority: 97,
    ioprio_set: 314,
    socketcall: Some(102),
    beyond: None,
};

/// `io_uring_setup`, `_enter`, `_register`: the same numbers everywhere.
const IO_URING: [u32; 3] = [425, 426, 427];
/// `clone3`: the same number everywhere.
const CLONE3: u32 = 435;
/// The sandbox's first process and its supervisor, as the command sees them. In a PID namespace further
/// inside they are that namespace's own, which may change themselves by the number 0.
const OWN_PROCESSES: [u32; 2] = [1, 2];
/// The same where there is no supervisor, and the second process is the command itself.
const FIRST_PROCESS: [u32; 1] = [1];
/// The caller's own process group, which the sandbox's parent is in.
const OWN_GROUP: u32 = 0;
/// What `setpriority` calls a process and a process group.
const PRIO_PROCESS: u32 = 0;
const PRIO_PGRP: u32 = 1;
/// What `ioprio_set` calls a process and a process group.
const IOPRIO_WHO_PROCESS: u32 = 1;
const IOPRIO_WHO_PGRP: u32 = 2;
/// Push a byte into the terminal's input; paste the console's selection.
const TERMINAL_INJECTION: [u32; 2] = [libc::TIOCSTI as u32, libc::TIOCLINUX as u32];
/// Leases on files, and delegations (`F_SETDELEG`, Linux 6.19).
const LEASES: [u32; 2] = [libc::F_SETLEASE as u32, 1040];
/// The socket families that stay, besides Unix sockets.
const FAMILIES: [i32; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// The bits of a socket's type that are not flags.
const TYPE_MASK: u32 = 0xf;
/// The types of Unix sockets whose only destination is the one they are connected to.
const CONNECTED_TYPES: [i32; 2] = [libc::SOCK_STREAM, libc::SOCK_SEQPACKET];

/// What the filter does about Unix sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnixCalls {
    /// Each `connect` is asked about.
    Ask,
    /// Something else keeps them from the host's sockets.
    Free,
    /// There are only pairs of them, connected with each other for good.
    Pairs,
}

/// A call that is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Supervised {
    Connect,
    Listen,
    /// The making of a raw Internet socket.
    RawSocket,
}

/// Which call this is, by the entry that it came by and its number there.
pub(crate) fn supervised(architecture: u32, number: u32) -> Option<Supervised> {
    let calls = TABLES
        .iter()
        .find(|calls| calls.architecture == architecture)?;
    match number {
        number if number == calls.connect => Some(Supervised::Connect),
        number if number == calls.listen => Some(Supervised::Listen),
        number if number == calls.socket => Some(Supervised::RawSocket),
        _ => None,
    }
}

/// The tables of this machine's entries.
#[cfg(target_arch = "x86_64")]
const TABLES: [&Calls; 2] = [&X86_64, &I386];
#[cfg(target_arch = "aarch64")]
const TABLES: [&Calls; 2] = [&AARCH64, &ARM];

/// A usual length of the program, in instructions.
const USUAL_LENGTH: usize = 160;

/// The filter's program.
pub(crate) fn program(unix: UnixCalls, keyring: Keyring) -> Vec<libc::sock_filter> {
    let mut out = Vec::with_capacity(USUAL_LENGTH);
    for calls in TABLES {
        let body = table(calls, unix, keyring);
        out.push(statement(LOAD, ARCHITECTURE));
        // Skip this table's body unless the call came by its entry.
        out.push(jump(JUMP_EQUAL, calls.architecture, 0, body.len() as u8));
        out.extend(body);
    }
    // An entry that is not known here.
    out.push(statement(RETURN, fail(libc::ENOSYS)));
    out
}

/// Decides on the calls of one entry; always returns.
fn table(calls: &Calls, unix: UnixCalls, keyring: Keyring) -> Vec<libc::sock_filter> {
    let mut out = vec![statement(LOAD, NUMBER)];
    if let Some(beyond) = calls.beyond {
        refuse_if(&mut out, JUMP_AT_LEAST, beyond, libc::ENOSYS);
    }
    for number in missing(calls, keyring) {
        refuse_if(&mut out, JUMP_EQUAL, number, libc::ENOSYS);
    }
    if unix == UnixCalls::Ask {
        let asked = [calls.connect, calls.listen];
        for_calls(&mut out, &asked, &[statement(RETURN, ASK)]);
    }
    let (single, pair) = match unix {
        UnixCalls::Ask => (connected_types(), connected_types()),
        UnixCalls::Free => (
            vec![statement(RETURN, ALLOW)],
            vec![statement(RETURN, ALLOW)],
        ),
        UnixCalls::Pairs => (
            vec![statement(RETURN, fail(libc::EAFNOSUPPORT))],
            connected_types(),
        ),
    };
    let free = [statement(RETURN, ALLOW)];
    let single = match unix {
        UnixCalls::Ask => families(&single, &raw_asked()),
        UnixCalls::Free | UnixCalls::Pairs => families(&single, &free),
    };
    for_calls(&mut out, &[calls.socket], &single);
    for_calls(&mut out, &[calls.socketpair], &families(&pair, &free));
    for number in calls.fcntl {
        refuse_argument(&mut out, *number, LEASES, libc::EACCES);
    }
    refuse_argument(&mut out, calls.ioctl, TERMINAL_INJECTION, libc::EPERM);
    let mut of_process = vec![statement(LOAD, argument(0))];
    own_process(&mut of_process, unix);
    for_calls(&mut out, &calls.of_process, &of_process);
    let priority = by_kind(PRIO_PROCESS, PRIO_PGRP, unix);
    for_calls(&mut out, &[calls.setpriority], &priority);
    let io_priority = by_kind(IOPRIO_WHO_PROCESS, IOPRIO_WHO_PGRP, unix);
    for_calls(&mut out, &[calls.ioprio_set], &io_priority);
    out.push(statement(RETURN, ALLOW));
    out
}

/// The calls that do not exist inside.
fn missing(calls: &Calls, keyring: Keyring) -> impl Iterator<Item = u32> {
    let keys = calls.keys.into_iter();
    IO_URING
        .into_iter()
        .chain([CLONE3, calls.request_key])
        .chain(keys.filter(move |_| keyring == Keyring::Fresh))
        .chain(calls.socketcall)
}

/// Refuses where the argument that has been loaded is a process of the sandbox's own.
fn own_process(out: &mut Vec<libc::sock_filter>, unix: UnixCalls) {
    let own: &[u32] = match unix {
        UnixCalls::Ask => &OWN_PROCESSES,
        UnixCalls::Free | UnixCalls::Pairs => &FIRST_PROCESS,
    };
    for process in own.iter().copied() {
        refuse_if(out, JUMP_EQUAL, process, libc::EPERM);
    }
    out.push(statement(RETURN, ALLOW));
}

/// The first argument says what the second is: a process, a group, or else a user, whose processes
/// always include the sandbox's own.
fn by_kind(process: u32, group: u32, unix: UnixCalls) -> Vec<libc::sock_filter> {
    let mut out = vec![statement(LOAD, argument(0))];
    let mut one = vec![statement(LOAD, argument(1))];
    own_process(&mut one, unix);
    for_calls(&mut out, &[process], &one);
    let mut several = vec![statement(LOAD, argument(1))];
    refuse_if(&mut several, JUMP_EQUAL, OWN_GROUP, libc::EPERM);
    several.push(statement(RETURN, ALLOW));
    for_calls(&mut out, &[group], &several);
    out.push(statement(RETURN, fail(libc::EPERM)));
    out
}

/// Puts a body, which always returns, behind a test for some calls.
fn for_calls(out: &mut Vec<libc::sock_filter>, numbers: &[u32], body: &[libc::sock_filter]) {
    for (at, number) in numbers.iter().enumerate() {
        let left = (numbers.len() - at - 1) as u8;
        // The last number that does not fit jumps over the body.
        let other = if left == 0 { body.len() as u8 } else { 0 };
        out.push(jump(JUMP_EQUAL, *number, left, other));
    }
    out.extend_from_slice(body);
}

/// The socket families that stay; `unix` decides on Unix sockets, `internet` on those of IPv4 and IPv6.
fn families(unix: &[libc::sock_filter], internet: &[libc::sock_filter]) -> Vec<libc::sock_filter> {
    let free = [statement(RETURN, ALLOW)];
    let mut out = vec![statement(LOAD, argument(0))];
    for family in FAMILIES {
        let body = match family {
            libc::AF_NETLINK => &free,
            _ => internet,
        };
        out.push(jump(JUMP_EQUAL, family as u32, 0, body.len() as u8));
        out.extend_from_slice(body);
    }
    refuse_unless(&mut out, libc::AF_UNIX as u32, libc::EAFNOSUPPORT);
    out.extend_from_slice(unix);
    out
}

/// Raw sockets are asked about, all others are free.
fn raw_asked() -> [libc::sock_filter; 5] {
    [
        statement(LOAD, argument(1)),
        statement(AND, TYPE_MASK),
        jump(JUMP_EQUAL, libc::SOCK_RAW as u32, 0, 1),
        statement(RETURN, ASK),
        statement(RETURN, ALLOW),
    ]
}

/// Unix sockets that are connected before anything is sent.
fn connected_types() -> Vec<libc::sock_filter> {
    let mut out = vec![statement(LOAD, argument(1)), statement(AND, TYPE_MASK)];
    for kind in CONNECTED_TYPES {
        out.push(jump(JUMP_EQUAL, kind as u32, 0, 1));
        out.push(statement(RETURN, ALLOW));
    }
    out.push(statement(RETURN, fail(libc::ESOCKTNOSUPPORT)));
    out
}

/// Refuses a call whose second argument is one of these, and lets it pass with any other.
fn refuse_argument(out: &mut Vec<libc::sock_filter>, number: u32, values: [u32; 2], errno: i32) {
    let count = values.len() as u8;
    out.push(jump(JUMP_EQUAL, number, 0, 2 + count * 2));
    out.push(statement(LOAD, argument(1)));
    for value in values {
        refuse_if(out, JUMP_EQUAL, value, errno);
    }
    out.push(statement(RETURN, ALLOW));
}

fn refuse_unless(out: &mut Vec<libc::sock_filter>, value: u32, errno: i32) {
    out.push(jump(JUMP_EQUAL, value, 1, 0));
    out.push(statement(RETURN, fail(errno)));
}

fn refuse_if(out: &mut Vec<libc::sock_filter>, how: u16, value: u32, errno: i32) {
    out.push(jump(how, value, 0, 1));
    out.push(statement(RETURN, fail(errno)));
}

const fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Puts the calling process, and all it will start, under the filter, for good.
pub(crate) fn install(program: &[libc::sock_filter]) -> io::Result<()> {
    set_filter(program, 0).map(drop)
}

/// The same; what the filter asks arrives at the descriptor that is returned.
///
/// # Errors
/// `EBUSY` where a filter around the caller asks somebody already.
pub(crate) fn install_asking(program: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let listen = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // Signals wait while a call is being carried out, so that none is begun again that is done.
    let whole = listen | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let fd = set_filter(program, whole).or_else(|error| match error.raw_os_error() {
        // A kernel before 5.19.
        Some(libc::EINVAL) => set_filter(program, listen),
        _ => Err(error),
    })?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn set_filter(program: &[libc::sock_filter], flags: libc::c_ulong) -> io::Result<i64> {
    set_no_new_privs(true)?;
    let header = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the filter has `len` live instructions, which the kernel copies.
    let installed = unsafe {
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        libc::syscall(libc::SYS_seccomp, mode, flags, &raw const header)
    };
    crate::sys::check(installed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter says of a call: a small interpreter of the instructions used.
    fn judge_with(unix: UnixCalls, architecture: u32, number: u32, arguments: [u64; 2]) -> u32 {
        interpret(
            &program(unix, Keyring::Fresh),
            architecture,
            number,
            arguments,
        )
    }

    fn interpret(
        program: &[libc::sock_filter],
        architecture: u32,
        number: u32,
        arguments: [u64; 2],
    ) -> u32 {
        let mut accumulator = 0_u32;
        let mut at = 0;
        loop {
            let step = program[at];
            at += 1;
            match step.code {
                LOAD => {
                    accumulator = match step.k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        16 => arguments[0] as u32,
                        24 => arguments[1] as u32,
                        other => panic!("load at {other}"),
                    }
                }
                AND => accumulator &= step.k,
                JUMP_EQUAL | JUMP_AT_LEAST => {
                    let holds = if step.code == JUMP_EQUAL {
                        accumulator == step.k
                    } else {
                        accumulator >= step.k
                    };
                    at += usize::from(if holds { step.jt } else { step.jf });
                }
                RETURN => return step.k,
                other => panic!("code {other}"),
            }
        }
    }

    fn judge(architecture: u32, number: u32, arguments: [u64; 2]) -> u32 {
        judge_with(UnixCalls::Ask, architecture, number, arguments)
    }

    #[test]
    fn only_four_socket_families_stay() {
        for calls in TABLES {
            for family in 0..64 {
                let expected = if FAMILIES.contains(&family) || family == libc::AF_UNIX {
                    ALLOW
                } else {
                    fail(libc::EAFNOSUPPORT)
                };
                let stream = libc::SOCK_STREAM as u64;
                for call in [calls.socket, calls.socketpair] {
                    assert_eq!(
                        judge(calls.architecture, call, [family as u64, stream]),
                        expected,
                        "{family}"
                    );
                }
            }
            // The kernel takes the family as an int: high bits do not hide it.
            assert_eq!(
                judge(
                    calls.architecture,
                    calls.socket,
                    [(1 << 32) | libc::AF_VSOCK as u64, 0]
                ),
                fail(libc::EAFNOSUPPORT)
            );
        }
    }

    #[test]
    fn unix_sockets_for_datagrams_do_not_exist_whatever_flags_come_with_the_type() {
        let unix = libc::AF_UNIX as u64;
        let flags = [0, libc::SOCK_CLOEXEC, libc::SOCK_NONBLOCK, 0x40000000];
        for calls in TABLES {
            for (kind, call) in
                (0..16).flat_map(|kind| [calls.socket, calls.socketpair].map(|call| (kind, call)))
            {
                for flag in flags {
                    let kind_and_flag = (1 << 32) | (kind | flag) as u64;
                    let of =
                        |mode| judge_with(mode, calls.architecture, call, [unix, kind_and_flag]);
                    let connected = CONNECTED_TYPES.contains(&kind);
                    let expected = if connected {
                        ALLOW
                    } else {
                        fail(libc::ESOCKTNOSUPPORT)
                    };
                    assert_eq!(of(UnixCalls::Ask), expected, "{kind}");
                    assert_eq!(of(UnixCalls::Free), ALLOW, "{kind}");
                    let alone = if call == calls.socket {
                        fail(libc::EAFNOSUPPORT)
                    } else {
                        expected
                    };
                    assert_eq!(of(UnixCalls::Pairs), alone, "{kind}");
                }
                // Datagrams of other families stay.
                let inet = [libc::AF_INET as u64, libc::SOCK_DGRAM as u64];
                assert_eq!(judge(calls.architecture, call, inet), ALLOW);
            }
        }
    }

    #[test]
    fn connect_and_listen_are_asked_about_by_every_entry() {
        for calls in TABLES {
            for (call, what) in [
                (calls.connect, Supervised::Connect),
                (calls.listen, Supervised::Listen),
            ] {
                assert_eq!(judge(calls.architecture, call, [0, 0]), ASK);
                assert_eq!(supervised(calls.architecture, call), Some(what));
                for mode in [UnixCalls::Free, UnixCalls::Pairs] {
                    assert_eq!(judge_with(mode, calls.architecture, call, [0, 0]), ALLOW);
                }
            }
            assert_eq!(supervised(calls.architecture, calls.socketpair), None);
        }
    }

    #[test]
    fn raw_internet_sockets_are_asked_about_whatever_flags_come_with_the_type() {
        for calls in TABLES {
            let of = |mode, family: i32, kind: i32| {
                let kind = (1 << 32) | (kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u64;
                judge_with(
                    mode,
                    calls.architecture,
                    calls.socket,
                    [family as u64, kind],
                )
            };
            for family in [libc::AF_INET, libc::AF_INET6] {
                assert_eq!(of(UnixCalls::Ask, family, libc::SOCK_RAW), ASK);
                for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
                    assert_eq!(of(UnixCalls::Ask, family, kind), ALLOW);
                }
                assert_eq!(of(UnixCalls::Free, family, libc::SOCK_RAW), ALLOW);
            }
            // Configuration tools use these all the time.
            let netlink = of(UnixCalls::Ask, libc::AF_NETLINK, libc::SOCK_RAW);
            assert_eq!(netlink, ALLOW);
            let what = supervised(calls.architecture, calls.socket);
            assert_eq!(what, Some(Supervised::RawSocket));
        }
    }

    #[test]
    fn terminal_injection_and_leases_are_refused_also_with_high_bits_set() {
        for calls in TABLES {
            let ioctl = (calls.ioctl, TERMINAL_INJECTION, libc::EPERM, 0x5401);
            let fcntl = |number: &u32| (*number, LEASES, libc::EACCES, libc::F_GETFL as u64);
            for (number, refused, errno, other) in calls.fcntl.iter().map(fcntl).chain([ioctl]) {
                for request in refused {
                    for high in [0, 1 << 32, 0xffff_ffff << 32] {
                        let arguments = [0, high | u64::from(request)];
                        let verdict = judge(calls.architecture, number, arguments);
                        assert_eq!(verdict, fail(errno));
                    }
                }
                assert_eq!(judge(calls.architecture, number, [0, other]), ALLOW);
            }
        }
    }

    #[test]
    fn inherited_keyrings_can_be_used_but_nothing_is_requested_of_the_host() {
        let inherit = program(UnixCalls::Ask, Keyring::Inherit);
        for calls in TABLES {
            let verdict = |number| interpret(&inherit, calls.architecture, number, [0, 0]);
            for number in calls.keys {
                assert_eq!(verdict(number), ALLOW);
            }
            assert_eq!(verdict(calls.request_key), fail(libc::ENOSYS));
        }
    }

    #[test]
    fn limits_and_priorities_of_others_are_refused_also_with_high_bits_set() {
        const REFUSED: u32 = fail(libc::EPERM);
        for calls in TABLES {
            for high in [0, 1 << 32, 0xffff_ffff << 32] {
                let verdict = |number, first: u64, second: u64| {
                    judge(calls.architecture, number, [high | first, high | second])
                };
                for number in calls.of_process {
                    assert_eq!(verdict(number, 1, 0), REFUSED);
                    assert_eq!(verdict(number, 2, 0), REFUSED);
                    assert_eq!(verdict(number, 0, 1), ALLOW);
                    assert_eq!(verdict(number, 3, 1), ALLOW);
                    let alone = program(UnixCalls::Pairs, Keyring::Fresh);
                    let verdict =
                        |first| interpret(&alone, calls.architecture, number, [high | first, 0]);
                    assert_eq!((verdict(1), verdict(2)), (REFUSED, ALLOW));
                }
                // Process, group, user.
                let kinds = [
                    (calls.setpriority, [0, 1, 2]),
                    (calls.ioprio_set, [1, 2, 3]),
                ];
                for (number, [process, group, user]) in kinds {
                    assert_eq!(verdict(number, process, 1), REFUSED);
                    assert_eq!(verdict(number, process, 2), REFUSED);
                    assert_eq!(verdict(number, process, 0), ALLOW);
                    assert_eq!(verdict(number, group, 0), REFUSED);
                    assert_eq!(verdict(number, group, 1), ALLOW);
                    assert_eq!(verdict(number, user, 0), REFUSED);
                    assert_eq!(verdict(number, user, 1000), REFUSED);
                    assert_eq!(verdict(number, 77, 3), REFUSED);
                }
            }
        }
    }

    #[test]
    fn io_uring_keys_clone3_and_the_other_tables_do_not_exist() {
        for calls in TABLES {
            for number in missing(calls, Keyring::Fresh) {
                assert_eq!(
                    judge(calls.architecture, number, [0, 0]),
                    fail(libc::ENOSYS)
                );
            }
            if let Some(beyond) = calls.beyond {
                assert_eq!(
                    judge(calls.architecture, beyond + calls.socket, [2, 0]),
                    fail(libc::ENOSYS)
                );
            }
            // write, mount-like and clone-like numbers pass.
            for number in [1, 4, 56, 165, 272] {
                if ![
                    calls.socket,
                    calls.socketpair,
                    calls.ioctl,
                    calls.connect,
                    calls.listen,
                ]
                .contains(&number)
                {
                    assert_eq!(judge(calls.architecture, number, [0, 0]), ALLOW, "{number}");
                }
            }
        }
        assert_eq!(
            judge(0x1234, 1, [0, 0]),
            fail(libc::ENOSYS),
            "unknown entry"
        );
    }
}
