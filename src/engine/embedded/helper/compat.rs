//! The filter of system calls for programs of 32 bits, which 64-bit machines run as well.
//!
//! Their calls have other numbers, and some other names, and a filter sees which of the two a call
//! is of. What is allowed and refused is the same by name as in [`super::seccomp`], with the forms
//! that only 32 bits have. `socketcall` is not there: which family a socket has would be in memory,
//! where no filter looks. Libraries that know the calls of Linux 4.3 do without it.

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS,
};
use seccompiler::{BpfProgram, sock_filter};
#[cfg(target_arch = "aarch64")]
use syscalls::arm::Sysno;
#[cfg(target_arch = "x86_64")]
use syscalls::x86::Sysno;

use super::system_calls::{FAMILIES, NAMESPACES, PERSONALITIES, Response, answer};

/// `AUDIT_ARCH_…` of `linux/audit.h`: this machine's, and its other one.
#[cfg(target_arch = "x86_64")]
const MACHINES: (u32, u32) = (0xc000_003e, 0x4000_0003);
#[cfg(target_arch = "aarch64")]
const MACHINES: (u32, u32) = (0xc000_00b7, 0x4000_0028);

/// The calls of ARM that are not in its table, by number: `breakpoint` to `set_tls`.
#[cfg(target_arch = "aarch64")]
const PRIVATE: Option<(u32, u32)> = Some((0x0f_0001, 0x0f_0005));
#[cfg(target_arch = "x86_64")]
const PRIVATE: Option<(u32, u32)> = None;

/// What is allowed besides: older forms, and those with wider times, ids and sizes.
const ALLOWED: &[&str] = &[
    "_llseek",
    "_newselect",
    "access",
    "alarm",
    "arm_fadvise64_64",
    "arm_sync_file_range",
    "chmod",
    "chown",
    "chown32",
    "clock_adjtime64",
    "clock_getres_time64",
    "clock_gettime64",
    "clock_nanosleep_time64",
    "creat",
    "dup2",
    "epoll_create",
    "epoll_wait",
    "eventfd",
    "fadvise64_64",
    "fchown32",
    "fcntl64",
    "fork",
    "fstat64",
    "fstatat64",
    "fstatfs64",
    "ftruncate64",
    "futex_time64",
    "futimesat",
    "getdents",
    "getegid32",
    "geteuid32",
    "getgid32",
    "getgroups32",
    "getpgrp",
    "getresgid32",
    "getresuid32",
    "getuid32",
    "inotify_init",
    "io_pgetevents_time64",
    "ipc",
    "lchown",
    "lchown32",
    "link",
    "lstat",
    "lstat64",
    "mkdir",
    "mknod",
    "mmap2",
    "mq_timedreceive_time64",
    "mq_timedsend_time64",
    "nice",
    "open",
    "pause",
    "pipe",
    "poll",
    "ppoll_time64",
    "pselect6_time64",
    "readlink",
    "recv",
    "recvmmsg_time64",
    "rename",
    "rmdir",
    "rt_sigtimedwait_time64",
    "sched_rr_get_interval_time64",
    "select",
    "semtimedop_time64",
    "send",
    "sendfile64",
    "setfsgid32",
    "setfsuid32",
    "setgid32",
    "setgroups32",
    "setregid32",
    "setresgid32",
    "setresuid32",
    "setreuid32",
    "setuid32",
    "sigaction",
    "signal",
    "signalfd",
    "sigpending",
    "sigprocmask",
    "sigreturn",
    "sigsuspend",
    "stat",
    "stat64",
    "statfs64",
    "symlink",
    "time",
    "timer_gettime64",
    "timer_settime64",
    "timerfd_gettime64",
    "timerfd_settime64",
    "truncate64",
    "ugetrlimit",
    "unlink",
    "utime",
    "utimensat_time64",
    "utimes",
    "vfork",
    "waitpid",
];

/// What is refused besides.
const REFUSED: &[&str] =
    &["clock_settime64", "stime", "umount", "vm86", "vm86old", "pciconfig_iobase"];

/// What changes owners, users and groups.
const OWNERS: &[&str] = &[
    "chown",
    "chown32",
    "fchown",
    "fchown32",
    "fchownat",
    "lchown",
    "lchown32",
    "setgroups",
    "setgroups32",
];

/// Where the fields of `struct seccomp_data` are.
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// Makes the filter. It allows all calls of this machine's own kind, which other filters answer.
/// With `one_owner`, changes of owners succeed and do nothing.
pub(super) fn filter(one_owner: bool) -> BpfProgram {
    let (own, other) = MACHINES;
    let mut program = vec![load(MACHINE)];
    program.extend(when(BPF_JEQ, own, SECCOMP_RET_ALLOW));
    program.extend([jump(BPF_JEQ, other, 1, 0), give(SECCOMP_RET_KILL_PROCESS), load(NUMBER)]);
    for call in (0..=Sysno::last().id()).filter_map(|number| Sysno::new(number as usize)) {
        let number = call.id().unsigned_abs();
        let name = call.name();
        let block = match name {
            _ if one_owner && OWNERS.contains(&name) => vec![give(errno(0))],
            "clone" => {
                let flags = NAMESPACES.iter().fold(0, |all, flag| all | flag.unsigned_abs());
                vec![
                    load(FIRST_ARGUMENT),
                    jump(BPF_JSET, flags, 0, 1),
                    give(errno(libc::EPERM)),
                    give(SECCOMP_RET_ALLOW),
                ]
            }
            "personality" => one_of(PERSONALITIES.map(|value| value as u32), libc::EPERM),
            "socket" | "socketpair" => {
                one_of(FAMILIES.map(|family| family.unsigned_abs()), libc::EAFNOSUPPORT)
            }
            _ if answer(name) == Response::Allowed || ALLOWED.contains(&name) => {
                vec![give(SECCOMP_RET_ALLOW)]
            }
            _ if answer(name) == Response::Refused || REFUSED.contains(&name) => {
                vec![give(errno(libc::EPERM))]
            }
            // As what no list has.
            _ => continue,
        };
        let length = u8::try_from(block.len()).expect("a block is a few instructions");
        program.push(jump(BPF_JEQ, number, 0, length));
        program.extend(block);
    }
    if let Some((first, last)) = PRIVATE {
        program.extend([
            jump(BPF_JGT, first - 1, 0, 2),
            jump(BPF_JGT, last, 1, 0),
            give(SECCOMP_RET_ALLOW),
        ]);
    }
    program.push(give(errno(libc::ENOSYS)));
    program
}

/// Makes a filter of the crate, which kills what calls by other numbers, leave that to [`filter`].
pub(super) fn leave_to_others(program: &mut BpfProgram) {
    let kill = give(SECCOMP_RET_KILL_PROCESS);
    // It loads the machine, compares it, and kills.
    if let Some(third) = program.get_mut(2)
        && *third == kill
    {
        *third = give(SECCOMP_RET_ALLOW);
    }
}

/// Allows the values of the first argument, and answers others with an error number.
fn one_of<const N: usize>(values: [u32; N], otherwise: i32) -> BpfProgram {
    let mut block = vec![load(FIRST_ARGUMENT)];
    for value in values {
        block.extend(when(BPF_JEQ, value, SECCOMP_RET_ALLOW));
    }
    block.push(give(errno(otherwise)));
    block
}

/// Gives an answer when a comparison holds.
fn when(comparison: u32, value: u32, answer: u32) -> [sock_filter; 2] {
    [jump(comparison, value, 0, 1), give(answer)]
}

fn errno(number: i32) -> u32 {
    SECCOMP_RET_ERRNO | number.unsigned_abs()
}

fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset)
}

fn give(answer: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, 0, 0, answer)
}

fn jump(comparison: u32, value: u32, holds: u8, fails: u8) -> sock_filter {
    instruction(BPF_JMP | comparison | BPF_K, holds, fails, value)
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    let code = u16::try_from(code).expect("the code of an instruction is short");
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter on a call, as the kernel does.
    fn ask(program: &BpfProgram, machine: u32, number: u32, argument: u32) -> u32 {
        let (mut at, mut register) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let code = u32::from(code);
            if code == BPF_RET | BPF_K {
                return k;
            }
            if code == BPF_LD | BPF_W | BPF_ABS {
                register = match k {
                    NUMBER => number,
                    MACHINE => machine,
                    FIRST_ARGUMENT => argument,
                    other => panic!("offset {other}"),
                };
                continue;
            }
            let holds = match code & 0xf0 {
                code if code == BPF_JEQ => register == k,
                code if code == BPF_JGT => register > k,
                code if code == BPF_JSET => register & k != 0,
                other => panic!("jump {other}"),
            };
            at += usize::from(if holds { jt } else { jf });
        }
    }

    fn number(name: &str) -> u32 {
        let call: Sysno = name.parse().unwrap();
        call.id().unsigned_abs()
    }

    #[test]
    fn calls_of_32_bits_are_answered_by_name_as_those_of_64() {
        let program = filter(false);
        let (own, other) = MACHINES;
        let of = |name: &str, argument| ask(&program, other, number(name), argument);
        for name in ["execve", "exit", "mmap2", "openat", "clock_gettime64", "_llseek", "chown32"] {
            assert_eq!(of(name, 0), SECCOMP_RET_ALLOW, "{name}");
        }
        for name in ["mount", "unshare", "setns", "bpf", "keyctl", "umount2", "io_uring_setup"] {
            assert_eq!(of(name, 0), errno(libc::EPERM), "{name}");
        }
        for name in ["clone3", "socketcall"] {
            let Ok(call) = name.parse::<Sysno>() else { continue };
            let answer = ask(&program, other, call.id().unsigned_abs(), 0);
            assert_eq!(answer, errno(libc::ENOSYS), "{name}");
        }
        assert_eq!(of("socket", libc::AF_INET as u32), SECCOMP_RET_ALLOW);
        assert_eq!(of("socket", libc::AF_VSOCK as u32), errno(libc::EAFNOSUPPORT));
        assert_eq!(of("clone", libc::SIGCHLD as u32), SECCOMP_RET_ALLOW);
        assert_eq!(of("clone", libc::CLONE_NEWUSER as u32), errno(libc::EPERM));
        assert_eq!(of("personality", 8), SECCOMP_RET_ALLOW);
        assert_eq!(of("personality", 0x40_0000), errno(libc::EPERM));
        assert_eq!(ask(&program, own, number("mount"), 0), SECCOMP_RET_ALLOW);
        assert_eq!(ask(&program, 0x1234, number("read"), 0), SECCOMP_RET_KILL_PROCESS);
        let program = filter(true);
        assert_eq!(ask(&program, other, number("chown32"), 0), errno(0));
        assert!(program.len() <= 4096);
    }

    #[test]
    fn every_name_of_the_lists_is_a_call_of_32_bits_somewhere() {
        for name in ALLOWED.iter().chain(REFUSED).chain(OWNERS) {
            let known = name.parse::<syscalls::x86::Sysno>().is_ok()
                || name.parse::<syscalls::arm::Sysno>().is_ok();
            assert!(known, "{name}");
        }
    }
}
