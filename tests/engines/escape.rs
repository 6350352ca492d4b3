//! Containers that try to leave: each attempt is refused, on every engine.

use imgforge::engine::SandboxEnd;

use crate::common::on_every_engine;
use crate::needs::{NotHere, not_here};
use crate::sandbox::{run, sandbox};

/// What is tried, and what it prints where it is refused.
const ATTEMPTS: &[(&str, &str)] = &[
    ("mount", "mount -t tmpfs none /mnt"),
    ("bind mount", "mount --bind / /mnt"),
    ("unmount of what hides", "umount /proc/kcore"),
    ("remount", "mount -o remount,rw /sys"),
    ("user namespace", "unshare --user --map-root-user true"),
    ("mount namespace", "unshare --mount true"),
    ("namespaces of the first process of the host", "nsenter --target 1 --mount true"),
    ("device of a disk", "mknod /tmp/disk b 254 0"),
    ("device of memory", "mknod /dev/mem c 1 1"),
    ("setting of the kernel", "echo x > /proc/sys/kernel/core_pattern"),
    ("setting of the host's name", "hostname other"),
    ("trigger of the kernel", "echo h > /proc/sysrq-trigger"),
    ("file of /sys", "mkdir /sys/kernel/new"),
    ("memory of the kernel", "head -c 1 /proc/kcore | grep -q ."),
    ("keys", "test -s /proc/keys"),
    ("clock", "date -s 2001-01-01"),
    (
        "module",
        // Without arguments it fails either way: what counts is that it is not permitted.
        "python3 -c 'import ctypes, sys; l = ctypes.CDLL(None, use_errno=True); l.syscall(175, 0, 0, 0); sys.exit(ctypes.get_errno() == 1)'",
    ),
    ("other root", "chroot /usr/.. true"),
    ("raw socket", "python3 -c 'import socket; socket.socket(2, 3, 1)'"),
    (
        "file of the host through a handle",
        "python3 -c 'import ctypes, sys; l = ctypes.CDLL(None, use_errno=True); l.syscall(304, 3, 0, 0); sys.exit(ctypes.get_errno() == 1)'",
    ),
];

#[test]
#[ignore = "needs an engine"]
fn every_attempt_to_leave_is_refused() {
    on_every_engine(|bench| async move {
        // A program that is not there would be refused nothing.
        let mut script = String::from(
            "for program in mount umount unshare nsenter mknod hostname chroot date python3; do \
             command -v $program >/dev/null || echo no $program; done\n",
        );
        for (name, attempt) in ATTEMPTS {
            script +=
                &format!("if ( {attempt} ) >/dev/null 2>&1; then echo \"it may: {name}\"; fi\n");
        }
        script += "echo done\n";
        let (end, log, _) = run(&bench, &sandbox(&bench, &script)).await;
        assert_eq!(end, SandboxEnd::Exited(0), "{log}");
        assert_eq!(log, "done\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn the_host_cannot_be_seen() {
    on_every_engine(|bench| async move {
        let script = "ls /proc | grep -c '^[0-9]'; cat /proc/1/comm; ls -A /dev/shm | wc -l; \
                      grep -c . /proc/net/route; grep CapEff /proc/self/status; \
                      grep -E 'NoNewPrivs|Seccomp:' /proc/self/status";
        let (_, log, _) = run(&bench, &sandbox(&bench, script)).await;
        let lines: Vec<&str> = log.lines().collect();
        assert!(lines[0].parse::<u32>().unwrap() < 10, "{log}");
        assert_eq!(lines[2], "0", "{log}");
        assert!(log.contains("CapEff:\t00000000000004fb"), "{log}");
        assert!(log.contains("NoNewPrivs:\t1"), "{log}");
        assert!(log.contains("Seccomp:\t2"), "{log}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_set_user_id_program_gives_no_privileges() {
    on_every_engine(|bench| async move {
        // Another user than root, where there is one, runs a copy of a shell that root owns.
        let script = "cp /bin/dash /tmp/sh && chmod 4755 /tmp/sh && chmod 1777 /tmp\n\
                      python3 - <<'X'\nimport os\n\
                      try: os.setgid(1234); os.setuid(1234)\n\
                      except OSError: print('one user only'); raise SystemExit\n\
                      os.execv('/tmp/sh', ['/tmp/sh', '-p', '-c', 'id -u; cat /proc/self/status | grep CapEff'])\n\
                      X\n";
        let (_, log, _) = run(&bench, &sandbox(&bench, script)).await;
        if log.contains("one user only") {
            return not_here(NotHere::OneUser);
        }
        assert_eq!(log, "1234\nCapEff:\t0000000000000000\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn another_process_can_be_traced_only_inside() {
    on_every_engine(|bench| async move {
        // The parent of the first process is not there to be traced.
        let script = "python3 - <<'X'\nimport ctypes, os\nl = ctypes.CDLL(None, use_errno=True)\n\
                      pids = [int(p) for p in os.listdir('/proc') if p.isdigit()]\n\
                      print(max(pids) < 1000, l.ptrace(16, 4194303, 0, 0))\nX\n";
        let (_, log, _) = run(&bench, &sandbox(&bench, script)).await;
        assert_eq!(log, "True -1\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn sockets_are_local_of_the_internet_or_of_the_kernels_tables_and_nothing_else() {
    on_every_engine(|bench| async move {
        // What other engines allow is theirs: see docs/grading.md.
        if bench.state().is_none() {
            return not_here(NotHere::OtherEngine);
        }
        let script = "python3 - <<'X'\nimport errno, socket\nkinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET)\n\
                      may, why = set(), set()\nfor family in range(1, 64):\n    for kind in kinds:\n        \
                      for make in (socket.socket, socket.socketpair):\n            try:\n                \
                      made = make(family, kind, 0); may.add(family)\n            \
                      except OSError as e:\n                if family not in (1, 2, 10, 16, 17): why.add(e.errno)\n\
                      print(sorted(may), [errno.errorcode[e] for e in why])\nX\n";
        let (_, log, _) = run(&bench, &sandbox(&bench, script)).await;
        assert_eq!(log, "[1, 2, 10, 16] ['EAFNOSUPPORT']\n");
    });
}

#[test]
#[ignore = "needs an engine"]
fn files_of_the_kernel_say_nothing_of_the_host() {
    on_every_engine(|bench| async move {
        if bench.state().is_none() {
            return not_here(NotHere::OtherEngine);
        }
        let script = "for file in cmdline config.gz iomem ioports kallsyms key-users kpagecgroup \
                      kpagecount kpageflags mdstat modules mtrr pagetypeinfo partitions slabinfo \
                      vmallocinfo; do test -n \"$(head -c 9 /proc/$file 2>/dev/null | od -An -c)\" && echo /proc/$file; done\n\
                      ls -A /sys/block /sys/class/block /sys/devices/virtual/dmi 2>/dev/null \
                      | grep -v ':$' | grep .\n\
                      tr '\\0' '\\n' </proc/1/cmdline | grep / \n\
                      umount /proc/kpageflags 2>/dev/null && echo unmounted\n\
                      echo done\n";
        let (_, log, _) = run(&bench, &sandbox(&bench, script)).await;
        assert_eq!(log, "done\n");
    });
}
