//! The command's system call filter: classic BPF as commented data.
//!
//! Answers *around the gateway* (docs/threats.md). It leaves UNIX, INET, INET6 and NETLINK sockets (no packet, vsock, bluetooth, ... sockets), no
//! io_uring (it would make sockets past this filter), no `request_key` (the kernel resolves names
//! for it on the host), no input pushed into the terminal, and no leases on files (the program could
//! hold up whoever opens a policy or a log, also one of another sandbox). Calls through the i386 entry on
//! x86-64 meet the same filter; x32 has no entry at all. Everything else stays, so that a sandbox
//! inside the sandbox works.
//!
//! The instructions are written here and not compiled by `seccompiler`: its filters know one
//! architecture, end a process that calls by another entry, and refuse with one error, while this
//! one answers two entries with three errors.

use std::io;

use rustix::thread::set_no_new_privs;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
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
const fn fail(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

/// The call numbers of one architecture.
struct Calls {
    architecture: u32,
    socket: u32,
    socketpair: u32,
    ioctl: u32,
    /// `fcntl`, and `fcntl64` where there is one.
    fcntl: &'static [u32],
    request_key: u32,
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
    ioctl: 16,
    fcntl: &[72],
    request_key: 249,
    socketcall: None,
    beyond: Some(0x4000_0000),
};
#[cfg(target_arch = "x86_64")]
const I386: Calls = Calls {
    architecture: 0x4000_0003,
    socket: 359,
    socketpair: 360,
    ioctl: 54,
    fcntl: &[55, 221],
    request_key: 287,
    socketcall: Some(102),
    beyond: None,
};
#[cfg(target_arch = "aarch64")]
const AARCH64: Calls = Calls {
    architecture: 0xc000_00b7,
    socket: 198,
    socketpair: 199,
    ioctl: 29,
    fcntl: &[25],
    request_key: 218,
    socketcall: None,
    beyond: None,
};
#[cfg(target_arch = "aarch64")]
const ARM: Calls = Calls {
    architecture: 0x4000_0028,
    socket: 281,
    socketpair: 288,
    ioctl: 54,
    fcntl: &[55, 221],
    request_key: 310,
    socketcall: Some(102),
    beyond: None,
};

/// `io_uring_setup`, `_enter`, `_register`: the same numbers everywhere.
const IO_URING: [u32; 3] = [425, 426, 427];
/// Push a byte into the terminal's input; paste the console's selection.
const TERMINAL_INJECTION: [u32; 2] = [libc::TIOCSTI as u32, libc::TIOCLINUX as u32];
/// Leases on files, and delegations (`F_SETDELEG`, Linux 6.19).
const LEASES: [u32; 2] = [libc::F_SETLEASE as u32, 1040];
/// The socket families that stay.
const FAMILIES: [i32; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// The tables of this machine's entries.
#[cfg(target_arch = "x86_64")]
const TABLES: [&Calls; 2] = [&X86_64, &I386];
#[cfg(target_arch = "aarch64")]
const TABLES: [&Calls; 2] = [&AARCH64, &ARM];

/// The filter's program.
pub(crate) fn program() -> Vec<libc::sock_filter> {
    let mut out = Vec::with_capacity(80);
    for calls in TABLES {
        let body = table(calls);
        out.push(statement(LOAD, ARCHITECTURE));
        // Skip this table's body unless the call came by its entry.
        out.push(jump(JUMP_EQUAL, calls.architecture, 0, body.len() as u8));
        out.extend(body);
    }
    // An entry that is not known here.
    out.push(statement(RETURN, fail(libc::ENOSYS)));
    out
}

/// Judges the calls of one entry; always returns.
fn table(calls: &Calls) -> Vec<libc::sock_filter> {
    let mut out = vec![statement(LOAD, NUMBER)];
    if let Some(beyond) = calls.beyond {
        refuse_if(&mut out, JUMP_AT_LEAST, beyond, libc::ENOSYS);
    }
    for number in IO_URING
        .into_iter()
        .chain([calls.request_key])
        .chain(calls.socketcall)
    {
        refuse_if(&mut out, JUMP_EQUAL, number, libc::ENOSYS);
    }
    // Sockets: load the family, return for each that stays, else refuse.
    let families = FAMILIES.len() as u8;
    let sockets = 1 + families * 2 + 1;
    out.push(jump(JUMP_EQUAL, calls.socket, 1, 0));
    out.push(jump(JUMP_EQUAL, calls.socketpair, 0, sockets));
    out.push(statement(LOAD, argument(0)));
    for family in FAMILIES {
        out.push(jump(JUMP_EQUAL, family as u32, 0, 1));
        out.push(statement(RETURN, ALLOW));
    }
    out.push(statement(RETURN, fail(libc::EAFNOSUPPORT)));
    for number in calls.fcntl {
        refuse_argument(&mut out, *number, LEASES, libc::EACCES);
    }
    refuse_argument(&mut out, calls.ioctl, TERMINAL_INJECTION, libc::EPERM);
    out.push(statement(RETURN, ALLOW));
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
    set_no_new_privs(true)?;
    let header = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the filter has `len` live instructions, which the kernel copies.
    let installed = unsafe {
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        libc::syscall(libc::SYS_seccomp, mode, 0, &raw const header)
    };
    crate::sys::check(installed).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter says of a call: a small interpreter of the instructions used.
    fn judge(architecture: u32, number: u32, arguments: [u64; 2]) -> u32 {
        let program = program();
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

    #[test]
    fn only_four_socket_families_stay() {
        for calls in TABLES {
            for family in 0..64 {
                let expected = if FAMILIES.contains(&family) {
                    ALLOW
                } else {
                    fail(libc::EAFNOSUPPORT)
                };
                for call in [calls.socket, calls.socketpair] {
                    assert_eq!(
                        judge(calls.architecture, call, [family as u64, 0]),
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
    fn io_uring_keys_and_the_other_tables_do_not_exist() {
        for calls in TABLES {
            for number in IO_URING
                .into_iter()
                .chain([calls.request_key])
                .chain(calls.socketcall)
            {
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
                if ![calls.socket, calls.socketpair, calls.ioctl].contains(&number) {
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
