//! What a process inherits from whoever started imgforge, and a command in a container must not see: in
//! a container of Docker all of it is that of the daemon.

use std::io;
use std::ptr;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

/// Bytes of the stack that a process has by default.
const STACK: u64 = 8 << 20;

/// Sets it to what a process of a fresh session has.
pub(super) fn reset() {
    signals();
    umask(Mode::from_raw_mode(0o022));
    // SAFETY: the call takes a number, and 0 is the personality of every process by default. Under
    // another one, such as that of `setarch -R`, addresses and versions would be other ones.
    unsafe { libc::personality(0) };
    for resource in [Resource::Stack, Resource::Fsize, Resource::Cpu, Resource::Data, Resource::As]
    {
        let Rlimit { current, maximum } = getrlimit(resource);
        let usual = if resource == Resource::Stack { Some(STACK) } else { None };
        // No more than it may have.
        let usual = match (usual, maximum) {
            (Some(usual), Some(maximum)) => Some(usual.min(maximum)),
            (usual, maximum) => usual.or(maximum),
        };
        if current != usual {
            let _ = setrlimit(resource, Rlimit { current: usual, maximum });
        }
    }
}

/// Closes what this process has open beside its standard input and outputs: files of whoever started
/// imgforge that were not marked to be closed, such as the pipes of a `make`.
///
/// # Errors
/// Where the open files cannot be listed.
pub(super) fn close_files() -> io::Result<()> {
    // SAFETY: nothing in this process owns a descriptor yet but the first three.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) } == 0 {
        return Ok(());
    }
    // Before Linux 5.9.
    let open = std::fs::read_dir("/proc/self/fd")?.flatten();
    let numbers: Vec<i32> =
        open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: as above; the directory itself is closed by now, and its number means nothing.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// Lets every signal do what it does by default: whoever started imgforge may ignore some, as `nohup`
/// and a script's `&` do, and a program that is started so does not take them either.
fn signals() {
    // A kernel's `sigaction`: handler, flags, restorer and mask, all of them zero.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel reads the array, which is as large as its largest form; it refuses SIGKILL
        // and SIGSTOP. The C library is passed by because it refuses two signals of its own.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null::<u64>(),
                size_of::<u64>(),
            )
        };
    }
}
