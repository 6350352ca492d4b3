//! Sandboxes that write without end: each is ended at its quota, and no other is.

use std::time::{Duration, Instant};

use imgforge::engine::{Quota, Quotas, SandboxEnd, SandboxRequest};

use crate::common::{Bench, on_every_engine};
use crate::sandbox::{run, sandbox};

fn bounded(bench: &Bench, script: &str) -> SandboxRequest {
    let quotas = Quotas {
        disk: Some(64 << 20),
        files: Some(2000),
        file: Some(64 << 20),
        log: Some(1 << 20),
    };
    SandboxRequest { quotas, ..sandbox(bench, script) }
}

/// Fills the disk in ways that one look at names and sizes does not see.
const FULL_DISKS: &[(&str, &str)] = &[
    ("many files", "for i in $(seq 100); do head -c 4000000 /dev/zero >/var/$i; done; sleep 300"),
    (
        "files without a name",
        "for i in $(seq 10 60); do eval \"exec $i>/var/x; rm /var/x\"; head -c 4000000 /dev/zero >&$i; \
         done; sleep 300",
    ),
    (
        "files of a process beside it",
        "setsid python3 -c 'import os, time\nkept = []\nfor i in range(60):\n    \
         f = open(\"/var/y\", \"wb\"); os.unlink(\"/var/y\"); f.write(bytes(4000000)); f.flush()\n    \
         kept.append(f)\ntime.sleep(300)' & sleep 300",
    ),
    (
        "a directory that root cannot list",
        "mkdir /var/d && cd /var/d && chmod 0 . && for i in $(seq 60); do \
         head -c 4000000 /dev/zero >./$i; done; sleep 300",
    ),
    (
        "names longer than a path",
        "python3 -c 'import os, time\nos.chdir(\"/var\")\nfor i in range(40):\n    \
         os.mkdir(\"n\" * 200); os.chdir(\"n\" * 200)\nfor i in range(60):\n    \
         open(str(i), \"wb\").write(bytes(4000000))\ntime.sleep(300)'",
    ),
    ("space without bytes", "fallocate -l 60m /var/a; fallocate -l 60m /var/b; sleep 300"),
    (
        "in the place of the image's files",
        "for i in $(seq 60); do head -c 4000000 /dev/zero >/etc/$i; done; sleep 300",
    ),
];

#[test]
#[ignore = "needs an engine"]
fn a_sandbox_that_fills_the_disk_is_ended_however_it_hides() {
    on_every_engine(|bench| async move {
        for (name, script) in FULL_DISKS {
            let began = Instant::now();
            let (end, log, _) = run(&bench, &bounded(&bench, script)).await;
            assert_eq!(end, SandboxEnd::OverQuota(Quota::Disk), "{name}: {log}");
            assert!(began.elapsed() < Duration::from_secs(40), "{name}: {:?}", began.elapsed());
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_file_that_is_larger_than_all_may_be_is_stopped_at_once() {
    on_every_engine(|bench| async move {
        let script = "head -c 400000000 /dev/zero >/var/x; stat -c %s /var/x; sleep 300";
        let (end, log, _) = run(&bench, &bounded(&bench, script)).await;
        assert_eq!(end, SandboxEnd::OverQuota(Quota::Disk), "{log}");
        assert!(log.lines().any(|line| line == (64 << 20).to_string()), "{log}");
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_sandbox_that_makes_files_without_end_is_ended() {
    on_every_engine(|bench| async move {
        for script in [
            "cd /var && for i in $(seq 3000); do : >$i; done; sleep 300",
            "cd /var && mkdir -p $(seq 3000); sleep 300",
            "python3 -c 'import os, time\nos.chdir(\"/var\")\nfor i in range(400):\n    \
             os.mkdir(\"d\"); os.chdir(\"d\")\ntime.sleep(300)'; sleep 300",
        ] {
            let (end, log, control) = run(&bench, &bounded(&bench, script)).await;
            assert_eq!(end, SandboxEnd::OverQuota(Quota::Files), "{script}: {log} {control}");
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn a_log_without_end_is_cut_at_its_quota() {
    on_every_engine(|bench| async move {
        for script in ["cat /dev/zero", "cat /dev/zero >&2", "cat /dev/zero >&4"] {
            let (end, log, control) = run(&bench, &bounded(&bench, script)).await;
            assert_eq!(end, SandboxEnd::OverQuota(Quota::Log), "{script}");
            // What the engine itself says of limits that it cannot set is not the script's.
            let warnings = control.find("warning: ").map_or(0, |at| control.len() - at);
            assert_eq!(log.len() + control.len() - warnings, 1 << 20, "{script}");
        }
    });
}

#[test]
#[ignore = "needs an engine"]
fn what_stays_within_its_quotas_and_what_takes_no_disk_ends_by_itself() {
    on_every_engine(|bench| async move {
        // Holes, memory, many names of one file, and what was removed.
        let script = "truncate -s 60m /var/hole; python3 - <<'X'\nimport os, time\n\
                      f = os.memfd_create('m'); os.ftruncate(f, 1 << 20)\n\
                      kept = [os.memfd_create(str(i)) for i in range(20)]\n\
                      for fd in kept: os.write(fd, bytes(4 << 20))\n\
                      open('/var/one', 'wb').write(bytes(20 << 20))\n\
                      for i in range(50): os.link('/var/one', f'/var/{i}')\n\
                      for i in range(5):\n    \
                      open('/var/again', 'wb').write(bytes(20 << 20)); os.unlink('/var/again')\n    \
                      time.sleep(0.5)\n\
                      X\nhead -c 1000000 /dev/zero; exit 7";
        let (end, log, _) = run(&bench, &bounded(&bench, script)).await;
        assert_eq!(end, SandboxEnd::Exited(7), "{} bytes: {:.300}", log.len(), log);
        assert_eq!(log.len(), 1_000_000);
    });
}
